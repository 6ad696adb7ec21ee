"""The second moments of what synapses read: which inputs spike together, and how much."""

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.synapse import Floats, Synapse
from pmsm_cli.lowering.int8 import spiking_synapses
from pmsm_cli.lowering.rounding import LARGEST_ROW, Moments, groups_of, inputs_of
from pmsm_cli.runtime.tensors import tensors_of
from pmsm_cli.sources.images import Batch

_SUMS_AN_IMAGE = 256  # positions of a map that are looked at, drawn for each image


def input_moments(
    model: ir.Model,
    batches: Iterable[Batch],
    *,
    subject: str,
    seed: int,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, Moments]:
    """For each synapse, by its node's name, the mean products of the spike counts that an output sums up.

    Convolutions are looked at where they sum, borders included. Left out are operators that `inputs_of` does not know,
    and those that sum up more than `LARGEST_ROW` inputs.
    """
    synapses = [each for each in spiking_synapses(model.graph) if (inputs_of(each) or LARGEST_ROW + 1) <= LARGEST_ROW]
    sites = list(dict.fromkeys(each.data.name or "" for each in synapses))
    if not sites:
        return {}
    random = np.random.default_rng(seed)
    sums: dict[str, Moments] = {}
    counts: dict[str, int] = {}
    for tensors in tensors_of(model, sites, batches, subject=subject, threads=threads, on_batch=on_batch):
        for synapse in synapses:
            name = synapse.node.name or ""
            rows = _read(synapse, tensors[synapse.data.name or ""], random)  # [groups, sums, inputs]
            sums[name] = sums.get(name, np.float32(0)) + np.matmul(rows.transpose(0, 2, 1), rows)
            counts[name] = counts.get(name, 0) + rows.shape[1]
    return {name: total / np.float32(counts[name]) for name, total in sums.items()}


def _read(synapse: Synapse, spikes: Floats, random: np.random.Generator) -> Floats:
    if synapse.node.op_type == "Conv" and spikes.ndim == 4:
        return _patches(synapse, spikes, random)
    axis = synapse.channel_axis
    rows = np.moveaxis(spikes, axis, -1).reshape(1, -1, spikes.shape[axis])
    most = _SUMS_AN_IMAGE * len(spikes)
    return rows if rows.shape[1] <= most else rows[:, random.choice(rows.shape[1], most, replace=False)]


def _patches(synapse: Synapse, spikes: Floats, random: np.random.Generator) -> Floats:
    """What a convolution sums up at some of its positions, [groups, sums, inputs of a group]."""
    attributes, kernel = synapse.node.attributes, synapse.weights.shape[2:]
    strides, dilations = (_pair(synapse.node, name, (1, 1)) for name in ("strides", "dilations"))
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    pads = list(attributes["pads"].as_ints()) if "pads" in attributes else [size // 2 for size in reach] * 2
    padded = np.pad(spikes, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    images, _, height, width = windows.shape[:4]
    positions = min(height * width, _SUMS_AN_IMAGE)
    chosen = np.stack([random.choice(height * width, positions, replace=False) for _ in range(images)])
    image = np.repeat(np.arange(images), positions)
    taken = windows[image, :, chosen.ravel() // width, chosen.ravel() % width]  # [sums, channels, kernel]
    groups = groups_of(synapse)
    return np.ascontiguousarray(taken.reshape(len(taken), groups, -1).transpose(1, 0, 2))


def _pair(node: ir.Node, name: str, default: tuple[int, int]) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default

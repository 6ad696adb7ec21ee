"""The second moments of what synapses read: which inputs spike together, and how much."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.weight_rows import inputs_of
from pmsm_cli.lowering.int8 import spiking_synapses
from pmsm_cli.lowering.rounding import Moments
from pmsm_cli.runtime.summed import draw_places, is_summed_up, rows_read
from pmsm_cli.runtime.tensors import tensors_of
from pmsm_cli.sources.images import Batch

LONGEST_ROW = 2304  # inputs of an output, 256 channels of a 3x3 kernel: beyond, rounding by them takes minutes
_PLACES_AN_IMAGE = 256  # where sums are looked at, drawn for each image


def input_moments(
    model: ir.Model,
    shapes: Mapping[str, Shape],
    batches: Iterable[Batch],
    *,
    subject: str,
    seed: int,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, Moments]:
    """For each synapse, by its node's name, the mean products of the spike counts that an output sums up.

    `shapes` are those of one image, by name. Convolutions are looked at where they sum, borders included. Left out are
    synapses of longer rows than `LONGEST_ROW`, and convolutions of other than two dimensions.
    """
    synapses = [each for each in spiking_synapses(model.graph) if (inputs_of(each) or LONGEST_ROW + 1) <= LONGEST_ROW]
    sites = list(dict.fromkeys(each.data.name or "" for each in synapses))
    if not sites:
        return {}
    random = np.random.default_rng(seed)
    sums: dict[str, Moments] = {}
    counts: dict[str, int] = {}
    for tensors in tensors_of(model, sites, batches, subject=subject, threads=threads, on_batch=on_batch):
        for synapse in synapses:
            spikes, name = tensors[synapse.data.name or ""], synapse.node.name or ""
            if not is_summed_up(synapse, spikes):
                continue
            output = (len(spikes), *shapes[synapse.node.outputs[0].name or ""][1:])
            rows = rows_read(synapse, spikes, output, draw_places(synapse, output, _PLACES_AN_IMAGE, random))
            sums[name] = sums.get(name, np.float32(0)) + np.matmul(rows.transpose(0, 2, 1), rows)
            counts[name] = counts.get(name, 0) + rows.shape[1]
    return {name: total / np.float32(counts[name]) for name, total in sums.items()}

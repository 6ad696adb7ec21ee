"""Counting spikes: a checkpoint that also says what each of its sites emitted at every step.

Signs never cancel, and a spike of size k counts as k. The counts leave the network summed over channels only, as whole
numbers that float32 holds exactly, so that the sums over positions and synapses are exact too.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.insert import spikes_name
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.graph.rows import row_sum_name
from pmsm_cli.graph.scan import SCAN_NAME
from pmsm_cli.graph.synapse import Floats, fan_out, operand_fan_out, product_of, synapse_of
from pmsm_cli.runtime.session import Array, open_session
from pmsm_cli.sources.images import Batch, SkippedImage

_KINDS = ("count", "firing")  # what is counted inside the graph

Totals = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SiteCount:
    """What one site did, per image, at each step: arrays of [timesteps]."""

    name: str
    neurons: int  # of one image
    spikes: Totals  # sum of |s|
    firing: Totals  # neurons that emitted at least one spike
    synaptic_ops: Totals  # spikes times the synapses that each of them reaches, borders exact


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpikeCount:
    """Means over images."""

    images: int
    sites: tuple[SiteCount, ...]
    skipped: tuple[SkippedImage, ...]


def count_spikes(
    checkpoint: Checkpoint,
    batches: Iterable[Batch],
    *,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> SpikeCount:
    """Run the checkpoint over all batches and count what every site emits."""
    sites, timesteps = checkpoint.manifest.plan.sites, checkpoint.manifest.timesteps
    shapes = _measure_shapes(checkpoint)
    fans = _fan_out_a_position(checkpoint, shapes)
    session = open_session(
        _counting(checkpoint, shapes),
        subject=checkpoint.subject,
        threads=threads,
        stacked=[f"{site.name}/{kind}/later" for site in sites for kind in _KINDS],
    )
    totals = {site.name: np.zeros((3, timesteps)) for site in sites}  # spikes, firing, synaptic operations
    neurons = {site.name: math.prod(shapes[spikes_name(site.name)]) // (session.fixed_batch or 1) for site in sites}
    images, skipped = 0, list[SkippedImage]()
    for batch in batches:
        skipped += batch.skipped
        if len(batch.inputs):
            named = dict(zip(session.output_names, session.run(batch.inputs), strict=True))
            images += len(batch.inputs)
            for site in sites:
                spikes, firing = (_steps(named, f"{site.name}/{kind}") for kind in _KINDS)
                operations = np.stack([step * fan for step, fan in zip(spikes, fans[site.name], strict=True)])
                for row, counts in enumerate((spikes, firing, operations)):
                    totals[site.name][row] += counts.reshape(timesteps, -1).sum(axis=1)
        on_batch(len(batch.inputs) + len(batch.skipped))
    counted = (
        SiteCount(name=name, neurons=neurons[name], spikes=each[0], firing=each[1], synaptic_ops=each[2])
        for name, each in ((name, total / max(images, 1)) for name, total in totals.items())
    )
    return SpikeCount(images=images, sites=tuple(counted), skipped=tuple(skipped))


def _steps(named: dict[str, Array], name: str) -> Totals:
    """The first step's counts and, where there are more steps, the later ones', on a new first axis."""
    first = named[name][None]
    later = named.get(f"{name}/later")
    return np.concatenate([first, later] if later is not None else [first]).astype(np.float64)


def _measure_shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """The shapes of all spikes and of what their readers make of them, for one image (or the fixed batch)."""
    wanted = {spikes_name(site.name) for site in checkpoint.manifest.plan.sites}
    outputs = [
        output.name or ""
        for node in checkpoint.model.graph
        for output in node.outputs
        if node.name != SCAN_NAME
        and (output.name in wanted or any(value is not None and value.name in wanted for value in node.inputs))
    ]
    session = open_session(with_outputs(checkpoint.model, outputs), subject=checkpoint.subject)
    blank = np.zeros((session.fixed_batch or 1, *checkpoint.manifest.preprocessing.shape), np.float32)
    return {name: result.shape for name, result in zip(session.output_names, session.run(blank), strict=True)}


def _fan_out_a_position(checkpoint: Checkpoint, shapes: Mapping[str, Shape]) -> dict[str, list[Totals]]:
    """The synapses of a site's neurons at each step, by position; every channel has as many."""
    products = {node.name: product for node in checkpoint.model.graph if (product := product_of(node))}
    synapses = {node.name: synapse for node in checkpoint.model.graph if (synapse := synapse_of(node))}
    names = {node.name for node in checkpoint.model.graph}
    fans: dict[str, list[Totals]] = {}
    for site in checkpoint.manifest.plan.sites:
        counts = []
        for reader in site.readers:
            if reader.node in synapses:
                counts.append((0, fan_out(synapses[reader.node], shapes)))
            else:  # the right operand of a product does its work from the second step on
                counts.append((reader.operand, operand_fan_out(products[reader.node], reader.operand, shapes)))
                if row_sum_name(reader.node, reader.operand) in names:  # sums up every spike of every step
                    counts.append((0, np.ones((1,) * (len(shapes[spikes_name(site.name)]) - 1), np.float32)))
        fans[site.name] = [
            # Readers of different kinds state their counts in different shapes: a map, or one number for all positions.
            functools.reduce(np.add, (_of_any_channel(count) for first, count in counts if step >= first), np.zeros(()))
            for step in range(checkpoint.manifest.timesteps)
        ]
    return fans


def _of_any_channel(counts: Floats | None) -> Totals:
    if counts is None:
        raise ValueError("the shapes of all spikes were measured")
    return (counts[0] if counts.ndim else counts).astype(np.float64)


def _counting(checkpoint: Checkpoint, shapes: Mapping[str, Shape]) -> ir.Model:
    """A copy of the checkpoint's graph with the counts of every site, summed over channels, as its only outputs.

    `<site>/count` and `<site>/firing` are those of the first step; with `/later` added, those of the later ones.
    """
    model = checkpoint.model.clone()
    graph = model.graph
    graph.outputs.clear()
    by_position, all_at_once = (add_constant(graph, f"pmsm/axis_{k}", np.array([k], np.int64)) for k in (1, 0))
    sites = [site.name for site in checkpoint.manifest.plan.sites]
    axes = {site: by_position if len(shapes[spikes_name(site)]) > 1 else all_at_once for site in sites}
    for site in sites:
        graph.outputs.extend(_add_counters(graph, spikes_name(site), site, axes[site]))
    scan = next((node for node in graph if node.op_type == "Scan" and node.name == SCAN_NAME), None)
    if scan is not None:
        body = scan.attributes["body"].as_graph()
        for site in sites:
            counters = _add_counters(body, f"{spikes_name(site)}/later", f"{site}/step", axes[site])
            body.outputs.extend(counters)
            for kind in _KINDS:
                scan.resize_outputs(len(scan.outputs) + 1)
                stacked = scan.outputs[-1]
                stacked.name, stacked.type = f"{site}/{kind}/later", ir.TensorType(ir.DataType.FLOAT)
                graph.outputs.append(stacked)
    return model


def _add_counters(graph: ir.Graph, spikes_name: str, prefix: str, axis: ir.Value) -> list[ir.Value]:
    spikes = next(output for node in graph for output in node.outputs if output.name == spikes_name)
    sizes, signs, *counters = (
        ir.Value(name=f"{prefix}/{kind}", type=ir.TensorType(ir.DataType.FLOAT)) for kind in ("sizes", "signs", *_KINDS)
    )
    keep = [ir.AttrInt64("keepdims", 0)]
    graph.extend(
        [
            ir.Node("", "Abs", [spikes], outputs=[sizes], name=f"{prefix}/Abs"),
            ir.Node("", "Sign", [sizes], outputs=[signs], name=f"{prefix}/Sign"),
            ir.Node("", "ReduceSum", [sizes, axis], keep, outputs=[counters[0]], name=f"{prefix}/ReduceSum"),
            ir.Node("", "ReduceSum", [signs, axis], keep, outputs=[counters[1]], name=f"{prefix}/ReduceSum_1"),
        ]
    )
    return counters

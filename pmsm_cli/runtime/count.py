"""Counting spikes: a checkpoint that also says what each of its sites emitted at every step.

Signs never cancel, and a spike of size k counts as k. The counts leave the network summed over channels only, as whole
numbers that float32 holds exactly, so that the sums over positions and synapses are exact too.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.graph.insert import spikes_name
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.synapse import fan_out, synapse_of
from pmsm_cli.graph.unroll import SCAN_NAME
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
    session = open_session(_counting(checkpoint), subject=checkpoint.subject, threads=threads)
    totals = {site.name: np.zeros((3, timesteps)) for site in sites}  # spikes, firing, synaptic operations
    neurons = {site.name: math.prod(shapes[spikes_name(site.name)]) // (session.fixed_batch or 1) for site in sites}
    images, skipped = 0, list[SkippedImage]()
    for batch in batches:
        skipped += batch.skipped
        usable = len(batch.inputs) - len(batch.inputs) % (session.fixed_batch or 1)  # never count padding
        if usable:
            named = dict(zip(session.output_names, session.run(batch.inputs[:usable]), strict=True))
            images += usable
            for site in sites:
                spikes, firing = (_steps(named, f"{site.name}/{kind}") for kind in _KINDS)
                for row, counts in enumerate((spikes, firing, spikes * fans[site.name])):
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
    model = checkpoint.model.clone()
    wanted = {spikes_name(site.name) for site in checkpoint.manifest.plan.sites}
    outputs = [
        output
        for node in model.graph
        for output in node.outputs
        if output.name in wanted or any(value is not None and value.name in wanted for value in node.inputs)
    ]
    model.graph.outputs.clear()
    model.graph.outputs.extend(output for output in outputs if output.type is not None)
    session = open_session(model, subject=checkpoint.subject)
    blank = np.zeros((session.fixed_batch or 1, *checkpoint.manifest.preprocessing.shape), np.float32)
    return {name: result.shape for name, result in zip(session.output_names, session.run(blank), strict=True)}


def _fan_out_a_position(checkpoint: Checkpoint, shapes: Mapping[str, Shape]) -> dict[str, Totals]:
    """The synapses of a site's neurons by position; every channel has as many."""
    synapses = {node.name: synapse for node in checkpoint.model.graph if (synapse := synapse_of(node))}
    fans: dict[str, Totals] = {}
    for site in checkpoint.manifest.plan.sites:
        counts = [fan_out(synapses[reader.node], shapes) for reader in site.readers]
        fans[site.name] = np.sum([count[0] for count in counts if count is not None], axis=0, dtype=np.float64)
    return fans


def _counting(checkpoint: Checkpoint) -> ir.Model:
    """A copy of the checkpoint's graph with the counts of every site, summed over channels, as its only outputs.

    `<site>/count` and `<site>/firing` are those of the first step; with `/later` added, those of the later ones.
    """
    model = checkpoint.model.clone()
    graph = model.graph
    graph.outputs.clear()
    axis = ir.Value(name="pmsm/channels", const_value=ir.tensor(np.array([1], np.int64), name="pmsm/channels"))
    axis.type, axis.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    graph.register_initializer(axis)
    sites = [site.name for site in checkpoint.manifest.plan.sites]
    for site in sites:
        graph.outputs.extend(_add_counters(graph, spikes_name(site), site, axis))
    scan = next((node for node in graph if node.op_type == "Scan" and node.name == SCAN_NAME), None)
    if scan is not None:
        body = scan.attributes["body"].as_graph()
        for site in sites:
            counters = _add_counters(body, f"{spikes_name(site)}/later", f"{site}/step", axis)
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

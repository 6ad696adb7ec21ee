"""Counters inside a checkpoint's graph: what its sites emit, summed up before it leaves the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.insert import spikes_name
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.scan import SCAN_NAME
from pmsm_cli.graph.sites import Site
from pmsm_cli.lowering.lower import tidy_counted
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.runtime.library import NativeLibrary
from pmsm_cli.runtime.native_counters import Block, NativeCounters, split_counts
from pmsm_cli.runtime.session import Array, Totals
from pmsm_cli.runtime.workload import fixed_batch

STEP_KINDS = ("count", "firing")  # sums of sizes, and of neurons that fire, over the axis behind the batch
CHANNELS = "channels"  # neurons that fire, by image and channel
LIMIT = "limit"  # neurons at -N or P, likewise, at the first step
LATER = "/later"  # behind the names of what the later steps give
COUNTS = "pmsm/counts"  # what the library counts at all sites
_FLOAT = ir.TensorType(ir.DataType.FLOAT)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Counting:
    """A graph with counters: `<site>/<kind>` of the first step, with `/later` added those of the later ones.

    Where what a site reaches depends on the position and is summed up inside, its kinds `reached` and `events` say it.
    """

    model: ir.Model
    outputs: tuple[str, ...]  # the checkpoint's own
    stacked: frozenset[str]  # which outputs hold the timesteps before the images
    channels: Mapping[str, int]  # of each site whose channels are told apart
    nonzero: Mapping[str, str]  # of each site, with several steps: neurons whose value is not 0 after the last
    first: tuple[Block, ...] = ()  # how the library's counters lie in what leaves the network
    later: tuple[Block, ...] = ()

    def named(self, results: Mapping[str, Array]) -> dict[str, Array]:
        """What left the network by name, whatever counted."""
        return {**results, **split_counts(self.first, results), **split_counts(self.later, results, LATER)}


def add_counters(
    checkpoint: Checkpoint,
    shapes: Mapping[str, Shape],
    fans: Mapping[str, Sequence[Totals]],
    *,
    library: NativeLibrary | None,
) -> Counting:
    """A copy of the checkpoint's graph that counts at every site, and still gives its own outputs.

    Where the `library` is there, its operators count in one pass what takes several of the standard ones, and sum up
    all positions: `fans` say, for each site and step, how many synapses a neuron reaches.
    """
    model = checkpoint.model.clone()
    graph, sites = model.graph, checkpoint.manifest.plan.sites
    scan = next((node for node in graph if node.op_type == "Scan" and node.name == SCAN_NAME), None)
    own = tuple(output.name or "" for output in graph.outputs)
    channels = {}
    for site in sites:
        shape = shapes[spikes_name(site.name)]
        axis = _channel_axis(site, len(shape))
        if axis is not None:
            channels[site.name] = shape[axis]
    constants, nonzero = _Constants(graph), {}
    if library:
        first, later, stacked = _count_natively(checkpoint, graph, scan, shapes, fans)
    else:
        first, later, stacked = (), (), _count(checkpoint, graph, scan, shapes, constants)
    if scan is not None:
        # What a Scan carries from step to step leaves it in the order in which it came.
        ends = {start.name: end for start, end in zip(scan.inputs, scan.outputs, strict=False) if start is not None}
        for site in sites:  # behind the Scan: the counts that its steps add up to
            end, rank = ends[spikes_name(site.name)], len(shapes[spikes_name(site.name)])
            name = nonzero[site.name] = f"{site.name}/nonzero"
            signs = _map(graph, ["Abs", "Sign"], end, name)
            graph.outputs.append(_sum_of(graph, signs, name, constants.first_axis(rank)))
    return Counting(
        model=tidy_counted(model, slices=scan is None and library.multiplies_slices)[0] if library else model,
        outputs=own,
        stacked=frozenset(stacked),
        channels=channels,
        nonzero=nonzero,
        first=first,
        later=later,
    )


def _count(
    checkpoint: Checkpoint,
    graph: ir.Graph,
    scan: ir.Node | None,
    shapes: Mapping[str, Shape],
    constants: "_Constants",
) -> list[str]:
    """By standard operators, a tensor for each site and kind; which of them are of the later steps."""
    neurons, stacked = checkpoint.manifest.calibration.parameters, list[str]()
    for site in checkpoint.manifest.plan.sites:
        spikes, rank = spikes_name(site.name), len(shapes[spikes_name(site.name)])
        axis = _channel_axis(site, rank)
        graph.outputs.extend(_add_counters(graph, spikes, site.name, rank, axis, constants))
        if axis is not None:
            graph.outputs.append(_add_limit(graph, site.name, neurons[site.name], rank, axis, constants))
        if scan is not None:
            body = scan.attributes["body"].as_graph()
            for counter in _add_counters(body, f"{spikes}{LATER}", f"{site.name}/step", rank, axis, constants):
                kind = (counter.name or "").removeprefix(f"{site.name}/step/")
                stacked.append(_leave_scan(graph, scan, counter, f"{site.name}/{kind}{LATER}"))
    return stacked


def _count_natively(
    checkpoint: Checkpoint,
    graph: ir.Graph,
    scan: ir.Node | None,
    shapes: Mapping[str, Shape],
    fans: Mapping[str, Sequence[Totals]],
) -> tuple[tuple[Block, ...], tuple[Block, ...], list[str]]:
    """By the library's operator, a tensor for all sites: how it holds them, and which are of the later steps."""
    neurons, batch = checkpoint.manifest.calibration.parameters, fixed_batch(checkpoint.model)
    first = NativeCounters(graph, graph, output=COUNTS, batch=batch)
    body = scan.attributes["body"].as_graph() if scan is not None else None
    later = NativeCounters(body, graph, output=f"{COUNTS}/step", batch=batch) if body is not None else None
    for site in checkpoint.manifest.plan.sites:
        spikes, shape = spikes_name(site.name), shapes[spikes_name(site.name)]
        axis = _channel_axis(site, len(shape))
        kinds = (*STEP_KINDS, *((CHANNELS, LIMIT) if axis is not None else ()))
        fan, neuron = fans[site.name], neurons[site.name]
        first.add(site.name, _value(graph, spikes), shape, kinds, axis, neuron, fan[0])
        if later is not None and body is not None:
            later.add(site.name, _value(body, f"{spikes}{LATER}"), shape, kinds[:3], axis, None, fan[-1])
    graph.outputs.extend(first.outputs())
    if later is None or scan is None:
        return tuple(first.blocks), (), []
    stacked = [_leave_scan(graph, scan, counter, f"{counter.name}{LATER}") for counter in later.outputs()]
    return tuple(first.blocks), tuple(later.blocks), stacked


def _leave_scan(graph: ir.Graph, scan: ir.Node, counter: ir.Value, name: str) -> str:
    """Hand a value of the body out of the Scan, and out of the graph; its name there."""
    scan.attributes["body"].as_graph().outputs.append(counter)
    scan.resize_outputs(len(scan.outputs) + 1)
    scan.outputs[-1].name, scan.outputs[-1].type = name, _FLOAT
    graph.outputs.append(scan.outputs[-1])
    return name


def _value(graph: ir.Graph, name: str) -> ir.Value:
    return next(output for node in graph for output in node.outputs if output.name == name)


class _Constants:
    """Axes to sum over, each a constant of the outer graph once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph, self._known = graph, dict[tuple[int, ...], ir.Value]()

    def axes(self, *axes: int) -> ir.Value:
        if axes not in self._known:
            name = "_".join(map(str, axes)) or "none"
            self._known[axes] = add_constant(self._graph, f"pmsm/axes_{name}", np.array(axes, np.int64))
        return self._known[axes]

    def first_axis(self, rank: int) -> ir.Value:
        """The axis behind the batch, if there is one."""
        return self.axes(1) if rank > 1 else self.axes()

    def all_but(self, axis: int, rank: int) -> ir.Value:
        """All axes but the batch and one more."""
        return self.axes(*(each for each in range(1, rank) if each != axis))


def _channel_axis(site: Site, rank: int) -> int | None:
    """The axis of a site's channels from the left; None where there are none, or no batch in front of them."""
    axis = None if site.channel_axis is None else rank + site.channel_axis
    return axis if axis is not None and axis >= 1 else None


def _add_counters(
    graph: ir.Graph, spikes: str, prefix: str, rank: int, axis: int | None, constants: _Constants
) -> list[ir.Value]:
    value = _value(graph, spikes)
    sizes = _map(graph, ["Abs"], value, f"{prefix}/sizes")
    signs = _map(graph, ["Sign"], sizes, f"{prefix}/signs")
    kinds = zip(STEP_KINDS, (sizes, signs), strict=True)
    counters = [_sum_of(graph, each, f"{prefix}/{kind}", constants.first_axis(rank)) for kind, each in kinds]
    if axis is not None:
        counters.append(_sum_of(graph, signs, f"{prefix}/{CHANNELS}", constants.all_but(axis, rank)))
    return counters


def _add_limit(
    graph: ir.Graph, site: str, neuron: NeuronParameters, rank: int, axis: int, constants: _Constants
) -> ir.Value:
    """How many neurons of each channel emit as much as they can, of either sign where there are two."""
    spikes = _value(graph, spikes_name(site))
    negative, positive = neuron.negative_levels, neuron.positive_levels
    far, limit, name = spikes, float(positive), f"{site}/{LIMIT}"
    if negative:
        middle = add_constant(graph, f"{name}/middle", np.array((positive - negative) / 2, np.float32))
        centred = ir.Value(name=f"{name}/centred", type=_FLOAT)
        graph.append(ir.Node("", "Sub", [spikes, middle], outputs=[centred], name=f"{name}/Sub"))
        far, limit = _map(graph, ["Abs"], centred, f"{name}/far"), (positive + negative) / 2
    bound = add_constant(graph, f"{name}/bound", np.array(limit, np.float32))
    reached, as_float = ir.Value(name=f"{name}/reached"), ir.Value(name=f"{name}/as_float", type=_FLOAT)
    graph.append(ir.Node("", "GreaterOrEqual", [far, bound], outputs=[reached], name=f"{name}/GreaterOrEqual"))
    graph.append(ir.Node("", "Cast", [reached], [ir.AttrInt64("to", 1)], outputs=[as_float], name=f"{name}/Cast"))
    return _sum_of(graph, as_float, name, constants.all_but(axis, rank))


def _map(graph: ir.Graph, op_types: list[str], value: ir.Value, name: str) -> ir.Value:
    for op_type in op_types:
        result = ir.Value(name=f"{name}/{op_type}", type=_FLOAT)
        graph.append(ir.Node("", op_type, [value], outputs=[result], name=f"{name}/{op_type}"))
        value = result
    return value


def _sum_of(graph: ir.Graph, value: ir.Value, name: str, axes: ir.Value) -> ir.Value:
    """The sum over some axes, which may be none."""
    total = ir.Value(name=name, type=_FLOAT)
    options = [ir.AttrInt64("keepdims", 0), ir.AttrInt64("noop_with_empty_axes", 1)]
    graph.append(ir.Node("", "ReduceSum", [value, axes], options, outputs=[total], name=f"{name}/ReduceSum"))
    return total

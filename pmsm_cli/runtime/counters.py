"""Counters inside a checkpoint's graph: what its sites emit, summed up before it leaves the network."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.insert import spikes_name
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.scan import SCAN_NAME
from pmsm_cli.graph.sites import Site
from pmsm_cli.neuron.onnx_function import DOMAIN
from pmsm_cli.neuron.parameters import NeuronParameters

STEP_KINDS = ("count", "firing")  # sums of sizes, and of neurons that fire, over the axis behind the batch
CHANNELS = "channels"  # neurons that fire, by image and channel
LIMIT = "limit"  # neurons at -N or P, likewise, at the first step
_FLOAT = ir.TensorType(ir.DataType.FLOAT)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Counting:
    """A graph with counters: `<site>/<kind>` of the first step, with `/later` added those of the later ones."""

    model: ir.Model
    outputs: tuple[str, ...]  # the checkpoint's own
    stacked: frozenset[str]  # which outputs hold the timesteps before the images
    channels: Mapping[str, int]  # of each site whose channels are told apart
    nonzero: Mapping[str, str]  # of each site, with several steps: neurons whose value is not 0 after the last


def add_counters(checkpoint: Checkpoint, shapes: Mapping[str, Shape], *, native: bool) -> Counting:
    """A copy of the checkpoint's graph that counts at every site, and still gives its own outputs.

    `native` says that the library is there: one of its operators then counts in one pass what takes several of the
    standard ones.
    """
    model = checkpoint.model.clone()
    graph, sites = model.graph, checkpoint.manifest.plan.sites
    neurons = checkpoint.manifest.calibration.parameters
    own = tuple(output.name or "" for output in graph.outputs)
    scan = next((node for node in graph if node.op_type == "Scan" and node.name == SCAN_NAME), None)
    body = scan.attributes["body"].as_graph() if scan is not None else None
    outer = _Constants(graph)
    channels, nonzero, stacked = {}, {}, list[str]()
    for site in sites:
        rank = len(shapes[spikes_name(site.name)])
        axis = _channel_axis(site, rank)
        if axis is not None:
            channels[site.name] = shapes[spikes_name(site.name)][axis]
        if native:
            counters = _add_native_counters(graph, spikes_name(site.name), site.name, rank, axis, neurons[site.name])
        else:
            counters = _add_counters(graph, spikes_name(site.name), site.name, rank, axis, outer)
            if axis is not None:
                counters.append(_add_limit(graph, site.name, neurons[site.name], rank, axis, outer))
        graph.outputs.extend(counters)
        if body is None or scan is None:
            continue
        later, step = f"{spikes_name(site.name)}/later", f"{site.name}/step"
        if native:
            in_step = _add_native_counters(body, later, step, rank, axis, None)
        else:
            in_step = _add_counters(body, later, step, rank, axis, outer)
        for counter in in_step:
            body.outputs.append(counter)
            scan.resize_outputs(len(scan.outputs) + 1)
            kind = (counter.name or "").removeprefix(f"{site.name}/step/")
            scan.outputs[-1].name, scan.outputs[-1].type = f"{site.name}/{kind}/later", _FLOAT
            graph.outputs.append(scan.outputs[-1])
            stacked.append(f"{site.name}/{kind}/later")
    if scan is not None:
        # What a Scan carries from step to step leaves it in the order in which it came.
        ends = {first.name: end for first, end in zip(scan.inputs, scan.outputs, strict=False) if first is not None}
        for site in sites:  # behind the Scan: the counts that its steps add up to
            end, rank = ends[spikes_name(site.name)], len(shapes[spikes_name(site.name)])
            name = nonzero[site.name] = f"{site.name}/nonzero"
            graph.outputs.append(_sum_of(graph, _map(graph, ["Abs", "Sign"], end, name), name, outer.first_axis(rank)))
    return Counting(model=model, outputs=own, stacked=frozenset(stacked), channels=channels, nonzero=nonzero)


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
        """The axis behind the batch, or the only one that there is."""
        return self.axes(1 if rank > 1 else 0)

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
    value = next(output for node in graph for output in node.outputs if output.name == spikes)
    sizes = _map(graph, ["Abs"], value, f"{prefix}/sizes")
    signs = _map(graph, ["Sign"], sizes, f"{prefix}/signs")
    kinds = zip(STEP_KINDS, (sizes, signs), strict=True)
    counters = [_sum_of(graph, each, f"{prefix}/{kind}", constants.first_axis(rank)) for kind, each in kinds]
    if axis is not None:
        counters.append(_sum_of(graph, signs, f"{prefix}/{CHANNELS}", constants.all_but(axis, rank)))
    return counters


def _add_native_counters(
    graph: ir.Graph, spikes: str, prefix: str, rank: int, axis: int | None, neuron: NeuronParameters | None
) -> list[ir.Value]:
    """The same by the library's operator; `neuron` is what limits the spikes, if that is to be counted."""
    value = next(output for node in graph for output in node.outputs if output.name == spikes)
    ranks = {**dict.fromkeys(STEP_KINDS, rank - 1), CHANNELS: 2, LIMIT: 2}  # a Scan asks for them
    outputs = [
        ir.Value(name=f"{prefix}/{kind}", type=_FLOAT, shape=ir.Shape([None] * axes)) for kind, axes in ranks.items()
    ]
    attributes = [
        ir.AttrInt64("axis", axis or 0),
        ir.AttrInt64("negative_levels", neuron.negative_levels if neuron else 0),
        ir.AttrInt64("positive_levels", neuron.positive_levels if neuron else 0),
    ]
    graph.append(ir.Node(DOMAIN, "SpikeCounts", [value], attributes, outputs=outputs, name=f"{prefix}/SpikeCounts"))
    wanted = len(STEP_KINDS) if axis is None else len(outputs) if neuron else len(outputs) - 1
    return outputs[:wanted]


def _add_limit(
    graph: ir.Graph, site: str, neuron: NeuronParameters, rank: int, axis: int, constants: _Constants
) -> ir.Value:
    """How many neurons of each channel emit as much as they can, of either sign where there are two."""
    spikes = next(output for node in graph for output in node.outputs if output.name == spikes_name(site))
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

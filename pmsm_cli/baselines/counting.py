"""What a network of the baselines' neurons spends, counted inside its graph at every step.

A spike of either sign is one, and costs one accumulate on each of its synapses. Where spikes are pooled before they
reach a synapse, an average passes on every one of them (its synapses are those of the pooled position), a maximum the
one spike that gets through.
"""

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.baselines.plan import AVERAGING_OPS, MAXIMUM_OPS
from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.scan import Timestep
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.graph.synapse import fan_out, synapse_of

COUNT_PREFIX = "pmsm/count/"  # of all outputs that hold counts

_FLOAT, _DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE


def emitted_name(activation: str) -> str:
    """The output [images] with the spikes that an activation's neurons emitted at a step."""
    return f"{COUNT_PREFIX}emitted/{activation}"


def arriving_name(site: str) -> str:
    """The output [images] with the spikes that arrived at a site's synapses at a step."""
    return f"{COUNT_PREFIX}arriving/{site}"


def operations_name(site: str) -> str:
    """The output [images] with the synapses that these spikes reached, borders exact."""
    return f"{COUNT_PREFIX}operations/{site}"


def add_counts(step: Timestep, plan: SitePlan, spikes: Mapping[str, ir.Value], shapes: Mapping[str, Shape]) -> None:
    """Add the counts (in float64) to the outputs of the graph, and what a later timestep counts to `step`.

    `spikes` holds the spikes of each activation's neurons at the first step, by the activation's name. `shapes` are
    those of one image (or the fixed batch) and must be known for every site and what its synapses make of it.
    """
    graph = step.graph
    values = {output.name or "": output for node in graph for output in node.outputs}
    synapses = {node.name: synapse for node in graph if (synapse := synapse_of(node))}
    wanted: dict[str, tuple[ir.Value, ir.Value | None]] = {emitted_name(name): (values[name], None) for name in spikes}
    for site in plan.sites:
        # Readers state their counts in different shapes: a map, or one number for all positions.
        fans = [fan_out(synapses[reader.node], shapes) for reader in site.readers]
        by_position = functools.reduce(np.add, [fan[0].astype(np.float64) for fan in fans if fan is not None])
        reached = add_constant(graph, f"{site.name}/synapses", by_position)
        wanted[arriving_name(site.name)] = (values[site.name], None)
        wanted[operations_name(site.name)] = (values[site.name], reached)
    here = _Counter(graph.append, graph, lambda value: value, spikes, shapes, "")
    later = _Counter(step.nodes.append, graph, step.running, spikes, shapes, "/later")
    for name, (value, synapses_a_position) in wanted.items():
        first = here.total(name, value, synapses_a_position)
        step.inner[first] = later.total(name, value, synapses_a_position)
        graph.outputs.append(first)


class _Counter:
    """Counts at one timestep: the first, where values are themselves, or a later one."""

    def __init__(
        self,
        append: Callable[[ir.Node], None],
        graph: ir.Graph,
        resolve: Callable[[ir.Value], ir.Value],
        spikes: Mapping[str, ir.Value],
        shapes: Mapping[str, Shape],
        suffix: str,
    ) -> None:
        """`append` takes the new nodes, `resolve` finds a value of the first step at this one."""
        self._append, self._graph, self._resolve = append, graph, resolve
        self._spikes, self._shapes, self._suffix = spikes, shapes, suffix
        self._arriving: dict[ir.Value, ir.Value] = {}
        self._by_position: dict[ir.Value, ir.Value] = {}

    def total(self, name: str, value: ir.Value, synapses: ir.Value | None) -> ir.Value:
        """The spikes that a value consists of, or the synapses that they reach, summed up for each image, [images]."""
        counts = self._summed_over_channels(value)
        if synapses is not None:
            counts = self._emit("Mul", [counts, synapses], f"{name}/each", _DOUBLE)
        # What is left has the images first; all other axes in one.
        flat = self._emit("Flatten", [counts], f"{name}/flat", _DOUBLE, [ir.AttrInt64("axis", 1)])
        keep = [ir.AttrInt64("keepdims", 0)]
        return self._emit("ReduceSum", [flat, self._constant(1)], name, _DOUBLE, keep)

    def _summed_over_channels(self, value: ir.Value) -> ir.Value:
        """In float32 counts up to 2^24 are exact, so that only sums over positions need more."""
        if value not in self._by_position:
            keep = [ir.AttrInt64("keepdims", 0)]
            name = f"{COUNT_PREFIX}{value.name}"
            summed = self._emit(
                "ReduceSum", [self._spikes_in(value), self._constant(1)], f"{name}/summed", _FLOAT, keep
            )
            to = [ir.AttrInt64("to", _DOUBLE.value)]
            self._by_position[value] = self._emit("Cast", [summed], f"{name}/exact", _DOUBLE, to)
        return self._by_position[value]

    def _spikes_in(self, value: ir.Value) -> ir.Value:
        """How many spikes each element of a value consists of."""
        if value not in self._arriving:
            self._arriving.update(self._trace(value))
        return self._arriving[value]

    def _trace(self, value: ir.Value) -> dict[ir.Value, ir.Value]:
        node, name = value.producer(), f"{COUNT_PREFIX}{value.name}/spikes"
        assert node is not None
        if spikes := self._spikes.get(value.name or ""):
            return {value: self._emit("Abs", [self._resolve(spikes)], name)}
        if node.op_type in MAXIMUM_OPS:
            size = self._emit("Abs", [self._resolve(value)], f"{name}/size")
            return {value: self._emit("Sign", [size], name)}
        first, *others = node.inputs
        assert first is not None
        attributes = list(node.attributes.values())
        if node.op_type in AVERAGING_OPS:
            return {value: self._sum_instead(node, self._spikes_in(first), name)}
        inputs = [self._spikes_in(first), *others]
        if node.op_type == "Concat":
            inputs = [self._spikes_in(each) for each in node.inputs if each is not None]
        moved = [ir.Value(name=f"{COUNT_PREFIX}{each.name}/spikes{self._suffix}") for each in node.outputs]
        self._append(ir.Node("", node.op_type, inputs, attributes, outputs=moved, name=f"{name}{self._suffix}/move"))
        return dict(zip(node.outputs, moved, strict=True))

    def _sum_instead(self, node: ir.Node, spikes: ir.Value, name: str) -> ir.Value:
        """The spikes in each window of an average."""
        if node.op_type == "AveragePool":
            # With the padding counted, which holds no spikes, the average is the same share of the sum everywhere.
            attributes = [each for key, each in node.attributes.items() if key != "count_include_pad"]
            counted = [*attributes, ir.AttrInt64("count_include_pad", 1)]
            average = self._emit("AveragePool", [spikes], f"{name}/average", _FLOAT, counted)
            window = math.prod(node.attributes["kernel_shape"].as_ints())
            scale = self._array(f"window_{window}", np.array(window, np.float32))
            scaled = self._emit("Mul", [average, scale], f"{name}/scaled")
            return self._emit("Round", [scaled], name)
        keepdims = node.attributes.get_int("keepdims", 1) or 0
        if node.op_type == "GlobalAveragePool":
            rank = len(self._shapes[node.outputs[0].name or ""])
            axes: ir.Value | None = self._array(f"spatial_{rank}", np.arange(2, rank))
        elif "axes" in node.attributes:
            numbers = node.attributes["axes"].as_ints()
            axes = self._array("axes_" + "_".join(map(str, numbers)), np.array(numbers))
        else:
            axes = node.inputs[1] if len(node.inputs) > 1 else None
        return self._emit("ReduceSum", [spikes, axes], name, _FLOAT, [ir.AttrInt64("keepdims", keepdims)])

    def _emit(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        name: str,
        dtype: ir.DataType = _FLOAT,
        attributes: list[ir.Attr] | None = None,
    ) -> ir.Value:
        output = ir.Value(name=f"{name}{self._suffix}", type=ir.TensorType(dtype))
        node = ir.Node("", op_type, inputs, attributes or [], outputs=[output], name=f"{name}{self._suffix}/{op_type}")
        self._append(node)
        return output

    def _constant(self, axis: int) -> ir.Value:
        return self._array(f"axis_{axis}", np.array([axis]))

    def _array(self, name: str, array: "np.typing.NDArray[np.generic]") -> ir.Value:
        """A constant of the graph around, made once."""
        known = self._graph.initializers.get(f"{COUNT_PREFIX}{name}")
        return known if known is not None else add_constant(self._graph, f"{COUNT_PREFIX}{name}", array)

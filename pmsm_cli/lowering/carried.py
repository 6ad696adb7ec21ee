"""Values that are carried past the synapses, in 8 bits: the branches of a residual sum, the sum, what is pooled.

What a residual addition reads is not spikes but the values themselves. For convolutions to stay on integer kernels
these values need integers too: with `--weights int8` each is rounded to one of 256 over the range that images show, in
the checkpoint itself (QuantizeLinear and DequantizeLinear), so that every way to run it carries the same values.
Transformers keep theirs in floats: onnxruntime's integer matrix products give floats at no cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.rest import ABOVE_REST, drive_node
from pmsm_cli.lowering.int8 import spiking_synapses
from pmsm_cli.lowering.parts import is_op, only_reader, read
from pmsm_cli.neuron.onnx_function import NEURON

Range = tuple[float, float]


def carried_values(model: ir.Model, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """The names of what convolutions of spikes give to others than neurons, and of the sums of these.

    What the graph hands out stays as it is.
    """
    graph = model.graph
    names: dict[str, None] = {}  # in order, each once
    summed = set()
    for synapse in spiking_synapses(graph):
        if synapse.node.op_type == "Conv":
            adding = drive_node(synapse.node)
            value = _clipped((synapse.node if adding is None else adding).outputs[0])
            if value.uses() and not value.is_graph_output() and not _becomes_spikes(value):
                summed.add(value)
                names[value.name or ""] = None
    for node in graph:
        if not is_op(node, "Add") or any(value is None or value.const_value is not None for value in node.inputs):
            continue
        result = _clipped(node.outputs[0])
        if not summed & set(node.inputs) or result.is_graph_output():
            continue
        operands = (read(node, 0), read(node, 1))
        seen = [shapes.get(value.name or "", ()) for value in (*operands, node.outputs[0])]
        if len(set(seen)) > 1 or len(seen[0]) != 4:
            continue  # one of them is broadcast, or they are no images
        summed.add(result)
        names.update(dict.fromkeys(value.name or "" for value in (*operands, result)))
    return tuple(names)


def _clipped(value: ir.Value) -> ir.Value:
    """A value behind the ReLU or Clip that alone reads it."""
    while is_op(reader := only_reader(value), "Relu", "Clip"):
        value = reader.outputs[0]
    return value


def _becomes_spikes(value: ir.Value) -> bool:
    """Whether neurons alone read a value, or what its largest neighbours are."""
    readers = [reader for reader, _ in value.uses()]
    if len(readers) == 1 and is_op(readers[0], "MaxPool"):
        return _becomes_spikes(readers[0].outputs[0])
    return all(reader.op_type == NEURON or (reader.outputs[0].name or "").endswith(ABOVE_REST) for reader in readers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The 256 values that a tensor is rounded to: scale x (code - zero)."""

    scale: float
    zero: int

    @staticmethod
    def over(lowest: float, highest: float) -> "Grid":
        """The grid over a range, 0 among its values.

        >>> Grid.over(0.0, 51.0), Grid.over(-64.0, 191.0)
        (Grid(scale=0.2, zero=0), Grid(scale=1.0, zero=64))
        """
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
        scale = (highest - lowest) / 255 or 1.0
        return Grid(scale=scale, zero=round(-lowest / scale))


def carry(model: ir.Model, ranges: Mapping[str, Range]) -> ir.Model:
    """A copy in which each named value reaches its readers rounded to the 256 values of its range."""
    copy = model.clone()
    graph = copy.graph
    values = {output.name: output for node in graph for output in node.outputs}
    for name, (lowest, highest) in ranges.items():
        _round_to(graph, values[name], Grid.over(lowest, highest))
    return copy


def _round_to(graph: ir.Graph, value: ir.Value, grid: Grid) -> None:
    scale = add_constant(graph, f"{value.name}/scale", np.asarray(grid.scale, np.float32))
    zero = add_constant(graph, f"{value.name}/zero", np.asarray(grid.zero, np.uint8))
    code = ir.Value(name=f"{value.name}/code", type=ir.TensorType(ir.DataType.UINT8), shape=value.shape)
    carried = ir.Value(name=f"{value.name}/carried", type=value.type, shape=value.shape)
    readers = list(value.uses())
    nodes = [
        ir.Node("", "QuantizeLinear", [value, scale, zero], outputs=[code], name=code.name),
        ir.Node("", "DequantizeLinear", [code, scale, zero], outputs=[carried], name=carried.name),
    ]
    for reader, index in readers:
        reader.replace_input_with(index, carried)
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, nodes)

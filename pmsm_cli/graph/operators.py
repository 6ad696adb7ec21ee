"""Small things about operators that several passes need."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant

_AXES_BECAME_AN_INPUT = {"ReduceSum": 13}  # of all other reductions at opset 18


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether a node is an operator of the ONNX standard, and one of these where any are given."""
    return node.domain in ("", "ai.onnx") and (not op_types or node.op_type in op_types)


def reduction(
    graph: ir.Graph, op_type: str, value: ir.Value, axes: Sequence[int], output: ir.Value, *, keep: bool = True
) -> ir.Node:
    """A node, named after its output, that reduces a value along axes, in the form that the graph's opset asks for.

    It is not in the graph yet; a constant that holds its axes may be. `keep` leaves the reduced axes, of length 1.
    """
    inputs, attributes = [value], [] if keep else [ir.AttrInt64("keepdims", 0)]
    if graph.opset_imports[""] >= _AXES_BECAME_AN_INPUT.get(op_type, 18):
        inputs.append(add_constant(graph, f"{output.name}/axes", np.array(axes, np.int64)))
    else:
        attributes.append(ir.AttrInt64s("axes", list(axes)))
    return ir.Node("", op_type, inputs, attributes, outputs=[output], name=output.name)


def subtract_constant(
    graph: ir.Graph, value: ir.Value, array: npt.NDArray[np.float32], *, name: str, constant: str
) -> ir.Value:
    """A value less a constant of that name, behind what makes it; the new value and its node are called `name`."""
    less = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
    node = ir.Node("", "Sub", [value, add_constant(graph, constant, array)], outputs=[less], name=name)
    producer = value.producer()
    if producer is None:  # the image itself
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return less


class Pieces:
    """The nodes that are to stand for one, while they are put together; they are named after it."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        """`node`, of `graph`, goes when its pieces are complete."""
        self.graph, self.node = graph, node
        self._type = node.outputs[0].type
        self._nodes: list[ir.Node] = []

    def add(self, op_type: str, inputs: list[ir.Value], *attributes: ir.Attr, name: str | None = None) -> ir.Value:
        """One more piece, and what it gives."""
        output = ir.Value(name=self._next_name(op_type), type=self._type)
        self._nodes.append(ir.Node("", op_type, inputs, attributes, outputs=[output], name=name or output.name))
        return output

    def reduce(self, op_type: str, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """A reduction that leaves no trace of its axes."""
        output = ir.Value(name=self._next_name(op_type), type=self._type)
        self._nodes.append(reduction(self.graph, op_type, value, axes, output, keep=False))
        return output

    def transposed(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """The axes in another order."""
        return self.add("Transpose", [value], ir.AttrInt64s("perm", list(order)))

    def reshaped(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Another shape, in which 0 is the length that an axis has and -1 what is left."""
        return self.add("Reshape", [value, self.constant("Reshape", np.array(shape, np.int64))])

    def with_axes(self, op_type: str, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Unsqueeze or Squeeze at these axes, if there are any."""
        return self.add(op_type, [value, self.constant(op_type, np.array(axes, np.int64))]) if axes else value

    def constant(self, op_type: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """A constant for the next piece, of that type."""
        return add_constant(self.graph, f"{self._next_name(op_type)}/constant", array)

    def finish(self, result: ir.Value) -> None:
        """Put the pieces where the node was; their last value takes its name and readers."""
        old = self.node.outputs[0]
        name, result.shape = old.name, old.shape
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
        self.graph.insert_after(self.node, self._nodes)
        self.graph.remove(self.node)
        result.name = name

    def _next_name(self, op_type: str) -> str:
        return f"{self.node.name}/{op_type}_{len(self._nodes)}"

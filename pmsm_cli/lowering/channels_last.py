"""The layout of integer convolutions: channels last, from the first codes to the last.

onnxruntime's integer convolutions want [N, height, width, channels], and onnxruntime moves whatever lies between them
to that layout too; but operators of the native library it does not know. So this does it for them.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.operators import is_standard
from pmsm_cli.lowering.convolutions import CONTRIB
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.native import AFFINE_CODES, BOUND_CODES, SPIKE_CODES, SPIKE_CODES_LAST
from pmsm_cli.lowering.parts import constant, is_op, rank_of, read
from pmsm_cli.neuron.onnx_function import DOMAIN

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_CHANNELS = 1
_AXIS_NOW = {0: 0, 1: 3, 2: 1, 3: 2}  # where each axis is, channels last


def integers_channels_last(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """QLinearConv, and what is between two of them on codes, channels last; Transpose where that begins and ends."""
    layout = _Layout(graph)
    for node in list(graph):
        rewrite = _rewriting(node)
        if rewrite is not None and (is_op(node, "QLinearConv") or layout.reaches(node)):
            layout.rewrite(node, rewrite)
    layout.finish()
    return bool(layout.rewritten)


def transposed(graph: ir.Graph, value: ir.Value, order: Sequence[int]) -> ir.Value:
    """An image channels last, or turned back, behind what makes it. Its shape is stated where it is known."""
    name = f"{value.name}/channels_{'last' if order == TO_LAST else 'first'}"
    shape = None if value.shape is None else turned_shape(value.shape, order)
    result = ir.Value(name=name, type=value.type, shape=shape)
    node = ir.Node("", "Transpose", [value], [ir.AttrInt64s("perm", order)], outputs=[result], name=name)
    after = value.producer()
    if after is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(after, node)
    return result


def turned_shape(shape: ir.Shape, order: Sequence[int] = TO_LAST) -> ir.Shape:
    """The shape of an image channels last, or turned back."""
    return ir.Shape([shape[axis] for axis in order])


class _Layout:
    """Which values there are channels last, and the nodes that were rewritten so."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.rewritten: list[ir.Node] = []
        self._emitters: list[ir.Node] = []  # neurons, in the old layout
        self._twins: dict[ir.Value, ir.Value] = {}

    def reaches(self, node: ir.Node) -> bool:
        """Whether some input of a node is there channels last already, and the others can be."""
        data = _data_of(node)
        return any(value in self._twins for value in data) and all(
            value in self._twins or rank_of(value) == len(TO_LAST) for value in data
        )

    def rewrite(self, node: ir.Node, make: "_Rewriting") -> None:
        """The node on what its data inputs are channels last."""
        new = make(self.graph, node, [self._twin(value) for value in _data_of(node)])
        self.graph.insert_before(node, new)
        self._twins[node.outputs[0]] = new.outputs[0]
        self.rewritten.append(node)

    def _twin(self, value: ir.Value) -> ir.Value:
        """The value channels last: emitted so by neurons, else turned."""
        if value not in self._twins:
            node = value.producer()
            if node is not None and _makes_codes(node, SPIKE_CODES):
                self._twins[value] = self._emitted(node)
            elif node is not None and _makes_codes(node, AFFINE_CODES):
                self.rewrite(node, _on_another_axis)
            else:
                self._twins[value] = transposed(self.graph, value, TO_LAST)
        return self._twins[value]

    def _emitted(self, node: ir.Node) -> ir.Value:
        """The codes of neurons channels last; in the old layout they stay for whoever else reads them."""
        new = _remade(node, DOMAIN, SPIKE_CODES_LAST, list(node.inputs))
        new.attributes.pop("axis")
        self.graph.insert_after(node, new)
        self._emitters.append(node)
        return new.outputs[0]

    def finish(self) -> None:
        """Give whatever else reads the rewritten nodes their outputs back in the old layout, and take them out."""
        for node in reversed(self.rewritten):
            old = node.outputs[0]
            if old.uses() or old.is_graph_output():
                twin = self._twins[old]
                back = transposed(self.graph, twin, TO_FIRST)
                ir.convenience.replace_all_uses_with(old, back, replace_graph_outputs=True)
            self.graph.remove(node, safe=True)
        for node in self._emitters:
            if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
                self.graph.remove(node, safe=True)


def _makes_codes(node: ir.Node, op_type: str) -> bool:
    """Whether a node makes codes of images, [N, channels, height, width], with numbers for each channel, or for all."""
    if node.domain != DOMAIN or node.op_type != op_type or rank_of(node.outputs[0]) != len(TO_LAST):
        return False
    alike = all(constant(each).size == 1 for each in node.inputs[1:])
    return alike or node.attributes["axis"].as_int() == _CHANNELS - len(TO_LAST)


_Rewriting = Callable[[ir.Graph, ir.Node, list[ir.Value]], ir.Node]


def _rewriting(node: ir.Node) -> _Rewriting | None:
    """How a node is written channels last; None: it is not."""
    if node.domain == DOMAIN and node.op_type in (AFFINE_CODES, BOUND_CODES):
        return _on_another_axis
    if node.domain == CONTRIB and node.op_type == "QLinearAdd":
        return _as_it_is if all(constant(each) is None for each in _data_of(node)) else None
    if is_op(node, "QLinearConv"):
        kernel = constant(node.inputs[3])
        return _convolution if kernel is not None and kernel.ndim == 4 else None
    if is_op(node, "DequantizeLinear") and constant(read(node, 1)).size == 1:
        return _as_it_is if all(_is_mean(user) for user, _ in node.outputs[0].uses()) else None
    if _is_mean(node):
        return _mean
    if not is_standard(node) or node.outputs[0].dtype != ir.DataType.UINT8:
        return None
    if node.op_type == "MaxPool" and len(node.outputs) == 1 and rank_of(read(node, 0)) == 4:
        return _pool
    if node.op_type == "Concat" and rank_of(node.outputs[0]) == 4:
        return _concatenation
    return None


def _is_mean(node: ir.Node) -> bool:
    """Whether a node takes the mean over height and width, and leaves these axes."""
    if not is_op(node, "ReduceMean") or rank_of(read(node, 0)) != 4 or not node.attributes.get_int("keepdims", 1):
        return False
    stated = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("axes", ())
    return stated is not None and sorted(int(axis) % 4 for axis in stated) == [2, 3]


def _data_of(node: ir.Node) -> list[ir.Value]:
    """The inputs that have channels."""
    if node.op_type == "QLinearAdd":
        return [read(node, 0), read(node, 3)]
    if node.op_type == "Concat":
        return [read(node, index) for index in range(len(node.inputs))]
    return [read(node, 0)]


def _remade(node: ir.Node, domain: str, op_type: str, inputs: Sequence[ir.Value | None]) -> ir.Node:
    old = node.outputs[0]
    result = ir.Value(name=f"{old.name}/last", type=old.type)
    if old.shape is not None and len(old.shape) == len(TO_LAST):
        result.shape = turned_shape(old.shape)
    new = ir.Node(domain, op_type, inputs, outputs=[result], name=f"{node.name}/last")
    new.attributes.update(node.attributes)
    return new


def _as_it_is(graph: ir.Graph, node: ir.Node, data: list[ir.Value]) -> ir.Node:
    inputs = list(node.inputs)
    for old, new in zip(_data_of(node), data, strict=True):
        inputs[[each is old for each in inputs].index(True)] = new
    return _remade(node, node.domain, node.op_type, inputs)


def _on_another_axis(graph: ir.Graph, node: ir.Node, data: list[ir.Value]) -> ir.Node:
    new = _remade(node, node.domain, node.op_type, [*data, *node.inputs[1:]])
    axis = _AXIS_NOW[node.attributes["axis"].as_int() % 4] - 4
    new.attributes["axis"] = ir.AttrInt64("axis", axis)
    return new


def _convolution(graph: ir.Graph, node: ir.Node, data: list[ir.Value]) -> ir.Node:
    new = _remade(node, CONTRIB, "QLinearConv", [*data, *node.inputs[1:]])
    new.attributes["channels_last"] = ir.AttrInt64("channels_last", 1)
    graph.opset_imports[CONTRIB] = 1
    return new


def _mean(graph: ir.Graph, node: ir.Node, data: list[ir.Value]) -> ir.Node:
    if len(node.inputs) > 1:
        axes = add_constant(graph, f"{node.name}/axes_last", np.array([1, 2], np.int64))
        return _remade(node, node.domain, node.op_type, [*data, axes])
    new = _remade(node, node.domain, node.op_type, data)
    new.attributes["axes"] = ir.AttrInt64s("axes", [1, 2])
    return new


def _pool(graph: ir.Graph, node: ir.Node, data: list[ir.Value]) -> ir.Node:
    new = _remade(node, CONTRIB, "NhwcMaxPool", data)
    new.attributes.pop("storage_order", None)
    graph.opset_imports[CONTRIB] = 1
    return new


def _concatenation(graph: ir.Graph, node: ir.Node, data: list[ir.Value]) -> ir.Node:
    new = _remade(node, node.domain, node.op_type, data)
    new.attributes["axis"] = ir.AttrInt64("axis", _AXIS_NOW[node.attributes["axis"].as_int() % 4])
    return new

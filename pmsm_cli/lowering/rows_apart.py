"""Operators that treat the rows of a batch each by itself: a larger batch is to them what its parts are.

Rows lie along one axis of a value, as many to an image as there are for a single one. Each rule below is told that axis
for those of a node's inputs that have rows; the others are the same for all. It says along which axis the rows of the
output lie, each image's made of its own alone, or None where that is not so, or cannot be told.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.operators import is_standard
from pmsm_cli.lowering.parts import constant, read

_TO_THE_END = np.iinfo(np.int64).max

_ELEMENTWISE = frozenset(
    {
        "Abs",
        "Add",
        "And",
        "Cast",
        "Ceil",
        "Celu",
        "Clip",
        "Cos",
        "Div",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "Greater",
        "GreaterOrEqual",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "Max",
        "Mean",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "PRelu",
        "Pow",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Sin",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Sum",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
        "Where",
    }
)
_BY_IMAGE = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "GlobalAveragePool",
        "GlobalLpPool",
        "GlobalMaxPool",
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "LpPool",
        "MaxPool",
        "SpaceToDepth",
    }
)
_REDUCING = frozenset(
    {
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    }
)
_BROADCASTING = _ELEMENTWISE | {"MatMul", "Expand"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """What is known of a graph's values."""

    batch: int  # images in a batch
    shapes: Mapping[str, Shape]  # by name, for such a batch
    open_batch: bool  # the number of images was chosen: a prime that no other size is a multiple of
    axes: dict[ir.Value, int] = field(default_factory=dict)  # along which rows lie, of values that have any

    def shape(self, value: ir.Value | None) -> Shape:
        """The sizes of a value that has a known shape."""
        assert value is not None
        return self.shapes[value.name or ""]

    def rank(self, value: ir.Value | None) -> int:
        """How many axes such a value has."""
        return len(self.shape(value))

    def of_output(self, node: ir.Node) -> int | None:
        """The axis along which the rows of a node's outputs lie, if they are apart."""
        rule = _RULES.get(node.op_type) if is_standard(node) else None
        values = [value for value in (*node.inputs, *node.outputs) if value is not None and value.name]
        if rule is None or any(value.name not in self.shapes for value in values):
            return None
        axis = rule(node, self)
        return axis if axis is not None and axis >= 0 and self._hold(node, axis) else None

    def _hold(self, node: ir.Node, axis: int) -> bool:
        """Whether the outputs have as many rows there as they should, and where they are is beyond doubt."""
        if node.op_type in _BROADCASTING:  # what is repeated for each row would be so for each step, too
            output = self.shape(node.outputs[0])
            given = [(self.shape(value), self.axes[value]) for value in node.inputs if value in self.axes]
            if any(shape[row] != output[axis] for shape, row in given):
                return False
        return not self.open_batch or all(self._alone(value, axis) for value in node.outputs if value.name)

    def _alone(self, value: ir.Value, axis: int) -> bool:
        """Whether the images are in the size of that axis and of no other one."""
        return [place for place, size in enumerate(self.shape(value)) if size % self.batch == 0 and size] == [axis]

    def serve(self, node: ir.Node, value: ir.Value, axis: int) -> bool:
        """Whether an input without rows is the same for all of the output's, along `axis`, instead of one for each."""
        if node.op_type == "Concat":
            return False
        if node.op_type == "MatMul" and self.rank(value) <= 2:
            return True
        behind = self.rank(node.outputs[0]) - axis  # axes of the output from the rows on
        shape = self.shape(value)
        return node.op_type not in _BROADCASTING or len(shape) < behind or shape[-behind] == 1

    def only_first(self, node: ir.Node) -> int | None:
        """The rows of the first input, if no other one has any."""
        others = any(value in self.axes for value in node.inputs[1:] if value is not None)
        return None if others else self.axes.get(read(node, 0))


_Rule = Callable[[ir.Node, Rows], int | None]


def _elementwise(node: ir.Node, rows: Rows) -> int | None:
    rank = rows.rank(node.outputs[0])
    found = {rows.axes[value] + rank - rows.rank(value) for value in node.inputs if value in rows.axes}
    return found.pop() if len(found) == 1 else None


def _by_image(node: ir.Node, rows: Rows) -> int | None:
    return 0 if rows.only_first(node) == 0 else None


def _gemm(node: ir.Node, rows: Rows) -> int | None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    alike = bias is None or rows.rank(bias) < 2 or rows.shape(bias)[0] == 1
    return _by_image(node, rows) if alike and not node.attributes.get_int("transA", 0) else None


def _matrix_product(node: ir.Node, rows: Rows) -> int | None:
    """Rows are before the axes of the matrices, or those of the left ones where the right one is the same for all."""
    rank, (left, right) = rows.rank(node.outputs[0]), node.inputs
    if 1 in (rows.rank(left), rows.rank(right)):
        return None
    found = {rows.axes[value] - rows.rank(value) for value in (left, right) if value in rows.axes}  # from the right
    least = -2 if right not in rows.axes and rows.rank(right) <= 2 else -3
    return rank + found.pop() if len(found) == 1 and max(found) <= least else None


def _along(default: int) -> _Rule:
    """Operators along one axis other than that of the rows."""

    def rule(node: ir.Node, rows: Rows) -> int | None:
        row, axis = rows.only_first(node), node.attributes.get_int("axis", default) % rows.rank(read(node, 0))
        return None if row == axis else row

    return rule


def _from_axis_on(node: ir.Node, rows: Rows) -> int | None:
    """Normalisation over all axes from one on."""
    row, axis = rows.only_first(node), node.attributes.get_int("axis", -1) % rows.rank(read(node, 0))
    return row if row is not None and row < axis else None


def _gathered(node: ir.Node, rows: Rows) -> int | None:
    row, axis = _along(0)(node, rows), node.attributes.get_int("axis", 0) % rows.rank(read(node, 0))
    return row if row is None or row < axis else row + rows.rank(read(node, 1)) - 1


def _joined(node: ir.Node, rows: Rows) -> int | None:
    found = {rows.axes[value] for value in node.inputs if value in rows.axes}
    axis = node.attributes["axis"].as_int() % rows.rank(node.outputs[0])
    return found.pop() if len(found) == 1 and axis not in found else None


def _without_axes(node: ir.Node, rows: Rows) -> int | None:
    """Axes are reduced or squeezed, none of them that of the rows."""
    row, axes = rows.only_first(node), _axes(node, rows.rank(read(node, 0)))
    if row is None or not axes or row in axes:
        return None
    kept = node.op_type in _REDUCING and node.attributes.get_int("keepdims", 1) != 0
    return row if kept else row - sum(axis < row for axis in axes)


def _with_axes(node: ir.Node, rows: Rows) -> int | None:
    row, rank = rows.only_first(node), rows.rank(node.outputs[0])
    axes = _axes(node, rank)
    return [axis for axis in range(rank) if axis not in axes][row] if row is not None and axes else None


def _sliced(node: ir.Node, rows: Rows) -> int | None:
    row, rank = rows.only_first(node), rows.rank(read(node, 0))
    numbers = [constant(value) for value in node.inputs[1:] if value is not None]
    if len(numbers) < 3 or len(numbers) != len(node.inputs) - 1 or any(array is None for array in numbers):
        return None
    starts, ends, axes = numbers[:3]
    strides = numbers[3] if len(numbers) > 3 else np.ones_like(axes)
    parts = zip(starts, ends, axes, strides, strict=True)
    cut = {int(axis) % rank for start, end, axis, stride in parts if (start, stride) != (0, 1) or end < _TO_THE_END}
    return None if row in cut else row


def _padded(node: ir.Node, rows: Rows) -> int | None:
    row, pads, rank = rows.only_first(node), constant(node.inputs[1]), rows.rank(read(node, 0))
    if row is None or pads is None or len(node.inputs) > 3 or len(pads) != 2 * rank:
        return None
    return row if pads[row] == pads[rank + row] == 0 else None


def _resized(node: ir.Node, rows: Rows) -> int | None:
    row, scales = rows.only_first(node), constant(node.inputs[2]) if len(node.inputs) == 3 else None
    if row is None or scales is None or not scales.size or "axes" in node.attributes:
        return None
    return row if scales[row] == 1 else None


def _transposed(node: ir.Node, rows: Rows) -> int | None:
    row, order = rows.axes[read(node, 0)], node.attributes.get("perm")
    return list(order.as_ints()).index(row) if order is not None else None


def _reshaped(node: ir.Node, rows: Rows) -> int | None:
    """Values keep their order: rows stay apart where what is before them is as much as it was."""
    row, sizes = rows.only_first(node), rows.shape(node.outputs[0])
    if row is None:
        return None
    before = math.prod(rows.shape(read(node, 0))[:row])
    places = (place for place, size in enumerate(sizes) if math.prod(sizes[:place]) == before and not size % rows.batch)
    return next(places, None)


def _expanded(node: ir.Node, rows: Rows) -> int | None:
    same = rows.rank(read(node, 0)) == rows.rank(node.outputs[0])
    return rows.only_first(node) if same else None


def _axes(node: ir.Node, rank: int) -> set[int]:
    """The axes that a node states, as an attribute or as a constant; none where they are not known."""
    array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    stated = node.attributes["axes"].as_ints() if "axes" in node.attributes else [] if array is None else array
    return {int(axis) % rank for axis in stated}


_RULES: MappingProxyType[str, _Rule] = MappingProxyType(
    {
        **dict.fromkeys(_ELEMENTWISE, _elementwise),
        **dict.fromkeys(_BY_IMAGE, _by_image),
        **dict.fromkeys(_REDUCING, _without_axes),
        "MatMul": _matrix_product,
        "Gemm": _gemm,
        "LayerNormalization": _from_axis_on,
        "RMSNormalization": _from_axis_on,
        "LpNormalization": _along(-1),
        "Softmax": _along(-1),
        "LogSoftmax": _along(-1),
        "Split": _along(0),
        "Gather": _gathered,
        "Concat": _joined,
        "Squeeze": _without_axes,
        "Unsqueeze": _with_axes,
        "Slice": _sliced,
        "Pad": _padded,
        "Resize": _resized,
        "Transpose": _transposed,
        "Reshape": _reshaped,
        "Flatten": _reshaped,
        "Expand": _expanded,
    }
)

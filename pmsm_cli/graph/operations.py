"""What operators compute besides synaptic products, in primitive operations on numbers.

The counts are those of a plain implementation: an exponential is one operation of its own, a softmax a largest value,
differences, exponentials, a sum and a product with its inverse; erf is the rational approximation 7.1.26 of
Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964. Operators that only move or rename values compute
nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import onnx_ir as ir

from pmsm_cli.graph.network import Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Operations:
    """How many operations of each kind, of one image."""

    add: float = 0.0  # and subtract
    multiply: float = 0.0
    compare: float = 0.0
    exponential: float = 0.0  # and logarithms
    divide: float = 0.0
    root: float = 0.0

    def __add__(self, other: "Operations") -> "Operations":
        """Both."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Operations(**dict(zip(self.__slots__, map(sum, pairs), strict=True)))

    def __mul__(self, factor: float) -> "Operations":
        """So many times as many."""
        return Operations(**{name: factor * getattr(self, name) for name in self.__slots__})

    @property
    def total(self) -> float:
        """All of them, of whatever kind."""
        return float(sum(astuple(self)))

    @property
    def is_linear(self) -> bool:
        """Whether sums, products and comparisons are all: what a network in whole numbers can do in whole numbers."""
        return not (self.exponential or self.divide or self.root)


_ERF = Operations(add=6, multiply=8, divide=1, exponential=1)
_SIGMOID = Operations(add=1, divide=1, exponential=1)
_TANH = Operations(add=2, multiply=1, divide=1, exponential=1)

# For each element that they put out.
_UNARY = {
    "Relu": Operations(compare=1),
    "LeakyRelu": Operations(compare=1, multiply=1),
    "PRelu": Operations(compare=1, multiply=1),
    "ThresholdedRelu": Operations(compare=1),
    "Clip": Operations(compare=2),
    "HardSigmoid": Operations(add=1, multiply=1, compare=2),
    "HardSwish": Operations(add=1, multiply=2, compare=2),
    "Sigmoid": _SIGMOID,
    "Tanh": _TANH,
    "Erf": _ERF,
    "Gelu": _ERF + Operations(add=1, multiply=3),
    "QuickGelu": _SIGMOID + Operations(multiply=2),
    "Elu": Operations(add=1, multiply=1, compare=1, exponential=1),
    "Celu": Operations(add=1, multiply=2, compare=1, exponential=1),
    "Selu": Operations(add=1, multiply=2, compare=1, exponential=1),
    "Softplus": Operations(add=1, exponential=2),
    "Mish": _TANH + Operations(add=1, multiply=1, exponential=2),
    "Softsign": Operations(add=1, divide=1),
    "Exp": Operations(exponential=1),
    "Log": Operations(exponential=1),
    "Sqrt": Operations(root=1),
    "Reciprocal": Operations(divide=1),
    "Pow": Operations(multiply=1),  # squares and cubes, which networks write this way
    "Floor": Operations(compare=1),
    "Ceil": Operations(compare=1),
    "Round": Operations(compare=1),
    "Abs": Operations(),
    "Neg": Operations(),
    "Sign": Operations(compare=1),
    "Not": Operations(),
    "Cast": Operations(),
}
# For each element that they put out, from several inputs.
_BINARY = {
    "Add": Operations(add=1),
    "Sub": Operations(add=1),
    "Mul": Operations(multiply=1),
    "Where": Operations(),
    "BatchNormalization": Operations(add=1, multiply=1),
} | {name: Operations(compare=1) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")}
_VARIADIC = {"Sum": Operations(add=1), "Max": Operations(compare=1), "Min": Operations(compare=1)}
# For each element that they read, and for each that they put out.
_REDUCTIONS = {
    "ReduceMean": (Operations(add=1), Operations(multiply=1)),
    "GlobalAveragePool": (Operations(add=1), Operations(multiply=1)),
    "ReduceSum": (Operations(add=1), Operations()),
    "ReduceSumSquare": (Operations(add=1, multiply=1), Operations()),
    "ReduceL1": (Operations(add=1), Operations()),
    "ReduceL2": (Operations(add=1, multiply=1), Operations(root=1)),
    "ReduceMax": (Operations(compare=1), Operations()),
    "ReduceMin": (Operations(compare=1), Operations()),
    "GlobalMaxPool": (Operations(compare=1), Operations()),
    "ArgMax": (Operations(compare=1), Operations()),
    "ArgMin": (Operations(compare=1), Operations()),
}
# For each element that they read, and for each row that is normalised.
_SOFTMAX = (Operations(add=2, multiply=1, compare=1, exponential=1), Operations(divide=1))
_CENTRED = (Operations(add=4, multiply=3), Operations(multiply=2, divide=1, root=1))
_NORMALISATIONS = {
    "Softmax": _SOFTMAX,
    "LogSoftmax": (Operations(add=3, compare=1, exponential=1), Operations(exponential=1)),
    "LayerNormalization": _CENTRED,
    "InstanceNormalization": _CENTRED,
    "GroupNormalization": _CENTRED,
    "RMSNormalization": (Operations(add=1, multiply=3), Operations(multiply=1, divide=1, root=1)),
    "SimplifiedLayerNormalization": (Operations(add=1, multiply=3), Operations(multiply=1, divide=1, root=1)),
    "LpNormalization": (Operations(add=1, multiply=2), Operations(divide=1, root=1)),
}
MOVING = frozenset(
    {"Concat", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements"}
    | {"GatherND", "Identity", "Pad", "Reshape", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split"}
    | {"Squeeze", "Tile", "Transpose", "Unsqueeze"}
)


ELEMENTWISE = frozenset({"Div", *_UNARY, *_BINARY, *_VARIADIC})


def operations_of(node: ir.Node, shapes: Mapping[str, Shape]) -> Operations | None:
    """What a node computes in all, for shapes by name; None where that is not known."""
    op_type = node.op_type
    read = shapes.get(_name(node.inputs[0]) if node.inputs else "")
    written = shapes.get(_name(node.outputs[0]))
    if op_type in MOVING:
        return Operations()
    if written is None or (read is None and op_type not in ELEMENTWISE):
        return None
    size = math.prod(written)
    if op_type in _UNARY or op_type in _BINARY:
        return (_UNARY.get(op_type) or _BINARY.get(op_type, Operations())) * size
    if op_type == "Div":
        return _quotient(node, shapes, size)
    if op_type in _VARIADIC:
        return _VARIADIC[op_type] * (size * (len(node.inputs) - 1))
    assert read is not None
    if op_type in _REDUCTIONS:
        each_read, each_written = _REDUCTIONS[op_type]
        return each_read * math.prod(read) + each_written * size
    if op_type in _NORMALISATIONS:
        each_read, each_row = _NORMALISATIONS[op_type]
        return each_read * math.prod(read) + each_row * _rows(node, read)
    if op_type in ("AveragePool", "MaxPool"):
        window = math.prod(node.attributes["kernel_shape"].as_ints()) * size
        return Operations(add=window, multiply=size) if op_type == "AveragePool" else Operations(compare=window)
    if op_type in ("Resize", "Upsample"):
        return _resizing(node, read, written)
    return None


def _quotient(node: ir.Node, shapes: Mapping[str, Shape], size: int) -> Operations:
    """A division for each divisor; where one serves several elements, or is constant, products with 1 over it."""
    divisor = node.inputs[1]
    if divisor is None or divisor.const_value is not None:
        return Operations(multiply=size)
    divisors = math.prod(shapes.get(_name(divisor), ())) if _name(divisor) in shapes else size
    return Operations(divide=size) if divisors == size else Operations(multiply=size, divide=divisors)


def _rows(node: ir.Node, read: Shape) -> int:
    """How many rows a node normalises."""
    op_type = node.op_type
    if op_type == "InstanceNormalization":
        return read[0] * read[1]
    if op_type == "GroupNormalization":
        return read[0] * int(node.attributes["num_groups"].as_int())
    axis = node.attributes.get_int("axis", -1) % len(read)
    if op_type in ("Softmax", "LogSoftmax", "LpNormalization"):
        return math.prod(read) // read[axis]
    return math.prod(read[:axis])


def _resizing(node: ir.Node, read: Shape, written: Shape) -> Operations:
    """Linear interpolation: along each axis that changes, two products and a sum for each element."""
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "nearest"
    taps = {"nearest": 0, "linear": 2, "cubic": 4}.get(mode, 4)
    axes = sum(before != after for before, after in zip(read, written, strict=False))
    return Operations(add=max(taps - 1, 0), multiply=taps) * (math.prod(written) * axes)


def _name(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""

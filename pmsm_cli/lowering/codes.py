"""Tensors as 8-bit codes: what a code stands for, and the bounds that are put on it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.synapse import Floats
from pmsm_cli.lowering.parts import constant, is_op, only_reader, read

Whole = npt.NDArray[np.int64]
LARGEST_CODE = 255


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Code:
    """A tensor of unsigned 8-bit integers, and what they stand for: scale x (code - zero)."""

    value: ir.Value
    scale: ir.Value  # constant, []
    zero: ir.Value  # constant, []

    @property
    def step(self) -> np.float32:
        """The scale as a number."""
        return np.float32(constant(self.scale))

    @property
    def offset(self) -> int:
        """The zero as a number."""
        return int(constant(self.zero))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Quantiser:
    """A QuantizeLinear with constant scale and zero, the same for all or one for each channel."""

    node: ir.Node
    scale: Floats  # [] or [channels]
    zero: Whole  # [] or [channels]
    axis: int | None  # counted from the right; None: no channels


def code_of(value: ir.Value | None) -> Code | None:
    """The code that a tensor of floats was read from, by a DequantizeLinear with one scale; None: there is none."""
    node = None if value is None else value.producer()
    if not is_op(node, "DequantizeLinear") or any(constant(each) is None for each in node.inputs[1:]):
        return None
    code, scale, zero = (read(node, index) for index in range(3))
    if constant(scale).ndim or constant(zero).dtype != np.uint8:
        return None
    return Code(value=code, scale=scale, zero=zero)


def quantiser_of(node: ir.Node | None) -> Quantiser | None:
    """A node as what makes codes of floats; None where it is another node."""
    if not is_op(node, "QuantizeLinear") or any(constant(each) is None for each in node.inputs[1:]):
        return None
    scale, zero = (constant(each) for each in node.inputs[1:])
    if zero.dtype != np.uint8:
        return None
    axis = node.attributes.get_int("axis", 1) if scale.ndim else None
    return Quantiser(node=node, scale=scale, zero=np.broadcast_to(zero, scale.shape).astype(np.int64), axis=axis)


def add_code(graph: ir.Graph, name: str, before: ir.Value | None) -> ir.Value:
    """A new tensor of codes, of the shape of another one."""
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.UINT8), shape=None if before is None else before.shape)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bounds:
    """What a code is clipped to: the nodes that do it in a row, the code that leaves them, and the bounds together."""

    nodes: tuple[ir.Node, ...]
    result: ir.Value
    lowest: Whole  # [] or [channels, 1, ...]
    highest: Whole


def bounds_of(code: ir.Value) -> Bounds:
    """The bounds that a code passes before anything else reads it."""
    nodes: list[ir.Node] = []
    lowest, highest = np.asarray(0, np.int64), np.asarray(LARGEST_CODE, np.int64)
    while (node := only_reader(code)) is not None and is_op(node, "Clip", "Max", "Min"):
        limits = [constant(each) for each in node.inputs if each is not code]
        if any(limit is None for limit in limits):
            break
        low, high = limits if node.op_type == "Clip" else (limits[0], limits[0])
        if node.op_type != "Min":
            lowest, highest = np.maximum(lowest, low), np.maximum(highest, low)
        if node.op_type != "Max":
            lowest, highest = np.minimum(lowest, high), np.minimum(highest, high)
        nodes.append(node)
        code = node.outputs[0]
    return Bounds(nodes=tuple(nodes), result=code, lowest=lowest, highest=highest)


def bound(graph: ir.Graph, code: ir.Value, lowest: Whole, highest: Whole) -> ir.Value:
    """The code within these bounds, [] or shaped to broadcast against it; bounds that every code keeps cost nothing."""
    lowest, highest = (_alike(np.asarray(each, np.int64)) for each in (lowest, highest))
    if lowest.ndim == 0 and highest.ndim == 0:
        if lowest <= 0 and highest >= LARGEST_CODE:
            return code
        return _bounded(graph, code, "Clip", (lowest, highest))
    if (lowest > 0).any():
        code = _bounded(graph, code, "Max", (lowest,))
    if (highest < LARGEST_CODE).any():
        code = _bounded(graph, code, "Min", (highest,))
    return code


def tighten(graph: ir.Graph, code: ir.Value, lowest: Whole, highest: Whole) -> None:
    """Clip a code to these bounds first and to those that it passes now after that, in as few nodes."""
    known = bounds_of(code)
    low = np.clip(lowest, known.lowest, known.highest)
    high = np.clip(highest, known.lowest, known.highest)
    if np.array_equal(low, known.lowest + 0 * low) and np.array_equal(high, known.highest + 0 * high):
        return
    readers = list(known.result.uses())
    for node, index in readers:
        node.replace_input_with(index, code)
    for node in reversed(known.nodes):
        graph.remove(node, safe=True)
        for limit in node.inputs:
            if limit is not None and limit.is_initializer() and not limit.uses():
                del graph.initializers[limit.name or ""]
    limited = bound(graph, code, low, high)
    for node, index in readers:
        node.replace_input_with(index, limited)


def _alike(bounds: Whole) -> Whole:
    """One number where all are the same."""
    return bounds.reshape(-1)[0] if bounds.size and (bounds == bounds.reshape(-1)[0]).all() else bounds


def _bounded(graph: ir.Graph, code: ir.Value, op_type: str, bounds: tuple[Whole, ...]) -> ir.Value:
    name = f"{code.name}/bounded_{op_type.lower()}"
    kinds = ("lowest", "highest") if len(bounds) == 2 else ("bound",)
    limits = [
        add_constant(graph, f"{name}/{kind}", np.clip(each, 0, LARGEST_CODE).astype(np.uint8))
        for kind, each in zip(kinds, bounds, strict=True)
    ]
    result = add_code(graph, name, code)
    producer = code.producer()
    assert producer is not None
    graph.insert_after(producer, ir.Node("", op_type, [code, *limits], outputs=[result], name=name))
    return result

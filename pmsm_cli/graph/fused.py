"""Operators that multiply and accumulate inside, where no spikes can be put: what they are, and how much they do."""

import math
from collections.abc import Mapping

import onnx_ir as ir

from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.operators import is_standard

_GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
_STANDARD = frozenset({"Attention", "DeformConv", "Einsum", *_GATES})
# Written by onnxruntime's own optimiser into networks that it saves.
_CONTRIBUTED = frozenset(
    {
        "Attention",
        "DecoderMaskedMultiHeadAttention",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "GroupQueryAttention",
        "MatMulNBits",
        "MultiHeadAttention",
        "NhwcFusedConv",
        "PackedAttention",
        "PackedMultiHeadAttention",
    }
)


def multiplies_inside(node: ir.Node) -> bool:
    """Whether a node is such an operator."""
    if is_standard(node):
        return node.op_type in _STANDARD
    return node.domain == "com.microsoft" and node.op_type in _CONTRIBUTED


def fused_macs(node: ir.Node, shapes: Mapping[str, Shape]) -> int | None:
    """Its multiply-accumulates (of a whole batch, where fixed); None where they cannot be told."""
    operands = [shapes.get((value.name or "") if value is not None else "") for value in node.inputs]
    result = shapes.get(node.outputs[0].name or "")
    if not is_standard(node) or len(operands) < 2:
        return None
    if node.op_type == "Einsum":
        return _einsum_macs(node.attributes["equation"].as_string(), operands)
    data, weights = operands[:2]
    if data is None or weights is None:
        return None
    if node.op_type in _GATES:  # weights are [directions, gates x hidden, inputs]
        directions, rows, width = weights
        return data[0] * data[1] * directions * rows * (width + rows // _GATES[node.op_type])
    if result is None:
        return None
    if node.op_type == "DeformConv":
        return math.prod(result) * math.prod(weights[1:])
    # Attention: each query meets each key, and the weight of each key its value.
    return (math.prod(data) + math.prod(result)) * weights[-2]


def _einsum_macs(equation: str, operands: list[Shape | None]) -> int | None:
    """One product for each value of all indices of an Einsum.

    Of three operands and more each product has a factor more, and costs a multiplication more.
    """
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str | int, int] = {}
    for term, shape in zip(terms, operands, strict=True):
        if shape is None:
            return None
        before, dots, after = term.partition("...")
        broadcast = len(shape) - len(before) - len(after) if dots else 0
        # The axes that an ellipsis stands for are counted from its end, where they meet those of other operands.
        names = [*before, *range(-broadcast, 0), *after]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), size)
    return math.prod(sizes.values()) * (len(operands) - 1)

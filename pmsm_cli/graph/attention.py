"""Writing a fused Attention (opset 23) as the two products, the softmax and the scale that it is made of.

Only between its pieces can spikes be put. The standard's own function body serves every variant of the operator, and is
therefore full of shape arithmetic; these are the few nodes that attention over the tokens of an image takes.
"""

import math

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.operators import Pieces, is_standard

_QUERIES, _KEYS, _VALUES, _MASK = range(4)


def decompose_attention(model: ir.Model) -> tuple[ir.Model, bool]:
    """Put plain products in the place of each Attention that `fits`; precondition: shapes are inferred."""
    modified = False
    for node in list(model.graph):
        if fits(node):
            _decompose(model.graph, node)
            modified = True
    return model, modified


def fits(node: ir.Node) -> bool:
    """Whether a node is an Attention without cache, causal mask or soft cap, whose queries have a head of keys each."""
    if not is_standard(node, "Attention") or any(value is None for value in node.inputs[:3]):
        return False
    others = [*node.inputs[4:], *(value for value in node.outputs[1:] if value.uses() or value.is_graph_output())]
    single = node.attributes.get_int("softmax_precision", ir.DataType.FLOAT) == ir.DataType.FLOAT
    varied = node.attributes.get_int("is_causal", 0) or node.attributes.get_float("softcap", 0)
    heads = [_heads(node, operand) for operand in (_QUERIES, _KEYS)]
    known = heads[0] is not None and heads[0] == heads[1] and _scale(node) is not None
    return known and single and not varied and all(value is None for value in others)


def _heads(node: ir.Node, operand: int) -> int | None:
    value = node.inputs[operand]
    if value is None or value.shape is None:
        return None
    if len(value.shape) == 3:
        return node.attributes.get_int("q_num_heads" if operand == _QUERIES else "kv_num_heads")
    return value.shape[1] if isinstance(value.shape[1], int) else None


def _scale(node: ir.Node) -> float | None:
    """What scores are multiplied by: as stated, or one over the root of a head's width."""
    if "scale" in node.attributes:
        return node.attributes.get_float("scale")
    queries = node.inputs[_QUERIES]
    width = queries.shape[-1] if queries is not None and queries.shape is not None else None
    if not isinstance(width, int):
        return None
    heads = (
        _heads(node, _QUERIES) if queries is not None and queries.shape is not None and len(queries.shape) == 3 else 1
    )
    return 1 / math.sqrt(width / heads) if heads else None


def _decompose(graph: ir.Graph, node: ir.Node) -> None:
    pieces = Pieces(graph, node)
    queries, keys, values, mask = (*node.inputs[:3], node.inputs[_MASK] if len(node.inputs) > _MASK else None)
    assert queries is not None
    assert keys is not None
    assert values is not None
    folded = (
        queries.shape is not None and len(queries.shape) == 3
    )  # heads beside one another, [images, tokens, channels]
    if folded:
        heads = _heads(node, _QUERIES) or 1
        queries, keys, values = (pieces.reshaped(each, [0, 0, heads, -1]) for each in (queries, keys, values))
        queries, values = (pieces.transposed(each, [0, 2, 1, 3]) for each in (queries, values))
    keys = pieces.transposed(keys, [0, 2, 3, 1] if folded else [0, 1, 3, 2])
    queries = pieces.add("Mul", [queries, pieces.constant("Mul", np.array(_scale(node), np.float32))])
    scores = pieces.add("MatMul", [queries, keys], name=f"{node.name}/scores")
    if mask is not None:
        if mask.dtype is ir.DataType.BOOL:
            seen, hidden = (pieces.constant(f"Where_{kind}", np.array(kind, np.float32)) for kind in (0, -np.inf))
            mask = pieces.add("Where", [mask, seen, hidden])
        scores = pieces.add("Add", [scores, mask])
    weights = pieces.add("Softmax", [scores], ir.AttrInt64("axis", -1))
    result = pieces.add("MatMul", [weights, values], name=f"{node.name}/weighted")
    if folded:
        result = pieces.reshaped(pieces.transposed(result, [0, 2, 1, 3]), [0, 0, -1])
    pieces.finish(result)

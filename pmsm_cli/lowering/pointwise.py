"""Arithmetic around the synapses in fewer operators; what it computes stays the same up to rounding in float32."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.synapse import Floats
from pmsm_cli.lowering.convolutions import CONTRIB
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant, is_op, only_reader, rank_of, read


def terms_together(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """(x + a) + b -> x + (a + b), for constants a and b: a bias, what rests, a matched mean."""
    changed = False
    for node in list(graph):
        following = only_reader(node.outputs[0]) if is_op(node, "Add") else None
        first, second = constant_term(node), constant_term(following)
        if following is None or first is None or second is None:
            continue
        rest = next(value for value in node.inputs if value is not None and value is not first)
        arrays = [_along_last_axis(constant(each), rank_of(rest)) for each in (first, second)]
        if any(array.ndim > 1 for array in arrays):
            continue
        total = add_constant(graph, f"{following.name}/together", arrays[0] + arrays[1])
        following.replace_input_with(0, rest)
        following.replace_input_with(1, total)
        graph.remove(node, safe=True)
        changed = True
    return changed


def steps_into_norms(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """LayerNormalization, then Sub, Add or Mul of constants a channel -> LayerNormalization with these in its own.

    Precondition: normalised along the last axis, and its scale is constant.
    """
    changed = False
    for node in list(graph):
        if not is_op(node, "LayerNormalization") or constant(read(node, 1)) is None or len(node.outputs) > 1:
            continue
        gamma, beta = constant(read(node, 1)), np.zeros((), np.float32)
        if len(node.inputs) > 2 and read(node, 2) is not None:
            if constant(read(node, 2)) is None:
                continue
            beta = constant(read(node, 2))
        taken = False
        while (step := _step(only_reader(node.outputs[0]), node.outputs[0])) and gamma.ndim == 1:
            following, factor, term = step
            gamma, beta, taken = gamma * factor, np.asarray(beta * factor + term), True
            ir.convenience.replace_all_uses_with(following.outputs[0], node.outputs[0], replace_graph_outputs=True)
            graph.remove(following, safe=True)
        if taken:
            node.resize_inputs(3)
            beta = np.broadcast_to(beta, gamma.shape).astype(np.float32)
            node.replace_input_with(1, add_constant(graph, f"{node.name}/scale_in_thresholds", gamma))
            node.replace_input_with(2, add_constant(graph, f"{node.name}/bias_in_thresholds", np.array(beta)))
            changed = True
    return changed


def gelus_together(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """GELU in parts, x (0.5 (1 + erf(x / sqrt 2))) -> Gelu, in whatever order exporters write the products."""
    changed = False
    for erf in list(graph):
        if not is_op(erf, "Erf"):
            continue
        scaled, shifted = read(erf, 0).producer(), only_reader(erf.outputs[0])
        if not is_op(scaled, "Div", "Mul") or not is_op(shifted, "Add") or not _adds_one(shifted):
            continue
        value = _scaled_by_root_half(scaled)
        end = None if value is None else _end_of_gelu(shifted, value)
        if end is None or not only_reader(scaled.outputs[0]):
            continue
        last, inner = end
        result = ir.Value(name=f"{last.name}/gelu", type=last.outputs[0].type, shape=last.outputs[0].shape)
        graph.insert_before(last, ir.Node(CONTRIB, "Gelu", [value], outputs=[result], name=result.name))
        graph.opset_imports[CONTRIB] = 1
        ir.convenience.replace_all_uses_with(last.outputs[0], result, replace_graph_outputs=True)
        graph.remove([last, inner, shifted, erf, scaled], safe=True)
        changed = True
    return changed


def constant_term(node: ir.Node | None) -> ir.Value | None:
    """The constant that an Add adds to something else; None for anything else."""
    if not is_op(node, "Add"):
        return None
    constants = [value for value in node.inputs if constant(value) is not None]
    return constants[0] if len(constants) == 1 else None


def _along_last_axis(array: Floats, rank: int | None) -> Floats:
    """Without axes of length 1 before the last, which matched moments have, unless the sum gets its rank from them."""
    needless = rank is not None and 1 < array.ndim <= rank and array.size == array.shape[-1]
    return array.reshape(-1) if needless else array


def _step(node: ir.Node | None, value: ir.Value) -> tuple[ir.Node, Floats, Floats] | None:
    """A node as factor x value + term; None where it is another one."""
    if not is_op(node, "Add", "Sub", "Mul"):
        return None
    array = next((constant(each) for each in node.inputs if constant(each) is not None), None)
    if array is None or array.ndim > 1 or (node.op_type == "Sub" and read(node, 0) is not value):
        return None
    one, nothing = np.ones((), np.float32), np.zeros((), np.float32)
    if node.op_type == "Mul":
        return node, array, nothing
    return node, one, array if node.op_type == "Add" else -array


def _adds_one(node: ir.Node) -> bool:
    term = constant_term(node)
    return term is not None and constant(term).size == 1 and float(constant(term).reshape(())) == 1


def _scaled_by_root_half(node: ir.Node) -> ir.Value | None:
    """What a node divides by the root of 2."""
    factor = constant(read(node, 1))
    if factor is None or factor.size != 1:
        return None
    wanted = np.sqrt(2.0) if node.op_type == "Div" else np.sqrt(0.5)
    return read(node, 0) if np.isclose(float(factor.reshape(())), wanted, rtol=1e-5) else None


def _end_of_gelu(shifted: ir.Node, value: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """The last of the two products with x and with 0.5, and the first."""
    first = only_reader(shifted.outputs[0])
    if not is_op(first, "Mul"):
        return None
    second = only_reader(first.outputs[0])
    if not is_op(second, "Mul"):
        return None
    inner = next(each for each in first.inputs if each is not shifted.outputs[0])
    outer = next(each for each in second.inputs if each is not first.outputs[0])
    half, factor = (inner, outer) if outer is value else (outer, inner)
    array = constant(half)
    if factor is not value or array is None or array.size != 1 or float(array.reshape(())) != 0.5:
        return None
    return second, first

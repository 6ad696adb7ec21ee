"""Attention weights of the integer graph on the native library: one operator from scores to codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.lowering.codes import Code, add_code, code_of
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.native import SPIKE_CODES
from pmsm_cli.lowering.parts import constant, is_op, only_reader, rank_of, read
from pmsm_cli.lowering.resting import STEP_CODES, STEP_QUANTA
from pmsm_cli.lowering.step_codes import FINEST, REST, THRESHOLD, ZERO
from pmsm_cli.neuron.onnx_function import DOMAIN, LEVELS

SOFTMAX_CODES, SOFTMAX_STEP_CODES = "SoftmaxCodes", "SoftmaxStepCodes"
_HEADS = -3  # [N, heads, queries, keys]


def attention_weights_to_native(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Mul by a constant, Softmax, Div by the row's ReduceMax, SpikeCodes, ReduceSum of the counts -> SoftmaxCodes.

    Precondition: the softmax is over the last axis, and factors and thresholds differ at most between heads.
    """
    changed = False
    for node in list(graph):
        softmax = _relative_softmax(node, SPIKE_CODES)
        if softmax is None or (constant(read(node, 1)) != 0).any():
            continue
        scores, factor = read(softmax, 0), np.ones(1, np.float32)
        axis = node.attributes["axis"].as_int()
        alike = all(constant(each).size == 1 for each in node.inputs[1:])
        if axis == -1 and not alike:
            continue
        scaled = _factor_a_head(scores, softmax, None if alike else axis)
        if scaled is not None:
            scores, factor, axis = scaled
        inputs = [scores, _factor(graph, node, factor), *node.inputs[2:]]
        counts = _Counts(step=1.0, zeros=constant(node.inputs[3]))
        _replace(graph, node, SOFTMAX_CODES, inputs, {"axis": axis if axis != -1 else -2}, counts)
        changed = True
    return changed


def attention_weights_of_steps_to_native(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """The same at several timesteps, with StepCodes -> SoftmaxStepCodes."""
    changed = False
    for node in list(graph):
        softmax = _relative_softmax(node, STEP_CODES)
        if softmax is None or constant(read(node, REST)).any():
            continue
        scores, factor, threshold = read(softmax, 0), np.ones(1, np.float32), constant(read(node, THRESHOLD))
        alike = threshold.size == 1
        if not alike and [axis - threshold.ndim for axis, size in enumerate(threshold.shape) if size > 1] != [_HEADS]:
            continue
        scaled = _factor_a_head(scores, softmax, None if alike else _HEADS)
        axis = -2 if alike else _HEADS
        if scaled is not None:
            scores, factor, axis = scaled
        thresholds = add_constant(graph, f"{node.name}/of_scores/threshold", threshold.reshape(-1))
        inputs = [scores, _factor(graph, node, factor), thresholds, *node.inputs[STEP_QUANTA:]]
        attributes = {"axis": axis, **{kind: node.attributes[kind].as_int() for kind in LEVELS}}
        counts = _Counts(step=float(constant(read(node, FINEST))), zeros=constant(read(node, ZERO)))
        _replace(graph, node, SOFTMAX_STEP_CODES, inputs, attributes, counts)
        changed = True
    return changed


def averages_scaled_before(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """(x / sums) c -> x / (sums / c), where the sums have one element for each row and c at most one for each head."""
    changed = False
    for node in list(graph):
        if not is_op(node, "Mul"):
            continue
        average, factor = read(node, 0), constant(node.inputs[1])
        dividing = average.producer()
        if factor is None or not is_op(dividing, "Div") or only_reader(average) is not node:
            continue
        sums = read(dividing, 1).producer()
        if not is_op(sums, "Max") or not (factor.ndim == 0 or factor.shape[-1] == 1) or (factor == 0).any():
            continue
        known = add_constant(graph, f"{node.name}/factor", np.asarray(factor, np.float32))
        scaled = ir.Value(name=f"{node.name}/divisor", type=average.type)
        graph.insert_before(dividing, ir.Node("", "Div", [read(dividing, 1), known], outputs=[scaled]))
        dividing.replace_input_with(1, scaled)
        ir.convenience.replace_all_uses_with(node.outputs[0], average, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        changed = True
    return changed


def _relative_softmax(node: ir.Node, op_type: str) -> ir.Node | None:
    """The softmax whose weights over their largest one neurons read, alone; None: they read something else."""
    if node.domain != DOMAIN or node.op_type != op_type:
        return None
    relative = read(node, 0)
    dividing = relative.producer()
    if not is_op(dividing, "Div") or only_reader(relative) is not node:
        return None
    softmax, peaks = read(dividing, 0).producer(), read(dividing, 1).producer()
    if not is_op(softmax, "Softmax") or not is_op(peaks, "ReduceMax") or not _over_rows(peaks):
        return None
    weights = softmax.outputs[0]
    readers = {each for each, _ in weights.uses()}
    last = softmax.attributes.get_int("axis", -1)
    if readers != {dividing, peaks} or weights.is_graph_output() or last not in (-1, (rank_of(weights) or 0) - 1):
        return None
    return softmax


def _factor_a_head(scores: ir.Value, softmax: ir.Node, axis: int | None) -> tuple[ir.Value, Any, int] | None:
    """What a Mul scales by one number or by one for each entry of an axis (the given one, if any), and that axis."""
    node = scores.producer()
    if not is_op(node, "Mul") or only_reader(scores) is not softmax:
        return None
    factor = constant(node.inputs[1])
    if factor is None:
        return None
    found = [place - factor.ndim for place, size in enumerate(factor.shape) if size > 1]
    if len(found) > 1 or -1 in found or (found and axis not in (None, found[0])):
        return None
    data = node.inputs[0]
    if (
        data is None
        or data.shape is None
        or factor.ndim > len(data.shape)
        or (found and data.shape[found[0]] != factor.size)
    ):
        return None
    return read(node, 0), factor.reshape(-1), found[0] if found else (-2 if axis is None else axis)


def _factor(graph: ir.Graph, node: ir.Node, factor: Any) -> ir.Value:
    return add_constant(graph, f"{node.name}/of_scores/factor", np.asarray(factor, np.float32))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Counts:
    """What an operator adds up: a count of one more for each step of a code above zero."""

    step: float
    zeros: Any

    def are(self, code: Code) -> bool:
        """Whether a code, read as floats, is such a count."""
        return float(code.step) == self.step and bool((self.zeros == code.offset).all())


def _replace(
    graph: ir.Graph,
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, int],
    counts: _Counts,
) -> None:
    """An operator from scores to codes in the place of neurons; it adds up the counts of rows where others did."""
    name = f"{node.name}/of_scores"
    code = add_code(graph, name, node.outputs[0])
    sums = ir.Value(name=f"{name}/sums", type=ir.TensorType(ir.DataType.FLOAT))
    numbers = [ir.AttrInt64(kind, number) for kind, number in attributes.items()]
    graph.insert_before(node, ir.Node(DOMAIN, op_type, inputs, numbers, outputs=[code, sums], name=name))
    for reader, _ in list(node.outputs[0].uses()):
        floats = reader.outputs[0]
        read_as = code_of(floats)
        if read_as is None or not counts.are(read_as):
            continue
        for summing, _ in list(floats.uses()):
            if is_op(summing, "ReduceSum") and _over_rows(summing):
                ir.convenience.replace_all_uses_with(summing.outputs[0], sums)
    ir.convenience.replace_all_uses_with(node.outputs[0], code, replace_graph_outputs=True)


def _over_rows(node: ir.Node) -> bool:
    """Whether a reduction is over the last axis, and keeps it."""
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = list(node.attributes.get_ints("axes", ())) if given is None else given.reshape(-1).tolist()
    rank = rank_of(read(node, 0))
    return axes in ([-1], [(rank or 0) - 1]) and bool(node.attributes.get_int("keepdims", 1))

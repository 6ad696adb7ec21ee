"""Counting what neurons emit from their codes, on the native library."""

from collections.abc import Mapping

import onnx_ir as ir

from pmsm_cli.lowering.channels_last import TO_FIRST
from pmsm_cli.lowering.codes import Code, code_of
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import is_op, read
from pmsm_cli.lowering.resting import SPIKE_COUNTS
from pmsm_cli.neuron.onnx_function import DOMAIN

CODE_COUNTS = "CodeCounts"


def counts_of_codes(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """DequantizeLinear of a single timestep's codes, or of such channels last turned back, SpikeCounts -> CodeCounts.

    What is counted by position stays, unless channels are last. Precondition: the native library.
    """
    changed = False
    for node in list(graph):
        if node.domain != DOMAIN or node.op_type != SPIKE_COUNTS:
            continue
        code = code_of(read(node, 0))
        if code is None or float(code.step) != 1 or code.value.shape is None:
            continue
        axis, codes = _channels_of(node, code)
        if node.attributes["positions"].as_int() and axis != len(code.value.shape) - 1:
            continue
        attributes = [
            ir.AttrInt64("axis", axis) if attribute.name == "axis" else attribute
            for attribute in node.attributes.values()
        ]
        (old,) = node.outputs
        counts = ir.Value(name=f"{old.name}/of_codes", type=old.type, shape=old.shape)
        counting = ir.Node(DOMAIN, CODE_COUNTS, [codes, code.zero], attributes, outputs=[counts], name=counts.name)
        graph.insert_before(node, counting)
        ir.convenience.replace_all_uses_with(old, counts, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        changed = True
    return changed


def _channels_of(counting: ir.Node, code: Code) -> tuple[int, ir.Value]:
    """The axis of the channels, 0 where there are none, and the codes that it is one of."""
    axis, turning = counting.attributes["axis"].as_int(), code.value.producer()
    if axis == 1 and is_op(turning, "Transpose") and tuple(turning.attributes.get_ints("perm", ())) == TO_FIRST:
        return len(TO_FIRST) - 1, read(turning, 0)
    return axis, code.value

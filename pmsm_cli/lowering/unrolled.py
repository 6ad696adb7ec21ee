"""Later timesteps one after the other instead of in a Scan, where that is faster."""

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant, is_op

_MOST_STEPS = 8  # a longer graph takes longer to open than it saves
# onnxruntime packs the weights of each matrix product anew; those of convolutions it arranges once for all of them.
_MOST_PACKED = 0.25


def scans_unrolled(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Scan -> its steps, where nearly all weights are convolutions'.

    In the body of a Scan onnxruntime 1.32 gives convolutions no blocked layout, since their weights are in the graph
    around it, and copies the state at every step.

    Precondition: what the Scan goes through is constant.
    """
    changed = False
    for node in list(graph):
        if not is_op(node, "Scan"):
            continue
        body, scanned = node.attributes["body"].as_graph(), node.attributes["num_scan_inputs"].as_int()
        steps = [constant(value) for value in node.inputs[len(node.inputs) - scanned :]]
        if any(each is None or len(each) > _MOST_STEPS - 1 for each in steps) or not _convolves(body):
            continue
        _unroll(graph, node, body, steps)
        changed = True
    return changed


def _convolves(body: ir.Graph) -> bool:
    """Whether the weights of convolutions outweigh those of matrix products."""
    sizes = {"Conv": 0, "ConvTranspose": 0, "MatMul": 0, "Gemm": 0}
    for node in body:
        if node.op_type in sizes:
            sizes[node.op_type] += sum(
                math.prod(array.shape) for array in map(constant, node.inputs) if array is not None
            )
    packed, all_weights = sizes["MatMul"] + sizes["Gemm"], sum(sizes.values())
    return all_weights > 0 and packed <= _MOST_PACKED * all_weights


def _unroll(graph: ir.Graph, scan: ir.Node, body: ir.Graph, scanned: list[np.ndarray]) -> None:
    carried = len(scan.inputs) - len(scanned)
    outside: dict[ir.Value, ir.Value] = {}
    for value in list(body.initializers.values()):
        outside[value] = add_constant(graph, f"{scan.name}/{value.name}", constant(value))
    states, stacked = list(scan.inputs[:carried]), [list[ir.Value]() for _ in scan.outputs[carried:]]
    for step in range(len(scanned[0])):
        known: dict[ir.Value, ir.Value | None] = dict(outside)
        known.update(zip(body.inputs[:carried], states, strict=True))
        for value, array in zip(body.inputs[carried:], scanned, strict=True):
            known[value] = add_constant(graph, f"{value.name}/of_step_{step + 2}", np.asarray(array[step]))
        for node in body:
            graph.insert_before(scan, _copy(node, known, f"step_{step + 2}"))
        ends = [known.get(value, value) for value in body.outputs]
        states = ends[:carried]
        for parts, end in zip(stacked, ends[carried:], strict=True):
            assert end is not None
            parts.append(end)
    first_axis = add_constant(graph, f"{scan.name}/first_axis", np.array([0], np.int64))
    for old, end in zip(scan.outputs[:carried], states, strict=True):
        assert end is not None
        ir.convenience.replace_all_uses_with(old, end, replace_graph_outputs=True)
    for old, parts in zip(scan.outputs[carried:], stacked, strict=True):
        rows = []
        for part in parts:
            row = ir.Value(name=f"{part.name}/row", type=part.type)
            graph.insert_before(scan, ir.Node("", "Unsqueeze", [part, first_axis], outputs=[row], name=row.name))
            rows.append(row)
        joined = ir.Value(name=f"{old.name}/joined", type=old.type, shape=old.shape)
        axis = ir.AttrInt64("axis", 0)
        graph.insert_before(scan, ir.Node("", "Concat", rows, [axis], outputs=[joined], name=joined.name))
        ir.convenience.replace_all_uses_with(old, joined, replace_graph_outputs=True)
    graph.remove(scan, safe=True)


def _copy(node: ir.Node, known: dict[ir.Value, ir.Value | None], suffix: str) -> ir.Node:
    """The node on the values of a step; its outputs become known."""
    inputs = [None if value is None else known.get(value, value) for value in node.inputs]
    outputs = [ir.Value(name=f"{value.name}/{suffix}", type=value.type, shape=value.shape) for value in node.outputs]
    known.update(zip(node.outputs, outputs, strict=True))
    attributes = list(node.attributes.values())
    return ir.Node(node.domain, node.op_type, inputs, attributes, outputs=outputs, name=f"{node.name}/{suffix}")

"""Attention over spikes: the rows of a softmax sum to 1, and what spikes carry of them is divided by its sum.

A softmax's weights A average what they are multiplied with. Rounded to whole spikes their rows sum to more or less than
1, and the average grows or shrinks with them: at a few levels that is most of what spikes do to attention. So a product
whose operand sums to 1 along the axis that is contracted gets its average back:

    A B  ->  A_t B_t / sum_j (A_t)_j

with the running values of step t on both sides. The sum tends to 1, so that the product tends to the source's.
On counts, A = theta k, the threshold of A cancels: theta_B (k_A k_B) / sum_j k_A needs only that of B.

Nor does the scale of a row matter then. So neurons read each row over its largest weight, where only such products read
it: flat rows and steep ones get all levels, and no row goes without a spike.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.operators import is_standard, reduction
from pmsm_cli.graph.synapse import Floats, Product

# Rows that carry less than this are divided by this. One spike is enough to average by: what it points at is most of
# the row. The guard is there for rows without any (of a fine threshold none is; training may come there): they stay 0,
# as the product is, and divide by no zero.
LEAST_SUM = 0.01

CONTRACTED = (-1, -2)  # the axis of the left and of the right operand that a product sums over
_RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


def averaging_operands(product: Product, shapes: Mapping[str, Shape]) -> tuple[int, ...]:
    """Which operands of a product (0: left, 1: right) sum to 1 along the axis that it contracts."""
    return tuple(
        operand
        for operand, data in enumerate(product.operands)
        if axis_summing_to_one(data, shapes) == CONTRACTED[operand]
    )


def axis_summing_to_one(value: ir.Value, shapes: Mapping[str, Shape]) -> int | None:
    """The axis, counted from the right, along which a value sums to 1 whatever the image; None: none is known.

    A softmax's own, followed through operators that only move it.
    """
    node = value.producer()
    if node is None or not is_standard(node) or not node.inputs or node.inputs[0] is None:
        return None
    shape = shapes.get(value.name or "")
    if node.op_type == "Softmax":
        own = node.attributes.get_int("axis", -1)
        if own >= 0:
            return own - len(shape) if shape else None
        return own
    if node.op_type == "Identity":
        return axis_summing_to_one(node.inputs[0], shapes)
    if node.op_type == "Transpose":
        axis = axis_summing_to_one(node.inputs[0], shapes)
        rank = len(shape) if shape else 0
        order = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else list(range(rank))[::-1]
        return None if axis is None else order.index(len(order) + axis) - len(order)
    if node.op_type in _RESHAPING:
        before = shapes.get(node.inputs[0].name or "")
        # Elements keep their order: rows of the same length are the same rows.
        if shape and before and shape[-1] == before[-1] and axis_summing_to_one(node.inputs[0], shapes) == -1:
            return -1
    return None


def row_sum_name(product: str, operand: int) -> str:
    """The name of the node that sums up the spikes of a product's operand along the contracted axis."""
    return f"{product}/row_sum_{operand}"


def average_name(product: str, operand: int) -> str:
    """The name of the node that divides a product by such sums."""
    return f"{product}/average_{operand}"


def peaks_name(site: str) -> str:
    """The name of the node that finds the largest value of each row of a site."""
    return f"{site}/peaks"


def relative_name(site: str) -> str:
    """The name of the node that reads a site's rows over their largest values."""
    return f"{site}/relative"


def guard_name(product: str, operand: int) -> str:
    """The name of the node that keeps such sums from 0 (its second input: the least sum, in spikes)."""
    return f"{product}/guarded_{operand}"


def least_sum(threshold: Floats) -> Floats:
    """`LEAST_SUM` in spikes of a threshold."""
    return np.asarray(np.float32(LEAST_SUM) / threshold, np.float32)


def add_relative(graph: ir.Graph, value: ir.Value, axis: int) -> ir.Value:
    """A site's values over the largest of each row, which is above 0; `axis` is counted from the right."""
    site = value.name or ""
    peaks, relative = (
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT)) for name in (peaks_name(site), relative_name(site))
    )
    relative.shape = value.shape
    nodes = [
        reduction(graph, "ReduceMax", value, [axis], peaks),
        ir.Node("", "Div", [value, peaks], outputs=[relative], name=relative.name),
    ]
    producer = value.producer()
    assert producer is not None  # a softmax, or what moves one
    graph.insert_after(producer, nodes)
    return relative


def add_average(graph: ir.Graph, product: ir.Node, operand: int, spikes: ir.Value, threshold: Floats) -> None:
    """Divide a product of counts by the sums of one operand's; `threshold`, which broadcasts, is that operand's.

    The sums are all that reads them: the product afterwards carries no factor of this threshold.
    """
    output, name = product.outputs[0], product.name or ""
    sums, guarded, average = (
        ir.Value(name=f"{output.name}/{kind}_{operand}", type=output.type) for kind in ("sums", "guarded", "average")
    )
    average.shape = output.shape
    users = list(output.uses())
    axes = add_constant(graph, f"{sums.name}/axes", np.array([CONTRACTED[operand]], np.int64))
    least = add_constant(graph, f"{guarded.name}/least", least_sum(threshold))
    nodes = [
        ir.Node("", "ReduceSum", [spikes, axes], outputs=[sums], name=row_sum_name(name, operand)),
        ir.Node("", "Max", [sums, least], outputs=[guarded], name=guard_name(name, operand)),
        ir.Node("", "Div", [output, guarded], outputs=[average], name=average_name(name, operand)),
    ]
    for user, index in users:
        user.replace_input_with(index, average)
    graph.insert_after(product, nodes)

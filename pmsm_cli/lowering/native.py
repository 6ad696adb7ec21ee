"""The integer graph on the native library's own operators: what onnxruntime does in several passes, in one.

| onnxruntime's operators | the library's |
|---|---|
| Sub and Mul of constants, QuantizeLinear, then Clip or Max and Min of codes | SpikeCodes |
| QLinearConv with one weight a channel, bounds | AffineCodes |
| Clip or Max and Min of codes | BoundCodes |

The codes are the same, but for values that are not numbers: of neurons that rest at 0 they emit no spike here, as the
definition has it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.synapse import Floats
from pmsm_cli.lowering.codes import LARGEST_CODE, Whole, add_code, bounds_of, quantiser_of
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.parts import constant, is_op, only_reader, rank_of, read
from pmsm_cli.neuron.onnx_function import DOMAIN

SPIKE_CODES = "SpikeCodes"
SPIKE_CODES_LAST = "SpikeCodesLast"  # channels last (`channels_last`)
AFFINE_CODES = "AffineCodes"
BOUND_CODES = "BoundCodes"
_IMAGE_CHANNELS = -3  # [N, channels, height, width], from the right


def quantisers_to_native(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Sub and Mul of constants, QuantizeLinear, bounds -> SpikeCodes."""
    changed = False
    for node in list(graph):
        quantiser = quantiser_of(node)
        axis = None if quantiser is None else _from_the_right(quantiser.axis, read(node, 0))
        if quantiser is None or (quantiser.scale.ndim and axis is None):
            continue
        value, threshold = read(node, 0), quantiser.scale
        rest: Floats = np.zeros((), np.float32)
        if threshold.ndim == 0 and (factor := _with_one_constant(value, node, "Mul")) and (factor[1] > 0).all():
            # A factor is a threshold's reciprocal, so that this gives the threshold back but for its last bit.
            threshold, axis = np.asarray(threshold / factor[1], np.float32), -1
            value = factor[0]
        reader = node if value is read(node, 0) else read(node, 0).producer()
        if axis in (None, -1) and (resting := _with_one_constant(value, reader, "Sub")):
            (value, rest), axis = resting, -1
        arrays: dict[str, npt.NDArray[Any]] = {
            "rest": rest,
            "threshold": threshold,
            "zero": quantiser.zero.astype(np.uint8),
        }
        before = read(node, 0)
        changed |= _take_over(graph, node, SPIKE_CODES, value, arrays, axis)
        _remove_unread(graph, before)
    return changed


def _remove_unread(graph: ir.Graph, value: ir.Value) -> None:
    """Take the steps out that a neuron has taken over: as readers they would keep their inputs from other patterns."""
    node = value.producer()
    while is_op(node, "Sub", "Mul") and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
        above = next((each.producer() for each in node.inputs if each is not None and constant(each) is None), None)
        graph.remove(node, safe=True)
        node = above


def layers_of_one_input_to_native(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """QLinearConv with one weight for each channel, bounds -> AffineCodes: neurons behind a rounded tensor."""
    changed = False
    for node in list(graph):
        if not is_op(node, "QLinearConv") or not _has_one_weight_a_channel(node):
            continue
        step, zero, kernel, kernel_scale, _, out_step, out_zero = (constant(each) for each in node.inputs[1:8])
        weight = kernel.reshape(-1).astype(np.float64)
        bias = constant(read(node, 8)).astype(np.float64) if len(node.inputs) > 8 else np.zeros(len(weight))
        unit = np.float64(step) * kernel_scale.astype(np.float64) / np.float64(out_step)
        arrays: dict[str, npt.NDArray[Any]] = {
            "factor": np.asarray(weight * unit, np.float32),
            "term": np.asarray((bias - weight * int(zero)) * unit, np.float32),
            "zero": np.asarray(out_zero, np.uint8),
        }
        changed |= _take_over(graph, node, AFFINE_CODES, read(node, 0), arrays, _IMAGE_CHANNELS)
    return changed


def bounds_to_native(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Clip, or Max and Min, of codes -> BoundCodes."""
    changed = False
    for node in list(graph):
        if not is_op(node, "Clip", "Max", "Min") or node.graph is None or node.outputs[0].dtype != ir.DataType.UINT8:
            continue
        code = next(each for each in node.inputs if each is not None and constant(each) is None)
        bounds = bounds_of(code)
        if node in bounds.nodes:
            changed |= _take_over(graph, None, BOUND_CODES, code, {}, None)
    return changed


def _take_over(
    graph: ir.Graph,
    node: ir.Node | None,
    op_type: str,
    value: ir.Value,
    arrays: Mapping[str, npt.NDArray[Any]],
    axis: int | None,
) -> bool:
    """A native operator in the place of a node and of the bounds on its codes; without a node, of the bounds alone."""
    bounds = bounds_of(value if node is None else node.outputs[0])
    limited = _along_one_axis(bounds.lowest, bounds.highest)
    if limited is None or (limited[0] is not None and axis is not None and limited[0] != axis):
        return False
    bound_axis, *limits = limited
    last = bounds.nodes[-1] if bounds.nodes else node
    assert last is not None
    name = f"{last.name}/native"
    names = {**arrays, "lowest": limits[0], "highest": limits[1]}
    inputs = [add_constant(graph, f"{name}/{kind}", np.asarray(array).reshape(-1)) for kind, array in names.items()]
    found = axis if axis is not None else bound_axis
    result = add_code(graph, name, last.outputs[0])
    attributes = [ir.AttrInt64("axis", -1 if found is None else found)]
    graph.insert_before(last, ir.Node(DOMAIN, op_type, [value, *inputs], attributes, outputs=[result], name=name))
    ir.convenience.replace_all_uses_with(last.outputs[0], result, replace_graph_outputs=True)
    graph.remove([*reversed(bounds.nodes), *([node] if node else [])], safe=True)
    return True


def _along_one_axis(lowest: Whole, highest: Whole) -> tuple[int | None, Any, Any] | None:
    """The axis on which bounds differ, counted from the right (None: they do not), and the bounds along it."""
    low, high = np.broadcast_arrays(lowest, highest)
    sizes = [axis - low.ndim for axis, size in enumerate(low.shape) if size > 1]
    if len(sizes) > 1:
        return None
    limits = (np.clip(each, 0, LARGEST_CODE).astype(np.uint8).reshape(-1) for each in (low, high))
    return (sizes[0] if sizes else None), *limits


def _from_the_right(axis: int | None, value: ir.Value) -> int | None:
    if axis is None or axis < 0:
        return axis
    rank = rank_of(value)
    return None if rank is None else axis - rank


def _with_one_constant(value: ir.Value, reader: ir.Node | None, op_type: str) -> tuple[ir.Value, Floats] | None:
    """What an operation takes beside a constant, and the constant: one number or one for each entry of the last axis.

    None: something else made the value, or it has further readers.
    """
    node = value.producer()
    if not is_op(node, op_type) or only_reader(value) is not reader:
        return None
    first, second = node.inputs[0], node.inputs[1]
    if op_type == "Mul" and constant(first) is not None:
        first, second = second, first
    found = constant(second)
    if first is None or found is None or found.ndim > 1:
        return None
    whole = first.shape is not None and len(first.shape) > 0 and first.shape[-1] == found.size
    return (first, found) if found.size == 1 or whole else None


def _has_one_weight_a_channel(node: ir.Node) -> bool:
    kernel, attributes = constant(node.inputs[3]), node.attributes
    if kernel is None or any(constant(each) is None for each in node.inputs[1:]) or kernel.ndim != 4:
        return False
    return (
        kernel.shape[1:] == (1, 1, 1)
        and attributes.get_int("group", 1) == len(kernel)
        and all(step == 1 for step in attributes.get_ints("strides", ()))
        and not any(attributes.get_ints("pads", ()))
        and attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )

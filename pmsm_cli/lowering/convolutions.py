"""Convolutions of spikes on integer kernels, and the integer forms of what lies between them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.synapse import Floats
from pmsm_cli.lowering.codes import LARGEST_CODE, Code, Quantiser, add_code, code_of, quantiser_of, tighten
from pmsm_cli.lowering.int8 import LARGEST_BIAS, Int8Weights, weights_of
from pmsm_cli.lowering.parts import constant, is_op, only_reader, rank_of, read

CONTRIB = "com.microsoft"
_CHANNELS = 1  # the axis of a convolution's channels, from the left
IDENTITY = 64  # the weight of an identity: a unit of its bias is this part of a code


def pools_behind_quantisers(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """The largest value's code is the largest code: MaxPool, QuantizeLinear -> QuantizeLinear, MaxPool on codes.

    Only behind a convolution of spikes: pooling of codes is fast in the layout that those are in, and slow elsewhere.
    """
    changed = False
    for node in list(graph):
        quantiser = quantiser_of(only_reader(node.outputs[0])) if is_op(node, "MaxPool") else None
        if quantiser is None or len(node.outputs) > 1 or only_reader(read(node, 0)) is not node:
            continue
        layer = read(node, 0).producer()
        while is_op(layer, "Relu", "Clip"):
            layer = read(layer, 0).producer()
        if not is_op(layer, "Conv") or weights_of(layer, weights) is None:
            continue
        value, pooled = read(node, 0), node.outputs[0]
        code = add_code(graph, f"{quantiser.node.name}/unpooled", value)
        result = quantiser.node.outputs[0]
        readers = list(result.uses())
        early = ir.Node("", "QuantizeLinear", [value, *quantiser.node.inputs[1:]], outputs=[code], name=code.name)
        early.attributes.update(quantiser.node.attributes)
        largest = add_code(graph, f"{result.name}/pooled", pooled)
        pool = ir.Node("", "MaxPool", [code], outputs=[largest], name=f"{node.name}/of_codes")
        pool.attributes.update(node.attributes)
        graph.insert_before(node, [early, pool])
        for reader, index in readers:
            reader.replace_input_with(index, largest)
        graph.remove([quantiser.node, node], safe=True)
        changed = True
    return changed


def convolutions_to_integers(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """DequantizeLinear, Conv with int8 weights, ReLU or Clip, QuantizeLinear -> QLinearConv and bounds.

    Thresholds on the output's channels become part of the weights' scales, so that none is rounded by it. Convolutions
    whose output is read by anything else stay as they are, on floats.
    """
    changed = False
    for node in list(graph):
        own = weights_of(node, weights) if is_op(node, "Conv") else None
        if own is None:
            continue
        code, tail = code_of(read(node, 0)), _tail_of(node.outputs[0])
        if code is None or tail is None or own.axis != 0 or not _along_channels(tail.quantiser, node):
            continue
        bias = np.zeros(len(own.scale), np.float32) if len(node.inputs) < 3 else constant(read(node, 2))
        integer_convolution(graph, node, code, own.values, own.scale, bias, tail)
        changed = True
    return changed


def carried_values_to_codes(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """DequantizeLinear, QuantizeLinear with other scales -> QLinearConv of one weight a channel: neurons behind sums.

    Precondition: images, [N, channels, height, width], and a scale for each channel.
    """
    changed = False
    for node in list(graph):
        quantiser = quantiser_of(node)
        code = code_of(read(node, 0)) if quantiser else None
        if quantiser is None or code is None or quantiser.scale.ndim == 0 or rank_of(read(node, 0)) != 4:
            continue
        if quantiser.axis not in (_CHANNELS, _CHANNELS - 4):
            continue
        channels = len(quantiser.scale)
        identity = np.full((channels, 1, 1, 1), IDENTITY, np.int8)
        scale = np.full(channels, 1 / IDENTITY, np.float32)
        each = ir.Node("", "Conv", [read(node, 0)], [ir.AttrInt64("group", channels)], name=f"{node.name}/by_channel")
        graph.insert_before(node, each)
        integer_convolution(graph, each, code, identity, scale, np.zeros(channels, np.float32), Tail.of(quantiser))
        changed = True
    return changed


def sums_to_integers(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Add of two DequantizeLinear, ReLU, QuantizeLinear -> QLinearAdd."""
    changed = False
    for node in list(graph):
        codes = [code for value in node.inputs if is_op(node, "Add") and (code := code_of(value))]
        tail = _tail_of(node.outputs[0]) if len(codes) == 2 else None
        if tail is None or tail.quantiser.scale.ndim:
            continue
        quantiser = tail.quantiser
        inputs = [value for code in codes for value in (code.value, code.scale, code.zero)]
        total = add_code(graph, f"{node.name}/of_codes", node.outputs[0])
        adding = ir.Node(CONTRIB, "QLinearAdd", [*inputs, *quantiser.node.inputs[1:]], outputs=[total], name=total.name)
        graph.insert_before(quantiser.node, adding)
        graph.opset_imports[CONTRIB] = 1
        _replace(graph, node, tail, total)
        changed = True
    return changed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tail:
    """What follows a layer up to the codes of its output: clipping, then the one quantiser that reads it."""

    nodes: tuple[ir.Node, ...]
    quantiser: Quantiser
    lowest: float = -math.inf
    highest: float = math.inf

    @staticmethod
    def of(quantiser: Quantiser) -> "Tail":
        """A quantiser with nothing before it."""
        return Tail(nodes=(), quantiser=quantiser)


def _tail_of(value: ir.Value) -> Tail | None:
    nodes: list[ir.Node] = []
    lowest, highest = -math.inf, math.inf
    while (node := only_reader(value)) is not None:
        if quantiser := quantiser_of(node):
            return Tail(nodes=tuple(nodes), quantiser=quantiser, lowest=lowest, highest=highest)
        limits = limits_of(node)
        if limits is None:
            return None
        lowest, highest = (float(np.clip(each, *limits)) for each in (lowest, highest))
        nodes.append(node)
        value = node.outputs[0]
    return None


def limits_of(node: ir.Node) -> tuple[float, float] | None:
    """What a ReLU or Clip bounds values to; None: it is another node, or its limits are not constant."""
    if is_op(node, "Relu"):
        return 0.0, math.inf
    if not is_op(node, "Clip"):
        return None
    given = [*node.inputs[1:], None, None][:2]
    if any(each is not None and constant(each) is None for each in given):
        return None
    low, high = given
    return -math.inf if low is None else float(constant(low)), math.inf if high is None else float(constant(high))


def _along_channels(quantiser: Quantiser, node: ir.Node) -> bool:
    rank = constant(node.inputs[1]).ndim
    return quantiser.scale.ndim == 0 or quantiser.axis in (_CHANNELS, _CHANNELS - rank)


def integer_convolution(
    graph: ir.Graph,
    node: ir.Node,
    code: Code,
    values: npt.NDArray[np.int8],
    scale: Floats,
    bias: Floats,
    tail: Tail,
) -> None:
    """QLinearConv in the place of a convolution and of what follows it, up to the codes of its output."""
    quantiser, name = tail.quantiser, f"{node.name}/of_codes"
    # One zero for all channels; where each has its own (resting neurons), the rest of it is part of the bias.
    zero = int(quantiser.zero.max())
    unit = np.asarray(scale, np.float64) * np.float64(code.step)  # of the sums
    shifted = bias.astype(np.float64) + (quantiser.zero - zero) * quantiser.scale.astype(np.float64)
    whole = np.clip(np.round(shifted / unit), -LARGEST_BIAS, LARGEST_BIAS).astype(np.int32)
    one_step = quantiser.scale if quantiser.scale.ndim == 0 else np.float32(1)
    scales = np.asarray(scale / (quantiser.scale if quantiser.scale.ndim else np.float32(1)), np.float32)
    constants: dict[str, npt.NDArray[Any]] = {
        "weights": values,
        "weight_scale": scales,
        "weight_zero": np.zeros(len(scales), np.int8),
        "step": np.asarray(one_step, np.float32),
        "zero": np.asarray(zero, np.uint8),
        "bias": whole,
    }
    w, w_scale, w_zero, y_scale, y_zero, b = (
        add_constant(graph, f"{name}/{kind}", array) for kind, array in constants.items()
    )
    result = add_code(graph, name, quantiser.node.outputs[0])
    inputs = [code.value, code.scale, code.zero, w, w_scale, w_zero, y_scale, y_zero, b]
    convolution = ir.Node("", "QLinearConv", inputs, outputs=[result], name=name)
    convolution.attributes.update(node.attributes)
    graph.insert_before(quantiser.node, convolution)
    _replace(graph, node, tail, result)


def _replace(graph: ir.Graph, node: ir.Node, tail: Tail, result: ir.Value) -> None:
    """Let the readers of the old codes read the new ones, clipped as the floats were."""
    quantiser = tail.quantiser
    ir.convenience.replace_all_uses_with(quantiser.node.outputs[0], result, replace_graph_outputs=True)
    graph.remove(quantiser.node, safe=True)
    for each in (*reversed(tail.nodes), node):
        if not any(output.uses() for output in each.outputs):
            graph.remove(each, safe=True)
    with np.errstate(invalid="ignore"):
        limits = [np.round(limit / quantiser.scale) + quantiser.zero for limit in (tail.lowest, tail.highest)]
    rank = 4 if result.shape is None else len(result.shape)
    shape = (-1, *(1,) * (rank - 2)) if quantiser.scale.ndim else ()
    tighten(graph, result, *(np.clip(each, 0, LARGEST_CODE).astype(np.int64).reshape(shape) for each in limits))

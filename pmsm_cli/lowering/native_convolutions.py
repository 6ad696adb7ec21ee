"""Convolutions of codes on the native library, with the sums and the neurons behind them in the same operator.

Precondition: channels last, as `channels_last` leaves them. onnxruntime's own convolution makes codes of all 256
values; they are bounded, added up and fired on in passes of their own. Here all that happens in one.

| in the graph | on the library |
|---|---|
| NhwcMaxPool, bounds | bounds, NhwcMaxPool |
| QLinearConv, bounds | ConvolutionCodes |
| ConvolutionCodes, QLinearAdd, bounds | ConvolutionCodes that adds |
| ConvolutionCodes, AffineCodes on what it gives | ConvolutionCodes with neurons |
| Conv of few taps in floats, ReLU or Clip, SpikeCodesLast | ImageCodes |
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.lowering.codes import LARGEST_CODE, add_code
from pmsm_cli.lowering.convolutions import CONTRIB, limits_of
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.native import AFFINE_CODES, BOUND_CODES, SPIKE_CODES_LAST
from pmsm_cli.lowering.parts import constant, is_op, only_reader, read
from pmsm_cli.lowering.windows import WINDOW, alike, has_kernels, pads_of, window_attributes
from pmsm_cli.neuron.onnx_function import DOMAIN

CONVOLUTION_CODES, IMAGE_CODES = "ConvolutionCodes", "ImageCodes"
_FEW_VALUES = 64  # in a window, beyond which onnxruntime's own layer is as fast
_OTHERS, _FIRING = 8, 15  # where the inputs of what it adds, and of neurons, begin (`convolution_layer.h`)

_Array = npt.NDArray[Any]


def bounds_before_pools(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """NhwcMaxPool, bounds -> bounds, NhwcMaxPool: the largest of what is bounded. So convolutions can do it."""
    changed = False
    for pool in list(graph):
        bounds = only_reader(pool.outputs[0]) if _is_pool(pool) else None
        if bounds is None or not _bounds_channels(bounds) or not _is_behind_layer(pool):
            continue
        pooled, given, bounded = pool.outputs[0], read(pool, 0), bounds.outputs[0]
        ir.convenience.replace_all_uses_with(bounded, pooled, replace_graph_outputs=True)
        bounds.replace_input_with(0, given)
        bounded.shape = given.shape
        pool.replace_input_with(0, bounded)
        graph.remove(bounds)
        graph.insert_before(pool, bounds)
        changed = True
    return changed


def convolutions_to_native(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """QLinearConv channels last, bounds -> ConvolutionCodes; a kernel for all channels, or one for each."""
    changed = False
    for node in list(graph):
        if not _is_layer(node):
            continue
        step, zero, kernel, scale, _, out_step, out_zero = (constant(each) for each in node.inputs[1:8])
        bias = constant(read(node, 8)) if len(node.inputs) > 8 else np.zeros(len(kernel), np.int32)
        bounds = _bounds_behind(node.outputs[0])
        numbers = {
            "padding": zero,
            "bias": bias,
            # In this order, as onnxruntime works it out.
            "factor": np.float32(step) * scale / np.float32(out_step),
            **bounds.rounding("code", out_zero),
        }
        inputs = [read(node, 0), read(node, 3), *_constants(graph, node.name or "", numbers)]
        _replace(graph, [node, *bounds.nodes], inputs, _attributes(node))
        changed = True
    return changed


def sums_into_convolutions(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """QLinearAdd of a ConvolutionCodes that nobody else reads, bounds -> ConvolutionCodes that adds."""
    changed = False
    for node in list(graph):
        found = _layer_added(node)
        if found is None:
            continue
        layer, own, other = found
        step, zero = (constant(each) for each in node.inputs[6:8])
        factors = [_float32(constant(read(node, at + 1))) / _float32(step) for at in (own, other)]
        zeros = [_float32(constant(read(node, at + 2))) for at in (own, other)]
        bounds = _bounds_behind(node.outputs[0])
        numbers: dict[str, _Array] = {
            "own": np.asarray(factors[0]),
            "other": np.asarray(factors[1]),
            "term": np.asarray(_float32(zero) - (factors[0] * zeros[0] + factors[1] * zeros[1])),
            **bounds.rounding("sum", np.zeros(1, np.uint8)),  # part of the term
        }
        inputs = [*layer.inputs, read(node, other), *_constants(graph, node.name or "", numbers)]
        adds = ir.AttrInt64("adds", 1 if own == 0 else 2)
        _replace(graph, [layer, node, *bounds.nodes], inputs, {**layer.attributes, "adds": adds})
        changed = True
    return changed


def neurons_into_convolutions(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """ConvolutionCodes, AffineCodes on it -> ConvolutionCodes with neurons; one site, where there are several."""
    changed = False
    for node in list(graph):
        if not _is_native(node, AFFINE_CODES) or node.attributes["axis"].as_int() != -1:
            continue
        layer = read(node, 0).producer()
        if layer is None or not _is_native(layer, CONVOLUTION_CODES) or len(layer.outputs) > 1 or _is_depthwise(layer):
            continue
        inputs = [*layer.inputs, *[None] * (_FIRING - len(layer.inputs)), *node.inputs[1:]]
        _replace(graph, [layer], inputs, {**layer.attributes, "fires": ir.AttrInt64("fires", 1)}, neurons=node)
        changed = True
    return changed


def images_to_native(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """Conv in floats, ReLU or Clip, SpikeCodesLast -> ImageCodes: the first layer, where its windows are small."""
    changed = False
    for node in list(graph):
        tail = _image_behind(node)
        if tail is None:
            continue
        layer, clips, low, high = tail
        kernel = constant(read(layer, 1))
        bias = constant(read(layer, 2)) if len(layer.inputs) > 2 else np.zeros(len(kernel), np.float32)
        limits = {"low": np.asarray(low, np.float32), "high": np.asarray(high, np.float32)}
        numbers = _constants(graph, f"{node.name}/image", {"bias": bias, **limits})
        attributes = [attribute for name, attribute in _attributes(layer).items() if name in WINDOW]
        result = add_code(graph, f"{node.name}/of_image", node.outputs[0])
        inputs = [read(layer, 0), read(layer, 1), *numbers, *node.inputs[1:]]
        new = ir.Node(DOMAIN, IMAGE_CODES, inputs, attributes, outputs=[result], name=result.name)
        graph.insert_before(node, new)
        ir.convenience.replace_all_uses_with(node.outputs[0], result, replace_graph_outputs=True)
        graph.remove([node, *reversed(clips), layer], safe=True)
        changed = True
    return changed


def _image_behind(node: ir.Node) -> tuple[ir.Node, list[ir.Node], float, float] | None:
    """The layer whose clipped sums alone a SpikeCodesLast reads, what clips them, and the limits."""
    if not _is_native(node, SPIKE_CODES_LAST):
        return None
    clips: list[ir.Node] = []
    value, reader, low, high = read(node, 0), node, -math.inf, math.inf
    while only_reader(value) is reader and (maker := value.producer()) is not None:
        if is_op(maker, "Conv"):
            return (maker, clips[::-1], low, high) if _is_small(maker) else None
        limits = limits_of(maker)
        if limits is None:
            return None
        low, high = max(low, limits[0]), min(high, limits[1])
        if low > high:
            return None
        clips.append(maker)
        value, reader = read(maker, 0), maker
    return None


def _is_small(layer: ir.Node) -> bool:
    """Whether a convolution of images in floats has few values to a window."""
    kernel = constant(layer.inputs[1])
    bias = constant(layer.inputs[2]) if len(layer.inputs) > 2 else np.zeros(0, np.float32)
    return (
        kernel is not None
        and bias is not None
        and kernel.ndim == 4
        and kernel.dtype == np.float32
        and kernel[0].size <= _FEW_VALUES
        and layer.attributes.get_int("group", 1) == 1
        and pads_of(layer) is not None
    )


def _is_native(node: ir.Node | None, op_type: str) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type == op_type


def _is_pool(node: ir.Node) -> bool:
    return node.domain == CONTRIB and node.op_type == "NhwcMaxPool"


def _is_depthwise(layer: ir.Node) -> bool:
    return layer.attributes["group"].as_int() != 1


def _is_layer(node: ir.Node) -> bool:
    """Whether a node is a convolution of images that the library computes."""
    if node.domain != CONTRIB or node.op_type != "QLinearConv" or not node.attributes.get_int("channels_last", 0):
        return False
    if any(constant(each) is None for each in node.inputs[1:]):
        return False
    _, zero, kernel, _, kernel_zero, out_step, out_zero = (constant(each) for each in node.inputs[1:8])
    return (
        has_kernels(node, kernel.shape)
        and kernel.dtype == np.int8
        and zero.dtype == out_zero.dtype == np.uint8
        and not kernel_zero.any()
        and out_step.size == 1
    )


def _attributes(node: ir.Node) -> dict[str, ir.Attr]:
    """Those of ConvolutionCodes, a number each."""
    numbers = {**window_attributes(node), "adds": 0, "fires": 0}
    return {name: ir.AttrInt64(name, number) for name, number in numbers.items()}


def _layer_added(node: ir.Node) -> tuple[ir.Node, int, int] | None:
    """A layer that an addition of two tensors of one shape can be part of: its place, and that of the other tensor."""
    if node.domain != CONTRIB or node.op_type != "QLinearAdd":
        return None
    if any(constant(read(node, at)) is None for at in (1, 2, 4, 5, 6, 7)):
        return None
    if not alike(read(node, 0).shape, read(node, 3).shape):
        return None
    for own, other in ((0, 3), (3, 0)):
        layer, value = read(node, own).producer(), read(node, own)
        alone = layer is not None and len(layer.inputs) == _OTHERS and only_reader(value) is node
        if layer is not None and alone and _is_native(layer, CONVOLUTION_CODES) and not _is_depthwise(layer):
            return layer, own, other
    return None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Bounds:
    """What a code is bounded by before anything else reads it, and the nodes that do it."""

    nodes: list[ir.Node]
    lowest: _Array
    highest: _Array

    def rounding(self, kind: str, zero: _Array) -> dict[str, _Array]:
        """As inputs of a ConvolutionCodes."""
        return {f"{kind}_zero": zero, f"{kind}_lowest": self.lowest, f"{kind}_highest": self.highest}


def _bounds_channels(node: ir.Node) -> bool:
    """Whether a node bounds all codes alike, or those of each channel."""
    if not _is_native(node, BOUND_CODES):
        return False
    alike = all(constant(each).size == 1 for each in node.inputs[1:])
    return alike or node.attributes["axis"].as_int() == -1


def _is_behind_layer(pool: ir.Node) -> bool:
    """Whether a pooling alone reads a layer, with bounds of its own or without."""
    value = read(pool, 0)
    while only_reader(value) is not None and (node := value.producer()) is not None:
        if _is_layer(node):
            return True
        if not _bounds_channels(node):
            return False
        value = read(node, 0)
    return False


def _float32(number: _Array) -> np.float32:
    return np.float32(number.reshape(()))


def _bounds_behind(code: ir.Value) -> _Bounds:
    nodes: list[ir.Node] = []
    lowest, highest = np.asarray([0], np.uint8), np.asarray([LARGEST_CODE], np.uint8)
    while (node := only_reader(code)) is not None and _bounds_channels(node):
        low, high = constant(node.inputs[1]), constant(node.inputs[2])
        lowest, highest = np.clip(lowest, low, high), np.clip(highest, low, high)
        nodes.append(node)
        code = node.outputs[0]
    return _Bounds(nodes=nodes, lowest=lowest, highest=highest)


def _constants(graph: ir.Graph, name: str, numbers: Mapping[str, _Array]) -> list[ir.Value]:
    return [
        add_constant(graph, f"{name}/native/{kind}", np.asarray(array).reshape(-1)) for kind, array in numbers.items()
    ]


def _replace(
    graph: ir.Graph,
    old: list[ir.Node],
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, ir.Attr],
    neurons: ir.Node | None = None,
) -> None:
    """A ConvolutionCodes in the place of nodes that read one another in turn, and of neurons that read the last."""
    last = old[-1]
    made = [last, *([neurons] if neurons else [])]
    outputs = [add_code(graph, f"{each.name}/native", each.outputs[0]) for each in made]
    new = ir.Node(DOMAIN, CONVOLUTION_CODES, inputs, list(attributes.values()), outputs=outputs, name=outputs[0].name)
    graph.insert_before(last, new)
    for each, output in zip(made, outputs, strict=True):
        ir.convenience.replace_all_uses_with(each.outputs[0], output, replace_graph_outputs=True)
    graph.remove([*([neurons] if neurons else []), *reversed(old)], safe=True)

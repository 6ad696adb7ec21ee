"""Convolutions of running counts at one timestep or several, with what follows up to the next neurons, in one operator.

Layers compute channels last; what lies between them in another layout is turned, and turned back.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.synapse import Floats
from pmsm_cli.lowering.channels_last import TO_FIRST, TO_LAST, transposed, turned_shape
from pmsm_cli.lowering.codes import Code, add_code, code_of
from pmsm_cli.lowering.convolutions import limits_of
from pmsm_cli.lowering.int8 import Int8Weights, weights_of
from pmsm_cli.lowering.parts import constant, is_op, only_reader, read
from pmsm_cli.lowering.resting import STEP_CODES, STEP_QUANTA
from pmsm_cli.lowering.side_by_side import REPEATED
from pmsm_cli.lowering.step_codes import CODES_BEFORE, FINEST, REST, THRESHOLD, ZERO
from pmsm_cli.lowering.windows import alike, is_layer, window_attributes
from pmsm_cli.neuron.onnx_function import DOMAIN, LEVELS

CONVOLUTION_STEPS = "ConvolutionSteps"


class StepsInputs:
    """The operator's inputs, by what others ask for; from the factor to before `BEFORE` are the numbers of a pass."""

    CODES, WEIGHTS, PADDING, FACTOR, QUANTA, BEFORE, REACHED, LATER_CODES = 0, 1, 2, 3, 11, 14, 15, 16


class StepsOutputs:
    """The operator's outputs."""

    VALUES, EMITTED, COUNTS, LATER_VALUES, LATER_EMITTED = range(5)


_RANK = 4


def convolutions_of_steps(graph: ir.Graph, weights: Mapping[str, Int8Weights]) -> bool:
    """DequantizeLinear of StepCodes, Conv of integers, what follows up to StepCodes -> ConvolutionSteps.

    What follows are constants of channels and maps that are added or multiplied, one tensor of the same shape that is
    added, ReLU and Clip. Preconditions: `steps_to_codes`; the native library.
    """
    turned = _Turned(graph)
    changed = False
    for node in list(graph):
        own = weights_of(node, weights) if is_op(node, "Conv") else None
        code = code_of(read(node, 0)) if own is not None else None
        if own is None or code is None or not is_layer(node, own) or not turned.are_codes(code.value):
            continue
        _replace(graph, node, own, code, turned)
        changed = True
    return changed


@dataclass(kw_only=True, slots=True, eq=False)
class Following:
    """What a layer's sums pass: numbers of each channel, a map, another tensor, limits; and the value behind it."""

    value: ir.Value
    scale: Floats  # [channels]
    bias: Floats  # [channels]
    map: Floats | None = None  # [1, channels, height, width]
    others: ir.Value | None = None
    low: float = -math.inf
    high: float = math.inf
    nodes: list[ir.Node] = field(default_factory=list)

    @staticmethod
    def behind(node: ir.Node, channels: int) -> "Following":
        """All that is to be found."""
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        following = Following(
            value=node.outputs[0],
            scale=np.ones(channels, np.float32),
            bias=np.zeros(channels, np.float32) if bias is None else bias,
        )
        while (reader := only_reader(following.value)) is not None and following._takes(reader):
            following.nodes.append(reader)
            following.value = reader.outputs[0]
        return following

    def _takes(self, node: ir.Node) -> bool:
        limits = limits_of(node)
        if limits is not None:
            self.low, self.high = (float(np.clip(each, *limits)) for each in (self.low, self.high))
            return True
        if not is_op(node, "Add", "Mul") or (self.low, self.high) != (-math.inf, math.inf) or self.others is not None:
            return False
        other = next((each for each in node.inputs if each is not self.value), None)
        if other is None:
            return False
        if (array := constant(other)) is not None:
            return self._takes_constant(node.op_type, np.asarray(array))
        if node.op_type == "Mul" or not alike(self.value.shape, other.shape):
            return False
        self.others = other
        return True

    def _takes_constant(self, op_type: str, array: npt.NDArray[Any]) -> bool:
        channels = len(self.scale)
        if array.ndim > _RANK:
            return False
        array = array.reshape((1,) * (_RANK - array.ndim) + array.shape)
        images, own, *places = array.shape
        if images != 1 or own not in (1, channels):
            return False
        by_channel = np.broadcast_to(array[0, :, 0, 0], (channels,)) if places == [1, 1] else None
        if op_type == "Mul":
            if by_channel is None:
                return False
            self.scale, self.bias = self.scale * by_channel, self.bias * by_channel
            self.map = None if self.map is None else self.map * by_channel.reshape(1, -1, 1, 1)
        elif by_channel is not None:
            self.bias = self.bias + by_channel
        else:
            sizes = None if self.value.shape is None else list(self.value.shape)[2:]
            if sizes != places:
                return False
            whole = np.broadcast_to(array, (1, channels, *places))
            self.map = whole if self.map is None else self.map + whole
        return True


class _Turned:
    """Values channels last."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._last: dict[ir.Value, ir.Value] = {}

    def are_codes(self, code: ir.Value) -> bool:
        """Whether a value holds running counts, in whatever layout."""
        node = code.producer()
        return code in self._last or (node is not None and node.domain == DOMAIN and node.op_type == STEP_CODES)

    def know(self, value: ir.Value, last: ir.Value) -> None:
        """A value is there channels last, and from now on is that one, turned back."""
        if value in self._last:  # somebody has asked before it was there
            ir.convenience.replace_all_uses_with(self._last[value], last)
        back = transposed(self.graph, last, TO_FIRST)
        ir.convenience.replace_all_uses_with(value, back, replace_graph_outputs=True)
        self._last[back] = last

    def last(self, value: ir.Value) -> ir.Value:
        """The value channels last."""
        if value not in self._last:
            node = value.producer()
            if node is not None and _fires_by_channel(node):
                emitted = self._emitted(node)
                self.know(value, emitted)
                self._last[value] = emitted
            else:
                self._last[value] = transposed(self.graph, value, TO_LAST)
        return self._last[value]

    def _emitted(self, node: ir.Node) -> ir.Value:
        """The codes of neurons channels last."""
        name = f"{node.name}/last"
        inputs = list(node.inputs)
        inputs[0] = self.last(read(node, 0))
        for index in (THRESHOLD, REST):
            numbers = constant(read(node, index)).reshape(-1)
            inputs[index] = add_constant(self.graph, f"{name}/{index}", numbers)
        if len(inputs) > CODES_BEFORE:
            inputs[CODES_BEFORE] = self.last(read(node, CODES_BEFORE))
        result, shape = add_code(self.graph, name, None), node.outputs[0].shape
        result.shape = None if shape is None else turned_shape(shape)
        new = ir.Node(DOMAIN, STEP_CODES, inputs, list(node.attributes.values()), outputs=[result], name=name)
        self.graph.insert_after(node, new)
        return result


def _replace(graph: ir.Graph, node: ir.Node, own: Int8Weights, code: Code, turned: _Turned) -> None:
    """ConvolutionSteps in the place of a convolution, of what follows, and of the neurons on that."""
    channels = len(own.scale)
    following = Following.behind(node, channels)
    value, name = following.value, f"{node.name}/steps"
    neurons = next((user for user, _ in value.uses() if read(user, 0) is value and _fires_by_channel(user)), None)
    others = None if following.others is None else _once(following.others)
    inputs: list[ir.Value | None] = [turned.last(code.value), whole_weights(graph, node, own)]
    inputs += numbers_of(graph, name, own, code, following)
    inputs.append(None if following.map is None else _map_last(graph, name, following.map))
    inputs.append(None if others is None else turned.last(others))
    levels = dict.fromkeys(LEVELS, 0)
    if neurons is not None:
        inputs += _neurons(graph, name, neurons, channels, turned)
        levels = {kind: neurons.attributes[kind].as_int() for kind in LEVELS}
    flags = {"maps": int(following.map is not None), "fires": int(neurons is not None)}
    flags |= {"sliced": int(own.slices > 1), "counted": 0}
    attributes = {**window_attributes(node), **flags, **levels}
    kept = neurons is None or len(list(value.uses())) > 1 or value.is_graph_output()
    # onnxruntime gives memory from one tensor to the next where sizes are known.
    shape = None if value.shape is None else turned_shape(value.shape)
    values = ir.Value(name=f"{name}/values" if kept else "", type=value.type, shape=shape)
    emitted = ir.Value(name="") if neurons is None else add_code(graph, f"{name}/emitted", values)
    new = ir.Node(
        DOMAIN,
        CONVOLUTION_STEPS,
        inputs,
        [ir.AttrInt64(kind, number) for kind, number in attributes.items()],
        outputs=[values, emitted],
        name=name,
    )
    graph.insert_before(following.nodes[-1] if following.nodes else node, new)
    if neurons is not None:
        turned.know(neurons.outputs[0], emitted)
        graph.remove(neurons, safe=True)
    if kept:
        turned.know(value, values)
    graph.remove([*reversed(following.nodes), node], safe=True)


def numbers_of(graph: ir.Graph, name: str, own: Int8Weights, code: Code, following: Following) -> list[ir.Value]:
    """The inputs of ConvolutionSteps from the padding code to the limits."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "padding": np.asarray([code.offset], np.uint8),
        "factor": np.asarray(
            np.broadcast_to(own.scale, following.scale.shape) * code.step * following.scale, np.float32
        ),
        "bias": np.asarray(following.bias, np.float32),
        "low": np.asarray([following.low], np.float32),
        "high": np.asarray([following.high], np.float32),
    }
    return [add_constant(graph, f"{name}/{kind}", array) for kind, array in arrays.items()]


def whole_weights(graph: ir.Graph, node: ir.Node, own: Int8Weights) -> ir.Value:
    """The integers of a layer's weights, there once for all steps."""
    name = f"{read(node, 1).name}/steps"
    known = graph.initializers.get(name)
    return known if known is not None else add_constant(graph, name, own.values)


def _map_last(graph: ir.Graph, name: str, values: Floats) -> ir.Value:
    return add_constant(graph, f"{name}/map", np.ascontiguousarray(values.transpose(TO_LAST), np.float32))


def _once(value: ir.Value) -> ir.Value:
    """What a value repeats for all steps: the library does that by itself."""
    node = value.producer()
    if is_op(node, "Concat") and (node.name or "").endswith(REPEATED):
        return read(node, 0)
    return value


def _fires_by_channel(node: ir.Node) -> bool:
    """Whether neurons of images have one number for all or one for each channel, [channels, 1, 1]."""
    if node.domain != DOMAIN or node.op_type != STEP_CODES:
        return False
    shapes = [constant(read(node, index)).shape for index in (THRESHOLD, REST)]
    return all(math.prod(shape) == 1 or (len(shape) > 2 and math.prod(shape) == shape[-3]) for shape in shapes)


def _neurons(graph: ir.Graph, name: str, node: ir.Node, channels: int, turned: _Turned) -> list[ir.Value | None]:
    threshold, rest = (
        np.broadcast_to(constant(read(node, index)).reshape(-1), (channels,)) for index in (THRESHOLD, REST)
    )
    arrays = {"reciprocal": np.float32(1) / threshold, "rest": rest / threshold}
    inputs: list[ir.Value | None] = [
        add_constant(graph, f"{name}/{kind}", np.asarray(array, np.float32)) for kind, array in arrays.items()
    ]
    inputs += [read(node, index) for index in (STEP_QUANTA, FINEST, ZERO)]
    if len(node.inputs) > CODES_BEFORE:
        inputs.append(turned.last(read(node, CODES_BEFORE)))
    return inputs

"""Weights as 8-bit integers: a scale for each output channel, kept in the file as integers, read back as floats.

A weight w becomes q, a whole number from -127 to 127, and stands for scale x q. Thresholds are folded in before that,
so that a row's weights are all in the unit of one spike. In the file q passes Cast and Mul, which onnxruntime evaluates
once, on load. A DequantizeLinear it would evaluate for every image, and keep the convolution from its fast layout.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.constants import add_constant
from pmsm_cli.graph.synapse import Floats, Synapse, synapse_of
from pmsm_cli.lowering.parts import constant, read
from pmsm_cli.neuron.onnx_function import NEURON

LARGEST = 127
LARGEST_BIAS = 2**30  # in units of a layer's sums, which have as much room again in 32 bits
# Shares of the largest weight that the scale may stand for: beyond it is clipped, below it resolved more finely.
_SHARES = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8)

Bytes = npt.NDArray[np.int8]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Int8Weights:
    """The weights of one synapse."""

    values: Bytes  # in the operator's own layout; in slices in that of a convolution
    scale: Floats  # [output channels], or [] where one scale serves all
    axis: int | None  # the dimension of `values` that the output channels are on; None: one scale
    slices: int = 1  # rows of `values` to each output channel; more than 1: floats, as `slices.in_slices` makes them

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        self.values.flags.writeable = False
        self.scale.flags.writeable = False

    @property
    def spread_scale(self) -> Floats:
        """The scale, shaped to broadcast against the values."""
        if self.axis is None:
            return self.scale
        return self.scale.reshape([-1 if axis == self.axis else 1 for axis in range(self.values.ndim)])

    def floats(self) -> Floats:
        """What the weights stand for, as onnxruntime computes it: one product in float32. Not for slices."""
        assert self.slices == 1
        return self.values.astype(np.float32) * self.spread_scale


# A rewriting of a graph, given its int8 weights by the names of the initialisers; whether it changed anything.
Pattern = Callable[[ir.Graph, Mapping[str, Int8Weights]], bool]


def quantise(weights: Floats, axis: int | None) -> Int8Weights:
    """Weights to the nearest of 255 values, the scale of each output channel chosen by the least squared error.

    >>> quantise(np.array([[1.27, -0.64], [0.0, 0.0]], np.float32), 0).values.tolist()
    [[127, -64], [0, 0]]
    """
    rows = weights.reshape(1, -1) if axis is None else np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    largest = np.abs(rows).max(axis=1, initial=0).astype(np.float32)
    best, least = np.ones_like(largest), np.full(len(rows), np.inf)
    for share in _SHARES:
        scale = np.where(largest > 0, largest / np.float32(LARGEST) * np.float32(share), np.float32(1))
        error = np.square(_nearest(rows, scale[:, None]) * scale[:, None] - rows).sum(axis=1, dtype=np.float64)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    scale = best.astype(np.float32)
    shape = [-1 if dimension == axis else 1 for dimension in range(weights.ndim)]
    spread = scale[0] if axis is None else scale.reshape(shape)
    values = np.asarray(_nearest(weights, spread), np.int8)
    return Int8Weights(values=values, scale=np.array(scale[0] if axis is None else scale), axis=axis)


def with_room_for(bias: Floats, weights: Floats, rounded: Int8Weights) -> Int8Weights:
    """Integers whose rows have a scale that lets the bias be a whole number of them, [output channels].

    A channel with hardly any weights is nothing but its bias: in units of such weights that would not fit 32 bits.
    """
    dwarfed = np.abs(bias) > LARGEST_BIAS * rounded.scale
    if not dwarfed.any() or rounded.axis is None:
        return rounded
    scale = np.where(dwarfed, np.abs(bias) / np.float32(2**24), rounded.scale).astype(np.float32)
    shape = [-1 if dimension == rounded.axis else 1 for dimension in range(weights.ndim)]
    anew = np.asarray(_nearest(weights, scale.reshape(shape)), np.int8)
    values = np.where(dwarfed.reshape(shape), anew, rounded.values)
    return Int8Weights(values=values, scale=scale, axis=rounded.axis)


def spiking_synapses(graph: ir.Graph) -> list[Synapse]:
    """The synapses that read spikes."""
    found = (synapse_of(node) for node in graph)
    return [each for each in found if each and (source := each.data.producer()) and source.op_type == NEURON]


def weights_of(node: ir.Node, weights: Mapping[str, Int8Weights]) -> Int8Weights | None:
    """The integers that a node's weights (its second input) stand for; None where they are floats."""
    value = node.inputs[1]
    return None if value is None else weights.get(value.name or "")


def store_as_int8(model: ir.Model, weights: Mapping[str, Int8Weights]) -> ir.Model:
    """A copy of a model that holds the named weights as integers; its results are those of the floats.

    Precondition: the floats are `Int8Weights.floats` of what takes their place.
    """
    copy = model.clone()
    graph = copy.graph
    for name, each in weights.items():
        old = graph.initializers.pop(name)
        whole = add_constant(graph, f"{name}/int8", each.values)
        scale = add_constant(graph, f"{name}/scale", each.spread_scale)
        floats = ir.Value(name=f"{name}/floats", type=old.type, shape=old.shape)
        product = ir.Value(name=name, type=old.type, shape=old.shape)
        ir.convenience.replace_all_uses_with(old, product)
        nodes = [
            ir.Node("", "Cast", [whole], [ir.AttrInt64("to", ir.DataType.FLOAT)], outputs=[floats], name=floats.name),
            ir.Node("", "Mul", [floats, scale], outputs=[product], name=f"{name}/from_int8"),
        ]
        graph.insert_before(graph[0], nodes)
    return copy


def read_int8(model: ir.Model) -> tuple[ir.Model, dict[str, Int8Weights]]:
    """A copy of a model with plain float weights, and the integers that they came from: `store_as_int8` undone."""
    if not any(_is_stored(node) for node in model.graph):
        return model, {}
    copy = model.clone()
    graph = copy.graph
    weights: dict[str, Int8Weights] = {}
    for node in [node for node in graph if _is_stored(node)]:
        product, cast, scale = node.outputs[0], read(node, 0).producer(), constant(read(node, 1))
        assert cast is not None
        name, stored = product.name or "", [read(cast, 0), read(node, 1)]
        axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
        axis = axes[0] if axes else None
        # One output channel: the axis is lost, and does not matter.
        weights[name] = Int8Weights(
            values=np.array(constant(stored[0])), scale=np.array(scale.reshape(-1 if axes else ())), axis=axis
        )
        product.name = f"{name}/from_int8"
        floats = add_constant(graph, name, weights[name].floats())
        ir.convenience.replace_all_uses_with(product, floats)
        graph.remove([node, cast], safe=True)
        for value in stored:
            del graph.initializers[value.name or ""]
    return copy, weights


def _nearest(weights: Floats, scale: Floats) -> Floats:
    return np.clip(np.round(weights / scale), -LARGEST, LARGEST)


def _is_stored(node: ir.Node) -> bool:
    """Whether a node is the Mul that `store_as_int8` leaves."""
    if node.op_type != "Mul" or not (node.name or "").endswith("/from_int8") or len(node.inputs) != 2:
        return False
    floats, scale = node.inputs
    cast = None if floats is None else floats.producer()
    return (
        cast is not None
        and cast.op_type == "Cast"
        and constant(cast.inputs[0]) is not None
        and constant(scale) is not None
    )

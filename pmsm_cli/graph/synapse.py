"""What a synaptic operator is: which input holds the data and which the weights, and how the two meet.

Axes are counted from the right (-1 is the last), so that they hold for any batch shape.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.operators import is_standard

SYNAPTIC_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_ORTHOGONAL = 1e-3  # how close to 0 the products of different rows are, relative to a row with itself

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Synapse:
    """A synaptic operator with constant weights."""

    node: ir.Node
    data_index: int  # the input that becomes spikes
    weight_index: int
    channel_axis: int  # of the data, counted from the right: a threshold on it folds into the weights
    channels: int

    @property
    def data(self) -> ir.Value:
        """The tensor that becomes spikes."""
        value = self.node.inputs[self.data_index]
        assert value is not None
        return value

    @property
    def output_axis(self) -> int:
        """The axis of the output channels, counted from the right."""
        if self.node.op_type in ("Conv", "ConvTranspose"):
            return self.channel_axis
        return -1 if self.data_index == 0 else -2

    @property
    def weights(self) -> Floats:
        """The constant weights, in the operator's own layout."""
        value = self.node.inputs[self.weight_index]
        assert value is not None
        assert value.const_value is not None
        return value.const_value.numpy()


def synapse_of(node: ir.Node) -> Synapse | None:
    """The synapse that a node is, or None: not a synaptic operator, or its weights are not constant."""
    if not is_standard(node, *SYNAPTIC_OPS) or len(node.inputs) < 2:
        return None
    constant = [value is not None and value.const_value is not None for value in node.inputs[:2]]
    if node.op_type in ("Conv", "ConvTranspose"):
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if not constant[1] or constant[0] or (bias is not None and bias.const_value is None):
            return None
        return _convolution(node)
    if constant[0] == constant[1]:
        return None
    data_index = 0 if constant[1] else 1
    weights = node.inputs[1 - data_index]
    assert weights is not None
    assert weights.const_value is not None
    channel_axis = _contracted_axis(node, data_index)
    return Synapse(
        node=node,
        data_index=data_index,
        weight_index=1 - data_index,
        channel_axis=channel_axis,
        channels=int(weights.const_value.shape.numpy()[_contracted_axis(node, 1 - data_index)]),
    )


def changes_basis(node: ir.Node) -> bool:
    """Whether a node is a MatMul by an orthogonal constant, up to a scale, such as a cosine transform of blocks.

    What it gives is what it reads in other coordinates, and nothing that was learned.
    """
    synapse = synapse_of(node) if node.op_type == "MatMul" else None
    if synapse is None or synapse.weights.ndim != 2 or len(set(synapse.weights.shape)) > 1:
        return False
    gram = synapse.weights @ synapse.weights.T
    scale = float(np.trace(gram)) / len(gram)
    return scale > 0 and bool(np.allclose(gram, scale * np.eye(len(gram)), atol=_ORTHOGONAL * scale))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Product:
    """A matrix product of two activations (queries with keys, attention with values): both become spikes."""

    node: ir.Node

    @property
    def operands(self) -> tuple[ir.Value, ir.Value]:
        """The two tensors that become spikes."""
        left, right = self.node.inputs
        assert left is not None
        assert right is not None
        return left, right


def product_of(node: ir.Node) -> Product | None:
    """The product of two activations that a node is, or None."""
    if not is_standard(node, "MatMul"):
        return None
    if any(value is None or value.const_value is not None for value in node.inputs):
        return None
    return Product(node=node)


def product_heads(product: Product, shapes: Mapping[str, Shape]) -> tuple[int, int] | None:
    """The axis in front of the matrices, and its length: attention heads, whose thresholds scale whole products.

    None where there is no such axis, or where one operand is repeated along it.
    """
    left, right = (shapes.get(value.name or "") for value in product.operands)
    if left is None or right is None or min(len(left), len(right)) < 4 or left[-3] != right[-3] or left[-3] < 2:
        return None
    return -3, left[-3]


def product_macs(product: Product, shapes: Mapping[str, Shape]) -> int | None:
    """The multiply-accumulates of one image (of a whole batch, where its size is fixed)."""
    left = shapes.get(product.operands[0].name or "")
    result = shapes.get(product.node.outputs[0].name or "")
    return math.prod(result) * left[-1] if left and result else None


def operand_fan_out(product: Product, operand: int, shapes: Mapping[str, Shape]) -> Floats | None:
    """In how many products each element of one operand takes part; the same for all of them."""
    macs, data = product_macs(product, shapes), shapes.get(product.operands[operand].name or "")
    return np.asarray(macs / math.prod(data), np.float32).reshape((1,) * (len(data) - 1)) if macs and data else None


def fold_threshold(synapse: Synapse, threshold: Floats) -> Floats:
    """The weights times the threshold of the channel that each of them reads: spikes then need no scale.

    `threshold` is [] or [channels].
    """
    weights, node = synapse.weights, synapse.node
    if threshold.ndim == 0:
        return weights * threshold
    if node.op_type == "Conv":
        # [outputs, inputs of the group, ...]: output m of group g reads the channels of that group.
        groups = _integer(node, "group", 1)
        per_group = threshold.reshape(groups, -1)
        factors = np.repeat(per_group, weights.shape[0] // groups, axis=0)
        return weights * factors.reshape(*factors.shape, *([1] * (weights.ndim - 2)))
    if node.op_type == "ConvTranspose":
        return weights * threshold.reshape(-1, *([1] * (weights.ndim - 1)))
    axis = _contracted_axis(node, synapse.weight_index, rank=weights.ndim)
    return weights * threshold.reshape(-1, *([1] * (-axis - 1)))


def contracted_weights(synapse: Synapse) -> Floats:
    """The matrix [inputs, outputs] of a Gemm or MatMul with weights of two axes."""
    weights = synapse.weights
    contracted = _contracted_axis(synapse.node, synapse.weight_index, rank=weights.ndim)
    return weights if contracted == -2 else weights.T


def scale_outputs(synapse: Synapse, scale: Floats) -> Floats:
    """The weights that make each output channel `scale` [output channels] times as large."""
    weights, node = synapse.weights, synapse.node
    if node.op_type == "Conv":
        return weights * scale.reshape(-1, *([1] * (weights.ndim - 1)))
    if node.op_type == "ConvTranspose":
        # [inputs, outputs of the group, ...]: the inputs of group g make the outputs of that group.
        groups = _integer(node, "group", 1)
        factors = np.repeat(scale.reshape(groups, -1), weights.shape[0] // groups, axis=0)
        return weights * factors.reshape(*factors.shape, *([1] * (weights.ndim - 2)))
    contracted = _contracted_axis(node, synapse.weight_index, rank=weights.ndim)
    return weights * (scale if contracted == -2 else scale[:, None])


def along_outputs(synapse: Synapse, values: Floats) -> Floats:
    """One value an output channel, shaped to broadcast against what the synapse puts out."""
    return values.reshape(-1, *(1,) * (-synapse.output_axis - 1))


def output_dimension(synapse: Synapse) -> int | None:
    """The axis of the weights that the output channels are on, from the left; None where groups share one."""
    node = synapse.node
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if _integer(node, "group", 1) == 1 else None
    rank = synapse.weights.ndim
    contracted = _contracted_axis(node, synapse.weight_index, rank=rank)
    return rank + (-1 if contracted == -2 else -2) if rank > 1 else None


def fan_out(synapse: Synapse, shapes: Mapping[str, Shape]) -> Floats | None:
    """How many synapses each input neuron has; its sum over all of them is the number of multiply-accumulates.

    Exact at the borders: products with padding do not exist. The result broadcasts against one image's data (no batch
    axis). None where the shapes are not known.
    """
    node = synapse.node
    data = shapes.get(synapse.data.name or "")
    result = shapes.get(node.outputs[0].name or "")
    if data is None or result is None:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        return _convolution_fan_out(node, synapse.weights.shape, data, result)
    # Every element of the data takes part in equally many products.
    products = math.prod(result) * synapse.channels
    return np.asarray(products / math.prod(data), np.float32).reshape((1,) * (len(data) - 1))


def multiply_accumulates(synapse: Synapse, shapes: Mapping[str, Shape]) -> int | None:
    """The multiply-accumulates of one image (of a whole batch, where its size is fixed), without padding."""
    counts = fan_out(synapse, shapes)
    if counts is None:
        return None
    data = shapes[synapse.data.name or ""]
    return int(np.broadcast_to(counts, data[1:]).sum(dtype=np.float64)) * data[0]


def computed_macs(node: ir.Node, shapes: Mapping[str, Shape]) -> int | None:
    """The multiply-accumulates of a synaptic operator whose weights are computed (of a whole batch, where fixed)."""
    data, weights, result = (
        shapes.get((value.name or "") if value is not None else "") for value in (*node.inputs[:2], node.outputs[0])
    )
    if data is None or weights is None or result is None:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        counts = _convolution_fan_out(node, weights, data, result)
        return int(np.broadcast_to(counts, data[1:]).sum(dtype=np.float64)) * data[0]
    return math.prod(result) * data[_contracted_axis(node, 0)]


def _convolution(node: ir.Node) -> Synapse:
    weights = node.inputs[1]
    assert weights is not None
    assert weights.const_value is not None
    shape = [int(size) for size in weights.const_value.shape.numpy()]
    channels = shape[1] * _integer(node, "group", 1) if node.op_type == "Conv" else shape[0]
    return Synapse(node=node, data_index=0, weight_index=1, channel_axis=1 - len(shape), channels=channels)


def _contracted_axis(node: ir.Node, index: int, *, rank: int | None = None) -> int:
    """The axis of an input of Gemm or MatMul over which products are summed, counted from the right."""
    if node.op_type == "Gemm":
        transposed = _integer(node, "transA" if index == 0 else "transB", 0)
        return -1 if (index == 0) != bool(transposed) else -2
    if index == 0:
        return -1
    if rank is None:
        value = node.inputs[index]
        rank = None if value is None or value.shape is None else len(value.shape)
    return -1 if rank == 1 else -2


def _convolution_fan_out(node: ir.Node, weights: Shape, data: Shape, result: Shape) -> Floats:
    groups = _integer(node, "group", 1)
    outputs_a_group = weights[0] // groups if node.op_type == "Conv" else weights[1]
    counts = np.asarray(float(outputs_a_group), np.float32)
    for axis, reach in enumerate(kernel_reach(node, weights, data, result)):
        outer = result[2 + axis] if node.op_type == "ConvTranspose" else data[2 + axis]
        valid = (reach >= 0) & (reach < outer)
        if node.op_type == "Conv":
            along = np.bincount(reach[valid], minlength=outer).astype(np.float32)
        else:
            along = valid.sum(axis=1).astype(np.float32)
        counts = np.multiply.outer(counts, along)
    return counts[None]


def kernel_reach(node: ir.Node, weights: Shape, data: Shape, result: Shape) -> list[npt.NDArray[np.int64]]:
    """For each spatial axis of a convolution, the position of the larger grid that step i of the strided grid meets.

    Each array is [steps, kernel elements]; positions outside the larger grid are padding.
    """
    kernel = weights[2:]
    spatial = len(kernel)
    strides = _integers(node, "strides", [1] * spatial)
    dilations = _integers(node, "dilations", [1] * spatial)
    pads = _begin_pads(node, data, result, kernel, strides, dilations)
    steps = (result if node.op_type == "Conv" else data)[2:]
    return [
        np.arange(steps[axis])[:, None] * strides[axis] - pads[axis] + np.arange(size)[None, :] * dilations[axis]
        for axis, size in enumerate(kernel)
    ]


def _begin_pads(
    node: ir.Node, data: Shape, result: Shape, kernel: Shape, strides: list[int], dilations: list[int]
) -> list[int]:
    spatial = len(kernel)
    automatic = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if automatic in ("NOTSET", "") and "output_shape" not in node.attributes:
        return _integers(node, "pads", [0] * (2 * spatial))[:spatial]
    if automatic == "VALID":
        return [0] * spatial
    begins, added = [], _integers(node, "output_padding", [0] * spatial)
    for axis in range(spatial):
        small, large = (result, data) if node.op_type == "Conv" else (data, result)
        total = (small[2 + axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - large[2 + axis]
        total = max(total + added[axis], 0)
        begins.append(total // 2 if automatic == "SAME_UPPER" else total - total // 2)
    return begins


def _integer(node: ir.Node, name: str, default: int) -> int:
    return int(node.attributes[name].as_int()) if name in node.attributes else default


def _integers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return [int(value) for value in node.attributes[name].as_ints()] if name in node.attributes else default

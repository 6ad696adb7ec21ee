"""What a synapse is: fan-out against a loop over all products, thresholds folded into weights against the product."""

import itertools
import math

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import tiny

from pmsm_cli.graph.synapse import (
    Product,
    computed_macs,
    fan_out,
    fold_threshold,
    multiply_accumulates,
    operand_fan_out,
    product_macs,
    product_of,
    synapse_of,
)

# op and attributes; shape of the data (two images); shape of the weights
CONVOLUTIONS = {
    "1d": ("Conv", "", (2, 3, 9), (4, 3, 3)),
    "1d, strided, padded on one side": ("Conv", "strides = [2], pads = [0, 2]", (2, 3, 9), (4, 3, 4)),
    "2d": ("Conv", "", (2, 3, 6, 7), (4, 3, 3, 3)),
    "pointwise": ("Conv", "", (2, 3, 4, 5), (4, 3, 1, 1)),
    "strided": ("Conv", "strides = [2, 3]", (2, 3, 7, 8), (4, 3, 3, 2)),
    "stride beyond the kernel": ("Conv", "strides = [3, 3]", (2, 2, 8, 8), (2, 2, 1, 2)),
    "asymmetric padding": ("Conv", "pads = [0, 1, 2, 3]", (2, 2, 5, 6), (3, 2, 3, 3)),
    "dilated": ("Conv", "dilations = [2, 3], pads = [2, 2, 2, 2]", (2, 2, 7, 9), (3, 2, 3, 3)),
    "grouped": ("Conv", "group = 2, pads = [1, 1, 1, 1]", (2, 4, 5, 5), (6, 2, 3, 3)),
    "depthwise": ("Conv", "group = 3, pads = [1, 1, 1, 1], strides = [2, 2]", (2, 3, 6, 5), (3, 1, 3, 3)),
    "depthwise with a multiplier": ("Conv", "group = 3", (2, 3, 6, 5), (6, 1, 3, 3)),
    "same upper": ("Conv", 'auto_pad = "SAME_UPPER", strides = [2, 2]', (2, 2, 7, 6), (3, 2, 4, 4)),
    "same lower": ("Conv", 'auto_pad = "SAME_LOWER", strides = [2, 2]', (2, 2, 7, 6), (3, 2, 4, 4)),
    "same lower, unit stride": ("Conv", 'auto_pad = "SAME_LOWER"', (2, 2, 7, 6), (3, 2, 2, 4)),
    "valid": ("Conv", 'auto_pad = "VALID", strides = [2, 2]', (2, 2, 7, 6), (3, 2, 3, 3)),
    "3d": ("Conv", "pads = [1, 0, 1, 1, 0, 0], strides = [1, 2, 1]", (2, 2, 4, 5, 3), (3, 2, 2, 3, 2)),
    "transposed": ("ConvTranspose", "", (2, 3, 4, 5), (3, 4, 3, 3)),
    "transposed 1d": ("ConvTranspose", "strides = [3], pads = [1, 2]", (2, 3, 6), (3, 2, 4)),
    "transposed, strided": ("ConvTranspose", "strides = [2, 3], pads = [1, 0, 2, 1]", (2, 3, 4, 5), (3, 4, 3, 3)),
    "transposed, output padding": (
        "ConvTranspose",
        "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]",
        (2, 3, 4, 5),
        (3, 4, 3, 3),
    ),
    "transposed, grouped": ("ConvTranspose", "group = 2, strides = [2, 2]", (2, 4, 3, 4), (4, 3, 2, 2)),
    "transposed, dilated": ("ConvTranspose", "dilations = [2, 2], pads = [1, 1, 0, 0]", (2, 2, 4, 4), (2, 3, 3, 3)),
    "transposed to a shape": ("ConvTranspose", "strides = [2, 2], output_shape = [8, 9]", (2, 2, 4, 4), (2, 3, 3, 3)),
    "transposed to a shape, upper": (
        "ConvTranspose",
        'strides = [2, 2], output_shape = [8, 8], auto_pad = "SAME_UPPER"',
        (2, 2, 4, 4),
        (2, 3, 3, 3),
    ),
    "transposed to a shape, lower": (
        "ConvTranspose",
        'strides = [2, 2], output_shape = [8, 8], auto_pad = "SAME_LOWER"',
        (2, 2, 4, 4),
        (2, 3, 3, 3),
    ),
    "transposed to a shape, with output padding": (
        "ConvTranspose",
        "strides = [3, 3], output_shape = [9, 10], output_padding = [1, 2]",
        (2, 2, 4, 4),
        (2, 3, 3, 3),
    ),
    "transposed, same upper, with output padding": (
        "ConvTranspose",
        'strides = [3, 3], auto_pad = "SAME_UPPER", output_padding = [1, 2]',
        (2, 2, 4, 4),
        (2, 3, 4, 4),
    ),
    "transposed, same upper": (
        "ConvTranspose",
        'strides = [2, 2], auto_pad = "SAME_UPPER"',
        (2, 2, 4, 4),
        (2, 3, 3, 3),
    ),
    "transposed, valid": ("ConvTranspose", 'strides = [2, 2], auto_pad = "VALID"', (2, 2, 4, 4), (2, 3, 3, 3)),
}
# op and attributes; shape of the data; shape of the weights; which input the data is
PRODUCTS = {
    "Gemm": ("Gemm", "", (2, 5), (5, 3), 0),
    "Gemm, transB": ("Gemm", "transB = 1, alpha = 0.5", (2, 5), (3, 5), 0),
    "Gemm, transA": ("Gemm", "transA = 1", (5, 2), (5, 3), 0),
    "Gemm, both transposed": ("Gemm", "transA = 1, transB = 1", (5, 2), (3, 5), 0),
    "Gemm, data right": ("Gemm", "", (5, 2), (3, 5), 1),
    "Gemm, data right, transB": ("Gemm", "transB = 1", (2, 5), (3, 5), 1),
    "Gemm, data right, transA": ("Gemm", "transA = 1", (5, 2), (5, 3), 1),
    "MatMul": ("MatMul", "", (2, 5), (5, 3), 0),
    "MatMul of tokens": ("MatMul", "", (2, 4, 5), (5, 3), 0),
    "MatMul of four axes": ("MatMul", "", (2, 3, 4, 5), (5, 6), 0),
    "MatMul by a vector": ("MatMul", "", (2, 4, 5), (5,), 0),
    "MatMul, weights left": ("MatMul", "", (2, 5, 4), (3, 5), 1),
    "MatMul, a vector left": ("MatMul", "", (2, 5, 4), (5,), 1),
    "MatMul, batched weights": ("MatMul", "", (2, 3, 4, 5), (3, 5, 6), 0),
    "MatMul, weights spread over heads": ("MatMul", "", (2, 1, 4, 5), (3, 5, 6), 0),
    "MatMul, batched weights left": ("MatMul", "", (2, 3, 5, 4), (3, 6, 5), 1),
}


def one_node(op: str, attributes: str, weights: np.ndarray, data_index: int = 0) -> onnx.ModelProto:
    inputs = "x, w" if data_index == 0 else "w, x"
    bracket = f"<{attributes}>" if attributes else ""
    return shapeless(tiny.model(f"g (float x) => (float y) {{ y = {op} {bracket} ({inputs}) }}", w=weights))


def shapeless(proto: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX text takes a type without a shape for a scalar; here any shape will do."""
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.ClearField("shape")
    return proto


def session_of(proto: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(proto: onnx.ModelProto, data: np.ndarray) -> np.ndarray:
    session = session_of(proto)
    return session.run(None, {"x": data})[0]


def shapes_of(proto: onnx.ModelProto, data: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"x": data, "y": run(proto, np.zeros(data, np.float32)).shape}


def synapse(proto: onnx.ModelProto):
    (node,) = ir.from_proto(proto).graph
    found = synapse_of(node)
    assert found is not None
    return found


def reached_by_each(proto: onnx.ModelProto, data: tuple[int, ...]) -> np.ndarray:
    """How many outputs each element of the data reaches, found by switching on one after the other.

    With weights of one, an output is the number of its products with that element.
    """
    counts = np.zeros(data)
    images = np.eye(math.prod(data), dtype=np.float32).reshape(-1, *data)
    session = session_of(proto)
    for position, image in zip(itertools.product(*map(range, data)), images, strict=True):
        counts[position] = session.run(None, {"x": image})[0].sum()
    return counts


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_the_fan_out_of_a_convolution_is_exact_at_the_borders(case: str):
    op, attributes, data, weights = CONVOLUTIONS[case]
    proto = one_node(op, attributes, np.ones(weights, np.float32))
    counts = fan_out(synapse(proto), shapes_of(proto, data))
    np.testing.assert_array_equal(np.broadcast_to(counts, data), reached_by_each(proto, data))
    assert multiply_accumulates(synapse(proto), shapes_of(proto, data)) == reached_by_each(proto, data).sum()


@pytest.mark.parametrize("case", PRODUCTS)
def test_the_fan_out_of_a_matrix_product_is_exact(case: str):
    op, attributes, data, weights, index = PRODUCTS[case]
    proto = one_node(op, attributes.replace("alpha = 0.5", "alpha = 1.0"), np.ones(weights, np.float32), index)
    counts = fan_out(synapse(proto), shapes_of(proto, data))
    np.testing.assert_array_equal(np.broadcast_to(counts, data), reached_by_each(proto, data))
    assert multiply_accumulates(synapse(proto), shapes_of(proto, data)) == reached_by_each(proto, data).sum()


def test_the_loop_that_checks_fan_outs_agrees_with_one_written_out():
    # Conv, kernel 3, stride 2, one pad on the left: outputs at -1, 1, 3, 5 of a row of seven.
    proto = one_node("Conv", "strides = [2], pads = [1, 0]", np.ones((1, 1, 3), np.float32))
    expected = [0] * 7
    for start in (-1, 1, 3):
        for offset in range(3):
            if 0 <= start + offset < 7:
                expected[start + offset] += 1
    assert reached_by_each(proto, (1, 1, 7))[0, 0].tolist() == [*expected[:5], expected[5] + 0, 0] == expected


@pytest.mark.parametrize("case", [*CONVOLUTIONS, *PRODUCTS])
@pytest.mark.parametrize("per_channel", [False, True])
def test_folded_thresholds_equal_scaled_spikes(case: str, per_channel: bool):
    op, attributes, data, weights, *index = {**CONVOLUTIONS, **PRODUCTS}[case]
    random = np.random.default_rng(1)
    proto = one_node(op, attributes, random.normal(size=weights).astype(np.float32), *index)
    spikes = random.integers(-3, 9, data).astype(np.float32)
    found = synapse(proto)
    assert found.channels == data[found.channel_axis]
    if per_channel:
        threshold = random.uniform(0.2, 2, found.channels).astype(np.float32)
        scale = threshold.reshape(-1, *[1] * (-found.channel_axis - 1))
    else:
        threshold = scale = np.array(0.37, np.float32)
    folded = one_node(op, attributes, fold_threshold(found, threshold), *index)
    np.testing.assert_allclose(run(folded, spikes), run(proto, scale * spikes), rtol=2e-5, atol=2e-5)


def test_folding_leaves_the_weights_alone():
    proto = one_node("Conv", "", np.ones((4, 3, 3, 3), np.float32))
    found = synapse(proto)
    fold_threshold(found, np.array([2, 3, 4], np.float32))
    assert (found.weights == 1).all()


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_computed_weights_count_as_constant_ones_do(case: str):
    op, attributes, data, weights = CONVOLUTIONS[case]
    proto = one_node(op, attributes, np.ones(weights, np.float32))
    shapes = shapes_of(proto, data)
    expected = multiply_accumulates(synapse(proto), shapes)
    del proto.graph.initializer[:]
    (node,) = ir.from_proto(proto).graph
    assert synapse_of(node) is None
    assert computed_macs(node, {**shapes, "w": weights}) == expected


def test_a_gemm_of_two_activations_counts_its_products():
    proto = tiny.model("g (float x, float w) => (float y) { y = Gemm <transA = 1> (x, w) }")
    (node,) = ir.from_proto(shapeless(proto)).graph
    assert computed_macs(node, {"x": (5, 2), "w": (5, 3), "y": (2, 3)}) == 30
    assert computed_macs(node, {"x": (5, 2), "y": (2, 3)}) is None


@pytest.mark.parametrize(
    "node",
    [
        "y = Relu (x)",
        "y = Conv (x, x)",
        "y = Conv (w, x)",
        "y = Conv (x, w, b)",  # a bias that is computed would gather in the membrane
        "y = MatMul (x, x)",
        "y = MatMul (w, w)",
        "y = Gemm (x, b)",
    ],
)
def test_operators_without_constant_weights_are_no_synapses(node: str):
    proto = tiny.model(f"g (float x, float b) => (float y) {{ {node} }}", w=tiny.weights(3, 3, 1, 1))
    (found,) = ir.from_proto(shapeless(proto)).graph
    assert synapse_of(found) is None


def test_shapes_that_are_not_known_give_no_count():
    proto = one_node("Conv", "", np.ones((4, 3, 3, 3), np.float32))
    assert fan_out(synapse(proto), {}) is None
    assert multiply_accumulates(synapse(proto), {"x": (1, 3, 8, 8)}) is None


def test_a_product_of_activations_shares_its_work_evenly():
    proto = tiny.model("g (float x, float w) => (float y) { y = MatMul (x, w) }")
    (node,) = ir.from_proto(shapeless(proto)).graph
    product = product_of(node)
    assert isinstance(product, Product)
    # Two images, three heads, four tokens of five channels against seven: 2 x 3 x 4 x 5 x 7 products.
    shapes = {"x": (2, 3, 4, 5), "w": (2, 3, 5, 7), "y": (2, 3, 4, 7)}
    assert product_macs(product, shapes) == 840
    assert operand_fan_out(product, 0, shapes) == 7
    assert operand_fan_out(product, 1, shapes) == 4

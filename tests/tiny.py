"""Tiny ONNX networks for tests, a few lines of ONNX text each, with seeded random weights.

`model(text, **weights)` makes any network; the rest are ready-made and each takes a keyword or two. All read `image`, a
float tensor of [N, 3, 8, 8] unless told otherwise, and give `scores`.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnx.parser

Array = npt.NDArray[np.float32]
CLASSES = 5


def weights(*shape: int, seed: int = 0, scale: float | None = None) -> Array:
    """Seeded normal values, scaled so that a layer of them keeps the size of its input (He's rule)."""
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
    spread = (2 / fan_in) ** 0.5 if scale is None else scale
    return np.random.default_rng((seed, *shape)).normal(0, spread, shape).astype(np.float32)


def model(
    text: str, *, opset: int = 20, ir_version: int = 10, **initializers: npt.NDArray[np.generic]
) -> onnx.ModelProto:
    """A model from the text of its graph; each keyword becomes the initialiser of that name.

    >>> model("g (float[N, 2] x) => (float[N, 3] y) { y = MatMul(x, w) }", w=weights(2, 3)).graph.node[0].op_type
    'MatMul'
    """
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.example" : 1]>'
    proto = onnx.parser.parse_model(header + text)
    for name, value in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return proto


def convolutional(
    *, size: int | str = 8, channels: int = 3, batch: int | str = "N", classes: int = CLASSES, seed: int = 0
) -> onnx.ModelProto:
    """Conv, Relu, Conv, Relu, GlobalAveragePool, Flatten, Gemm: two sites, one analog first layer."""
    return model(
        f"""
        tiny (float[{batch}, {channels}, {size}, {size}] image) => (float[{batch}, {classes}] scores) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2, b2)
            d = Relu (c)
            e = GlobalAveragePool (d)
            f = Flatten (e)
            scores = Gemm <transB = 1> (f, w3, b3)
        }}""",
        w1=weights(4, channels, 3, 3, seed=seed),
        b1=weights(4, seed=seed + 1, scale=0.1),
        w2=weights(6, 4, 3, 3, seed=seed),
        b2=weights(6, seed=seed + 2, scale=0.1),
        w3=weights(classes, 6, seed=seed),
        b3=weights(classes, seed=seed + 3, scale=0.1),
    )


def batch_norm(*, opset: int = 20) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, Conv, GlobalAveragePool, Flatten, Gemm."""
    return model(
        """
        tiny_bn (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = BatchNormalization <epsilon = 0.001> (a, gamma, beta, mean, variance)
            c = Relu (b)
            d = Conv <pads = [1, 1, 1, 1]> (c, w2)
            e = GlobalAveragePool (d)
            f = Flatten (e)
            scores = Gemm <transB = 1> (f, w3)
        }""",
        opset=opset,
        w1=weights(4, 3, 3, 3),
        gamma=1 + weights(4, seed=1, scale=0.2),
        beta=weights(4, seed=2, scale=0.2),
        mean=weights(4, seed=3, scale=0.2),
        variance=1 + np.abs(weights(4, seed=4, scale=0.2)),
        w2=weights(6, 4, 3, 3),
        w3=weights(5, 6),
    )


def residual() -> onnx.ModelProto:
    """Two branches of one tensor added up: a signed site (no Relu before the last Conv) and a shared one."""
    return model(
        """
        tiny_residual (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2)
            d = Conv (b, w3)
            e = Add (c, d)
            f = Conv (e, w4)
            g = GlobalAveragePool (f)
            h = Flatten (g)
            scores = Gemm <transB = 1> (h, w5)
        }""",
        w1=weights(4, 3, 3, 3),
        w2=weights(4, 4, 3, 3),
        w3=weights(4, 4, 1, 1),
        w4=weights(6, 4, 1, 1),
        w5=weights(5, 6),
    )


def two_outputs() -> onnx.ModelProto:
    """A network with class scores and a second output of another rank."""
    return model(
        """
        tiny_pair (float[N, 3, 8, 8] image) => (float[N, 5] scores, float[N, 2, 8, 8] map) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Relu (a)
            map = Conv (b, w2)
            c = GlobalAveragePool (b)
            d = Flatten (c)
            scores = Gemm <transB = 1> (d, w3)
        }""",
        w1=weights(4, 3, 3, 3),
        w2=weights(2, 4, 1, 1),
        w3=weights(5, 4),
    )


def channels_last() -> onnx.ModelProto:
    """As `convolutional`, but the image comes as [N, height, width, channels]."""
    return model(
        """
        tiny_nhwc (float[N, 8, 8, 3] image) => (float[N, 5] scores) {
            t = Transpose <perm = [0, 3, 1, 2]> (image)
            a = Conv <pads = [1, 1, 1, 1]> (t, w1)
            b = Relu (a)
            c = Conv (b, w2)
            d = GlobalAveragePool (c)
            e = Flatten (d)
            scores = Gemm <transB = 1> (e, w3)
        }""",
        w1=weights(4, 3, 3, 3),
        w2=weights(6, 4, 1, 1),
        w3=weights(5, 6),
    )


def without_synapse() -> onnx.ModelProto:
    """A network that multiplies nothing with weights: pooling alone."""
    return model(
        """
        no_synapse (float[N, 3, 8, 8] image) => (float[N, 3] scores) {
            a = Relu (image)
            b = GlobalAveragePool (a)
            scores = Flatten (b)
        }"""
    )


def one_layer() -> onnx.ModelProto:
    """A single convolution: the first layer reads the analog image, so that nothing becomes spikes."""
    return model(
        """
        one_layer (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] scores) {
            scores = Conv <pads = [1, 1, 1, 1]> (image, w1)
        }""",
        w1=weights(4, 3, 3, 3),
    )


def text_input() -> onnx.ModelProto:
    """A network that reads token numbers and not an image."""
    return model(
        """
        tokens (int64[N, 16] tokens) => (float[N, 16, 5] scores) {
            a = Gather (table, tokens)
            scores = MatMul (a, w1)
        }""",
        table=weights(10, 4),
        w1=weights(4, 5),
    )


def vector_input() -> onnx.ModelProto:
    """A network that reads a plain vector."""
    return model(
        """
        vector (float[N, 16] features) => (float[N, 5] scores) {
            a = MatMul (features, w1)
            b = Relu (a)
            scores = MatMul (b, w2)
        }""",
        w1=weights(16, 8),
        w2=weights(8, 5),
    )


def quantised() -> onnx.ModelProto:
    """A network that was quantised before: QuantizeLinear and DequantizeLinear around its convolution."""
    return model(
        """
        quantised (float[N, 3, 8, 8] image) => (float[N, 4] scores) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            q = QuantizeLinear (a, scale, zero)
            d = DequantizeLinear (q, scale, zero)
            b = Conv (d, w2)
            c = GlobalAveragePool (b)
            scores = Flatten (c)
        }""",
        w1=weights(4, 3, 3, 3),
        w2=weights(4, 4, 1, 1),
        scale=np.float32(0.05),
        zero=np.uint8(128),
    )


def custom_op() -> onnx.ModelProto:
    """A network with an operator that nobody knows, `com.example.Mystery`."""
    return model(
        """
        custom (float[N, 3, 8, 8] image) => (float[N, 4] scores) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = com.example.Mystery (a)
            c = Conv (b, w2)
            d = GlobalAveragePool (c)
            scores = Flatten (d)
        }""",
        w1=weights(4, 3, 3, 3),
        w2=weights(4, 4, 1, 1),
    )


def save(proto: onnx.ModelProto, path: Path) -> Path:
    """Write a network to a file and hand the path back."""
    path.write_bytes(proto.SerializeToString())
    return path


def images(count: int, *shape: int, seed: int = 0) -> Array:
    """Seeded inputs as a network would read them, `count` of the given shape (3, 8, 8 if none is given)."""
    return np.random.default_rng(seed).normal(0, 1, (count, *(shape or (3, 8, 8)))).astype(np.float32)

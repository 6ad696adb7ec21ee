"""Tiny networks that fine-tuning is tried on beside those of `tiny`."""

import numpy as np
import onnx
import tiny


def grouped() -> onnx.ModelProto:
    """Grouped and depthwise convolutions, a transposed one, none with a bias."""
    return tiny.model(
        """
        tiny_grouped (float[N, 3, 8, 8] image) => (float[N, 4, 14, 14] map) {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Relu (a)
            c = Conv <group = 4> (b, w2)
            d = LeakyRelu (c)
            e = Conv <group = 2, pads = [1, 1, 1, 1]> (d, w3)
            f = Relu (e)
            map = ConvTranspose <strides = [2, 2], group = 2, output_padding = [1, 1], pads = [0, 0, 0, 0]> (f, w4)
        }""",
        w1=tiny.weights(4, 3, 3, 3),
        w2=tiny.weights(4, 1, 3, 3),
        w3=tiny.weights(4, 2, 3, 3),
        w4=tiny.weights(4, 2, 3, 3),
    )


def varied(*, batch: int | str = "N") -> onnx.ModelProto:
    """Conv, Relu, Conv, Relu, Flatten, Gemm: without pooling, so that noise images get different classes."""
    return tiny.model(
        f"""
        tiny_varied (float[{batch}, 3, 8, 8] image) => (float[{batch}, 5] scores) {{
            a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (image, w1, b1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (b, w2, b2)
            d = Relu (c)
            e = Flatten (d)
            scores = Gemm <transB = 1> (e, w3, b3)
        }}""",
        w1=tiny.weights(8, 3, 3, 3),
        b1=tiny.weights(8, scale=0.1),
        w2=tiny.weights(8, 8, 3, 3),
        b2=tiny.weights(8, seed=1, scale=0.1),
        w3=tiny.weights(5, 32, scale=0.5),
        b3=tiny.weights(5, scale=0.1),
    )


def attention() -> onnx.ModelProto:
    """One block of a transformer: products of two activations, layer norm, GELU, biases that are added."""
    return tiny.model(
        """
        tiny_attention (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            p = Conv <strides = [2, 2]> (image, wp, bp)
            f = Reshape (p, tokens)
            x = Transpose <perm = [0, 2, 1]> (f)
            n = LayerNormalization (x, g1, b1)
            q = MatMul (n, wq)
            k = MatMul (n, wk)
            v = MatMul (n, wv)
            kt = Transpose <perm = [0, 2, 1]> (k)
            d = MatMul (q, kt)
            s = Mul (d, root)
            a = Softmax (s)
            o = MatMul (a, v)
            y = MatMul (o, wo)
            z = Add (y, bo)
            r = Add (x, z)
            m = LayerNormalization (r, g2, b2)
            h = MatMul (m, w1)
            u = Gelu (h)
            t = ReduceMean <keepdims = 0> (u, axis)
            scores = Gemm <transB = 1> (t, w2, b3)
        }""",
        tokens=np.array([0, 8, -1], np.int64),
        axis=np.array([1], np.int64),
        root=np.float32(8**-0.5),
        wp=tiny.weights(8, 3, 2, 2),
        bp=tiny.weights(8),
        **{name: tiny.weights(8, 8, seed=index) for index, name in enumerate(("wq", "wk", "wv", "wo"))},
        **{name: 1 + tiny.weights(8, seed=index, scale=0.1) for index, name in enumerate(("g1", "g2"))},
        **{name: tiny.weights(8, seed=index + 5, scale=0.1) for index, name in enumerate(("b1", "b2", "bo"))},
        w1=tiny.weights(8, 16),
        w2=tiny.weights(5, 16),
        b3=tiny.weights(5),
    )


def heads() -> onnx.ModelProto:
    """Queries times keys in two heads, each with a scale of its own."""
    return tiny.model(
        """
        tiny_heads (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            p = Conv <strides = [2, 2]> (image, wp, bp)
            f = Reshape (p, tokens)
            q = Transpose <perm = [0, 1, 3, 2]> (f)
            k = Mul (f, sizes)
            d = MatMul (q, k)
            m = ReduceMean <keepdims = 0> (d, axis)
            g = Flatten (m)
            scores = MatMul (g, w2)
        }""",
        tokens=np.array([0, 2, 4, -1], np.int64),
        axis=np.array([3], np.int64),
        sizes=np.array([1, 5], np.float32).reshape(2, 1, 1),
        wp=tiny.weights(8, 3, 2, 2),
        bp=tiny.weights(8),
        w2=tiny.weights(32, 5, scale=0.5),
    )

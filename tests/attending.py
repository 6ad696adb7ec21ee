"""Attention in two heads, with what exporters write between the products and the neurons of queries, keys and values."""

import numpy as np
import onnx
import tiny


def attending(moves: str, scale: str = "e = Mul (q, root)") -> onnx.ModelProto:
    """Attention in two heads of four, queries, keys and values from one product `x` [N, 16, 24]."""
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 16, 5] scores) {{
            p = Conv <strides = [2, 2]> (image, wp)
            f = Reshape (p, tokens)
            t = Transpose <perm = [0, 2, 1]> (f)
            n = LayerNormalization (t, gamma)
            x = MatMul (n, wx)
            {moves}
            {scale}
            d = MatMul (e, kt)
            a = Softmax (d)
            o = MatMul (a, v)
            m = Transpose <perm = [0, 2, 1, 3]> (o)
            r = Reshape (m, flat)
            scores = MatMul (r, wo)
        }}""",
        tokens=np.array([0, 8, -1]),
        flat=np.array([0, 16, 8]),
        parts=np.array([0, 16, 3, 2, 4]),
        rows=np.array([0, 16, 2, 4]),
        first=np.array([0]),
        second=np.array([1]),
        third=np.array([2]),
        end=np.array([3]),
        thirds=np.array([8, 8, 8]),
        root=np.float32(0.5),
        centre=tiny.weights(2, 4, 1),
        roots=np.array([0.5, 0.25, 0.5, 0.25], np.float32),
        gamma=1 + tiny.weights(8, scale=0.2),
        wp=tiny.weights(8, 3, 2, 2),
        wx=tiny.weights(8, 24),
        wo=tiny.weights(8, 5),
    )


SPLIT = """
    h = Reshape (x, parts)
    u = Transpose <perm = [2, 0, 3, 1, 4]> (h)
    q1 = Slice (u, first, second, first)
    q = Squeeze (q1, first)
    k1 = Slice (u, second, third, first)
    k = Squeeze (k1, first)
    v1 = Slice (u, third, end, first)
    v = Squeeze (v1, first)
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
"""
APART = """
    q0, k0, v0 = Split <axis = 2> (x, thirds)
    q1 = Reshape (q0, rows)
    q = Transpose <perm = [0, 2, 1, 3]> (q1)
    k1 = Reshape (k0, rows)
    kt = Transpose <perm = [0, 2, 3, 1]> (k1)
    v1 = Reshape (v0, rows)
    v = Transpose <perm = [0, 2, 1, 3]> (v1)
"""

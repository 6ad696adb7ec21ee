"""Shortcuts without weights on integers: what is copied by a convolution, and what is left alone."""

import integers
import numpy as np
import onnx
import pytest
import tiny

from pmsm_cli.lowering.lower import Use, lower, lower_further
from pmsm_cli.runtime.library import find_library

IMAGES = integers.images(3)
EVERY_OTHER = "Slice (l, starts, ends, axes, steps)"
PADDED = "Pad (x, pads, zero)"


def thinned(
    thin: str = EVERY_OTHER,
    pad: str = PADDED,
    *,
    pads: tuple[int, ...] = (0, 1, 0, 0, 0, 1, 0, 0),
    steps=(2, 2),
    fill=0.0,
) -> onnx.ModelProto:
    """A residual sum whose shortcut takes every other place, and has channels of zeros put around its own."""
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 5] scores) {{
            i = Conv <pads = [1, 1, 1, 1]> (image, w0)
            j = Relu (i)
            k = Conv (j, w5)
            l = Relu (k)
            a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (l, w1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2)
            x = {thin}
            y = {pad}
            s = Add (c, y)
            d = Relu (s)
            e = Conv (d, w3)
            f = Relu (e)
            p = GlobalAveragePool (f)
            h = Flatten (p)
            scores = Gemm <transB = 1> (h, w4)
        }}""",
        w0=integers.whole(4, 3, 3, 3, most=9),
        w1=integers.whole(6, 4, 3, 3),
        w2=integers.whole(6, 6, 3, 3, seed=1),
        w3=integers.whole(6, 6, 1, 1, seed=2),
        w4=integers.whole(5, 6, seed=3),
        w5=integers.whole(4, 4, 1, 1, seed=4),
        starts=np.array([0, 0]),
        ends=np.array([8, 2**63 - 1]),
        axes=np.array([2, -1]),
        steps=np.array(steps),
        pads=np.array(pads),
        zero=np.array(fill, np.float32),
    )


def low_graph(network: onnx.ModelProto):
    made = integers.definition(network, ranges=(0.0, 255.0))
    return made, lower(made.model, made.weights)[0]


def test_a_thinned_and_padded_shortcut_stays_on_integers():
    made, low = low_graph(thinned())
    (got,), (expected,) = integers.outputs(low, IMAGES), integers.outputs(made.model, IMAGES)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert not {"Slice", "Pad"} & integers.ops(low).keys()


@pytest.mark.skipif(find_library() is None, reason="the native library was not built")
def test_on_the_library_the_copy_is_added_in_the_convolution():
    _, low = low_graph(thinned())
    further, _ = lower_further(low, Use(multiplies_fast=True))
    (got,), (expected,) = integers.outputs(further, IMAGES, library=find_library()), integers.outputs(low, IMAGES)
    np.testing.assert_array_equal(got, expected)
    assert not {"QLinearAdd", "QLinearConv"} & integers.ops(further).keys()
    assert integers.ops(further)["ConvolutionCodes"] == 5


@pytest.mark.parametrize(
    "network",
    [
        thinned(pads=(0, 1, -1, 0, 0, 1, 1, 0)),  # moves rows
        thinned(fill=1.0),  # channels of ones
        thinned(pad='Pad <mode = "reflect"> (x, pads)'),  # channels repeated
    ],
)
def test_what_is_no_copy_stays_in_floats(network):
    made, low = low_graph(network)
    (got,), (expected,) = integers.outputs(low, IMAGES), integers.outputs(made.model, IMAGES)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert integers.ops(low)["Pad"] == 1

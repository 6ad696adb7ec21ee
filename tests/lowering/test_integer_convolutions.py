"""Integer convolutions on the library, with the sums and neurons behind them, against onnxruntime's own operators."""

import integers
import numpy as np
import onnx
import pytest
import test_lower
import test_native
import tiny

from pmsm_cli.lowering.lower import Use, lower, lower_further
from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")
REPLACED = {"QLinearConv", "BoundCodes"}


def both(made: integers.Definition) -> tuple[dict[str, int], list[np.ndarray], list[np.ndarray]]:
    """The operators of the graph with the library's convolutions, its outputs, and those on stock onnxruntime."""
    further, got, expected = test_native.both(made, Use(multiplies_fast=True))
    return integers.ops(further), got, expected


@pytest.mark.parametrize("rest", [0, 4])
@pytest.mark.parametrize("levels", [(0, 15), (7, 7), (4, 3), (100, 155)])
@pytest.mark.parametrize("clip", ["Relu (a)", "Clip (a, low, high)", "Identity (a)"])
def test_the_library_gives_the_very_outputs_of_stock_operators(clip, levels, rest):
    ops, got, expected = both(integers.definition(test_lower.plain(clip=clip), levels=levels, rest=rest))
    np.testing.assert_array_equal(got[0], expected[0])
    assert ops["ConvolutionCodes"] >= 1
    assert not REPLACED & ops.keys()


@pytest.mark.parametrize("levels", [(0, 15), (7, 7)])
@pytest.mark.parametrize("last", ["Relu (s)", "Identity (s)"])
def test_a_residual_sum_and_the_neurons_on_it_are_part_of_the_convolution(last, levels):
    ranges = (-127.5, 0.0) if last != "Relu (s)" else (0.0, 255.0)
    ops, got, expected = both(integers.definition(test_lower.residual(last), levels=levels, ranges=ranges))
    np.testing.assert_array_equal(got[0], expected[0])
    assert ops["ConvolutionCodes"] == 3
    assert not (REPLACED | {"QLinearAdd"}) & ops.keys()
    assert ops["AffineCodes"] == 1  # the neurons on what the first layer gives, which is no layer of spikes


def shortcut() -> onnx.ModelProto:
    """Two convolutions of the same spikes, summed up; what the sum is read by is a convolution and another sum."""
    return tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            i = Conv <pads = [1, 1, 1, 1]> (image, w0)
            j = Relu (i)
            a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (j, w1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2)
            k = Conv <strides = [2, 2]> (j, w3)
            s = Add (k, c)
            d = Relu (s)
            e = Conv (d, w4)
            t = Add (e, d)
            f = Relu (t)
            p = GlobalAveragePool (f)
            h = Flatten (p)
            scores = Gemm <transB = 1> (h, w5)
        }""",
        w0=integers.whole(4, 3, 3, 3, most=9),
        w1=integers.whole(6, 4, 3, 3),
        w2=integers.whole(6, 6, 3, 3, seed=1),
        w3=integers.whole(6, 4, 1, 1, seed=2),
        w4=integers.whole(6, 6, 1, 1, seed=3),
        w5=integers.whole(5, 6, seed=4),
    )


def test_of_two_convolutions_that_are_summed_up_one_adds_the_other():
    ops, got, expected = both(integers.definition(shortcut(), ranges=(0.0, 255.0)))
    np.testing.assert_array_equal(got[0], expected[0])
    assert ops["ConvolutionCodes"] == 4
    assert not (REPLACED | {"QLinearAdd"}) & ops.keys()


def test_a_processor_without_such_products_keeps_the_convolutions_of_onnxruntime():
    made = integers.definition(test_lower.residual(), ranges=(0.0, 255.0))
    further, _ = lower_further(lower(made.model, made.weights)[0], Use())
    assert "ConvolutionCodes" not in integers.ops(further)


def test_groups_of_several_channels_stay_with_onnxruntime():
    network = test_lower.plain()
    grouped = next(node for node in network.graph.node if node.output[0] == "c")
    next(each for each in grouped.attribute if each.name == "group").i = 2
    kernel = next(each for each in network.graph.initializer if each.name == "w2")
    kernel.CopyFrom(onnx.numpy_helper.from_array(integers.whole(4, 2, 3, 3, seed=1), "w2"))
    ops, got, expected = both(integers.definition(network))
    np.testing.assert_array_equal(got[0], expected[0])
    assert ops["QLinearConv"] == ops["ConvolutionCodes"] == 1


def first(kernel: int = 3, *, outputs: str = "float[N, 5] scores", clip: str = "Relu (i)") -> onnx.ModelProto:
    """A first layer, a second one and a classifier; `j` is what the first one gives."""
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => ({outputs}) {{
            i = Conv <pads = [1, 1, 1, 1]> (image, w0, b0)
            j = {clip}
            a = Conv (j, w1)
            b = Relu (a)
            p = GlobalAveragePool (b)
            h = Flatten (p)
            scores = Gemm <transB = 1> (h, w2)
        }}""",
        w0=integers.whole(4, 3, kernel, kernel, most=9),
        b0=integers.whole(4, most=99),
        w1=integers.whole(6, 4, 1, 1, seed=1),
        w2=integers.whole(5, 6, seed=2),
        low=np.float32(-1),
        high=np.float32(6),
    )


@pytest.mark.parametrize("rest", [0, 4])
@pytest.mark.parametrize("clip", ["Relu (i)", "Clip (i, low, high)", "Identity (i)"])
def test_a_first_layer_leaves_codes(clip, rest):
    ops, got, expected = both(integers.definition(first(clip=clip), levels=(7, 7), rest=rest, ranges=(0.0, 255.0)))
    np.testing.assert_array_equal(got[0], expected[0])
    assert ops["ImageCodes"] == 1
    assert not {"Conv", "SpikeCodesLast"} & ops.keys()


@pytest.mark.parametrize(
    "network", [first(outputs="float[N, 5] scores, float[N, 4, 8, 8] j"), first(kernel=5)], ids=["read", "large"]
)
def test_a_first_layer_that_others_read_or_of_large_windows_stays_with_onnxruntime(network):
    ops, got, expected = both(integers.definition(network, ranges=(0.0, 255.0)))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert "ImageCodes" not in ops
    assert ops["Conv"] == 1

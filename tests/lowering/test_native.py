"""The integer graph on the library's operators against the same graph on onnxruntime's own."""

import integers
import numpy as np
import onnx
import pytest
import spiking
import test_lower
import tiny
from attending import APART, SPLIT, attending

from pmsm_cli.lowering.lower import Use, lower, lower_further
from pmsm_cli.lowering.settle import settle_weights
from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")
IMAGES = integers.images(3)


def both(
    made: integers.Definition, use: Use | None = None
) -> tuple[onnx.ModelProto, list[np.ndarray], list[np.ndarray]]:
    """The graph on the library, its outputs, and those on stock onnxruntime."""
    low, _ = lower(made.model, made.weights)
    further, changed = lower_further(low, use or Use())
    assert changed
    return further, integers.outputs(further, IMAGES, library=LIBRARY), integers.outputs(low, IMAGES)


@pytest.mark.parametrize("rest", [0, 4])
@pytest.mark.parametrize("levels", [(0, 15), (7, 7), (4, 3), (100, 155)])
@pytest.mark.parametrize("clip", ["Relu (a)", "Clip (a, low, high)", "Identity (a)"])
def test_the_library_gives_the_very_outputs_of_stock_operators(clip, levels, rest):
    further, got, expected = both(integers.definition(test_lower.plain(clip=clip), levels=levels, rest=rest))
    np.testing.assert_array_equal(got[0], expected[0])
    assert not {"QuantizeLinear", "Clip", "Max", "Min"} & integers.ops(further).keys()


@pytest.mark.parametrize("levels", [(0, 15), (7, 7)])
@pytest.mark.parametrize("last", ["Relu (s)", "Identity (s)"])
def test_residual_sums_and_the_neurons_behind_them_give_the_same(last, levels):
    ranges = (-127.5, 0.0) if last != "Relu (s)" else (0.0, 255.0)
    further, got, expected = both(integers.definition(test_lower.residual(last), levels=levels, ranges=ranges))
    np.testing.assert_array_equal(got[0], expected[0])
    assert integers.ops(further)["AffineCodes"] >= 1


@pytest.mark.parametrize(
    "after", ["scores = Identity (c)", "scores = Add (c, bias)", "d = Add (c, bias)\n scores = Add (d, b)"]
)
def test_products_of_many_rows_are_layers_of_one_place_where_onnxruntime_has_no_fast_ones(after):
    proto = tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 64, 4] scores) {{
            i = Conv (image, w0)
            r = Relu (i)
            f = Reshape (r, shape)
            b = Transpose <perm = [0, 2, 1]> (f)
            c = MatMul (b, w1)
            {after}
        }}""",
        w0=integers.whole(4, 3, 1, 1),
        w1=integers.whole(4, 4),
        bias=integers.whole(4, most=99),
        shape=np.array([0, 4, 64]),
    )
    further, got, expected = both(integers.definition(proto), Use(multiplies_fast=True))
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)  # a bias is added in another place
    ops = integers.ops(further)
    assert ops["ConvolutionSteps"] == 1
    assert not {"MatMulIntegerToFloat", "Add"} & ops.keys()


def test_between_convolutions_nothing_changes_the_layout(tmp_path):
    made = integers.definition(test_lower.residual(), ranges=(0.0, 255.0))
    further, _ = lower_further(lower(made.model, made.weights)[0], Use())
    integers.outputs(further, IMAGES, str(tmp_path / "run.onnx"), library=LIBRARY)
    graph = onnx.load(tmp_path / "run.onnx").graph
    by_input = {name: node for node in graph.node for name in node.input}
    convolutions = [node for node in graph.node if node.op_type == "QLinearConv"]
    assert len(convolutions) == 3
    assert all(by_input[node.output[0]].op_type != "Transpose" for node in convolutions[:-1])


def test_pooled_and_joined_codes_keep_channels_last():
    network = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 5, 4, 4] scores) {
            i = Conv <pads = [1, 1, 1, 1]> (image, w0)
            j = Relu (i)
            a = Conv <pads = [1, 1, 1, 1]> (j, w1)
            b = Relu (a)
            p = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (b)
            c = Conv (p, w2)
            d = Relu (c)
            e = Conv (d, w3)
            f = Conv (d, w4)
            x = Concat <axis = 1> (e, f)
            y = Relu (x)
            scores = Conv (y, w5)
        }""",
        w0=integers.whole(4, 3, 3, 3, most=9),
        w1=integers.whole(4, 4, 3, 3),
        w2=integers.whole(4, 4, 1, 1, seed=1),
        w3=integers.whole(4, 4, 1, 1, seed=2),
        w4=integers.whole(2, 4, 1, 1, seed=3),
        w5=integers.whole(5, 6, 1, 1, seed=4),
    )
    further, got, expected = both(integers.definition(network, ranges=(0.0, 255.0)))
    np.testing.assert_array_equal(got[0], expected[0])
    assert integers.ops(further)["NhwcMaxPool"] == 1


def test_a_network_of_matrix_products_gives_the_same():
    checkpoint = spiking.checkpoint_of(tiny.residual(), tiny.images(8))
    low, _ = lower(checkpoint.model, {})
    further, _ = lower_further(low, Use())
    (got,), (expected,) = (integers.outputs(model, tiny.images(4), library=LIBRARY) for model in (further, low))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_graph_that_it_is_made_from_stays_as_it_was():
    made = integers.definition(test_lower.plain())
    low, _ = lower(made.model, made.weights)
    before = spiking.serialised(low)
    lower_further(low, Use())
    assert spiking.serialised(low) == before


def attention_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Its graph on the library, after checking that its outputs are those of the graph on stock operators."""
    checkpoint = spiking.checkpoint_of(proto, tiny.images(16), levels=15)
    model, weights = settle_weights(checkpoint.model, {})
    low, _ = lower(model, weights)
    further, _ = lower_further(low, Use())
    results = (integers.outputs(each, tiny.images(4), library=LIBRARY) for each in (further, low, model))
    for got, stock, defined in zip(*results, strict=True):
        np.testing.assert_allclose(got, stock, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got, defined, rtol=1e-3, atol=1e-4)
    return further


@pytest.mark.parametrize("moves", [SPLIT, APART])
@pytest.mark.parametrize("scale", ["e = Mul (q, root)", "e = Mul (root, q)", "e = Identity (q)"])
def test_queries_keys_and_values_become_codes_before_they_are_moved(moves, scale):
    further = attention_of(attending(moves, scale))
    floats = [node for node in further.graph if node.op_type in ("Transpose", "Split", "Slice", "Squeeze")]
    behind = [node for node in floats if node.inputs[0].dtype != integers.ir.DataType.UINT8]
    # What is left are the image's tokens and the heads' way back.
    assert [node.op_type for node in behind] == ["Transpose", "Transpose"]
    assert integers.ops(further)["SpikeCodes"] == 3  # the norm's, those of x, the output's


@pytest.mark.parametrize("moves", [SPLIT, APART])
def test_what_is_taken_off_keys_goes_into_their_neurons(moves):
    further = attention_of(attending(moves.replace("kt =", "kr =") + "kt = Sub (kr, centre)"))
    ops = integers.ops(further)
    assert ops["SpikeCodes"] == 3
    assert "Sub" not in ops


def test_a_factor_of_each_entry_goes_into_its_threshold():
    ops = integers.ops(attention_of(attending(SPLIT, "e = Mul (q, roots)")))
    assert ops["SpikeCodes"] == 3
    assert "Mul" not in ops


@pytest.mark.parametrize("handed_out", ["k", "kt", "x"])
def test_what_is_handed_out_is_not_rounded_where_neurons_read_it_moved(handed_out):
    proto = attending(SPLIT)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(handed_out, onnx.TensorProto.FLOAT, None))
    ops = integers.ops(attention_of(proto))
    assert ops["Transpose"] > 3


def test_attention_weights_are_one_operator_from_scores_to_codes_and_their_sums():
    ops = integers.ops(attention_of(attending(SPLIT)))
    assert ops["SoftmaxCodes"] == 1
    assert not {"Softmax", "ReduceMax", "ReduceSum", "DequantizeLinear"} & ops.keys()


def test_attention_weights_that_the_graph_hands_out_stay_a_softmax():
    proto = attending(SPLIT)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, None))
    ops = integers.ops(attention_of(proto))
    assert "Softmax" in ops
    assert "SoftmaxCodes" not in ops


@pytest.mark.parametrize(
    "cut", ["a1, b1 = Split <axis = 0> (x, ones)", "a1 = Slice (x, zero, one) b1 = Slice (x, one, two)"]
)
def test_neurons_of_parts_of_a_fixed_first_axis_keep_their_own_thresholds(cut):
    proto = tiny.model(
        f"""
        g (float[2, 3, 8, 8] image) => (float[1, 64, 5] scores) {{
            r = Reshape (image, rows)
            t = Transpose <perm = [0, 2, 1]> (r)
            x = MatMul (t, w0)
            {cut}
            b2 = Mul (b1, four)
            y = MatMul (a1, w1)
            z = MatMul (b2, w2)
            scores = Add (y, z)
        }}""",
        rows=np.array([2, 3, 64]),
        ones=np.array([1, 1]),
        zero=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
        four=np.float32(4),
        w0=tiny.weights(3, 4),
        w1=tiny.weights(4, 5, seed=1),
        w2=tiny.weights(4, 5, seed=2),
    )
    checkpoint = spiking.checkpoint_of(proto, tiny.images(2), levels=15)
    low, _ = lower(*settle_weights(checkpoint.model, {}))
    further, _ = lower_further(low, Use())
    (got,), (expected,) = (integers.outputs(each, tiny.images(2), library=LIBRARY) for each in (further, low))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)

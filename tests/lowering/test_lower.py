"""The integer graph against the graph of the file: spike for spike, and on the kernels that it is made for."""

import integers
import numpy as np
import onnx
import pytest
import spiking
import tiny
from trainable import attention

from pmsm_cli.lowering.lower import Use, lower, tidy

IMAGES = integers.images(3)


def plain(*, clip: str = "Relu (a)") -> onnx.ModelProto:
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 5] scores) {{
            i = Conv <pads = [1, 1, 1, 1]> (image, w0)
            j = Relu (i)
            a = Conv <pads = [1, 1, 1, 1]> (j, w1, b1)
            b = {clip}
            c = Conv <pads = [1, 1, 1, 1], group = 4> (b, w2)
            d = Relu (c)
            p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
            e = Conv (p, w3)
            f = GlobalAveragePool (e)
            h = Flatten (f)
            scores = Gemm <transB = 1> (h, w4, b4)
        }}""",
        w0=integers.whole(4, 3, 3, 3, most=9),
        w1=integers.whole(4, 4, 3, 3),
        b1=integers.whole(4, most=99),
        w2=integers.whole(4, 1, 3, 3, seed=1),
        w3=integers.whole(6, 4, 1, 1, seed=2),
        w4=integers.whole(5, 6, seed=3),
        b4=integers.whole(5, most=99),
        low=np.float32(0),
        high=np.float32(6),
    )


def residual(last: str = "Relu (s)") -> onnx.ModelProto:
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 5] scores) {{
            i = Conv <pads = [1, 1, 1, 1]> (image, w0)
            j = Relu (i)
            a = Conv <pads = [1, 1, 1, 1]> (j, w1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2)
            s = Add (c, j)
            d = {last}
            e = Conv (d, w3)
            f = Relu (e)
            p = GlobalAveragePool (f)
            h = Flatten (p)
            scores = Gemm <transB = 1> (h, w4)
        }}""",
        w0=integers.whole(4, 3, 3, 3, most=9),
        w1=integers.whole(4, 4, 3, 3),
        w2=integers.whole(4, 4, 3, 3, seed=1),
        w3=integers.whole(6, 4, 1, 1, seed=2),
        w4=integers.whole(5, 6, seed=3),
    )


@pytest.mark.parametrize("rest", [0, 4])
@pytest.mark.parametrize("levels", [(0, 15), (7, 7), (4, 3), (100, 155)])
@pytest.mark.parametrize("clip", ["Relu (a)", "Clip (a, low, high)", "Identity (a)"])
def test_integers_give_the_very_outputs_of_the_definition(clip, levels, rest):
    made = integers.definition(plain(clip=clip), levels=levels, rest=rest)
    low, changed = lower(made.model, made.weights)
    (got,), (expected,) = integers.outputs(low, IMAGES), integers.outputs(made.model, IMAGES)
    assert changed
    assert expected.std() > 0
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("levels", [(0, 15), (7, 7)])
@pytest.mark.parametrize("last", ["Relu (s)", "Identity (s)"])
def test_integers_emit_the_very_spikes_of_the_definition(last, levels):
    made = integers.definition(residual(last), levels=levels, ranges=(-127.5, 0.0) if last != "Relu (s)" else (0, 255))
    watched = integers.watched(made.model, integers.spike_names(made))
    low, _ = lower(watched, made.weights)
    for got, expected in zip(integers.outputs(low, IMAGES), integers.outputs(watched, IMAGES), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_residual_network_runs_on_integer_kernels_from_its_first_spikes_to_the_pooling(tmp_path):
    made = integers.definition(residual(), ranges=(0.0, 255.0))
    low, _ = lower(made.model, made.weights)
    integers.outputs(low, IMAGES, str(tmp_path / "run.onnx"))
    run = [node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node]
    assert run.count("QLinearConv") == 3 + 2  # three layers, and the neurons behind what is carried
    assert run.count("QLinearAdd") == 1
    assert run.count("MatMulIntegerToFloat") == 1
    assert run.count("Conv") + run.count("FusedConv") == 1  # the layer that reads the image


def test_a_network_whose_weights_are_no_integers_is_left_alone_but_for_its_neurons():
    checkpoint = spiking.checkpoint_of(tiny.residual(), tiny.images(8))
    low, changed = lower(checkpoint.model, {})
    assert changed
    assert integers.ops(low).get("QLinearConv", 0) == 0
    (got,), (expected,) = (integers.outputs(model, tiny.images(4)) for model in (low, checkpoint.model))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_model_that_is_lowered_stays_as_it_was():
    made = integers.definition(plain())
    before = spiking.serialised(made.model)
    lower(made.model, made.weights)
    assert spiking.serialised(made.model) == before


@pytest.mark.parametrize("library", [True, False])
def test_float_graphs_lose_operators_around_their_neurons(library):
    checkpoint = spiking.checkpoint_of(
        tiny.model(
            """
            g (float[N, 3, 8, 8] image) => (float[N, 64, 5] scores) {
                r = Reshape (image, rows)
                t = Transpose <perm = [0, 2, 1]> (r)
                a = MatMul (t, w0)
                b = LayerNormalization (a, gamma)
                c = MatMul (b, w1)
                d = Add (c, bias)
                e = Div (d, root)
                f = Erf (e)
                g = Add (f, one)
                h = Mul (half, g)
                i = Mul (d, h)
                scores = MatMul (i, w2)
            }""",
            rows=np.array([0, 3, 64]),
            w0=tiny.weights(3, 4),
            gamma=1 + tiny.weights(4, scale=0.2),
            w1=tiny.weights(4, 6),
            bias=tiny.weights(6, seed=1) + 1,
            root=np.float32(2**0.5),
            one=np.float32(1),
            half=np.float32(0.5),
            w2=tiny.weights(6, 5),
        ),
        tiny.images(16),
    )
    after, changed = tidy(checkpoint.model, Use() if library else None)
    assert changed
    assert "Erf" not in integers.ops(after)
    neurons = integers.ops(checkpoint.model)["PolarityNeuron"]
    assert integers.ops(after).get("PolarityNeuron" if library else "QuantizeLinear") == neurons
    assert integers.ops(after).get("QuantizeLinear" if library else "PolarityNeuron") is None
    (got,), (expected,) = (integers.outputs(model, tiny.images(4)) for model in (after, checkpoint.model))
    assert np.mean(np.abs(got - expected) > 1e-4) < 0.01  # ties


def test_without_the_library_convolutions_of_float_weights_stay_floats(tmp_path):
    checkpoint = spiking.checkpoint_of(tiny.residual(), tiny.images(16))
    after, _ = tidy(checkpoint.model, None)
    integers.outputs(after, tiny.images(2), str(tmp_path / "run.onnx"))
    assert not {node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node} & {"QLinearConv", "ConvInteger"}
    (got,), (expected,) = (integers.outputs(model, tiny.images(4)) for model in (after, checkpoint.model))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_product_whose_result_becomes_spikes_itself_runs_without_the_library():
    checkpoint = spiking.checkpoint_of(attention(), tiny.images(16))
    after, _ = tidy(checkpoint.model, None)
    (got,), (expected,) = (integers.outputs(model, tiny.images(4)) for model in (after, checkpoint.model))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_neurons_of_more_than_256_levels_stay_neurons_without_the_library():
    checkpoint = spiking.checkpoint_of(tiny.residual(), tiny.images(16), levels=300)
    after, _ = tidy(checkpoint.model, None)
    assert integers.ops(after)["PolarityNeuron"] == integers.ops(checkpoint.model)["PolarityNeuron"]


@pytest.mark.parametrize("library", [True, False])
def test_outputs_keep_their_names_whatever_makes_them(library):
    proto = tiny.model(
        """
        g (float[N, 3, 8, 8] image) => (float[N, 64, 4] scores) {
            r = Reshape (image, rows)
            t = Transpose <perm = [0, 2, 1]> (r)
            a = MatMul (t, w0)
            c = MatMul (a, w1)
            b = LayerNormalization (c, gamma)
            scores = Mul (b, factor)
        }""",
        rows=np.array([0, 3, 64]),
        w0=tiny.weights(3, 4),
        w1=tiny.weights(4, 4),
        gamma=1 + tiny.weights(4, scale=0.2),
        factor=np.array([1, 2, 3, 4], np.float32),
    )
    checkpoint = spiking.checkpoint_of(proto, tiny.images(16))
    after, _ = tidy(checkpoint.model, Use() if library else None)
    (output,) = after.graph.outputs
    assert output.producer().op_type == "LayerNormalization"
    assert output.name == "scores"

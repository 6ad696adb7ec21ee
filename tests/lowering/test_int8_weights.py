"""Weights as integers: how they are rounded, and how a file holds them."""

import integers
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import spiking
import tiny

from pmsm_cli.lowering.int8 import quantise, read_int8, store_as_int8


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weights_are_within_half_a_step_but_for_a_few_that_are_clipped(axis):
    weights = tiny.weights(16, 32)
    rounded = quantise(weights, axis)
    off = np.abs(rounded.floats() - weights) / rounded.spread_scale
    assert np.mean(off > 0.5001) < 0.02
    assert np.abs(rounded.values).max() == 127


def test_the_scale_is_no_worse_than_that_of_the_largest_weight():
    weights = np.random.default_rng(0).uniform(-1, 1, (8, 40000)).astype(np.float32)
    weights[:, 0] = 1.05  # less is lost by clipping it than is won for all others
    plain = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    rounded = quantise(weights, 0)
    error = np.square(rounded.floats() - weights).sum(axis=1)
    assert (error <= np.square(np.round(weights / plain) * plain - weights).sum(axis=1)).all()
    assert (rounded.scale < plain[:, 0]).any()


def test_a_row_of_zeros_stays_zeros():
    assert not quantise(np.zeros((3, 4), np.float32), 0).floats().any()


@pytest.mark.parametrize("timesteps", [1, 3])
def test_the_file_holds_bytes_and_gives_the_same_results(timesteps):
    checkpoint = spiking.checkpoint_of(tiny.residual(), tiny.images(8), timesteps=timesteps)
    from pmsm_cli.lowering.settle import settle_weights
    from pmsm_cli.runtime.workload import measure_shapes

    model, weights = settle_weights(checkpoint.model, measure_shapes(checkpoint))
    stored = store_as_int8(model, weights)
    held = {name: value.dtype for name, value in stored.graph.initializers.items()}
    assert {held[f"{name}/int8"] for name in weights} == {ir.DataType.INT8}
    assert not set(held) & set(weights)
    for got, expected in zip(
        integers.outputs(stored, tiny.images(4)), integers.outputs(model, tiny.images(4)), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_what_is_stored_is_read_back():
    made = integers.definition(tiny.residual())
    proto = onnx.load_model_from_string(spiking.serialised(store_as_int8(made.model, made.weights)))
    model, weights = read_int8(ir.from_proto(proto))
    assert {node.op_type for node in model.graph} == {node.op_type for node in made.model.graph}
    for name, own in made.weights.items():
        np.testing.assert_array_equal(weights[name].values, own.values)
        np.testing.assert_array_equal(weights[name].scale, own.scale)
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), own.floats())


def test_a_file_with_floats_is_read_as_it_is():
    model = spiking.checkpoint_of(tiny.residual(), tiny.images(8)).model
    assert read_int8(model) == (model, {})


def test_onnxruntime_works_the_floats_out_once(tmp_path):
    made = integers.definition(tiny.residual())
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    ort.InferenceSession(spiking.serialised(store_as_int8(made.model, made.weights)), options)
    run = onnx.load(tmp_path / "run.onnx").graph
    assert not any(name.input[0].endswith("/int8") for name in run.node)

"""Float weights in slices of bytes: as exact as float32, and the same spikes at several timesteps."""

import warnings

import integers
import numpy as np
import onnx_ir as ir
import pytest
import spiking
import tiny
from timesteps import APART, IMAGE, A, assert_alike, checkpoint_of
from trainable import attention

from pmsm_cli.lowering.lower import Use, tidy_steps
from pmsm_cli.lowering.side_by_side import steps_side_by_side
from pmsm_cli.lowering.slices import SLICES, in_slices, sliced_weights
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
needs_library = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")
FAST = Use(multiplies_fast=True)


def put_together(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    first, second, third = values.reshape(SLICES, len(scale), -1).astype(np.int64)
    return ((first * 256 + second) * 256 + third) * scale[:, None].astype(np.float64)


def test_slices_are_what_float32_resolves_of_a_channel_s_largest_weight():
    weights = np.random.default_rng(0).standard_normal((40, 12, 3, 3)).astype(np.float32)
    weights *= 10.0 ** np.arange(-20, 20).reshape(-1, 1, 1, 1)  # each channel has its own unit
    sliced = in_slices(weights)
    rows = weights.reshape(40, -1)
    assert sliced.values.shape == (120, 12, 3, 3)
    assert (
        np.abs(put_together(sliced.values, sliced.scale) - rows) <= np.abs(rows).max(axis=1)[:, None] * 2**-23
    ).all()


def test_channels_without_weights_and_with_one_sign_are_no_exceptions():
    weights = np.array([[0.0, 0.0], [-1.0, -0.25], [3.0, 0.0]], np.float32)
    sliced = in_slices(weights)
    np.testing.assert_allclose(put_together(sliced.values, sliced.scale), weights, atol=1e-6)


@needs_library
@pytest.mark.parametrize("timesteps", [2, 4])
@pytest.mark.parametrize("name", APART)
def test_convolutions_of_several_steps_multiply_codes(name, timesteps):
    before = checkpoint_of(APART[name], timesteps=timesteps).model
    after, changed = tidy_steps(before, FAST, IMAGE, {})
    assert changed
    sliced = [node for node in after.graph if node.op_type == "ConvolutionSteps"]
    assert len(sliced) >= 2
    assert all(node.attributes["sliced"].as_int() == 1 for node in sliced)
    assert_alike(after, before, tiny.images(4, seed=1))
    assert_alike(after, before, tiny.images(1, seed=2))


@needs_library
@pytest.mark.parametrize(
    ("body", "analog"),
    [("group = 4, pads = [1, 1, 1, 1]> (b, wd, b1)", 1), ("group = 2, pads = [1, 1, 1, 1]> (b, wg)", 3)],
)
def test_kernels_of_each_channel_multiply_codes_and_those_of_groups_stay_floats(body, analog):
    before = checkpoint_of(f"{A} b = Relu (a) d = Conv <{body}", timesteps=3).model
    after, _ = tidy_steps(before, FAST, IMAGE, {})
    assert integers.ops(after)["Conv"] == analog  # the layer that reads the image, and both of groups
    assert_alike(after, before, tiny.images(4, seed=1))


@needs_library
def test_products_of_many_rows_multiply_codes():
    checkpoint = spiking.checkpoint_of(attention(), tiny.images(8), timesteps=3)
    after, _ = tidy_steps(checkpoint.model, FAST, IMAGE, {})
    assert integers.ops(after)["ConvolutionSteps"] >= 2
    assert_alike(after, checkpoint.model, tiny.images(4, seed=1))


@needs_library
@pytest.mark.parametrize("options", [{"coding": Coding.RATE}, {"levels": 63}])
def test_counts_that_no_code_can_hold_stay_floats(options):
    before = checkpoint_of(APART["relu"], timesteps=4, **options).model
    after, _ = tidy_steps(before, FAST, IMAGE, {})
    assert "ConvolutionSteps" not in integers.ops(after)
    assert_alike(after, before, tiny.images(4, seed=1))


@needs_library
def test_processors_that_multiply_no_faster_keep_floats():
    before = checkpoint_of(APART["relu"], timesteps=3).model
    assert "ConvolutionSteps" not in integers.ops(tidy_steps(before, Use(), IMAGE, {})[0])


def test_weights_that_are_no_numbers_stay_floats():
    model = checkpoint_of(APART["relu"], timesteps=2).model
    assert steps_side_by_side(model, IMAGE)
    names = list(sliced_weights(model.graph))
    assert names
    value = model.graph.initializers[names[0]]
    broken = value.const_value.numpy().copy()
    broken.flat[0] = np.inf
    value.const_value = ir.tensor(broken, name=value.name)
    assert list(sliced_weights(model.graph)) == names[1:]


@pytest.mark.parametrize("options", [{"coding": Coding.RATE}, {"levels": 63}])
def test_weights_are_not_cut_for_counts_that_no_code_can_hold(options):
    model = checkpoint_of(APART["relu"], timesteps=4, **options).model
    assert steps_side_by_side(model, IMAGE)
    assert not sliced_weights(model.graph)


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 1e-33, 1e-31, 1e-25, 1e30])
def test_channels_of_tiny_weights_give_next_to_nothing_and_no_warning(largest):
    weights = np.array([[largest, -largest], [1.0, 0.5]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sliced = in_slices(weights)
    together = put_together(sliced.values, sliced.scale)
    np.testing.assert_allclose(together, weights, rtol=1e-6, atol=1e-31)

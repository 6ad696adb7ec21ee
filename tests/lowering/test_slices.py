"""Float weights in slices of bytes: as exact as float32, and the same spikes, at one timestep and at several."""

import warnings
from dataclasses import replace

import integers
import numpy as np
import onnx_ir as ir
import pytest
import spiking
import tiny
from timesteps import APART, IMAGE, A, assert_alike, checkpoint_of
from trainable import attention

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.lowering import counted_codes
from pmsm_cli.lowering.lower import Use, tidy, tidy_steps
from pmsm_cli.lowering.side_by_side import steps_side_by_side
from pmsm_cli.lowering.slices import SLICES, in_slices, sliced_weights
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.runtime.count import fan_out_a_position
from pmsm_cli.runtime.counters import add_counters
from pmsm_cli.runtime.library import find_library, library_status
from pmsm_cli.runtime.workload import measure_shapes

LIBRARY = find_library()
needs_library = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")
FAST = Use(multiplies_fast=True, multiplies_slices=True)


def sliced(model: ir.Model, timesteps: int, library: Use = FAST) -> ir.Model:
    """A graph of float weights as `pmsm run` lowers it."""
    if timesteps == 1:
        return tidy(model, library, slices=True)[0]
    return tidy_steps(model, library, IMAGE, weights={})[0]


def counted(checkpoint: Checkpoint, *, slices: bool) -> ir.Model:
    """A checkpoint's graph with the library's counters."""
    shapes, library = measure_shapes(checkpoint), replace(LIBRARY, multiplies_slices=slices)
    return add_counters(checkpoint, shapes, fan_out_a_position(checkpoint, shapes), library=library).model


def put_together(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    first, second, third = values.reshape(SLICES, len(scale), -1).astype(np.int64)
    return ((first * 256 + second) * 256 + third) * scale[:, None].astype(np.float64)


def test_slices_are_what_float32_resolves_of_a_channel_s_largest_weight():
    weights = np.random.default_rng(0).standard_normal((40, 12, 3, 3)).astype(np.float32)
    weights *= 10.0 ** np.arange(-20, 20).reshape(-1, 1, 1, 1)  # each channel has its own unit
    slices = in_slices(weights)
    rows = weights.reshape(40, -1)
    assert slices.values.shape == (120, 12, 3, 3)
    assert (
        np.abs(put_together(slices.values, slices.scale) - rows) <= np.abs(rows).max(axis=1)[:, None] * 2**-23
    ).all()


def test_channels_without_weights_and_with_one_sign_are_no_exceptions():
    weights = np.array([[0.0, 0.0], [-1.0, -0.25], [3.0, 0.0]], np.float32)
    slices = in_slices(weights)
    np.testing.assert_allclose(put_together(slices.values, slices.scale), weights, atol=1e-6)


@needs_library
@pytest.mark.parametrize("timesteps", [1, 2, 4])
@pytest.mark.parametrize("name", APART)
def test_convolutions_multiply_codes(name, timesteps):
    before = checkpoint_of(APART[name], timesteps=timesteps).model
    after = sliced(before, timesteps)
    convolutions = [node for node in after.graph if node.op_type == "ConvolutionSteps"]
    assert len(convolutions) >= (1 if timesteps == 1 else 2)
    assert all(node.attributes["sliced"].as_int() == 1 for node in convolutions)
    assert_alike(after, before, tiny.images(4, seed=1))
    assert_alike(after, before, tiny.images(1, seed=2))


@needs_library
@pytest.mark.parametrize(
    ("body", "timesteps", "analog"),
    [
        ("group = 4, pads = [1, 1, 1, 1]> (b, wd, b1)", 1, 1),
        ("group = 4, pads = [1, 1, 1, 1]> (b, wd, b1)", 3, 1),
        ("group = 2, pads = [1, 1, 1, 1]> (b, wg)", 1, 2),
        ("group = 2, pads = [1, 1, 1, 1]> (b, wg)", 3, 3),
    ],
)
def test_kernels_of_each_channel_multiply_codes_and_those_of_groups_stay_floats(body, timesteps, analog):
    before = checkpoint_of(f"{A} b = Relu (a) d = Conv <{body}", timesteps=timesteps).model
    after = sliced(before, timesteps)
    assert integers.ops(after)["Conv"] == analog  # the layer that reads the image, and those of groups
    assert_alike(after, before, tiny.images(4, seed=1))


@needs_library
@pytest.mark.parametrize("timesteps", [1, 3])
def test_products_of_many_rows_multiply_codes(timesteps):
    checkpoint = spiking.checkpoint_of(attention(), tiny.images(8), timesteps=timesteps)
    after = sliced(checkpoint.model, timesteps)
    assert integers.ops(after)["ConvolutionSteps"] >= min(timesteps, 2)
    assert_alike(after, checkpoint.model, tiny.images(4, seed=1))


@needs_library
def test_neurons_of_one_step_stay_floats_where_no_byte_holds_their_counts():
    before = checkpoint_of(APART["relu"], levels=300).model
    after = sliced(before, 1)
    assert "ConvolutionSteps" not in integers.ops(after)
    assert_alike(after, before, tiny.images(4, seed=1))


@needs_library
@pytest.mark.parametrize("many", [1, 10**6])  # codes that are counted where they are emitted, or together
@pytest.mark.parametrize("body", [APART["relu"], APART["residual of the image"], APART["residual of spikes"]])
def test_spikes_are_counted_from_codes(body, many, monkeypatch):
    monkeypatch.setattr(counted_codes, "_MANY", many)
    in_floats, in_codes = (counted(checkpoint_of(body), slices=fast) for fast in (False, True))
    assert not {"CountedNeuron", "SpikeCounts"} & integers.ops(in_codes).keys()
    emitters = [node for node in in_codes.graph if "counted" in node.attributes and node.attributes["counted"].as_int()]
    assert bool(emitters) == (many == 1)
    assert_alike(in_codes, in_floats, tiny.images(4, seed=1))


@needs_library
@pytest.mark.parametrize("many", [1, 10**6])
def test_spikes_of_transformers_are_counted_from_codes(many, monkeypatch):
    monkeypatch.setattr(counted_codes, "_MANY", many)
    checkpoint = spiking.checkpoint_of(attention(), tiny.images(8))
    in_floats, in_codes = (counted(checkpoint, slices=fast) for fast in (False, True))
    emitters = {node.op_type for node in in_codes.graph if "counted_by" in node.attributes}
    assert emitters == ({"StepCodes", "SoftmaxStepCodes"} if many == 1 else set())
    assert_alike(in_codes, in_floats, tiny.images(4, seed=1))


@needs_library
@pytest.mark.parametrize("options", [{"coding": Coding.RATE}, {"levels": 63}])
def test_counts_that_no_code_can_hold_stay_floats(options):
    before = checkpoint_of(APART["relu"], timesteps=4, **options).model
    after, _ = tidy_steps(before, FAST, IMAGE, {})
    assert "ConvolutionSteps" not in integers.ops(after)
    assert_alike(after, before, tiny.images(4, seed=1))


@needs_library
def test_processors_that_multiply_no_faster_keep_floats():
    for timesteps in (1, 3):
        before = checkpoint_of(APART["relu"], timesteps=timesteps).model
        assert "ConvolutionSteps" not in integers.ops(sliced(before, timesteps, Use()))


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
        slices = in_slices(weights)
    together = put_together(slices.values, slices.scale)
    np.testing.assert_allclose(together, weights, rtol=1e-6, atol=1e-31)

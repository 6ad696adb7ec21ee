"""Convolutions of running counts on the library against their definition: sums, values, and neurons at several steps."""

import numpy as np
import pytest
from counted import defined_counts
from layers import LAYERS, Layer, sums
from step_layers import LEVELS, ZERO, Made

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_values_are_those_of_the_definition(name, steps):
    made = Made(LAYERS[name], steps=steps)
    np.testing.assert_array_equal(made.run(values=True)[0], made.values())


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_neurons_emit_what_their_values_still_lack(name, steps, values):
    made = Made(LAYERS[name], steps=steps)
    made.add_neurons(before=steps > 1)
    got = made.run(values=values)
    np.testing.assert_array_equal(got[-1], made.emitted())
    if values:
        np.testing.assert_array_equal(got[0], made.values())


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("fires", [False, True])
@pytest.mark.parametrize("name", ["a part of a vector", "each of few channels", "one block", "many places"])
def test_maps_and_tensors_are_added_and_what_they_give_is_clipped(name, fires, maps, once):
    made = Made(LAYERS[name], steps=3)
    made.low, made.high = 0.0, 20.0
    if maps:
        made.add_map()
    made.add_others(once=once)
    if fires:
        made.add_neurons(before=True)
    got = made.run(values=True)
    np.testing.assert_array_equal(got[0], made.values())
    if fires:
        np.testing.assert_array_equal(got[1], made.emitted())


def test_what_is_not_a_number_emits_nothing_and_stays_so():
    made = Made(LAYERS["a part of a vector"], steps=3)
    made.add_others(once=False)
    made.add_neurons(before=True)
    made.low = 0.0
    made.further["others"][:, 1, 2, 20] = np.nan
    values, emitted = made.run(values=True)
    assert np.isnan(values[:, 1, 2, 20]).all()
    assert not np.isnan(np.delete(values, 20, axis=3)).any()
    before = made.further["before"][:, 1, 2, 20]
    np.testing.assert_array_equal(emitted[:, 1, 2, 20].reshape(3, -1), np.tile(before, (3, 1)))


@pytest.mark.parametrize("name", ["many places", "heavy weights", "each of few channels"])
def test_threads_make_no_difference(name):
    made = Made(LAYERS[name], steps=3, images=5)
    made.add_neurons(before=True)
    for one, three in zip(made.run(values=True, threads=1), made.run(values=True, threads=3), strict=True):
        np.testing.assert_array_equal(one, three)


COUNTED = LAYERS | {
    "shared by places": Layer(image=(61, 67), channels=5, outputs=24),
    "shared by channels": Layer(image=(9, 9), channels=600, outputs=1200, kernel=(1, 1), pads=(0,) * 4),
    "shared, each of its own": Layer(image=(40, 40), channels=80, outputs=80, depthwise=True),
}


@pytest.mark.parametrize("threads", [1, 2, 20])  # 20: not every one has a share of its own
@pytest.mark.parametrize("by_map", [False, True])
@pytest.mark.parametrize("name", COUNTED)
def test_what_is_emitted_is_counted(name, by_map, threads):
    made = Made(COUNTED[name], steps=1)
    made.add_neurons(before=False)
    made.further["finest"] = np.ones(1, np.float32)
    places = int(np.prod(made.once[1:-1]))
    synapses = np.random.default_rng(0).integers(0, 5000, places).astype(np.int32) if by_map else None
    made.further |= {"reached": synapses} if by_map else {}
    emitted, counts = made.run(values=False, counted=1, threads=threads)
    np.testing.assert_array_equal(emitted, made.run(values=False)[0])
    levels = LEVELS["negative_levels"], LEVELS["positive_levels"]
    np.testing.assert_array_equal(counts, defined_counts(emitted, ZERO, emitted.ndim - 1, levels, synapses))


def test_maps_of_another_size_are_refused():
    made = Made(Layer(outputs=16), steps=1)
    made.add_neurons(before=False)
    made.further["reached"] = np.ones(3, np.int32)
    with pytest.raises(Exception, match=r"a map of shape .* does not fit"):
        made.run(values=False, counted=1)


def test_no_images_give_no_counts():
    made = Made(Layer(outputs=16), steps=1)
    made.add_neurons(before=False)
    made.codes = made.codes[:0]
    emitted, counts = made.run(values=False, counted=1)
    assert len(emitted) == len(counts) == 0


def test_only_what_is_emitted_at_a_single_step_is_counted():
    made = Made(Layer(outputs=16), steps=3)
    made.add_neurons(before=True)
    with pytest.raises(Exception, match="what is counted is emitted at one step"):
        made.run(values=True, counted=1)


@pytest.mark.parametrize("name", LAYERS)
def test_weights_in_slices_are_as_exact_as_floats(name):
    made = Made(LAYERS[name], steps=3)
    digits = np.random.default_rng(4).integers(-128, 128, (3, *made.weights.shape)).astype(np.int8)
    first, second, third = digits.astype(np.int64)
    made.sums = sums(made.layer, made.codes, (first * 256 + second) * 256 + third, 77)
    made.weights, made.factor = digits.reshape(-1, *digits.shape[2:]), made.factor / 2**16
    (got,) = made.run(values=True, sliced=1)
    np.testing.assert_allclose(got, made.values(), rtol=0, atol=1e-6 * np.abs(made.values()).max())
    made.add_neurons(before=True)
    assert (made.run(values=False, sliced=1)[0] == made.emitted()).mean() > 0.999  # but for ties


def test_weights_that_are_no_whole_slices_are_said():
    made = Made(Layer(outputs=16), steps=1)
    with pytest.raises(Exception, match="are not whole slices"):
        made.run(values=True, sliced=1)


@pytest.mark.parametrize("shape", [(6, 20, 13), (6, 2, 2, 5, 13), (120, 13)])
def test_windows_of_one_place_take_any_axes(shape):
    made = Made(Layer(image=(4, 5), channels=13, outputs=20, kernel=(1, 1), pads=(0,) * 4), steps=1, images=6)
    (expected,) = made.run(values=True)
    made.codes = made.codes.reshape(shape)
    made.further["others"] = np.full((*shape[:-1], 20), 0.25, np.float32)
    (got,) = made.run(values=True)
    np.testing.assert_array_equal(got, (expected + np.float32(0.25)).reshape(*shape[:-1], 20))


@pytest.mark.parametrize("name", LAYERS)
def test_no_image_gives_nothing(name):
    made = Made(LAYERS[name], steps=3, images=0)
    made.add_neurons(before=True)
    values, emitted = made.run(values=True)
    assert values.shape == emitted.shape == made.values().shape


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codes": np.zeros((3, 6, 7, 5), np.uint8)}, "do not have 16 channels last"),
        ({"codes": np.zeros((4, 6, 7, 16), np.uint8)}, "are not 3 steps of the same images"),
        ({"before": np.zeros((6, 6, 7, 16), np.uint8)}, "what was emitted before has shape"),
        ({"others": np.zeros((2, 6, 6, 16), np.float32)}, "what is added has shape"),
        ({"map": np.zeros((1, 6, 6, 16), np.float32)}, "a map of 576 numbers does not fit"),
        ({"others": np.zeros((), np.float32)}, r"what is added has shape \[\]"),
        ({"quanta": np.ones(2, np.float32)}, "what is added has shape"),
        ({"quanta": np.ones(0, np.float32)}, "there is no quantum"),
    ],
)
def test_what_does_not_fit_is_said(wrong, message):
    made = Made(Layer(), steps=3)
    made.add_map()
    made.add_others(once=True)
    made.add_neurons(before=True)
    made.codes = wrong.pop("codes", made.codes)
    made.further |= wrong
    with pytest.raises(Exception, match=message):
        made.run(values=True)


def test_several_steps_begin_with_what_was_emitted():
    made = Made(Layer(), steps=3)
    made.add_neurons(before=False)
    with pytest.raises(Exception, match="what was emitted before"):
        made.run(values=True)

"""The native operators on codes against what they are defined as, on every kind of shape and value."""

import numpy as np
import pytest
from native import run_operator

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

# shape, the axis of the channels, how many
SHAPES = [
    ((2, 5, 4, 3), -3, 5),
    ((2, 4, 3, 5), -1, 5),
    ((3, 700), -1, 700),
    ((1, 1, 1, 1), -3, 1),
    ((7,), -1, 7),
    ((), -1, 1),
    ((2, 3, 1), -2, 3),
    ((0, 4, 2, 2), -3, 4),
    ((3, 96, 40, 40), -3, 96),
    ((3, 40, 40, 96), -1, 96),
    ((5, 4096), -1, 1),
]


def run(op_type: str, given: np.ndarray, *constants: np.ndarray, axis: int = -1, threads: int = 2) -> np.ndarray:
    """The codes that an operator makes of a tensor; `constants` are its further inputs."""
    return run_all(op_type, given, *constants, axis=axis, threads=threads)[0]


def run_all(
    op_type: str, given: np.ndarray, *constants: np.ndarray, outputs: int = 1, axis: int = -1, threads: int = 2
) -> list[np.ndarray]:
    further = {f"c{index}": array for index, array in enumerate(constants)}
    results = dict([("codes", "uint8"), ("sums", "float32")][:outputs])
    return run_operator(op_type, {"given": given, **further}, results, constant=further, threads=threads, axis=axis)


def along(axis: int, rank: int, values: np.ndarray) -> np.ndarray:
    """Channels as they broadcast against the tensor."""
    return values.reshape(-1, *(1,) * (-axis - 1)) if values.size > 1 and rank else values.reshape(())


def numbers(channels: int, low: int, high: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, channels)).integers(low, high, channels).astype(np.uint8)


@pytest.mark.parametrize(("shape", "axis", "channels"), SHAPES)
def test_neurons_give_the_counts_of_the_definition_as_codes(shape, axis, channels):
    random = np.random.default_rng(0)
    given = np.asarray(8 * random.normal(size=shape), np.float32)
    threshold = (0.25 + random.random(channels)).astype(np.float32)
    rest = random.normal(size=channels).astype(np.float32)
    zero, lowest, highest = numbers(channels, 4, 9, 1), numbers(channels, 0, 4, 2), numbers(channels, 9, 30, 3)
    got = run("SpikeCodes", given, rest, threshold, zero, lowest, highest, axis=axis)
    r, t, z, low, high = (along(axis, given.ndim, each) for each in (rest, threshold, zero, lowest, highest))
    expected = np.clip(np.round((given - r) / t) + z, low, high)
    assert got.shape == given.shape
    np.testing.assert_array_equal(got, expected.astype(np.uint8))


@pytest.mark.parametrize(("shape", "axis", "channels"), SHAPES)
def test_codes_of_codes_are_rounded_once(shape, axis, channels):
    random = np.random.default_rng(1)
    given = np.asarray(random.integers(0, 256, shape), np.uint8)
    factor = random.choice([-0.5, 0.125, 0.25, 2.0], channels).astype(np.float32)
    term = random.integers(-40, 40, channels).astype(np.float32) / 4
    zero, lowest, highest = numbers(channels, 4, 9, 1), numbers(channels, 0, 4, 2), numbers(channels, 9, 255, 3)
    got = run("AffineCodes", given, factor, term, zero, lowest, highest, axis=axis)
    f, b, z, low, high = (along(axis, given.ndim, each) for each in (factor, term, zero, lowest, highest))
    np.testing.assert_array_equal(got, np.clip(np.round(given * f + b) + z, low, high).astype(np.uint8))


@pytest.mark.parametrize(("shape", "axis", "channels"), SHAPES)
def test_bounds_clip_codes_of_each_channel(shape, axis, channels):
    given = np.asarray(np.random.default_rng(2).integers(0, 256, shape), np.uint8)
    lowest, highest = numbers(channels, 0, 100, 2), numbers(channels, 100, 256, 3)
    got = run("BoundCodes", given, lowest, highest, axis=axis)
    low, high = (along(axis, given.ndim, each) for each in (lowest, highest))
    np.testing.assert_array_equal(got, np.clip(given, low, high))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_a_large_tensor(threads):
    given = np.random.default_rng(3).integers(0, 256, (1, 500, 1001)).astype(np.uint8)
    lowest, highest = np.full(1, 3, np.uint8), np.full(1, 200, np.uint8)
    np.testing.assert_array_equal(run("BoundCodes", given, lowest, highest, threads=threads), np.clip(given, 3, 200))


def test_one_number_serves_all_channels_beside_numbers_for_each():
    given = np.arange(12, dtype=np.float32).reshape(2, 6)
    threshold, zero = np.arange(1, 7, dtype=np.float32), np.zeros(1, np.uint8)
    got = run("SpikeCodes", given, np.zeros(1, np.float32), threshold, zero, zero, np.full(1, 9, np.uint8))
    np.testing.assert_array_equal(got, np.round(given / threshold).astype(np.uint8))


def test_ties_go_to_the_even_count_and_what_is_no_number_emits_none():
    given = np.array([0.5, 1.5, 2.5, -0.5, -1.5, np.nan, np.inf, -np.inf, 1e30], np.float32)
    three = [np.full(1, each, np.uint8) for each in (2, 0, 6)]
    got = run("SpikeCodes", given, np.zeros(1, np.float32), np.ones(1, np.float32), *three)
    assert got.tolist() == [2, 4, 4, 2, 0, 2, 6, 0, 6]


def test_a_tensor_of_other_channels_is_refused_by_name():
    bounds = np.zeros(3, np.uint8), np.ones(3, np.uint8)
    with pytest.raises(Exception, match=r"shape \[2,4\] has no 3 channels on axis -1"):
        run("BoundCodes", np.zeros((2, 4), np.uint8), *bounds)
    with pytest.raises(Exception, match=r"no 3 channels on axis -3"):
        run("BoundCodes", np.zeros((2, 3), np.uint8), *bounds, axis=-3)


def test_constants_of_unlike_lengths_are_refused_when_the_session_is_made():
    with pytest.raises(Exception, match="lowest has 2 elements, where others have 3"):
        run("BoundCodes", np.zeros((1, 3), np.uint8), np.zeros(2, np.uint8), np.ones(3, np.uint8))


@pytest.mark.parametrize(
    "shape", [(2, 3, 5, 7), (1, 3, 1, 1), (2, 3, 4, 197), (0, 3, 2, 4), (1, 3, 65, 65), (4, 3, 2, 33)]
)
@pytest.mark.parametrize("heads", [1, 3])
def test_attention_weights_over_the_largest_become_codes_and_their_rows_sums(shape, heads):
    random = np.random.default_rng(4)
    given = random.normal(size=shape).astype(np.float32) * 4
    factor = (0.2 + random.random(heads)).astype(np.float32)
    threshold = (0.05 + 0.1 * random.random(heads)).astype(np.float32)
    zero, lowest, highest = (np.full(1, each, np.uint8) for each in (2, 2, 13))
    codes, sums = run_all("SoftmaxCodes", given, factor, threshold, zero, lowest, highest, outputs=2, axis=-3)
    f, t = (each.reshape(-1, 1, 1) for each in (factor, threshold))
    scores = given.astype(np.float64) * f
    wanted = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf)) / t
    expected = np.clip(np.round(wanted) + 2, 2, 13)
    close = np.abs(wanted - np.floor(wanted) - 0.5) < 1e-4  # either count is right there
    np.testing.assert_array_equal(codes[~close], expected[~close].astype(np.uint8))
    assert (np.abs(codes.astype(int) - expected)[close] <= 1).all()
    np.testing.assert_array_equal(sums, (codes.astype(np.float32) - 2).sum(axis=-1, keepdims=True))


def test_scores_of_any_size_give_weights():
    given = np.array([[1e30, 0, -1e30], [-1e30, -1e30, -1e30], [200, 199, -200]], np.float32)
    unit, zero = np.ones(1, np.float32), np.zeros(1, np.uint8)
    codes, sums = run_all("SoftmaxCodes", given, unit, unit / 16, zero, zero, np.full(1, 255, np.uint8), outputs=2)
    assert codes.tolist() == [[16, 0, 0], [16, 16, 16], [16, 6, 0]]
    assert sums.tolist() == [[16], [48], [22]]


@pytest.mark.parametrize("shape", [(1, 3, 0), (0, 3, 4), (2, 0, 5)])
def test_no_neurons_are_counted_where_there_are_none(shape):
    threshold = np.ones((3, 1), np.float32) if shape[1] == 3 else np.ones(1, np.float32)
    given = {"value": np.zeros(shape, np.float32), "threshold": threshold, "rest": np.zeros(1, np.float32)}
    wanted = {"spikes": "float32", "counts": "float32"}
    attributes = {"negative_levels": 3, "positive_levels": 4, "axis": 1, "positions": 0}
    spikes, counts = run_operator("CountedNeuron", given, wanted, constant=("threshold", "rest"), **attributes)
    assert spikes.shape == shape
    assert not counts.any()

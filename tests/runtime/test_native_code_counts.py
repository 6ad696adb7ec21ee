"""CodeCounts counts of codes what SpikeCounts counts of the spikes that they stand for."""

import numpy as np
import pytest
from native import run_operator

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

COUNTS = {"counts": "float32"}
# shape, axis of the channels
CHANNELS_LAST = [
    *((2, 5, 7, channels) for channels in (1, 3, 8, 16, 17, 24, 32, 48, 63, 64, 65, 128, 200)),
    (1, 40, 40, 16),  # more rows than a byte counts
    (3, 33, 32, 8),
    (1, 23, 31, 32),
    (1, 700, 96),
    (2, 130),
    (1, 64, 64, 64),  # shared out to threads
    (0, 4, 4, 16),
    (2, 0, 3, 16),
]
ELSEWHERE = [((2, 4, 9, 33), 1), ((2, 3, 4, 130), 2), ((1, 6, 200, 200), 1), ((3, 1000), 0), ((5,), 0), ((0, 3, 4), 1)]


def codes_of(shape: tuple[int, ...], zero: int, levels: tuple[int, int], *, seldom: bool = False) -> np.ndarray:
    random = np.random.default_rng(sum(shape))
    negative, positive = min(levels[0], zero), min(levels[1], 255 - zero)
    spikes = random.integers(-negative, positive + 1, shape)
    if seldom:
        spikes[random.random(shape) < 0.9] = 0
    return np.asarray(spikes + zero, np.uint8)


def counted(codes: np.ndarray, zero: int, **attributes: int) -> np.ndarray:
    inputs = {"codes": codes, "zero": np.array(zero, np.uint8)}
    return run_operator("CodeCounts", inputs, COUNTS, constant=("zero",), **attributes)[0]


def counted_as_spikes(codes: np.ndarray, zero: int, **attributes: int) -> np.ndarray:
    spikes = codes.astype(np.float32) - np.float32(zero)
    return run_operator("SpikeCounts", {"spikes": spikes}, COUNTS, **attributes)[0]


@pytest.mark.parametrize("positions", [0, 1])
@pytest.mark.parametrize("shape", CHANNELS_LAST, ids=str)
@pytest.mark.parametrize(
    ("zero", "negative", "positive"), [(7, 7, 8), (0, 0, 15), (128, 128, 127), (255, 255, 0), (9, 0, 3)]
)
def test_channels_last_are_counted_as_spikes_of_channels_first_are(shape, positions, zero, negative, positive):
    codes = codes_of(shape, zero, (negative, positive), seldom=positions == 1)
    levels = {"negative_levels": negative, "positive_levels": positive, "positions": positions}
    channels_first = np.ascontiguousarray(np.moveaxis(codes, -1, 1))
    expected = counted_as_spikes(channels_first, zero, axis=1, **levels)
    np.testing.assert_array_equal(counted(codes, zero, axis=len(shape) - 1, **levels), expected)


@pytest.mark.parametrize(("shape", "axis"), ELSEWHERE, ids=str)
@pytest.mark.parametrize(("negative", "positive"), [(7, 8), (0, 15)])
def test_channels_anywhere_are_counted_where_positions_do_not_matter(shape, axis, negative, positive):
    codes = codes_of(shape, negative, (negative, positive))
    options = {"axis": axis, "positions": 0, "negative_levels": negative, "positive_levels": positive}
    np.testing.assert_array_equal(counted(codes, negative, **options), counted_as_spikes(codes, negative, **options))


@pytest.mark.parametrize("shape", [(1, 9, 9, 16), (1, 9, 9, 40)], ids=str)
def test_limits_that_no_code_reaches_are_never_reached(shape):
    codes = np.full(shape, 200, np.uint8)
    options = {"axis": 3, "positions": 1, "negative_levels": 150, "positive_levels": 150}
    # No code stands for 150 below, or for 150 above, a zero of 120.
    limited = counted(codes, 120, **options)[:, -shape[-1] :]
    np.testing.assert_array_equal(limited, np.zeros_like(limited))


@pytest.mark.parametrize(
    ("shape", "zero", "options"),
    [
        ((2, 3, 4), np.zeros(1, np.uint8), {"axis": 1, "positions": 1}),
        ((2, 3, 4), np.zeros(1, np.uint8), {"axis": 3, "positions": 0}),
        ((), np.zeros(1, np.uint8), {"axis": 0, "positions": 0}),
        ((2, 3, 4), np.zeros(2, np.uint8), {"axis": 2, "positions": 0}),
    ],
    ids=["positions behind the channels", "no such axis", "no axes", "two zeros"],
)
def test_what_cannot_be_counted_is_refused(shape, zero, options):
    inputs = {"codes": np.zeros(shape, np.uint8), "zero": zero}
    with pytest.raises(Exception, match=r"shape|positions"):
        run_operator("CodeCounts", inputs, COUNTS, negative_levels=1, positive_levels=1, **options)

"""CodeCounts counts of codes what SpikeCounts counts of the spikes that they stand for."""

import numpy as np
import pytest
from native import run_operator

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

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


def counted(codes: np.ndarray, zero: int, *, axis: int, positions: int, levels: tuple[int, int]) -> np.ndarray:
    return counted_together([codes], [(axis, positions, *levels, zero)])[0]


def counted_together(codes: list[np.ndarray], sites: list[tuple[int, ...]]) -> list[np.ndarray]:
    inputs = {"sites": np.array(sites, np.int32), **{f"codes{index}": each for index, each in enumerate(codes)}}
    outputs = {f"counts{index}": "float32" for index in range(len(codes))}
    return run_operator("CodeCounts", inputs, outputs, constant=("sites",))


def counted_as_spikes(
    codes: np.ndarray, zero: int, *, axis: int, positions: int, levels: tuple[int, int]
) -> np.ndarray:
    options = {"axis": axis, "positions": positions, "negative_levels": levels[0], "positive_levels": levels[1]}
    spikes = codes.astype(np.float32) - np.float32(zero)
    return run_operator("SpikeCounts", {"spikes": spikes}, {"counts": "float32"}, **options)[0]


@pytest.mark.parametrize("positions", [0, 1])
@pytest.mark.parametrize("shape", CHANNELS_LAST, ids=str)
@pytest.mark.parametrize(
    ("zero", "negative", "positive"), [(7, 7, 8), (0, 0, 15), (128, 128, 127), (255, 255, 0), (9, 0, 3)]
)
def test_channels_last_are_counted_as_spikes_of_channels_first_are(shape, positions, zero, negative, positive):
    levels = (negative, positive)
    codes = codes_of(shape, zero, levels, seldom=positions == 1)
    channels_first = np.ascontiguousarray(np.moveaxis(codes, -1, 1))
    expected = counted_as_spikes(channels_first, zero, axis=1, positions=positions, levels=levels)
    np.testing.assert_array_equal(
        counted(codes, zero, axis=len(shape) - 1, positions=positions, levels=levels), expected
    )


@pytest.mark.parametrize(("shape", "axis"), ELSEWHERE, ids=str)
@pytest.mark.parametrize("levels", [(7, 8), (0, 15)])
def test_channels_anywhere_are_counted_where_positions_do_not_matter(shape, axis, levels):
    codes = codes_of(shape, levels[0], levels)
    options = {"axis": axis, "positions": 0, "levels": levels}
    np.testing.assert_array_equal(counted(codes, levels[0], **options), counted_as_spikes(codes, levels[0], **options))


def test_sites_of_all_kinds_are_counted_side_by_side():
    levels = (7, 8)
    shapes = [
        ((2, 9, 9, 16), 3, 1),
        ((2, 65, 300), 2, 0),
        ((2, 4, 64, 64), 1, 0),
        ((2, 80, 80, 96), 3, 1),
        ((2, 10), 0, 0),
    ]
    codes = [codes_of(shape, 7, levels) for shape, _, _ in shapes]
    sites = [(axis, positions, *levels, 7) for _, axis, positions in shapes]
    together = counted_together(codes, sites)
    for each, (_, axis, positions), counts in zip(codes, shapes, together, strict=True):
        np.testing.assert_array_equal(counts, counted(each, 7, axis=axis, positions=positions, levels=levels))


@pytest.mark.parametrize("shape", [(1, 9, 9, 16), (1, 9, 9, 40)], ids=str)
def test_limits_that_no_code_reaches_are_never_reached(shape):
    codes = np.full(shape, 200, np.uint8)
    # No code stands for 150 below, or for 150 above, a zero of 120.
    limited = counted(codes, 120, axis=3, positions=1, levels=(150, 150))[:, -shape[-1] :]
    np.testing.assert_array_equal(limited, np.zeros_like(limited))


@pytest.mark.parametrize(
    ("shape", "sites"),
    [
        ((2, 3, 4), [(1, 1, 1, 1, 0)]),
        ((2, 3, 4), [(3, 0, 1, 1, 0)]),
        ((2, 3, 4), [(-1, 0, 1, 1, 0)]),
        ((), [(0, 0, 1, 1, 0)]),
        ((2, 3, 4), [(2, 0, 1, 1)]),
        ((2, 3, 4), [(2, 0, 1, 1, 0)] * 2),
    ],
    ids=[
        "positions behind channels",
        "no such axis",
        "axis from the right",
        "no axes",
        "few numbers",
        "too many sites",
    ],
)
def test_what_cannot_be_counted_is_refused(shape, sites):
    with pytest.raises(Exception, match=r"shape|positions|numbers|sites"):
        counted_together([np.zeros(shape, np.uint8)], sites)

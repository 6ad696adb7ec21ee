"""SiteCounts counts of codes what the spikes that they stand for say, and puts all sites' counts into one tensor."""

import numpy as np
import pytest
from counted import defined_counts
from native import run_operator

from pmsm_cli.runtime.library import find_library, library_status

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")

# shape, axis of the channels
CHANNELS_LAST = [
    *((2, 5, 7, channels) for channels in (1, 3, 8, 16, 17, 24, 32, 48, 63, 64, 65, 128, 200, 300)),
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
LEVELS = [(7, 7, 8), (0, 0, 15), (128, 128, 127), (255, 255, 0), (9, 0, 3), (1, 1, 0), (0, 0, 0)]
COUNTS = (0, 0, 0, 0)  # of sites that are no codes


def codes_of(shape: tuple[int, ...], zero: int, levels: tuple[int, int], *, seldom: bool = False) -> np.ndarray:
    random = np.random.default_rng(sum(shape))
    negative, positive = min(levels[0], zero), min(levels[1], 255 - zero)
    spikes = random.integers(-negative, positive + 1, shape)
    if seldom:
        spikes[random.random(shape) < 0.9] = 0
    return np.asarray(spikes + zero, np.uint8)


def synapses_of(shape: tuple[int, ...]) -> np.ndarray:
    """Of positions, which are all places before the last axis."""
    return np.random.default_rng(1).integers(0, 50_000, int(np.prod(shape[1:-1]))).astype(np.int32)


def counted(tensors: list[np.ndarray], sites: list[tuple[int, ...]], maps: list[np.ndarray] = ()) -> np.ndarray:
    inputs = {"sites": np.array(sites, np.int32), "maps": np.concatenate([np.zeros(0, np.int32), *maps])}
    inputs |= {f"tensor{index}": each for index, each in enumerate(tensors)}
    return run_operator("SiteCounts", inputs, {"counts": "float32"}, constant=("sites", "maps"))[0]


@pytest.mark.parametrize("by_map", [False, True])
@pytest.mark.parametrize("shape", CHANNELS_LAST, ids=str)
@pytest.mark.parametrize(("zero", "negative", "positive"), LEVELS)
def test_codes_with_channels_last_are_counted(shape, by_map, zero, negative, positive):
    levels, axis = (negative, positive), len(shape) - 1
    codes, synapses = codes_of(shape, zero, levels, seldom=by_map), synapses_of(shape) if by_map else None
    by_map = by_map and len(synapses) > 0  # without positions there is no map
    site, maps = (1, len(synapses) if by_map else 0, axis, *levels, zero), [synapses] if by_map else []
    expected = defined_counts(codes, zero, axis, levels, synapses if by_map else None)
    np.testing.assert_array_equal(counted([codes], [site], maps), expected)


@pytest.mark.parametrize(("shape", "axis"), ELSEWHERE, ids=str)
@pytest.mark.parametrize("levels", [(7, 8), (0, 15)])
def test_codes_with_channels_anywhere_are_counted_where_positions_are_alike(shape, axis, levels):
    codes = codes_of(shape, levels[0], levels)
    site = (1, 0, axis, *levels, levels[0])
    np.testing.assert_array_equal(counted([codes], [site]), defined_counts(codes, levels[0], axis, levels))


@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (2, 3, 40), (1, 4, 33, 65)], ids=str)
def test_counts_by_position_are_summed_up_with_what_positions_reach(shape):
    levels = (7, 8)
    codes = codes_of(shape, 7, levels)  # channels first
    options = {"axis": 1, "positions": 1, "negative_levels": levels[0], "positive_levels": levels[1]}
    spikes = codes.astype(np.float32) - 7
    by_position = run_operator("SpikeCounts", {"spikes": spikes}, {"counts": "float32"}, **options)[0]
    last = np.moveaxis(codes, 1, -1)
    synapses = synapses_of(last.shape)
    found = counted([by_position], [(1, len(synapses), *COUNTS)], [synapses])
    np.testing.assert_array_equal(found, defined_counts(last, 7, last.ndim - 1, levels, synapses))


def test_sites_of_all_kinds_stand_side_by_side_image_by_image():
    levels, images = (7, 8), 2
    shapes = [(2, 9, 9, 16), (2, 65, 300), (2, 80, 80, 96), (2, 10), (6, 12, 5)]
    codes = [codes_of(shape, 7, levels) for shape in shapes]
    maps = [synapses_of(shape) for shape in (shapes[0], shapes[2])]
    mapped = dict(zip((0, 2), maps, strict=True))
    singly = [
        defined_counts(each, 7, each.ndim - 1, levels, mapped.get(index)).astype(np.float32)
        for index, each in enumerate(codes)
    ]
    sites = [
        (len(each) // images, len(mapped.get(index, ())), each.ndim - 1, *levels, 7) for index, each in enumerate(codes)
    ]
    # The same as counts that somebody else has made: with what they reach, and without.
    tensors = [*codes, singly[0], singly[1]]
    sites += [(1, -1, *COUNTS), (1, 0, *COUNTS)]
    expected = np.concatenate([each.reshape(images, -1) for each in (*singly, singly[0], singly[1])], axis=1)
    np.testing.assert_array_equal(counted(tensors, sites, maps), expected)


@pytest.mark.parametrize("shape", [(1, 9, 9, 16), (1, 9, 9, 40)], ids=str)
def test_limits_that_no_code_reaches_are_never_reached(shape):
    codes = np.full(shape, 200, np.uint8)
    # No code stands for 150 below, or for 150 above, a zero of 120.
    limited = counted([codes], [(1, 0, 3, 150, 150, 120)])[:, -shape[-1] :]
    np.testing.assert_array_equal(limited, np.zeros_like(limited))


@pytest.mark.parametrize(
    ("shape", "sites", "places"),
    [
        ((2, 3, 4), [(1, 3, 1, 1, 1, 0)], 3),
        ((2, 3, 4), [(1, 2, 2, 1, 1, 0)], 2),
        ((2, 3, 4), [(1, 3, 2, 1, 1, 0)], 2),
        ((2, 3, 4), [(1, 0, 3, 1, 1, 0)], 0),
        ((2, 3, 4), [(1, 0, -5, 1, 1, 0)], 0),
        ((), [(1, 0, 0, 1, 1, 0)], 0),
        ((2, 3, 4), [(1, 0, 2, 1, 1)], 0),
        ((2, 3, 4), [(1, 0, 2, 1, 1, 0)] * 2, 0),
        ((3, 3, 4), [(2, 0, 2, 1, 1, 0)], 0),
    ],
    ids=[
        "positions behind channels",
        "a map of another size",
        "a map too few",
        "no such axis",
        "axis from the right",
        "no axes",
        "few numbers",
        "too many sites",
        "an image and a half",
    ],
)
def test_what_cannot_be_counted_is_refused(shape, sites, places):
    with pytest.raises(Exception, match=r"shape|positions|numbers|sites|rows"):
        counted([np.zeros(shape, np.uint8)], sites, [np.ones(places, np.int32)])


def test_sites_of_different_images_are_refused():
    codes = [np.zeros((images, 4), np.uint8) for images in (2, 3)]
    with pytest.raises(Exception, match="do not have as many images"):
        counted(codes, [(1, 0, 1, 1, 1, 0)] * 2)


@pytest.mark.parametrize("shape", [(2, 9), (2, 3), (2, 3, 4)], ids=str)
def test_counts_of_another_width_are_refused(shape):
    with pytest.raises(Exception, match="do not fit their site"):
        counted([np.zeros(shape, np.float32)], [(1, 0, *COUNTS)])


def test_neither_codes_nor_counts_are_refused():
    with pytest.raises(Exception, match="neither codes nor counts"):
        counted([np.zeros((2, 6), np.int8)], [(1, 0, *COUNTS)])

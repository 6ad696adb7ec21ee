"""The native library counts values into the bins that numpy counts them into."""

import numpy as np
import pytest

from pmsm_cli.calibration.statistics import HistogramObserver, RangeObserver, SiteStatistics, count_values
from pmsm_cli.runtime.library import find_library, library_status
from pmsm_cli.runtime.value_counts import counting_of

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")


def statistics_of(batches: list[np.ndarray], images: int | None, count) -> SiteStatistics:
    """Of values [channels, n] each."""
    ranges = RangeObserver("site", len(batches[0]))
    for values in batches:
        ranges.update(values)
    histogram = HistogramObserver(ranges, count)
    for index, values in enumerate(batches):
        histogram.update(values, images=images, first=index * (images or 0))
    return histogram.result()


def both(batches: list[np.ndarray], images: int | None) -> tuple[SiteStatistics, SiteStatistics]:
    found = statistics_of(batches, images, counting_of(LIBRARY))
    return found, statistics_of(batches, images, count_values)


def assert_alike(found: SiteStatistics, expected: SiteStatistics) -> None:
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert (found.even_counts is None) == (expected.even_counts is None)
    if expected.even_counts is not None:
        np.testing.assert_array_equal(found.even_counts, expected.even_counts)


# channels, values of an image, images of a batch (None: not told apart), batches
@pytest.mark.parametrize(
    ("channels", "an_image", "images", "batches"),
    [(1, 1, 1, 3), (3, 1, 5, 2), (16, 1024, 1, 4), (40, 197, 3, 3), (7, 513, 2, 2), (5, 64, None, 3), (3000, 2, 4, 1)],
)
def test_every_value_is_counted_where_numpy_counts_it(channels, an_image, images, batches):
    random = np.random.default_rng(channels)
    shape = (channels, an_image * (images or 1))
    assert_alike(*both([random.normal(size=shape).astype(np.float32) for _ in range(batches)], images))


def test_a_constant_channel_has_all_its_values_in_the_first_bin():
    values = np.stack([np.full(12, 3.5), np.arange(12), np.zeros(12)]).astype(np.float32)
    found, expected = both([values], 2)
    assert_alike(found, expected)
    assert found.counts[:, 0].tolist() == [12, 1, 12]


def test_values_that_do_not_lie_side_by_side_are_counted():
    values = np.random.default_rng(0).normal(size=(2, 30, 6)).astype(np.float32)
    assert_alike(*both([np.moveaxis(values, 2, 0).reshape(6, -1)[:, ::2]], None))


def test_values_beyond_the_range_count_at_its_ends():
    """Not seen by the first pass: the images have changed since."""
    ranges = RangeObserver("site", 1)
    ranges.update(np.array([[-1e-6, 1e-6]], np.float32))
    histograms = [HistogramObserver(ranges, count) for count in (counting_of(LIBRARY), count_values)]
    for histogram in histograms:
        histogram.update(np.array([[-5e8, 9e9, np.inf, 0.0]], np.float32))
        assert (histogram.result().counts[0, 0], histogram.result().counts[0, -1]) == (1, 2)
    assert_alike(*(histogram.result() for histogram in histograms))

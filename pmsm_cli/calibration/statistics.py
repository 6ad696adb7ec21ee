"""What calibration knows of a site's activations: a fine histogram for each channel, gathered in a stream.

Two passes: the first finds each channel's range, the second counts into equal bins over exactly that range. Memory is
one table a site, whatever the number of images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pmsm_cli.errors import CalibrationError

MOST_BINS = 2048
_MOST_COUNTERS = 2**22  # bins x channels of one site
_FEWEST_BINS = 256
_VALUES_AT_ONCE = 2**16
_COUNTS_AT_ONCE = 2**17
_HALVES_MERGE = 8  # bins of the whole to a bin of a half: thresholds to compare need less resolution

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
_Kind = TypeVar("_Kind", bound=np.generic)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SiteStatistics:
    """The activations of one site; arrays have one row a channel (one row in all: statistics of the whole tensor)."""

    lowest: Floats  # [channels], the smallest value seen
    highest: Floats  # [channels], the largest
    counts: Counts  # [channels, bins], equal bins from lowest to highest
    even_counts: Counts | None = None  # [channels, bins / n], those of every second image; None: not told apart

    @property
    def halves(self) -> "tuple[SiteStatistics, SiteStatistics] | None":
        """What the images of even and of odd number show by themselves, each over its own range, in coarser bins.

        None where the images were not told apart, or where there is a single one.
        """
        if self.even_counts is None:
            return None
        bins = self.even_counts.shape[1]
        odd = self.counts.reshape(len(self.counts), bins, -1).sum(axis=2) - self.even_counts
        if not (self.even_counts.sum(axis=1).all() and odd.sum(axis=1).all()):
            return None
        return self._over_own_range(self.even_counts), self._over_own_range(odd)

    def _over_own_range(self, counts: Counts) -> "SiteStatistics":
        """Statistics of a part of the values, whose counts are in bins over the range of all.

        The limits are known to a bin.
        """
        bins = counts.shape[1]
        first = (counts > 0).argmax(axis=1)
        end = bins - (counts[:, ::-1] > 0).argmax(axis=1)
        width = (self.highest - self.lowest) / np.float32(bins)
        edges = first[:, None] + (end - first)[:, None] * np.linspace(0, 1, bins + 1)
        return SiteStatistics(
            lowest=np.where(first == 0, self.lowest, self.lowest + first.astype(np.float32) * width),
            highest=np.where(end == bins, self.highest, self.lowest + end.astype(np.float32) * width),
            counts=by_channels(counts_between, counts, edges),
        )

    @property
    def bin_width(self) -> Floats:
        """The width of each channel's bins, [channels, 1]; 0 where the channel is constant."""
        return ((self.highest - self.lowest) / np.float32(self.counts.shape[1]))[:, None]

    @property
    def centres(self) -> Floats:
        """The values that the bins stand for, [channels, bins]."""
        position = np.arange(self.counts.shape[1], dtype=np.float32) + np.float32(0.5)
        return self.lowest[:, None] + position[None, :] * self.bin_width

    def merged(self, bins: int) -> "SiteStatistics":
        """The same with neighbouring bins merged, two by two, as long as `bins` of them remain."""
        counts = self.counts
        while counts.shape[1] % 2 == 0 and counts.shape[1] // 2 >= bins:
            counts = counts[:, ::2] + counts[:, 1::2]
        return SiteStatistics(lowest=self.lowest, highest=self.highest, counts=counts)

    @property
    def values(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())


def counts_between(counts: Counts, edges: Doubles, *, unit: float = 1.0) -> Counts:
    """How many values lie between neighbouring edges, [channels, edges - 1], in so many parts of a value each.

    `edges` are in bins from the first one; the values of a bin are taken as spread evenly over it.
    """
    below = np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 1)), mode="edge")
    below[:, 0] = 0
    whole = np.minimum(edges.astype(np.int64), counts.shape[1])
    start = np.take_along_axis(below, whole, axis=1)
    inside = (edges - whole) * (np.take_along_axis(below, whole + 1, axis=1) - start)
    return np.asarray(np.diff(np.round((start + inside) * unit).astype(np.int64), axis=1), np.int64)


def by_channels(
    work: Callable[..., npt.NDArray[_Kind]], counts: Counts, *others: npt.NDArray[Any]
) -> npt.NDArray[_Kind]:
    """`work` of counts [channels, bins] and of what else each channel has, a few channels at a time.

    What is made on the way then stays in the cache. Of a whole site it would be fetched from the operating system anew
    each time, for which threads wait for one another.
    """
    at_once = max(1, _COUNTS_AT_ONCE // max(counts.shape[1], 1))
    parts = [slice(start, start + at_once) for start in range(0, max(len(counts), 1), at_once)]
    return np.concatenate([work(counts[rows], *(each[rows] for each in others)) for rows in parts])


class RangeObserver:
    """The first pass: the range of each channel of one site."""

    def __init__(self, site: str, channels: int) -> None:
        """An observer of the named site, before any value."""
        self._site = site
        self.lowest = np.full(channels, np.inf, np.float32)
        self.highest = np.full(channels, -np.inf, np.float32)

    def update(self, values: Floats) -> None:
        """Take in values of shape [channels, ...].

        Raises:
            CalibrationError: a value is infinite or not a number.
        """
        others = tuple(range(1, values.ndim))
        lowest, highest = values.min(axis=others), values.max(axis=others)
        if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
            raise CalibrationError(
                "the source network produces values that are infinite or not a number",
                subject=self._site,
                hint="check the preprocessing, and that the network itself gives sensible results",
            )
        np.minimum(self.lowest, lowest, out=self.lowest)
        np.maximum(self.highest, highest, out=self.highest)


class Bins(NamedTuple):
    """Where values are counted: equal bins from each channel's lowest value on."""

    lowest: Floats  # [channels]
    per_unit: Floats  # [channels]; 0 where a channel has all its values in one bin
    merge: int  # bins of the whole to a bin of a half


# Adds values [channels, images, n] to counts [channels, bins]; those of images first, first + 2 ... also to those of
# a half, unless there is none.
CountValues = Callable[[Floats, Bins, Counts, "Counts | None", int], None]


def count_values(values: Floats, bins: Bins, counts: Counts, even_counts: Counts | None, first: int) -> None:
    """As `CountValues` says, by numpy."""
    number = counts.shape[1]
    at_once = max(1, _VALUES_AT_ONCE // max(values[0].size, 1))  # channels whose values and counters stay in cache
    for start in range(0, len(values), at_once):
        rows = slice(start, start + at_once)
        above = values[rows] - bins.lowest[rows, None, None]
        above *= bins.per_unit[rows, None, None]
        # Also values that the first pass has not seen, of images that have changed since, have a bin.
        position = np.fmin(np.fmax(above, 0), number - 1).astype(np.int32)
        position += (np.arange(len(position), dtype=np.int32) * np.int32(number))[:, None, None]
        # Adding at positions takes time by the values; np.bincount by the bins, which may be more.
        np.add.at(counts[rows].reshape(-1), position.ravel(), 1)
        if even_counts is not None:
            np.add.at(even_counts[rows].reshape(-1), position[:, first::2].ravel() // bins.merge, 1)


class HistogramObserver:
    """The second pass: counts between the limits that the first pass found."""

    def __init__(self, ranges: RangeObserver, count: CountValues = count_values) -> None:
        """An observer over the ranges found, before any value; `count` adds values to its counts."""
        channels = len(ranges.lowest)
        number = max(_FEWEST_BINS, min(MOST_BINS, _MOST_COUNTERS // channels))
        self._lowest, self._highest, self._count = ranges.lowest, ranges.highest, count
        self._counts = np.zeros((channels, number), np.int64)
        width = self._highest - self._lowest
        spread = width > np.finfo(np.float32).tiny * number  # a constant channel has all its values in one bin
        per_unit = np.divide(number, width, out=np.zeros_like(width), where=spread)
        # One bin of a half is a whole number of bins, for any number of bins.
        merge = _HALVES_MERGE if number % _HALVES_MERGE == 0 else 1
        self._bins = Bins(self._lowest, per_unit, merge)
        self._even_counts = np.zeros((channels, number // merge), np.int64)
        self._told_apart = False

    def update(self, values: Floats, *, images: int | None = None, first: int = 0) -> None:
        """Take in values of shape [channels, n].

        `images` is how many images they come from, equally many values each and one image after the other, of which
        the first has number `first` in the stream; None: the values are not told apart.
        """
        told_apart = images is not None and values.shape[1] % images == 0
        an_image = values.reshape(len(values), (images or 1) if told_apart else 1, -1)
        self._count(an_image, self._bins, self._counts, self._even_counts if told_apart else None, first % 2)
        self._told_apart |= told_apart

    def result(self) -> SiteStatistics:
        """What was counted."""
        return SiteStatistics(
            lowest=self._lowest,
            highest=self._highest,
            counts=self._counts,
            even_counts=self._even_counts if self._told_apart else None,
        )

"""What calibration knows of a site's activations: a fine histogram for each channel, gathered in a stream.

Two passes: the first finds each channel's range, the second counts into equal bins over exactly that range. Memory is
one table a site, whatever the number of images.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmsm_cli.errors import CalibrationError

MOST_BINS = 2048
_MOST_COUNTERS = 2**22  # bins x channels of one site
_FEWEST_BINS = 256

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SiteStatistics:
    """The activations of one site; arrays have one row a channel (one row in all: statistics of the whole tensor)."""

    lowest: Floats  # [channels], the smallest value seen
    highest: Floats  # [channels], the largest
    counts: Counts  # [channels, bins], equal bins from lowest to highest

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


class RangeObserver:
    """The first pass: the range of each channel of one site."""

    def __init__(self, site: str, channels: int) -> None:
        """An observer of the named site, before any value."""
        self._site = site
        self.lowest = np.full(channels, np.inf, np.float32)
        self.highest = np.full(channels, -np.inf, np.float32)

    def update(self, values: Floats) -> None:
        """Take in values of shape [channels, n].

        Raises:
            CalibrationError: a value is infinite or not a number.
        """
        lowest, highest = values.min(axis=1), values.max(axis=1)
        if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
            raise CalibrationError(
                "the source network produces values that are infinite or not a number",
                subject=self._site,
                hint="check the preprocessing, and that the network itself gives sensible results",
            )
        np.minimum(self.lowest, lowest, out=self.lowest)
        np.maximum(self.highest, highest, out=self.highest)


class HistogramObserver:
    """The second pass: counts between the limits that the first pass found."""

    def __init__(self, ranges: RangeObserver) -> None:
        """An observer over the ranges found, before any value."""
        channels = len(ranges.lowest)
        self._bins = max(_FEWEST_BINS, min(MOST_BINS, _MOST_COUNTERS // channels))
        self._lowest, self._highest = ranges.lowest, ranges.highest
        self._counts = np.zeros((channels, self._bins), np.int64)
        width = self._highest - self._lowest
        spread = width > np.finfo(np.float32).tiny * self._bins  # a constant channel has all its values in one bin
        self._bins_per_unit = np.divide(self._bins, width, out=np.zeros_like(width), where=spread)[:, None]
        self._first_bin = (np.arange(channels, dtype=np.int64) * self._bins)[:, None]

    def update(self, values: Floats) -> None:
        """Take in values of shape [channels, n]."""
        position = ((values - self._lowest[:, None]) * self._bins_per_unit).astype(np.int64)
        np.clip(position, 0, self._bins - 1, out=position)
        position += self._first_bin
        self._counts += np.bincount(position.ravel(), minlength=self._counts.size).reshape(self._counts.shape)

    def result(self) -> SiteStatistics:
        """What was counted."""
        return SiteStatistics(lowest=self._lowest, highest=self._highest, counts=self._counts)

"""What further images will show: activations beyond the range of those that were seen.

Thresholds are chosen on a few images and used on others. A channel reaches further on these the fewer there were, most
of all where an image gives one value a channel (the features behind a pooling, a class token). How often, the halves of
the images tell each other: the share of the values of one that lie beyond the range of the other. The range of twice as
many images is left half as often. How far, the channel's own tail tells: to first order an exponential one, the excess
over a high quantile (J. Pickands, "Statistical inference using extreme order statistics", Ann. Statist. 3, 1975,
119-131, with shape 0).
"""

import numpy as np
import numpy.typing as npt

from pmsm_cli.calibration.statistics import Counts, Floats, SiteStatistics

Doubles = npt.NDArray[np.float64]

FEWEST_IMAGES = 8  # of fewer, halves of two or three tell more about these than about images to come

# The share of the values that tells how a tail falls off, and how many independent ones of them it takes. Values of one
# image are alike: of n independent values, one in n / 2 + 1 lies beyond those of the other half.
_TAIL, _FEWEST_IN_TAIL = 0.02, 4
# The tail is cut where half of it is left, again and again, until what is left is too rare to matter: with 255 levels (the
# most) a threshold s grows by would cost more than what it keeps of one value in a million, 2 s e^-x / 10^6 of excess
# against R / (6 255^2) of rounding over a range R of several s.
_NEGLIGIBLE, _MOST_PLACES = 1e-6, 12
_A_VALUE = 2**_MOST_PLACES  # counts are in such parts of a value, so that a part of one can be expected


def with_unseen(statistics: SiteStatistics) -> SiteStatistics:
    """The same with the values beyond either limit that as many further images are expected to show.

    They are few, often less than one a channel: all is counted in small parts of a value, so that only shares are to be
    read from it. Unchanged where the images were not told apart, or where nothing further is expected.
    """
    if statistics.even_counts is None or statistics.counts.shape[1] < 2:
        return statistics
    values = float(np.median(statistics.counts.sum(axis=1)))
    even = statistics.even_counts
    odd = statistics.counts.reshape(even.shape[0], even.shape[1], -1).sum(axis=2) - even
    up, down = _share_beyond(even, odd), _share_beyond(even[:, ::-1], odd[:, ::-1])
    above, below = _shares(up / 2), _shares(down / 2)
    excess_above = _excess(statistics.counts[:, ::-1], up, above) * statistics.bin_width
    excess_below = _excess(statistics.counts, down, below) * statistics.bin_width
    # A tensor without negative values (behind a ReLU) has none on further images either.
    excess_below[statistics.lowest >= 0] = 0
    if not excess_above.any() and not excess_below.any():
        return statistics
    highest = statistics.highest + excess_above.max(axis=1, initial=0)
    lowest = statistics.lowest - excess_below.max(axis=1, initial=0)
    added = np.hstack([statistics.highest[:, None] + excess_above, statistics.lowest[:, None] - excess_below])
    weights = np.round(np.concatenate([above, below]) * values * _A_VALUE).astype(np.int64)
    return _over_range(statistics, lowest.astype(np.float32), highest.astype(np.float32), added, weights)


def _share_beyond(one: Counts, other: Counts) -> float:
    """The share of the values of either half that lie above the highest of the other, mean over the channels."""
    bins = one.shape[1]
    beyond = 0.0
    for held, limiting in ((one, other), (other, one)):
        last = bins - 1 - (limiting[:, ::-1] > 0).argmax(axis=1)
        beyond += float(np.where(np.arange(bins) > last[:, None], held, 0).sum())
    return beyond / max(int(one.sum() + other.sum()), 1)


def _shares(beyond: float) -> Doubles:
    """The shares of all values that the parts of a tail hold which has so much of them, [places]."""
    places = int(np.clip(np.log2(max(beyond, _NEGLIGIBLE) / _NEGLIGIBLE), 0, _MOST_PLACES))
    return beyond * np.append(0.5 ** np.arange(1, places), 0.5 ** (places - 1)) if places else np.zeros(0)


def _excess(counts: Counts, beyond: float, shares: Doubles) -> Doubles:
    """How far the values to expect lie below the lowest one, in bins, [channels, places]."""
    tail = min(max(_TAIL, _FEWEST_IN_TAIL / 2 * beyond), 0.5)
    return _scale(counts, tail)[:, None] * _exponential_places(len(shares))


def _scale(counts: Counts, share: float) -> Doubles:
    """The mean excess over the quantile that ends the lower tail, in bins, [channels]."""
    wanted = share * counts.sum(axis=1, keepdims=True)
    before = np.cumsum(counts, axis=1) - counts
    in_tail = np.clip(wanted - before, 0, counts)  # as many of each bin as belong to the tail
    place = np.arange(counts.shape[1])
    edge = np.where(in_tail > 0, place, 0).max(axis=1)
    return np.asarray(edge - (in_tail @ place) / np.maximum(wanted[:, 0], 1e-9))


def _exponential_places(places: int) -> Doubles:
    """The values that stand for the parts of an exponential tail of scale 1, the root mean square of each, [places].

    Each part but the last is half of what is left: it begins ln 2 beyond the one before.
    """
    first, length = np.arange(places) * np.log(2), np.log(2)
    before = first**2 + 2 * first + 2  # the mean square of all beyond a place: e^x times the integral of x^2 e^-x
    after = (first + length) ** 2 + 2 * (first + length) + 2
    part = 2 * before - after
    part[-1:] = before[-1:]
    return np.asarray(np.sqrt(part))


def _over_range(
    statistics: SiteStatistics, lowest: Floats, highest: Floats, added: Doubles, weights: Counts
) -> SiteStatistics:
    """The histogram over a wider range, and values [channels, places] added to it, as many parts of one at each."""
    channels, bins = statistics.counts.shape
    width = (highest - lowest).astype(np.float64) / bins
    alive = (statistics.bin_width[:, 0] > 0) & (width > 0)
    old_width = np.where(alive, statistics.bin_width[:, 0], 1)[:, None]
    edges = lowest[:, None] + width[:, None] * np.arange(bins + 1)
    position = np.clip((edges - statistics.lowest[:, None]) / old_width, 0, bins)
    position[:, 0], position[:, -1] = 0, bins
    below = np.pad(np.cumsum(statistics.counts, axis=1), ((0, 0), (1, 1)), mode="edge")
    below[:, 0] = 0
    whole = position.astype(np.int64)
    start = np.take_along_axis(below, whole, axis=1)
    inside = (position - whole) * (np.take_along_axis(below, whole + 1, axis=1) - start)
    counts = np.diff(np.round((start + inside) * _A_VALUE).astype(np.int64), axis=1)
    place = np.clip(((added - lowest[:, None]) / np.where(alive, width, 1)[:, None]).astype(np.int64), 0, bins - 1)
    np.add.at(counts, (np.arange(channels)[:, None], place), weights)
    return SiteStatistics(
        lowest=np.where(alive, lowest, statistics.lowest),
        highest=np.where(alive, highest, statistics.highest),
        counts=np.where(alive[:, None], counts, statistics.counts * _A_VALUE),
    )

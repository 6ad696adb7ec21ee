"""What further images will show: activations beyond the range of those that were seen.

Thresholds are chosen on a few images and used on others. A channel reaches further on these the fewer there were, most
of all where an image gives one value a channel (the features behind a pooling, a class token). How often, the halves of
the images tell each other: the share of the values of one that lie beyond the range of the other. The range of twice as
many images is left half as often. How far, the channel's own tail tells: what exceeds a high quantile follows a
generalised Pareto distribution (J. Pickands, "Statistical inference using extreme order statistics", Ann. Statist. 3,
1975, 119-131), whose mean excess grows linearly on the way out; by how much is seen in all channels together.
"""

import numpy as np

from pmsm_cli.calibration.statistics import Counts, Doubles, Floats, SiteStatistics, by_channels, counts_between

FEWEST_IMAGES = 8  # of fewer, halves of two or three tell more about these than about images to come

# The share of the values that tells how a tail falls off, and how many independent ones of them it takes. Values of one
# image are alike: of n independent values, one in n / 2 + 1 lies beyond those of the other half.
_TAIL, _FEWEST_IN_TAIL = 0.02, 4
_WIDER = 4.0  # how much wider the tail is that it is compared with
# The mean excess grows on the way out by so much at most (shape 0.3), and does not shrink: lighter tails than the
# exponential one fall short, since an image unlike those that were seen is so in many channels at once.
_STEEPEST = 0.43
# The tail is cut where half of it is left, again and again, until what is left is too rare to matter. With 255 levels,
# the most, reaching dx further adds R dx / (6 255^2) to the error of rounding over a range R, and takes 2 p s dx off
# that of clipping at most, where a share p of the values lies beyond, by s on average: it may pay down to a p of 1e-6.
# But so far out a tail is a guess, which costs every value precision where rounding is fine: at so many levels and more
# it is followed less far (docs/calibration.md).
_NEGLIGIBLE, _MOST_PLACES = 1e-6, 12
_MANY_LEVELS, _NEGLIGIBLE_AT_MANY = 24, 4e-5
_A_VALUE = 2**_MOST_PLACES  # counts are in such parts of a value, so that a part of one can be expected


def with_unseen(statistics: SiteStatistics, *, weight: float = 1.0, levels: int | None = None) -> SiteStatistics:
    """The same with the values beyond either limit that as many further images are expected to show.

    They are few, often less than one a channel: all is counted in small parts of a value, so that only shares are to be
    read from it. Unchanged where the images were not told apart, or where nothing further is expected. `weight` is how
    much an expected value counts beside one that was seen; `levels` is for how many thresholds will be chosen (None:
    that is open).
    """
    rarest = _NEGLIGIBLE_AT_MANY if levels is not None and levels >= _MANY_LEVELS else _NEGLIGIBLE
    if statistics.even_counts is None or statistics.counts.shape[1] < 2:
        return statistics
    values = float(np.median(statistics.counts.sum(axis=1)))
    even = statistics.even_counts
    odd = statistics.counts.reshape(even.shape[0], even.shape[1], -1).sum(axis=2) - even
    up, down = _share_beyond(even, odd), _share_beyond(even[:, ::-1], odd[:, ::-1])
    above, below = _shares(up / 2, rarest), _shares(down / 2, rarest)
    excess_above = _excess(statistics.counts[:, ::-1], statistics.bin_width, up, len(above))
    excess_below = _excess(statistics.counts, statistics.bin_width, down, len(below))
    # A tensor without negative values (behind a ReLU) has none on further images either.
    excess_below[statistics.lowest >= 0] = 0
    if not excess_above.any() and not excess_below.any():
        return statistics
    highest = statistics.highest + excess_above.max(axis=1, initial=0)
    lowest = statistics.lowest - excess_below.max(axis=1, initial=0)
    added = np.hstack([statistics.highest[:, None] + excess_above, statistics.lowest[:, None] - excess_below])
    weights = np.round(np.concatenate([above, below]) * (values * weight * _A_VALUE)).astype(np.int64)
    return _over_range(statistics, lowest.astype(np.float32), highest.astype(np.float32), added, weights)


def _share_beyond(one: Counts, other: Counts) -> float:
    """The share of the values of either half that lie above the highest of the other, mean over the channels."""
    bins = one.shape[1]
    beyond = 0.0
    for held, limiting in ((one, other), (other, one)):
        last = bins - 1 - (limiting[:, ::-1] > 0).argmax(axis=1)
        beyond += float(np.where(np.arange(bins) > last[:, None], held, 0).sum())
    return beyond / max(int(one.sum() + other.sum()), 1)


def _shares(beyond: float, rarest: float) -> Doubles:
    """The shares of all values that the parts of a tail hold which has so much of them, [places]."""
    places = min(int(np.log2(max(beyond / rarest, 1))), _MOST_PLACES)
    return np.asarray(beyond * np.append(0.5 ** np.arange(1, places), 0.5 ** (places - 1))) if places else np.zeros(0)


def _excess(counts: Counts, bin_width: Floats, beyond: float, places: int) -> Doubles:
    """How far the values to expect lie below the lowest one, in the unit of the values, [channels, places]."""
    if not places:
        return np.zeros((len(counts), 0))
    share = min(max(_TAIL, _FEWEST_IN_TAIL / 2 * beyond), 0.5)
    wider = min(_WIDER * share, 1.0)
    (start, usual), (edge, excess) = _tail(counts, wider), _tail(counts, share)
    # The value at the edge has no excess of its own: it is left out, since of few values the mean would be too low.
    values = float(np.median(counts.sum(axis=1)))
    grown = excess / (1 - 1 / max(share * values, 2)) - usual / (1 - 1 / max(wider * values, 2))
    moved = float((start - edge) @ bin_width[:, 0])
    slope = float(np.clip(grown @ bin_width[:, 0] / moved, 0, _STEEPEST)) if moved > 0 else 0.0
    at_end = 1 + slope * np.log(share / beyond)
    return np.asarray((at_end * excess)[:, None] * bin_width * _pareto_places(places, slope / (1 + slope)))


def _tail(counts: Counts, share: float) -> tuple[Doubles, Doubles]:
    """The quantile that ends the lower tail and the mean excess over it, in bins, [channels] each."""
    place = np.arange(counts.shape[1])

    def of_channels(counts: Counts) -> Doubles:
        wanted = share * counts.sum(axis=1, keepdims=True)
        before = np.cumsum(counts, axis=1) - counts
        in_tail = np.clip(wanted - before, 0, counts)  # as many of each bin as belong to the tail
        edge = np.where(in_tail > 0, place, 0).max(axis=1)
        return np.stack([edge, edge - (in_tail @ place) / np.maximum(wanted[:, 0], 1e-9)], axis=1)

    edge, excess = by_channels(of_channels, counts).T
    return edge, excess


def _pareto_places(places: int, shape: float) -> Doubles:
    """What stands for the parts of a generalised Pareto tail of mean 1, the root mean square of each, [places].

    Each part but the last is half of what is left.
    """
    part = np.arange(places + 1) * np.log(2)
    first = (np.expm1(part * shape) / shape if shape else part) * (1 - shape)  # where each begins
    mean = 1 + shape / (1 - shape) * first  # of the excess over it, which has the same shape
    beyond = first**2 + 2 * first * mean + 2 * (1 - shape) / (1 - 2 * shape) * mean**2  # the mean square of all of it
    square = 2 * beyond[:-1] - beyond[1:]
    square[-1:] = beyond[-2:-1]
    return np.asarray(np.sqrt(square))


def _over_range(
    statistics: SiteStatistics, lowest: Floats, highest: Floats, added: Doubles, weights: Counts
) -> SiteStatistics:
    """The histogram over a wider range, and values [channels, places] added to it, as many parts of one at each."""
    channels, bins = statistics.counts.shape
    width = (highest - lowest).astype(np.float64) / bins
    alive = (statistics.bin_width[:, 0] > 0) & (width > 0)
    old_width = np.where(alive, statistics.bin_width[:, 0], 1)

    def moved(counts: Counts, lowest: Floats, width: Doubles, old_lowest: Floats, old_width: Floats) -> Counts:
        edges = lowest[:, None] + width[:, None] * np.arange(bins + 1)
        position = np.clip((edges - old_lowest[:, None]) / old_width[:, None], 0, bins)
        position[:, 0], position[:, -1] = 0, bins
        return counts_between(counts, position, unit=_A_VALUE)

    counts = by_channels(moved, statistics.counts, lowest, width, statistics.lowest, old_width)
    place = np.clip(((added - lowest[:, None]) / np.where(alive, width, 1)[:, None]).astype(np.int64), 0, bins - 1)
    np.add.at(counts, (np.arange(channels)[:, None], place), weights)
    return SiteStatistics(
        lowest=np.where(alive, lowest, statistics.lowest),
        highest=np.where(alive, highest, statistics.highest),
        counts=np.where(alive[:, None], counts, statistics.counts * _A_VALUE),
    )

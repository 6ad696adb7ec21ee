"""Choosing thresholds, resting counts and levels: a full search over each channel's histogram, all channels at once.

The objective of a candidate is computed from the histogram, so that the whole search costs no pass over the images.
"""

import numpy as np

from pmsm_cli.calibration.emission import Neurons, Spread
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.objectives import (
    PERCENTILE,
    Objective,
    divergence,
    information_lost,
    largest_magnitude,
    mean_squared_error,
)
from pmsm_cli.calibration.statistics import Floats, SiteStatistics
from pmsm_cli.neuron.parameters import NeuronParameters

# The clipping limit, as a fraction of the largest value: coarse candidates, then ever closer rounds around the best of
# them. The last rounds matter with many levels: a channel that rests at one value wants a level exactly there.
_COARSE = np.geomspace(0.02, 1.0, 28, dtype=np.float32)
_ROUNDS = (0.12, 0.02, 0.004, 0.001)  # half width of each later round, relative
_CANDIDATES_A_ROUND = 17
_BINS_A_LEVEL = 32  # finer histograms make the search slower and its result no better
# Of several channels: as many as stay in the processor's cache, in few calls, at which threads wait for one another.
_BINS_AT_ONCE = 2**18

_SEARCHED: dict[Method, Objective] = {
    Method.ENTROPY: information_lost,
    Method.MSE: mean_squared_error,
    Method.KL: divergence,
}
_RESTING = frozenset({Method.ENTROPY})  # the methods that also choose where a neuron rests


def choose_parameters(
    statistics: SiteStatistics, method: Method, levels: int, *, may_rest: bool = False
) -> NeuronParameters:
    """Threshold and resting count per channel, and N and P of at most `levels` each, as the activations need them.

    A channel that was never active gets the median threshold of the others (1 where there are none): if it fires after
    all, it fires like its neighbours. N is 0 where no value lies below the resting one. `may_rest` says whether the
    site's neurons can rest at another value than 0 (`pmsm_cli.graph.rest`).
    """
    amplitude = np.maximum(statistics.highest, -statistics.lowest)
    full_scale = (amplitude / np.float32(levels)).astype(np.float32)  # at which nothing above or below 0 is clipped
    alive = amplitude > 0
    threshold, rest = np.ones(len(amplitude), np.float32), np.zeros(len(amplitude), np.float32)
    if alive.any():
        seen = rows_of(statistics, np.flatnonzero(alive))
        if method in _SEARCHED:
            seen = seen.merged(_BINS_A_LEVEL * levels)
            usual = median(seen) if may_rest and method in _RESTING else np.zeros(len(seen.lowest), np.float32)
            # A channel that rests at one end of its values has to reach the other.
            reach = np.maximum(seen.highest - usual, usual - seen.lowest) / np.float32(levels)
            threshold[alive] = _search(seen, np.maximum(full_scale[alive], reach), usual, levels, _SEARCHED[method])
            rest[alive] = resting_count(usual, threshold[alive], levels)
        elif method is Method.PERCENTILE:
            limit = largest_magnitude(seen, PERCENTILE)
            seldom = limit <= seen.bin_width[:, 0]  # active in fewer than one of a thousand: the limit is that of zeros
            threshold[alive] = np.where(seldom, full_scale[alive], limit / np.float32(levels))
        else:
            threshold[alive] = full_scale[alive]
        threshold[~alive] = np.median(threshold[alive])
    most = np.max(np.round(statistics.highest / threshold - rest))
    least = -np.min(np.round(statistics.lowest / threshold - rest))
    chosen = Neurons(threshold, rest, int(np.clip(least, 0, levels)), int(np.clip(most, 1, levels)))
    return chosen.parameters()


def rows_of(statistics: SiteStatistics, chosen: "np.typing.NDArray[np.int64]") -> SiteStatistics:
    """The statistics of some of the channels."""
    return SiteStatistics(
        lowest=statistics.lowest[chosen], highest=statistics.highest[chosen], counts=statistics.counts[chosen]
    )


def median(statistics: SiteStatistics) -> Floats:
    """The value that half of the values do not exceed, [channels]; 0 where 0 is in the same bin.

    Resting at the median costs the fewest expected spikes: it minimises E|x - rest|. More than half of a sparse
    channel's values are 0, and so is its median.
    """
    below = np.cumsum(statistics.counts, axis=1)
    place = (2 * below >= below[:, -1:]).argmax(axis=1)[:, None]
    median: Floats = np.take_along_axis(statistics.centres, place, axis=1)[:, 0]
    return np.where(np.abs(median) <= statistics.bin_width[:, 0] / 2, np.float32(0), median)


def resting_count(usual: Floats, threshold: Floats, levels: int) -> Floats:
    """Whole thresholds, so that 0 keeps a level of its own: zeros are the commonest value of all after ReLU."""
    return np.clip(np.round(usual / threshold), -levels, levels).astype(np.float32)


def _search(statistics: SiteStatistics, full_scale: Floats, usual: Floats, levels: int, objective: Objective) -> Floats:
    """Each channel's best threshold."""
    at_once = max(1, _BINS_AT_ONCE // statistics.counts.shape[1])
    found = np.empty_like(full_scale)
    for start in range(0, len(full_scale), at_once):
        rows = np.arange(start, min(start + at_once, len(full_scale)))
        found[rows] = _search_rows(rows_of(statistics, rows), full_scale[rows], usual[rows], levels, objective)
    return found


def _search_rows(
    statistics: SiteStatistics, full_scale: Floats, usual: Floats, levels: int, objective: Objective
) -> Floats:
    best = np.ones_like(full_scale)
    least = np.full(full_scale.shape, np.inf, np.float32)
    spread = Spread.of(statistics)
    for half_width in (None, *_ROUNDS):
        around = _COARSE if half_width is None else np.linspace(1 - half_width, 1 + half_width, _CANDIDATES_A_ROUND)
        centre = np.ones_like(best) if half_width is None else best
        for factor in around.astype(np.float32):
            threshold = full_scale * centre * factor
            rest = resting_count(usual, threshold, levels)
            figure = objective(spread, Neurons(threshold, rest, levels, levels))
            better = figure < least
            best, least = np.where(better, centre * factor, best), np.where(better, figure, least)
    return full_scale * best

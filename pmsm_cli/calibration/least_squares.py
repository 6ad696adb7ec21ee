"""Thresholds by least squared error: for each channel, the one that distorts the activations least.

The error of a candidate is summed over a fine histogram, so that the whole search costs no pass over the images.
"""

import numpy as np

from pmsm_cli.calibration.statistics import Floats, SiteStatistics
from pmsm_cli.neuron.parameters import NeuronParameters

# The clipping limit, as a fraction of the largest value: coarse candidates, then ever closer rounds around the best of
# them. The last rounds matter with many levels: a channel that rests at one value wants a level exactly there.
_COARSE = np.geomspace(0.02, 1.0, 28, dtype=np.float32)
_ROUNDS = (0.12, 0.02, 0.004, 0.001)  # half width of each later round, relative
_CANDIDATES_A_ROUND = 17
_BINS_A_LEVEL = 32  # finer histograms make the search slower and its result no better


def least_squares_parameters(statistics: SiteStatistics, levels: int) -> NeuronParameters:
    """Threshold per channel, and N and P of at most `levels` each, as the activations need them.

    A channel that was never active gets the median threshold of the others (1 where there are none): if it fires after
    all, it fires like its neighbours. N is 0 where no channel was ever negative.
    """
    signed = bool((statistics.lowest < 0).any())
    amplitude = np.maximum(statistics.highest, -statistics.lowest)
    full_scale: Floats = (amplitude / np.float32(levels)).astype(
        np.float32
    )  # the threshold at which nothing is clipped
    alive = amplitude > 0
    threshold = np.ones(len(amplitude), np.float32)
    if alive.any():
        searched = _rows(statistics, alive).merged(_BINS_A_LEVEL * levels)
        threshold[alive] = _search(searched, full_scale[alive], levels, signed)
        threshold[~alive] = np.median(threshold[alive])
    most = np.round(np.max(statistics.highest / threshold))
    least = np.round(np.max(-statistics.lowest / threshold))
    return NeuronParameters(
        threshold=threshold if len(threshold) > 1 else threshold.reshape(()),
        negative_levels=int(np.clip(least, 0, levels)),
        positive_levels=int(np.clip(most, 1, levels)),
    )


def squared_error(statistics: SiteStatistics, threshold: Floats, negative_levels: int, positive_levels: int) -> Floats:
    """The mean squared difference between the activations and what the spikes stand for, [channels]."""
    centres = statistics.centres
    counts = np.clip(np.round(centres / threshold[:, None]), -negative_levels, positive_levels)
    difference = centres - counts * threshold[:, None]
    total = np.maximum(statistics.counts.sum(axis=1), 1)
    error: Floats = np.einsum("cb,cb,cb->c", difference, difference, statistics.counts.astype(np.float32)) / total
    return error


def _rows(statistics: SiteStatistics, chosen: "np.typing.NDArray[np.bool_]") -> SiteStatistics:
    return SiteStatistics(
        lowest=statistics.lowest[chosen], highest=statistics.highest[chosen], counts=statistics.counts[chosen]
    )


def _search(statistics: SiteStatistics, full_scale: Floats, levels: int, signed: bool) -> Floats:
    """The best fraction of each channel's full-scale threshold."""
    best = np.ones_like(full_scale)
    least = np.full(full_scale.shape, np.inf, np.float32)
    rounds = [np.broadcast_to(_COARSE[:, None], (len(_COARSE), len(full_scale)))]
    for half_width in (None, *_ROUNDS):
        if half_width is not None:
            around = np.linspace(1 - half_width, 1 + half_width, _CANDIDATES_A_ROUND, dtype=np.float32)
            rounds = [around[:, None] * best[None, :]]
        for fraction in rounds[-1]:
            error = squared_error(statistics, full_scale * fraction, levels if signed else 0, levels)
            better = error < least
            best, least = np.where(better, fraction, best), np.where(better, error, least)
    return full_scale * best

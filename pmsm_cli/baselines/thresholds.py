"""Thresholds from the activations that calibration images give, one for a layer or one for each channel.

A neuron carries at most its threshold a step, so that a threshold is the largest activation that its average can reach.
"""

import numpy as np

from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.statistics import MOST_BINS, Floats, SiteStatistics
from pmsm_cli.calibration.thresholds import choose_parameters

PERCENTILE = 99.9


def largest(statistics: SiteStatistics) -> Floats:
    """The largest activation, [channels].

    Diehl et al., IJCNN 2015 (data-based normalisation). Its second bound, that no threshold be smaller than the layer's
    largest weight, is left out: it only makes spikes rarer.
    """
    return _usable(statistics.highest.copy())


def percentile(statistics: SiteStatistics, percent: float = PERCENTILE, *, above_zero: bool = False) -> Floats:
    """The activation that so many percent of all, or of those above 0, do not exceed, [channels].

    Rueckauer et al., Front. Neurosci. 11 (2017), which speaks of all; the authors' toolbox leaves zeros out. What lies
    in a histogram's bin of 0 counts as 0.
    """
    counts = statistics.counts
    if above_zero:
        counts = np.where(np.abs(statistics.centres) <= statistics.bin_width, 0, counts)
    below = np.cumsum(counts, axis=1)
    place = (below >= below[:, -1:] * (percent / 100)).argmax(axis=1)[:, None]
    found = np.take_along_axis(statistics.centres, place, axis=1)[:, 0]
    # A channel that is hardly ever active has its percentile in the bin of 0.
    usable = (below[:, -1] > 0) & (found > statistics.bin_width[:, 0])
    return _usable(np.where(usable, found, statistics.highest).astype(np.float32))


def least_squares(statistics: SiteStatistics, levels: int) -> Floats:
    """The threshold lambda of QCFS with so many levels that changes the activations least, [channels].

    Bu et al., ICLR 2022, section 4: h(z) = lambda / L clip(floor(z L / lambda + 1/2), 0, L). The authors train lambda
    with the weights; without training it is set by least squared error.
    """
    chosen = choose_parameters(statistics, Method.MSE, levels)
    return np.broadcast_to(chosen.threshold, statistics.highest.shape) * np.float32(levels)


def pooled(statistics: SiteStatistics) -> SiteStatistics:
    """The activations of all channels as those of a single one."""
    lowest, highest = statistics.lowest.min(), statistics.highest.max()
    values, counts = statistics.centres.ravel(), statistics.counts.ravel()
    together, _ = np.histogram(values, bins=MOST_BINS, range=(lowest, max(highest, lowest + 1e-30)), weights=counts)
    return SiteStatistics(
        lowest=np.array([lowest], np.float32),
        highest=np.array([highest], np.float32),
        counts=together.round().astype(np.int64)[None],
    )


def largest_of_neurons(maxima: Floats, channels: Floats) -> Floats:
    """Each neuron's own largest activation, where it was ever active, else its channel's threshold.

    Wang et al., IJCAI 2022: neuron-wise normalisation. `maxima` has the shape of one image's activations, `channels`
    broadcasts against it.
    """
    return np.where(maxima > 0, maxima, channels).astype(np.float32)


def _usable(threshold: Floats) -> Floats:
    """A channel that was never active gets the median of the others (1 where there are none)."""
    active = threshold > 0
    return np.where(active, threshold, np.median(threshold[active]) if active.any() else np.float32(1))

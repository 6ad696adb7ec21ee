"""What makes one threshold better than another: interchangeable functions of the histogram and the neurons.

Each returns one figure a channel, smaller is better, and knows nothing of how candidates are found
(`pmsm_cli.calibration.thresholds`). The derivation of the entropy objective is in docs/calibration.md.
"""

from collections.abc import Callable

import numpy as np

from pmsm_cli.calibration.emission import Neurons, Spread, distortion, emit
from pmsm_cli.calibration.statistics import Floats, SiteStatistics

Objective = Callable[[Spread, Neurons], Floats]

# What a spike must convey to be worth sending, in bits. At 0 a threshold is taken for the least distortion alone,
# however many spikes the last hundredth of a bit costs.
BITS_A_SPIKE = 0.01
_EXACT = 1e-10  # distortion relative to the signal, below which more precision is worth nothing
PERCENTILE = 99.9  # of the magnitudes: what `percentile` leaves unclipped


def information_lost(spread: Spread, neurons: Neurons) -> Floats:
    """Minus the information that spikes convey, less the price of the spikes, in bits per value.

    By Shannon's lower bound R = h(X) - 1/2 log2(2 pi e D); of its terms only D depends on the neurons.
    """
    spikes = emit(spread.centres, neurons)
    power = np.einsum("cb,cb,cb->c", spread.centres, spread.centres, spread.share)
    error = np.maximum(distortion(spread, neurons, spikes), _EXACT * power + np.finfo(np.float32).tiny)
    sent = np.einsum("cb,cb->c", np.abs(spikes), spread.share)
    return np.asarray(0.5 * np.log2(error) + BITS_A_SPIKE * sent, np.float32)


def mean_squared_error(spread: Spread, neurons: Neurons) -> Floats:
    """The distortion itself, in the unit of the activations, squared."""
    return distortion(spread, neurons, emit(spread.centres, neurons))


def divergence(spread: Spread, neurons: Neurons) -> Floats:
    """Kullback-Leibler divergence of the activations' distribution from the quantised one, in bits.

    The quantised distribution spreads what a level holds evenly over the bins that it took it from (S. Migacz, "8-bit
    inference with TensorRT", GTC 2017), clipped values included.
    """
    share = spread.share.astype(np.float64)
    levels = neurons.negative_levels + neurons.positive_levels + 1
    level = (emit(spread.centres, neurons) + neurons.negative_levels).astype(np.int64)
    place = (level + levels * np.arange(len(share))[:, None]).ravel()
    seen = share.ravel() > 0
    held = np.bincount(place, weights=share.ravel(), minlength=len(share) * levels)
    bins = np.bincount(place[seen], minlength=len(share) * levels)
    even = (held / np.maximum(bins, 1))[place].reshape(share.shape)
    ratio = np.log2(np.divide(share, even, out=np.ones(share.shape), where=(share > 0) & (even > 0)))
    return np.asarray((share * ratio).sum(axis=1), np.float32)


def largest_magnitude(statistics: SiteStatistics, percent: float) -> Floats:
    """The magnitude that so many percent of the values do not exceed, [channels]."""
    magnitude = np.abs(statistics.centres)
    order = np.argsort(magnitude, axis=1)
    below = np.cumsum(np.take_along_axis(statistics.counts, order, axis=1), axis=1)
    first = (below >= below[:, -1:] * (percent / 100)).argmax(axis=1)
    found: Floats = np.take_along_axis(magnitude, np.take_along_axis(order, first[:, None], axis=1), axis=1)[:, 0]
    return found

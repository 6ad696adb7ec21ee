"""What makes one threshold better than another: interchangeable functions of the histogram and the neurons.

Each returns one figure a channel, smaller is better, and knows nothing of how candidates are found
(`pmsm_cli.calibration.thresholds`). The derivation of the entropy objective is in docs/calibration.md.
"""

from collections.abc import Callable

import numpy as np

from pmsm_cli.calibration.emission import Neurons, Spread, distortion, emit, mean_count, mean_square
from pmsm_cli.calibration.statistics import Counts, Floats, SiteStatistics

Objective = Callable[[Spread, Neurons], Floats]

# What a spike must convey to be worth sending, in bits. At 0 a threshold is taken for the least distortion alone,
# however many spikes the last hundredth of a bit costs.
BITS_A_SPIKE = 0.01
# How many times its share of D counts what is clipped. Rounding errs either way, in every neuron anew, and evens out
# where a synapse sums up; clipping takes from all large values at once, of one image and of one sign, and does not.
# Chosen by benchmarks/clipping.py. Values that are only expected on further images count once all the same: how far out
# they lie is a cautious guess already.
CLIPPED_COUNTS = 1.5
_EXACT = 1e-10  # distortion relative to the signal, below which more precision is worth nothing
PERCENTILE = 99.9  # of the magnitudes: what `percentile` leaves unclipped


def information_lost(spread: Spread, neurons: Neurons) -> Floats:
    """Minus the information that spikes convey, less the price of the spikes, in bits per value.

    By Shannon's lower bound R = h(X) - 1/2 log2(2 pi e D); of its terms only D depends on the neurons. What is clipped
    counts `CLIPPED_COUNTS` times in D.
    """
    spikes = emit(spread.centres, neurons)
    error = distortion(spread, neurons, spikes, clipped_counts=CLIPPED_COUNTS)
    error = np.maximum(error, _EXACT * mean_square(spread) + np.finfo(np.float32).tiny)
    return np.asarray(0.5 * np.log2(error) + BITS_A_SPIKE * mean_count(spikes, spread), np.float32)


def mean_squared_error(spread: Spread, neurons: Neurons) -> Floats:
    """The distortion itself, in the unit of the activations, squared."""
    return distortion(spread, neurons, emit(spread.centres, neurons))


def divergence(spread: Spread, neurons: Neurons) -> Floats:
    """Kullback-Leibler divergence of the activations' distribution from the quantised one, in bits.

    After S. Migacz, "8-bit inference with TensorRT" (GTC 2017): clipped values are counted in the outermost bins that
    are not clipped; the quantised distribution spreads the unclipped values of a level evenly over the bins that they
    fill. Zeros count as no more than the bin beside theirs holds, as in the implementations: with all zeros of ReLU in
    one bin the least divergence is that of levels which tell nothing but zeros apart. Infinite where no more bins are
    kept than there are levels (his search begins there): a bin does not differ from its level, whatever is clipped.
    """
    statistics = spread.statistics
    counts, rows = _without_zeros(statistics), np.arange(len(statistics.counts))
    negative, positive = neurons.negative_levels, neurons.positive_levels
    wanted = np.round(statistics.centres / neurons.threshold[:, None] - neurons.rest[:, None])
    kept = np.where((wanted >= -negative) & (wanted <= positive), counts, 0)
    seen, bins = kept > 0, counts.shape[1]
    reference = kept.astype(np.float64)
    reference[rows, seen.argmax(axis=1)] += np.where(wanted < -negative, counts, 0).sum(axis=1)
    reference[rows, bins - 1 - seen[:, ::-1].argmax(axis=1)] += np.where(wanted > positive, counts, 0).sum(axis=1)
    levels = negative + positive + 1
    place = (np.clip(wanted, -negative, positive).astype(np.int64) + negative + levels * rows[:, None]).ravel()
    held = np.bincount(place, weights=kept.ravel(), minlength=len(counts) * levels)
    filled = np.bincount(place[seen.ravel()], minlength=len(counts) * levels)
    even = (held / np.maximum(filled, 1))[place].reshape(counts.shape) / np.maximum(kept.sum(axis=1), 1)[:, None]
    reference /= np.maximum(counts.sum(axis=1), 1)[:, None]
    ratio = np.log2(np.divide(reference, even, out=np.ones_like(reference), where=seen))
    enough = seen.sum(axis=1) > max(negative, positive)
    return np.where(enough, (reference * ratio).sum(axis=1), np.inf).astype(np.float32)


def _without_zeros(statistics: SiteStatistics) -> Counts:
    """The counts, of which the bin of 0 holds no more than the one beside it."""
    counts, rows = statistics.counts.copy(), np.arange(len(statistics.counts))
    width = np.maximum(statistics.bin_width[:, 0].astype(np.float64), np.finfo(np.float32).tiny)
    at_zero = np.clip(-statistics.lowest / width, 0, counts.shape[1] - 2).astype(np.int64)
    counts[rows, at_zero] = np.minimum(counts[rows, at_zero], counts[rows, at_zero + 1])
    # What lies on one side of 0 alone and far from it has no bin of 0; a channel of nothing else keeps what it has.
    outside = (statistics.lowest > 0) | (statistics.highest < 0) | (counts.sum(axis=1) == 0)
    counts[outside] = statistics.counts[outside]
    return counts


def largest_magnitude(statistics: SiteStatistics, percent: float) -> Floats:
    """The magnitude that so many percent of the values do not exceed, [channels]."""
    magnitude = np.abs(statistics.centres)
    order = np.argsort(magnitude, axis=1)
    below = np.cumsum(np.take_along_axis(statistics.counts, order, axis=1), axis=1)
    first = (below >= below[:, -1:] * (percent / 100)).argmax(axis=1)
    found: Floats = np.take_along_axis(magnitude, np.take_along_axis(order, first[:, None], axis=1), axis=1)[:, 0]
    return found

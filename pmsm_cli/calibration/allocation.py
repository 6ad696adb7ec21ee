"""Levels where they matter: thresholds that spend spikes on the channels whose errors reach the output.

To first order the squared error of the output is the sum of what each channel's distortion D contributes to it,

    E = sum over channels of k D(theta),      k = how strongly the channel's error shows at the output,

and the spikes of an image are S = sum of n E|s|(theta), with n the neurons of a channel. Information about the output,
R = h - 1/2 log2(2 pi e E), depends on thresholds through E alone, so that the fewest spikes for a given R minimise
k D + price n E|s| in every channel by itself, all at one price (Lagrange; Y. Shoham and A. Gersho, "Efficient bit
allocation for an arbitrary set of quantizers", IEEE Trans. ASSP 36, 1988, 1445-1453). D falls as theta^2 and E|s| as
1 / theta, whatever the levels: these only have to reach as far as the activations do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmsm_cli.calibration.emission import Neurons, Spread, emit, error_moments, mean_count, mean_square
from pmsm_cli.calibration.statistics import Counts, Floats, SiteStatistics
from pmsm_cli.calibration.thresholds import median, resting_count, rows_of
from pmsm_cli.neuron.parameters import NeuronParameters

Doubles = npt.NDArray[np.float64]

MOST_LEVELS = 255  # beyond which no network seen so far gains anything
_STEPS_AN_OCTAVE = 6
_CANDIDATES = 1 + 8 * _STEPS_AN_OCTAVE  # thresholds from the largest activation down to a 256th of it
_BINS = 1024
_BINS_AT_ONCE = 2**17  # of several channels; thresholds.py says why
_POWERS = (2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0)  # of the error, that the loss may go with
_TOLERATED = 1.02  # how much more a site may distort for having fewer levels


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What one allocation gave on calibration images."""

    spikes_per_neuron: float
    most_levels: int  # the largest N or P of any site
    mean_levels: float  # N + P, mean over the neurons
    top1: float | None  # percent; None: no labels
    agreement: float | None  # percent of the images that get the source's class; None: no classes
    output_error: float  # L2, relative to the source's outputs, percent


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """How levels were found: what was asked, what was measured, and the curve of what can be had."""

    target_drop: float  # points
    measure: str  # what `drop` is a drop of: "top-1", "agreement" or "output error"
    drop: float  # of the chosen point
    kept: bool  # whether the drop is within the target
    images: int  # that every point was measured on
    chosen: Point
    curve: tuple[Point, ...]  # by rising spikes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RateTable:
    """What each candidate threshold of a site's channels costs, arrays [channels, candidates]."""

    threshold: Floats
    rest: Floats
    distortion: Floats  # mean squared error; where means are matched again, what it has beyond the mean error's square
    spikes: Floats  # E|s|


def rate_table(statistics: SiteStatistics, *, may_rest: bool, means_matched: bool = False) -> RateTable:
    """Distortion and expected spikes over a geometric range of thresholds, for each channel.

    `means_matched`: whatever reads the site gets its mean back, so that a mean error costs nothing.
    """
    seen = statistics.merged(_BINS)
    amplitude = np.maximum(seen.highest, -seen.lowest)
    top = np.where(amplitude > 0, amplitude, np.float32(1))
    steps = 2.0 ** (-np.arange(_CANDIDATES) / _STEPS_AN_OCTAVE)
    threshold = (top[:, None] * steps[None, :]).astype(np.float32)
    usual = median(seen) if may_rest else np.zeros_like(top)
    rest = resting_count(usual[:, None], threshold, MOST_LEVELS)
    distortion, spikes = np.empty_like(threshold), np.empty_like(threshold)
    at_once = max(1, _BINS_AT_ONCE // seen.counts.shape[1])
    for start in range(0, len(top), at_once):
        rows = np.arange(start, min(start + at_once, len(top)))
        part = rows_of(seen, rows)
        spread = Spread.of(part)
        for index in range(_CANDIDATES):
            neurons = Neurons(threshold[rows, index], rest[rows, index], MOST_LEVELS, MOST_LEVELS)
            emitted = emit(spread.centres, neurons)
            square, mean = error_moments(spread, neurons, emitted)
            distortion[rows, index] = square - mean**2 if means_matched else square
            spikes[rows, index] = mean_count(emitted, spread)
    return RateTable(threshold=threshold, rest=rest, distortion=distortion, spikes=spikes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SiteCost:
    """What a site's distortion and spikes weigh."""

    table: RateTable
    error: Doubles  # [channels], squared relative error of the output per unit of distortion
    neurons: float  # of one channel and image

    def choice(self, price: float) -> npt.NDArray[np.int64]:
        """Each channel's best candidate at a price of a spike (in squared relative error), [channels]."""
        cost = self.error[:, None] * self.table.distortion + price * self.neurons * self.table.spikes
        best: npt.NDArray[np.int64] = cost.argmin(axis=1)
        return best

    def predicted_error(self, price: float) -> float:
        """The squared relative error of the output that the site contributes at that price."""
        distortion = np.take_along_axis(self.table.distortion, self.choice(price)[:, None], axis=1)[:, 0]
        return float(self.error @ distortion)


def price_for(costs: Mapping[str, SiteCost], error: float) -> float:
    """The price at which all sites together are predicted to give this relative error of the output (not squared)."""
    low, high = -60.0, 20.0  # log2 of the price
    for _ in range(50):
        middle = (low + high) / 2
        predicted = sum(cost.predicted_error(2.0**middle) for cost in costs.values())
        low, high = (low, middle) if predicted > error**2 else (middle, high)
    return float(2.0**low)


def neurons_at(statistics: SiteStatistics, cost: SiteCost, price: float) -> NeuronParameters:
    """The neurons of a site at a price, with no more levels than its activations need."""
    chosen = _chosen(statistics, cost.table, cost.choice(price))
    negative, positive = _fewest_levels(Spread.of(statistics.merged(_BINS // 2)), chosen, cost.error)
    return chosen._replace(negative_levels=negative, positive_levels=positive).parameters()


def neurons_of_precision(statistics: SiteStatistics, table: RateTable, ratio: float) -> NeuronParameters:
    """The coarsest neurons of which each channel's signal is so many times its distortion, both as mean squares.

    Where no candidate is that precise, the finest.
    """
    precise = table.distortion * np.float32(ratio) <= mean_square(Spread.of(statistics))[:, None]
    choice = np.where(precise.any(axis=1), precise.argmax(axis=1), _CANDIDATES - 1)
    return _chosen(statistics, table, choice).parameters()


def _chosen(statistics: SiteStatistics, table: RateTable, choice: Counts) -> Neurons:
    """Of each channel a candidate, with as many levels as no activation exceeds."""
    threshold = np.take_along_axis(table.threshold, choice[:, None], axis=1)[:, 0]
    rest = np.take_along_axis(table.rest, choice[:, None], axis=1)[:, 0]
    alive = statistics.highest > statistics.lowest
    if alive.any():
        threshold[~alive & (statistics.highest == 0)] = np.median(threshold[alive])
    above = int(np.clip(np.max(np.round(statistics.highest / threshold) - rest), 1, MOST_LEVELS))
    below = int(np.clip(np.max(rest - np.round(statistics.lowest / threshold)), 0, MOST_LEVELS))
    return Neurons(threshold, rest, below, above)


def _fewest_levels(spread: Spread, neurons: Neurons, error: Doubles) -> tuple[int, int]:
    """N and P, the fewest that keep the site's error within what is tolerated.

    With u the value in thresholds above the resting one and w its weight, s spikes add w (u - s)^2 to the error.
    Limited to L levels, those with s > L add w (u - L)^2 instead: the moments w, w u and w u^2 of the values at each
    spike count give the error for every L in one pass.
    """
    spikes = emit(spread.centres, neurons)
    place = (spikes + neurons.negative_levels).astype(np.int64).ravel()
    value = (spread.centres / neurons.threshold[:, None] - neurons.rest[:, None]).astype(np.float64)
    weight = spread.share * (error * neurons.threshold.astype(np.float64) ** 2)[:, None]
    levels = neurons.negative_levels + neurons.positive_levels + 1
    powers = (weight, weight * value, weight * value**2)
    moments: Doubles = np.array([np.bincount(place, each.ravel(), minlength=levels) for each in powers], np.float64)
    count = np.arange(levels) - neurons.negative_levels
    own = _squared(moments, count)  # the error at each spike count
    spare = (_TOLERATED - 1) * own.sum()
    highs = np.arange(1, neurons.positive_levels + 1)
    added_high = _added(moments[:, ::-1], own[::-1], neurons.positive_levels - highs, highs)
    positive = int(highs[(added_high <= spare).argmax()])
    lows = np.arange(neurons.negative_levels + 1)
    added_low = _added(moments, own, neurons.negative_levels - lows, -lows)
    negative = int((added_low <= spare - added_high[positive - 1]).argmax())
    return negative, positive


def _squared(moments: Doubles, level: Counts) -> Doubles:
    """The sum of w (u - level)^2."""
    return np.asarray(moments[2] - 2 * level * moments[1] + level.astype(np.float64) ** 2 * moments[0])


def _added(moments: Doubles, own: Doubles, beyond: Counts, level: Counts) -> Doubles:
    """What clipping the first so many spike counts, `beyond`, to a level adds to their own error."""
    sums = np.pad(np.cumsum(np.vstack([moments, own]), axis=1), ((0, 0), (1, 0)))[:, beyond]
    return np.asarray(_squared(sums[:3], level) - sums[3])


def smoothed_loss(points: Sequence[tuple[float, float]], error: float) -> float:
    """The loss at an error of the output that all points (error, measured loss) together make likely.

    It is taken to be a e^p. The share of images that change class grows as the error e, and so does the share of these
    that is lost for good, which makes p 2; on images that the source was trained on margins are wide, and the loss goes
    faster to 0. Of the powers from 2 to 4 the likeliest is taken, and its likeliest a, where the images lost are counts
    of rare events (Poisson). 0 where nothing was lost.
    """
    least = float(np.finfo(np.float32).tiny)  # of an error, so that it has a logarithm
    logs = np.log([max(each, least) / max(error, least) for each, _ in points])
    losses = np.array([max(loss, 0.0) for _, loss in points])
    total = float(losses.sum())
    if not total:
        return 0.0
    sums = {power: float(np.exp(power * logs).sum()) for power in _POWERS}
    best = max(_POWERS, key=lambda power: power * float(losses @ logs) - total * float(np.log(sums[power])))
    return total / sums[best]

"""What neurons make of a histogram: the spikes of every bin, and how far they are from the values."""

from typing import NamedTuple

import numpy as np

from pmsm_cli.calibration.statistics import Floats, SiteStatistics
from pmsm_cli.neuron.parameters import NeuronParameters


class Neurons(NamedTuple):
    """The neurons of a site while they are being chosen: one row a channel, nothing checked."""

    threshold: Floats  # [channels]
    rest: Floats  # [channels]: the count at which a neuron emits nothing
    negative_levels: int
    positive_levels: int

    @classmethod
    def of(cls, parameters: NeuronParameters, channels: int) -> "Neurons":
        """The chosen ones, one row a channel."""
        return cls(
            np.broadcast_to(parameters.threshold, (channels,)),
            np.broadcast_to(parameters.rest, (channels,)),
            parameters.negative_levels,
            parameters.positive_levels,
        )

    def parameters(self) -> NeuronParameters:
        """The same as chosen: a single row stands for the whole tensor, and rests that are all 0 are one 0."""
        shape = () if len(self.threshold) == 1 else self.threshold.shape
        return NeuronParameters(
            threshold=self.threshold.reshape(shape),
            negative_levels=self.negative_levels,
            positive_levels=self.positive_levels,
            rest=self.rest.reshape(shape) if self.rest.any() else np.zeros((), np.float32),
        )


def emit(values: Floats, neurons: Neurons) -> Floats:
    """The spikes for values of shape [channels, n]."""
    return np.clip(
        np.round(values / neurons.threshold[:, None] - neurons.rest[:, None]),
        -neurons.negative_levels,
        neurons.positive_levels,
    )


def carried(spikes: Floats, neurons: Neurons) -> Floats:
    """The values that spikes stand for, [channels, n]."""
    return (spikes + neurons.rest[:, None]) * neurons.threshold[:, None]


class Spread(NamedTuple):
    """A histogram as a search reads it again and again: bin centres and what share of the values each bin holds."""

    centres: Floats  # [channels, bins]
    share: Floats  # [channels, bins]; sums to 1 along the bins
    statistics: SiteStatistics  # the histogram itself

    @classmethod
    def of(cls, statistics: SiteStatistics) -> "Spread":
        """The spread of a site's activations."""
        total = np.maximum(statistics.counts.sum(axis=1, keepdims=True), 1)
        return cls(statistics.centres, (statistics.counts / total).astype(np.float32), statistics)


def squared_error(statistics: SiteStatistics, neurons: Neurons) -> Floats:
    """The mean squared difference between the activations and what the spikes stand for, [channels]."""
    spread = Spread.of(statistics)
    return distortion(spread, neurons, emit(spread.centres, neurons))


def distortion(spread: Spread, neurons: Neurons, spikes: Floats, *, clipped_counts: float = 1.0) -> Floats:
    """The same for spikes [channels, bins] that were computed already; what is clipped counts so many times."""
    difference = spread.centres - carried(spikes, neurons)
    if clipped_counts != 1:
        clipped = np.abs(difference) > neurons.threshold[:, None] / 2  # rounding goes no further
        difference[clipped] *= np.float32(np.sqrt(clipped_counts))
    error: Floats = np.einsum("cb,cb,cb->c", difference, difference, spread.share)
    return error


def mean_square(spread: Spread) -> Floats:
    """The power of the activations, [channels]."""
    power: Floats = np.einsum("cb,cb,cb->c", spread.centres, spread.centres, spread.share)
    return power


def error_moments(spread: Spread, neurons: Neurons, spikes: Floats) -> tuple[Floats, Floats]:
    """By how much spikes carry too much or (negative) too little: the mean of its square, and its mean, [channels]."""
    difference = carried(spikes, neurons) - spread.centres
    square: Floats = np.einsum("cb,cb,cb->c", difference, difference, spread.share)
    mean: Floats = np.einsum("cb,cb->c", difference, spread.share)
    return square, mean


def mean_count(spikes: Floats, spread: Spread) -> Floats:
    """E|s|, [channels], for spikes [channels, bins] that were computed already."""
    count: Floats = np.einsum("cb,cb->c", np.abs(spikes), spread.share)
    return count


def expected_spikes(statistics: SiteStatistics, parameters: NeuronParameters) -> float:
    """Spikes per neuron, mean over all values."""
    spread = Spread.of(statistics)
    emitted = emit(spread.centres, Neurons.of(parameters, len(statistics.lowest)))
    return float(np.average(mean_count(emitted, spread), weights=np.maximum(statistics.counts.sum(axis=1), 1)))

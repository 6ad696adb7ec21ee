"""How much the spikes of each channel say about its activations, in bits; pure functions of the histogram.

Three numbers a channel. H(X) is the entropy of the activations at the resolution of the histogram. H(s) is the entropy
of the spike counts: they are a function of the activation, so that I(X; s) = H(s). R is the information that counts:
the least that any code must convey to reach the distortion D = E (X - theta s)^2 that these spikes make. What H(s) has
beyond R says nothing about the value: bits that are sent in vain.

R by Shannon's lower bound, for a source with density and differential entropy h(X) in bits:

    R(D) >= h(X) - 1/2 log2(2 pi e D),  since  I(X; Y) = h(X) - h(X | Y) >= h(X) - h(X - Y)  and  h(X - Y) is at most
    that of a Gaussian with variance D (C. E. Shannon, "Coding theorems for a discrete source with a fidelity
    criterion", IRE Convention Record 7, 1959, 142-163).

The bound becomes tight as D falls (T. Linder and R. Zamir, "On the asymptotic tightness of the Shannon lower bound",
IEEE Trans. Inf. Theory 40, 1994, 2026-2031). A scalar quantiser with even steps lies
1/2 log2(2 pi e / 12) = 0.2546 bit above it whatever the density, because its cells are intervals and no spheres
(H. Gish and J. Pierce, "Asymptotically efficient quantizing", IEEE Trans. Inf. Theory 14, 1968, 676-683).

Activations are no pure densities: ReLU piles up exact zeros, a clip its limit. Let Z say which of these atoms X is, or
that it is none, with probability 1 - p. Atoms can be told without distortion, so the rest may have D / (1 - p):

    R = H(Z) + (1 - p) (h(X | no atom) - 1/2 log2(2 pi e D / (1 - p)))          bounded to 0 <= R <= H(s)

(A. Gyorgy, T. Linder and K. Zeger, "On the rate-distortion function of random vectors and stationary sources with mixed
distributions", IEEE Trans. Inf. Theory 45, 1999, 2110-2115.) R is a lower bound on a limit, used
here as an index to compare thresholds and channels by, not a promise: at a bit or less per value it is loose.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmsm_cli.calibration.emission import Neurons, carried, emit
from pmsm_cli.calibration.statistics import Counts, Floats, SiteStatistics
from pmsm_cli.neuron.parameters import NeuronParameters

Doubles = npt.NDArray[np.float64]

_NEIGHBOURS = 4  # bins on each side that tell what a bin would hold without an atom
_DEVIATIONS = 3  # an atom stands out from its neighbours by more than so many standard deviations of a count
# h(X) needs no finer bins than these, and finer ones see gaps: between the 256 values of a pixel, between few samples.
_BINS_A_THRESHOLD = 8
_BINS_A_THRESHOLD_AT_LEAST = 2
_VALUES_A_BIN = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Information:
    """Bits per value, each array [channels]."""

    activation_entropy_bits: Doubles  # H(X), at the resolution of the histogram's bins over the channel's range
    entropy_bits: Doubles  # H(s)
    information_bits: Doubles  # R, between 0 and H(s)
    levels_used: Counts  # different counts that occurred


def information(statistics: SiteStatistics, parameters: NeuronParameters) -> Information:
    """What activations hold and what spikes of these parameters convey, for each channel.

    A constant channel holds nothing, and nothing is conveyed. Cost: a few passes over the histogram.
    """
    entropy, used = _spike_entropy(statistics, parameters)
    return Information(
        activation_entropy_bits=_entropy(statistics.counts.astype(np.float64)),
        entropy_bits=entropy,
        information_bits=np.clip(_conveyed(statistics, parameters), 0, entropy),
        levels_used=used,
    )


def _entropy(counts: Doubles) -> Doubles:
    """Shannon entropy of each row of counts, in bits: log2 n - sum c log2 c / n."""
    total = np.maximum(counts.sum(axis=1), 1)
    logarithm = np.log2(counts, out=np.zeros_like(counts), where=counts > 0)
    return np.asarray(np.maximum(np.log2(total) - np.einsum("cb,cb->c", counts, logarithm) / total, 0))


def _spike_entropy(statistics: SiteStatistics, parameters: NeuronParameters) -> tuple[Doubles, Counts]:
    """H(s) and the number of levels used. Spikes rise along the bins, so that equal ones lie side by side."""
    spikes = emit(statistics.centres, Neurons.of(parameters, len(statistics.lowest)))
    begins = np.ones(spikes.shape, bool)
    np.not_equal(spikes[:, 1:], spikes[:, :-1], out=begins[:, 1:])
    begins[:, 1:] &= statistics.bin_width > 0  # all bins of a constant channel are the same value
    starts = np.flatnonzero(begins)
    rows = starts // spikes.shape[1]
    groups = np.add.reduceat(statistics.counts.ravel(), starts)
    rows, groups = rows[groups > 0], groups[groups > 0]
    share = groups / np.maximum(statistics.counts.sum(axis=1), 1)[rows]
    entropy = np.bincount(rows, weights=-share * np.log2(share), minlength=len(spikes))
    return np.abs(entropy), np.bincount(rows, minlength=len(spikes))


def _conveyed(statistics: SiteStatistics, parameters: NeuronParameters) -> Doubles:
    """R as the bound gives it, before it is held against H(s)."""
    neurons = Neurons.of(parameters, len(statistics.lowest))

    def squared_error(values: Floats) -> Doubles:  # of values [channels, n]
        return np.asarray((values.astype(np.float64) - carried(emit(values, neurons), neurons)) ** 2)

    rest, atoms = _without_atoms(statistics)
    places = np.stack([statistics.lowest, np.zeros_like(statistics.lowest), statistics.highest], axis=1)
    width = statistics.bin_width[:, 0].astype(np.float64)
    total = np.maximum(statistics.counts.sum(axis=1), 1)
    unbound = rest.sum(axis=1)
    error = np.einsum("cb,cb->c", rest, squared_error(statistics.centres))
    error += np.einsum("ca,ca->c", atoms, squared_error(places))
    distortion = (error + unbound * width**2 / 12) / total  # values are spread within a bin
    # D / (1 - p) = D total / unbound; where nothing but atoms is left, Z is all there is to say.
    thresholds = np.max((statistics.highest - statistics.lowest) / neurons.threshold)
    most, least = thresholds * _BINS_A_THRESHOLD, thresholds * _BINS_A_THRESHOLD_AT_LEAST
    wanted = max(least, min(most, total.max() / _VALUES_A_BIN))
    while rest.shape[1] % 2 == 0 and rest.shape[1] // 2 >= wanted:
        rest, width = rest[:, ::2] + rest[:, 1::2], 2 * width
    alive = (unbound >= 1) & (distortion > 0) & (width > 0)
    density = np.zeros_like(width)
    per_rest = distortion[alive] * total[alive] / unbound[alive]
    density[alive] = (_entropy(rest[alive]) + np.log2(width[alive]) - 0.5 * np.log2(2 * np.pi * np.e * per_rest)) * (
        unbound / total
    )[alive]
    return np.asarray(_entropy(np.column_stack([atoms, unbound])) + density)


def _without_atoms(statistics: SiteStatistics) -> tuple[Doubles, Doubles]:
    """Counts of what has a density, [channels, bins], and of the atoms at the lowest value, at 0 and at the highest.

    An atom is what a bin holds beyond the mean of its neighbours.
    """
    rest = statistics.counts.astype(np.float64)
    channels, bins = rest.shape
    atoms = np.zeros((channels, 3))
    constant = statistics.bin_width[:, 0] <= 0
    rows = np.arange(channels)
    width = np.where(constant, 1, statistics.highest - statistics.lowest)
    at_zero = np.clip((-statistics.lowest * (np.float32(bins) / width)).astype(np.int64), 0, bins - 1)
    inside = (statistics.lowest <= 0) & (statistics.highest >= 0)
    offsets = np.array([each for each in range(-_NEIGHBOURS, _NEIGHBOURS + 1) if each])
    for column, place in enumerate((np.zeros(channels, np.int64), at_zero, np.full(channels, bins - 1))):
        around = place[:, None] + offsets
        exists = (around >= 0) & (around < bins)
        held = np.where(exists, rest[rows[:, None], np.clip(around, 0, bins - 1)], 0)
        usual = held.sum(axis=1) / np.maximum(exists.sum(axis=1), 1)
        excess = rest[rows, place] - usual
        excess[(excess <= _DEVIATIONS * np.sqrt(usual + 1)) | constant] = 0
        if column == 1:
            excess[~inside] = 0
        atoms[:, column] = excess
        rest[rows, place] -= excess
    atoms[constant, 0], rest[constant] = rest[constant].sum(axis=1), 0
    return rest, atoms

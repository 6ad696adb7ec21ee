"""What a site's neurons keep of its activations: distortion, clipping, level use, entropy."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmsm_cli.calibration.emission import Neurons, emit, squared_error
from pmsm_cli.calibration.information import Doubles, information
from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.neuron.parameters import NeuronParameters


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteQuality:
    """Measured on the calibration images, over all channels of a site.

    The fields from `activation_entropy_bits` on are None in files of versions that did not know them. Their bits are
    means over the channels, weighted by the number of values: a channel has a threshold and a code of its own.
    `pmsm_cli.calibration.information` defines H(X), H(s) and R.
    """

    signal_to_distortion_db: float | None  # 10 log10 of mean square over mean squared error; None: no signal
    clipped_high: float  # percent of the values above what P spikes can carry
    clipped_low: float  # percent below what N negative spikes can carry
    mean_spikes: float  # E|s|, spikes per neuron
    firing: float  # percent of the neurons that emit at least one spike
    entropy_bits: float  # H(s), of the spike counts of all channels pooled
    levels_used: int  # different counts that occurred, of N + P + 1
    silent_channels: int  # channels that never fired
    activation_entropy_bits: float | None = None  # H(X), at the resolution of the histogram
    channel_entropy_bits: float | None = None  # H(s) within a channel
    information_bits: float | None = None  # R, what the spikes convey about the value
    lost_bits: float | None = None  # H(X) - H(s)
    idle_bits: float | None = None  # H(s) - R, entropy that conveys nothing
    level_use: float | None = None  # percent of the N + P + 1 levels that occurred
    constant_channels: int | None = None  # channels that showed a single value


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChannelQuality:
    """The same for each channel, as arrays of [channels]; one entry where the site has one threshold in all."""

    threshold: npt.NDArray[np.float32]  # in the unit of the activations
    rest: npt.NDArray[np.float32]  # the count that silence stands for
    signal_to_distortion_db: Doubles  # NaN: no signal, or no distortion
    clipped_high: Doubles  # percent
    clipped_low: Doubles  # percent
    mean_spikes: Doubles
    activation_entropy_bits: Doubles  # H(X)
    entropy_bits: Doubles  # H(s)
    information_bits: Doubles  # R
    level_use: Doubles  # percent of N + P + 1


def assess(
    statistics: SiteStatistics, parameters: NeuronParameters, channels: ChannelQuality | None = None
) -> SiteQuality:
    """How well spikes of these parameters stand for the activations; `channels` where they are assessed already."""
    each = channels or assess_channels(statistics, parameters)
    negative, positive = parameters.negative_levels, parameters.positive_levels
    neurons = Neurons.of(parameters, len(statistics.lowest))
    centres, weights = statistics.centres, statistics.counts
    per_channel = np.maximum(weights.sum(axis=1), 1)
    total = int(per_channel.sum())
    spikes = emit(centres, neurons)
    errors = squared_error(statistics, neurons)
    distortion = float((errors * per_channel).sum()) / total
    power = float((centres.astype(np.float64) ** 2 * weights).sum()) / total
    use = np.bincount((spikes + negative).astype(np.int64).ravel(), weights=weights.ravel())
    share = use[use > 0] / total

    def mean(values: Doubles) -> float:
        return float(values @ per_channel) / total

    held, sent, conveyed = (
        mean(values) for values in (each.activation_entropy_bits, each.entropy_bits, each.information_bits)
    )
    return SiteQuality(
        signal_to_distortion_db=10 * float(np.log10(power / distortion)) if power > 0 and distortion > 0 else None,
        clipped_high=mean(each.clipped_high),
        clipped_low=mean(each.clipped_low),
        mean_spikes=mean(each.mean_spikes),
        firing=100 * float(weights[spikes != 0].sum()) / total,
        entropy_bits=abs(float(-(share * np.log2(share)).sum())),  # -0.0 for a constant
        levels_used=len(share),
        silent_channels=int((each.mean_spikes == 0).sum()),
        activation_entropy_bits=held,
        channel_entropy_bits=sent,
        information_bits=conveyed,
        lost_bits=max(held - sent, 0.0),
        idle_bits=max(sent - conveyed, 0.0),
        level_use=100 * len(share) / (negative + positive + 1),
        constant_channels=int((statistics.lowest == statistics.highest).sum()),
    )


def assess_channels(statistics: SiteStatistics, parameters: NeuronParameters) -> ChannelQuality:
    """How well spikes of these parameters stand for the activations of each channel."""
    negative, positive = parameters.negative_levels, parameters.positive_levels
    neurons = Neurons.of(parameters, len(statistics.lowest))
    centres, weights = statistics.centres, statistics.counts
    total = np.maximum(weights.sum(axis=1), 1)
    wanted = np.round(centres / neurons.threshold[:, None] - neurons.rest[:, None])
    power = np.einsum("cb,cb,cb->c", centres, centres, weights, dtype=np.float64) / total
    errors = squared_error(statistics, neurons).astype(np.float64)
    defined = (power > 0) & (errors > 0)
    ratio = np.full(len(power), np.nan)
    ratio[defined] = 10 * np.log10(power[defined] / errors[defined])
    bits = information(statistics, parameters)
    return ChannelQuality(
        threshold=neurons.threshold,
        rest=neurons.rest,
        signal_to_distortion_db=ratio,
        clipped_high=100 * np.where(wanted > positive, weights, 0).sum(axis=1) / total,
        clipped_low=100 * np.where(wanted < -negative, weights, 0).sum(axis=1) / total,
        mean_spikes=np.einsum("cb,cb->c", np.abs(np.clip(wanted, -negative, positive)), weights, dtype=np.float64)
        / total,
        activation_entropy_bits=bits.activation_entropy_bits,
        entropy_bits=bits.entropy_bits,
        information_bits=bits.information_bits,
        level_use=100 * bits.levels_used / (negative + positive + 1),
    )

"""What a site's neurons keep of its activations: distortion, clipping, level use, entropy."""

from dataclasses import dataclass

import numpy as np

from pmsm_cli.calibration.least_squares import squared_error
from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.neuron.parameters import NeuronParameters


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteQuality:
    """Measured on the calibration images, over all channels of a site."""

    signal_to_distortion_db: float | None  # 10 log10 of mean square over mean squared error; None: no signal
    clipped_high: float  # percent of the values above what P spikes can carry
    clipped_low: float  # percent below what N negative spikes can carry
    mean_spikes: float  # E|s|, spikes per neuron
    firing: float  # percent of the neurons that emit at least one spike
    entropy_bits: float  # H(s), of the spike counts
    levels_used: int  # different counts that occurred, of N + P + 1
    silent_channels: int  # channels that never fired


def assess(statistics: SiteStatistics, parameters: NeuronParameters) -> SiteQuality:
    """How well spikes of these parameters stand for the activations."""
    negative, positive = parameters.negative_levels, parameters.positive_levels
    threshold = np.broadcast_to(parameters.threshold, statistics.lowest.shape)
    centres, weights = statistics.centres, statistics.counts
    per_channel = np.maximum(weights.sum(axis=1), 1)
    total = int(per_channel.sum())
    wanted = np.round(centres / threshold[:, None])
    spikes = np.clip(wanted, -negative, positive)
    errors = squared_error(statistics, threshold, negative, positive)
    distortion = float((errors * per_channel).sum()) / total
    power = float((centres.astype(np.float64) ** 2 * weights).sum()) / total
    use = np.bincount((spikes + negative).astype(np.int64).ravel(), weights=weights.ravel())
    share = use[use > 0] / total
    return SiteQuality(
        signal_to_distortion_db=10 * float(np.log10(power / distortion)) if power > 0 and distortion > 0 else None,
        clipped_high=100 * float(weights[wanted > positive].sum()) / total,
        clipped_low=100 * float(weights[wanted < -negative].sum()) / total,
        mean_spikes=float((np.abs(spikes) * weights).sum()) / total,
        firing=100 * float(weights[spikes != 0].sum()) / total,
        entropy_bits=abs(float(-(share * np.log2(share)).sum())),  # -0.0 for a constant
        levels_used=len(share),
        silent_channels=int(((np.abs(spikes) * weights).sum(axis=1) == 0).sum()),
    )

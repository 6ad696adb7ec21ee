"""From the statistics of all sites to their thresholds and levels."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from pmsm_cli.calibration.adequacy import Adequacy, compare_halves
from pmsm_cli.calibration.allocation import Allocation
from pmsm_cli.calibration.by_site import by_site
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.quality import ChannelQuality, SiteQuality, assess, assess_channels
from pmsm_cli.calibration.statistics import Floats, SiteStatistics
from pmsm_cli.calibration.thresholds import choose_parameters
from pmsm_cli.neuron.parameters import MOST_LEVELS, Correction, NeuronParameters

_COMPARED_LEVELS = 15  # what the bound on the halves' difference was measured with


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """What a calibration saw."""

    origin: str
    images: int
    skipped: int
    digest: str  # sha256 of the preprocessed inputs, in order
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteCalibration:
    """The neurons of one site, and what they keep of its activations."""

    name: str
    parameters: NeuronParameters
    quality: SiteQuality
    channels: ChannelQuality | None = None  # not part of checkpoints, which stay small
    # What is taken off the tensor before neurons read it, and never added again; it broadcasts. None: nothing.
    centre: Floats | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The neurons of every site of a network, and how they were set."""

    source_sha256: str
    method: Method
    levels: int  # the bound on N and P that was asked for
    images: Images
    sites: tuple[SiteCalibration, ...]
    corrections: tuple[Correction, ...] = ()  # matched moments; none: not matched
    adequacy: Adequacy | None = None  # whether there were enough images; None: not known
    allocation: Allocation | None = None  # how levels were found; None: they were stated

    @property
    def usual_levels(self) -> int:
        """The levels that were asked for, or that neurons have on the mean where levels were found."""
        return max(round(self.allocation.chosen.mean_levels), 1) if self.allocation else self.levels

    @property
    def parameters(self) -> dict[str, NeuronParameters]:
        """Each site's neurons, by the name of its tensor."""
        return {site.name: site.parameters for site in self.sites}

    @property
    def centres(self) -> dict[str, Floats]:
        """What is taken off the tensors of some sites (`pmsm_cli.graph.keys`), by their name."""
        return {site.name: site.centre for site in self.sites if site.centre is not None}


def calibrate(
    statistics: Mapping[str, SiteStatistics],
    *,
    levels: int,
    method: Method,
    source_sha256: str,
    images: Images,
    horizon: int = 1,
    resting_sites: Collection[str] = (),
    found: Mapping[str, NeuronParameters] | None = None,
    expected: Mapping[str, SiteStatistics] | None = None,
    centres: Mapping[str, Floats] | None = None,
    threads: int | None = None,
) -> Calibration:
    """Choose every site's threshold and levels, each site on its own.

    `horizon` is the number of steps that a running value is averaged over at last (T in `rate`, else 1). Averages come
    in quanta of theta / T, so that the threshold is chosen for T times as many levels, each a T-th of it: with
    thresholds for a single step, what that step clips would stay clipped. The neurons of `resting_sites` can rest at
    another value than 0 (averages over steps do without). `found` are neurons that were chosen already, to be recorded;
    between the halves of the images thresholds for even levels are then compared. `expected` is what further images are
    expected to show, which thresholds are chosen for (None: no more than was seen); what is recorded of them is
    measured on `statistics`. `centres` are what was taken off tensors before, to be recorded. `threads`: how many sites
    at a time.
    """

    def choose(name: str, site_statistics: SiteStatistics) -> NeuronParameters:
        may_rest = horizon == 1 and name in resting_sites
        most = min(_COMPARED_LEVELS if found else levels * horizon, MOST_LEVELS)
        fine = choose_parameters(site_statistics, method, most, may_rest=may_rest)
        return _for_horizon(fine, horizon) if horizon > 1 else fine

    def calibrated(name: str) -> SiteCalibration:
        parameters = found[name] if found else choose(name, (expected or statistics)[name])
        channels = assess_channels(statistics[name], parameters)
        quality = assess(statistics[name], parameters, channels)
        centre = (centres or {}).get(name)
        return SiteCalibration(name=name, parameters=parameters, quality=quality, channels=channels, centre=centre)

    return Calibration(
        source_sha256=source_sha256,
        method=method,
        levels=levels,
        images=images,
        sites=tuple(by_site(calibrated, statistics, threads=threads).values()),
        adequacy=compare_halves(statistics, choose, threads=threads),
    )


def _for_horizon(fine: NeuronParameters, horizon: int) -> NeuronParameters:
    """The neurons of which `horizon` steps together have the fine levels."""
    return NeuronParameters(
        threshold=np.asarray(fine.threshold * np.float32(horizon)),  # a product of 0-d arrays is no array
        negative_levels=-(-fine.negative_levels // horizon),
        positive_levels=-(-fine.positive_levels // horizon),
    )

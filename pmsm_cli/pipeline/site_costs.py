"""What each site's errors and spikes weigh, by which the search for levels shares spikes out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pmsm_cli.calibration.allocation import RateTable, SiteCost, neurons_of_precision, rate_table
from pmsm_cli.calibration.by_site import by_site
from pmsm_cli.calibration.emission import Neurons, Spread, emit, error_moments, mean_square
from pmsm_cli.calibration.statistics import Floats, SiteStatistics
from pmsm_cli.graph.gains import noise_gains
from pmsm_cli.graph.matching import matched_readers
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.pipeline.inputs import Progress, batch_size
from pmsm_cli.runtime.match import SourceMoments
from pmsm_cli.runtime.sensitivity import output_errors
from pmsm_cli.sources.images import Batch, ImageSet, read_batches
from pmsm_cli.sources.preprocessing import Preprocessing

# The ratio of signal to distortion, in mean squares, at which each site's share in the output's error is measured:
# errors add up there.
_PROBED_AT = 300.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Setting:
    """What levels are found for."""

    network: Network  # the teacher: the source, or the source as batch norm statistics say that it is on real images
    plan: SitePlan
    shapes: Mapping[str, Shape]
    statistics: Mapping[str, SiteStatistics]
    resting: frozenset[str]
    images: ImageSet  # all that there are: accuracy is measured on more of them than thresholds are set from
    preprocessing: Preprocessing
    match_moments: bool
    moments: SourceMoments
    threads: int | None
    seed: int

    @property
    def batch_size(self) -> int:
        """How many images are run at a time."""
        return batch_size(self.plan, self.network.image.batch)

    def batches(self, images: ImageSet) -> Iterator[Batch]:
        """Images as the network reads them."""
        return read_batches(images, self.preprocessing, self.batch_size)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Probe:
    """The neurons that show what a site's error does, and what they make of its activations; arrays [channels]."""

    table: RateTable
    neurons: NeuronParameters
    mean_error: Floats  # 0 where nothing takes it away
    distortion: Floats  # beyond the mean error's square
    power: Floats


def site_costs(setting: Setting, probed: ImageSet, progress: Progress) -> dict[str, SiteCost]:
    """What each site's distortion and spikes weigh: measured at the output for sites, from weights for channels.

    What a mean error does is left out where matching moments takes it away: it is alike in all images and so does far
    more than its share, which would lead spikes to where they are not needed.
    """
    sites, matched = setting.plan.sites, _with_matched_means(setting)
    probes = by_site(
        lambda name: _probe(setting, name, means_matched=name in matched),
        (site.name for site in sites),
        threads=setting.threads,
    )
    inputs = np.concatenate([batch.inputs for batch in setting.batches(probed)])
    progress.start("Finding levels: what each tensor's error does to the output", len(sites))
    errors = output_errors(
        setting.network,
        setting.plan,
        {name: probe.neurons for name, probe in probes.items()},
        inputs,
        mean_errors={name: probes[name].mean_error for name in matched},
        threads=setting.threads,
        on_site=progress.advance,
    )
    nodes = {node.name or "": node for node in setting.network.model.graph}
    usual = float(np.median(list(errors.values())))
    costs = {}
    for site in sites:
        probe, error = probes[site.name], errors[site.name]
        gains = noise_gains(site, nodes, probe.power.astype(np.float64))
        noise = float(gains @ probe.distortion)
        # A tensor that the probe carries without error tells nothing; it is taken to matter as the usual one does.
        share = (error or usual) / noise if noise > 0 else usual
        neurons = (site.neurons or 1) / len(probe.power)
        costs[site.name] = SiteCost(table=probe.table, error=share * gains, neurons=neurons)
    return costs


def _probe(setting: Setting, site: str, *, means_matched: bool) -> _Probe:
    statistics = setting.statistics[site]
    table = rate_table(statistics, may_rest=site in setting.resting, means_matched=means_matched)
    parameters = neurons_of_precision(statistics, table, _PROBED_AT)
    spread = Spread.of(statistics)
    neurons = Neurons.of(parameters, len(spread.centres))
    square, mean = error_moments(spread, neurons, emit(spread.centres, neurons))
    error = mean if means_matched else np.zeros_like(mean)
    return _Probe(
        table=table,
        neurons=parameters,
        mean_error=error,
        distortion=square - error**2,
        power=mean_square(spread),
    )


def _with_matched_means(setting: Setting) -> frozenset[str]:
    """The sites all of whose readers get the source's mean back."""
    if not setting.match_moments:
        return frozenset()
    readers = matched_readers(setting.network.model, setting.plan, setting.shapes)
    matched = {reader.node for reader in readers}
    return frozenset(
        site.name
        for site in setting.plan.sites
        if site.relative_axis is None and all(reader.node in matched for reader in site.readers)
    )

"""Finding levels: thresholds that cost as few spikes as a stated loss of accuracy allows, by measurement."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pmsm_cli.calibration.allocation import (
    Allocation,
    Point,
    RateTable,
    SiteCost,
    neurons_at,
    neurons_of_precision,
    price_for,
    rate_table,
    smoothed_loss,
)
from pmsm_cli.calibration.by_site import by_site
from pmsm_cli.calibration.emission import (
    Neurons,
    Spread,
    distortion,
    emit,
    expected_spikes,
    mean_error,
    mean_square,
)
from pmsm_cli.calibration.statistics import Floats, SiteStatistics
from pmsm_cli.errors import UsageError
from pmsm_cli.graph.gains import noise_gains
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.matching import apply_corrections, matched_readers
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.scores import class_count, class_scores
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.pipeline.inputs import Progress, batch_size
from pmsm_cli.runtime.evaluate import Evaluation, beats_chance, evaluate
from pmsm_cli.runtime.fit import check_labels
from pmsm_cli.runtime.match import match_moments, open_moments
from pmsm_cli.runtime.remembered import Remembered
from pmsm_cli.runtime.sensitivity import output_errors
from pmsm_cli.runtime.session import open_session
from pmsm_cli.runtime.spiking import open_tried
from pmsm_cli.sources.images import Batch, ImageSet, read_batches, sample_images
from pmsm_cli.sources.preprocessing import Preprocessing

DEFAULT_DROP = 0.5  # points of top-1, or of agreement where there are no labels
DEFAULT_ERROR = 5.0  # percent of the output, where classes cannot be compared: none, or too few images in the time

# The ratio of signal to distortion, in mean squares, at which each site's share in the output's error is measured:
# errors add up there.
_PROBED_AT = 300.0
# Predicted errors of the output that are tried, from coarse to fine, and how often the step between is halved. Where an
# output further off than a fifth keeps its class on some hundred images, it does by luck.
_ERRORS = (0.2, 0.14, 0.1, 0.07, 0.05, 0.035, 0.025, 0.0175)
_HALVINGS = 3
# An error of the output that is itself the target needs fewer points: each is aimed at a little less than the target by
# what the last one showed.
_MOST_AIMED, _AIMED_AT, _NEAR_ENOUGH = 3, 0.9, 0.7
_LARGEST_STEP = 8
# Work that a search may take, in multiply-accumulates: it bounds the images of large networks.
_WORK_A_POINT, _FEWEST_A_POINT, _MOST_A_POINT = 1e11, 16, 4096
_MOST_MATCHED = 512  # moments need fewer images than accuracy does
_WORK_OF_PROBES, _FEWEST_PROBED, _MOST_PROBED = 2e11, 1, 32
# A stated target is worth more of it: half a point takes ten thousand images to be told from none. And whatever that
# takes, it is measured on so many times the images of which one is the whole target.
_WORK_A_TARGET, _MOST_A_TARGET = 4e11, 10_000
_IMAGES_A_TARGET = 2
_NEAR = 4  # times the target: points that lose more say little about it, each but of itself
# Estimates of the loss aim at less than the target: other images lose more or less by chance, ten thousand of them a
# tenth or two of a point where one in twenty changes class.
_SURE = 0.8


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
    threads: int | None
    seed: int


def find_levels(
    setting: Setting, *, target_drop: float | None, progress: Progress
) -> tuple[dict[str, NeuronParameters], Allocation]:
    """Each site's neurons, with the fewest spikes of those tried that keep the loss within the target.

    Candidates from coarse to fine are measured until two in a row keep it; the step before the
    coarsest that does is then halved, three times.
    Where none keeps it, the finest is taken, and the allocation says so. A large network without a stated target is
    held to an error of its output, which is aimed at.

    Raises:
        UsageError: a drop of accuracy is asked for, but the network gives no class scores.
        DataError: the labels do not fit the network's classes.
    """
    search = _Search(setting, progress, target_drop)
    costs = _site_costs(setting, search.probed_images(), progress)
    finest = _aim(search, costs) if search.by_error else _walk(search, costs)
    return search.result(search.coarsest_kept() or finest)


def _walk(search: "_Search", costs: Mapping[str, SiteCost]) -> float:
    """From coarse to fine until two in a row keep the target, then between these and the last that did not.

    Each point adds to what is known of all the others, so that where to look next is asked anew every time.
    """
    passed = 0
    for error in _ERRORS:
        search.try_at(costs, error)
        passed = passed + 1 if search.keeps(error) else 0
        if passed == 2:
            break
    for _ in range(_HALVINGS):
        kept = search.coarsest_kept()
        failed = search.next_coarser(kept) if kept else None
        if kept is None or failed is None:
            break
        search.try_at(costs, float(np.sqrt(failed * kept)))
    return error


def _aim(search: "_Search", costs: Mapping[str, SiteCost]) -> float:
    """Straight at the target: what is measured tells how far a prediction is off, which the next one makes good for."""
    finest_possible = sum(cost.predicted_error(0.0) for cost in costs.values()) ** 0.5
    error = finest = search.target / 100
    for _ in range(_MOST_AIMED):
        search.try_at(costs, error)
        finest = min(finest, error)
        reached = max(search.loss(error) / search.target, 1 / _LARGEST_STEP)
        aimed = float(np.clip(error * _AIMED_AT / reached, finest_possible, _ERRORS[0]))
        if _NEAR_ENOUGH <= reached <= 1 or aimed == error:
            break
        error = aimed
    return finest


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tried:
    """A point: what was tried, and what it gave."""

    neurons: dict[str, NeuronParameters]
    point: Point
    drop: float  # as measured, of whatever the target is a drop of
    expected_drop: float  # of top-1, by the source's own probabilities


class _Search:
    """The points tried so far, by predicted error of the output."""

    def __init__(self, setting: Setting, progress: Progress, target_drop: float | None) -> None:
        self._setting, self._progress = setting, progress
        macs = max(setting.plan.total_macs, 1)
        batch = setting.network.image.batch or 1
        work, bound = (_WORK_A_TARGET, _MOST_A_TARGET) if target_drop else (_WORK_A_POINT, _MOST_A_POINT)
        most = max(int(np.clip(work // macs, _FEWEST_A_POINT, bound)), batch)
        if target_drop:
            most = max(most, min(int(_IMAGES_A_TARGET * 100 / target_drop), _MOST_A_POINT))
        self._images = sample_images(setting.images, most // batch * batch, setting.seed)
        self._matched = sample_images(self._images, min(most, _MOST_MATCHED) // batch * batch, setting.seed)
        source = open_session(setting.network.model, subject=setting.network.subject, threads=setting.threads)
        if setting.images.labels is not None:
            check_labels(self._images, setting.network.model)
        self._source = Remembered(source)
        self._moments = Remembered(open_moments(setting.network, setting.plan, setting.shapes, threads=setting.threads))
        self._classes = class_count(setting.network.model)
        if target_drop is not None and self._classes is None:
            raise UsageError(
                "--target-drop needs class scores, which the network does not give",
                subject=setting.network.subject,
                hint="leave it out, or set --levels",
            )
        told_apart = len(self._images) >= 100 / DEFAULT_DROP or len(self._images) == len(setting.images)
        self.by_error = self._classes is None or (target_drop is None and not told_apart)
        self.target = target_drop if target_drop is not None else DEFAULT_ERROR if self.by_error else DEFAULT_DROP
        self._tried: dict[float, _Tried] = {}
        self._measure = "output error"

    def probed_images(self) -> ImageSet:
        macs, sites = max(self._setting.plan.total_macs, 1), len(self._setting.plan.sites)
        batch = self._setting.network.image.batch or 1
        most = int(np.clip(_WORK_OF_PROBES // (macs * sites), _FEWEST_PROBED, _MOST_PROBED))
        return sample_images(self._images, max(most // batch, 1) * batch, self._setting.seed)

    def try_at(self, costs: Mapping[str, SiteCost], error: float) -> None:
        """Measure the allocation that is predicted to give this error of the output."""
        setting = self._setting
        price = price_for(costs, error)
        neurons = by_site(
            lambda name: neurons_at(setting.statistics[name], costs[name], price), costs, threads=setting.threads
        )
        measured = self._evaluate(neurons)
        self._measure, drop = _loss(measured, self._classes, by_error=self.by_error)
        point = _point(setting, neurons, measured)
        self._tried[error] = _Tried(
            neurons=neurons, point=point, drop=drop, expected_drop=measured.expected_drop or 0.0
        )

    def loss(self, error: float) -> float:
        """What was lost there, as it was measured."""
        return self._tried[error].drop

    def keeps(self, error: float) -> bool:
        """Whether the loss there is within the target, as all points together tell it.

        A thousand images measure half a point with an error as large, so that no point is taken at its word: the loss
        is what a power of the output's error says, fitted to all points of some loss (`smoothed_loss`), and at least
        what the classes that change should cost by the source's own probabilities. Either is to leave a margin.
        """
        tried = self._tried[error]
        if self._measure == "output error":
            return tried.drop <= self.target
        near = [
            (each.point.output_error, each.drop)
            for each in self._tried.values()
            if each is tried or each.drop <= _NEAR * self.target
        ]
        return max(smoothed_loss(near, tried.point.output_error), tried.expected_drop) <= _SURE * self.target

    def coarsest_kept(self) -> float | None:
        """The coarsest point from which on every finer one keeps the target; None: not even the finest does."""
        kept = None
        for error in sorted(self._tried):
            if not self.keeps(error):
                break
            kept = error
        return kept

    def next_coarser(self, error: float) -> float | None:
        """The next coarser point than this that was tried."""
        return min((other for other in self._tried if other > error), default=None)

    def result(self, error: float) -> tuple[dict[str, NeuronParameters], Allocation]:
        tried = self._tried[error]
        return tried.neurons, Allocation(
            target_drop=self.target,
            measure=self._measure,
            drop=tried.drop,
            kept=self.keeps(error),
            images=len(self._images),
            chosen=tried.point,
            curve=tuple(
                sorted(
                    dict.fromkeys(each.point for each in self._tried.values()), key=lambda each: each.spikes_per_neuron
                )
            ),
        )

    def _evaluate(self, neurons: Mapping[str, NeuronParameters]) -> Evaluation:
        setting = self._setting
        spiking = insert_neurons(setting.network, setting.plan, neurons, setting.shapes)
        number = len(self._tried) + 1
        if setting.match_moments:
            self._progress.start(f"Finding levels: matching point {number}", len(self._matched))
            corrections = match_moments(
                setting.network,
                setting.plan,
                spiking,
                setting.shapes,
                _batches(setting, self._matched),
                source=self._moments,
                threads=setting.threads,
                on_batch=self._progress.advance,
            )
            spiking = apply_corrections(spiking, corrections, fold=True)
        self._progress.start(f"Finding levels: measuring point {number}", len(self._images))
        return evaluate(
            open_tried(spiking, subject=setting.network.subject, batch=_batch_size(setting), threads=setting.threads),
            _batches(setting, self._images),
            timesteps=1,
            scores=class_scores(setting.network.model),
            source=self._source,
            on_batch=self._progress.advance,
        )


def _batches(setting: Setting, images: ImageSet) -> Iterator[Batch]:
    return read_batches(images, setting.preprocessing, _batch_size(setting))


def _batch_size(setting: Setting) -> int:
    return batch_size(setting.plan, setting.network.image.batch)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Probe:
    """The neurons that show what a site's error does, and what they make of its activations; arrays [channels]."""

    table: RateTable
    neurons: NeuronParameters
    mean_error: Floats  # 0 where nothing takes it away
    distortion: Floats  # beyond the mean error's square
    power: Floats


def _site_costs(setting: Setting, probed: ImageSet, progress: Progress) -> dict[str, SiteCost]:
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
    inputs = np.concatenate([batch.inputs for batch in _batches(setting, probed)])
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
    spikes = emit(spread.centres, neurons)
    error = mean_error(spread, neurons, spikes) if means_matched else np.zeros(len(spread.centres), np.float32)
    return _Probe(
        table=table,
        neurons=parameters,
        mean_error=error,
        distortion=distortion(spread, neurons, spikes) - error**2,
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


def _loss(measured: Evaluation, classes: int | None, *, by_error: bool) -> tuple[str, float]:
    """What is lost against the source, in points, and of what: top-1, else agreement, else the output's error."""
    if measured.agreement is None or by_error:
        return "output error", _output_error(measured)
    source = measured.ann.top1 if measured.ann else None
    if source is not None and measured.snn.top1 is not None and beats_chance(source, classes):
        return "top-1", source - measured.snn.top1
    return "agreement", 100 - measured.agreement


def _point(setting: Setting, neurons: Mapping[str, NeuronParameters], measured: Evaluation) -> Point:
    counts = {site.name: site.neurons or 1 for site in setting.plan.sites}
    total = sum(counts.values())

    def mean(of: Callable[[str], float]) -> float:
        return sum(count * of(name) for name, count in counts.items()) / total

    return Point(
        spikes_per_neuron=mean(lambda name: expected_spikes(setting.statistics[name], neurons[name])),
        most_levels=max(max(each.positive_levels, each.negative_levels) for each in neurons.values()),
        mean_levels=mean(lambda name: neurons[name].positive_levels + neurons[name].negative_levels),
        top1=measured.snn.top1,
        agreement=measured.agreement,
        output_error=_output_error(measured),
    )


def _output_error(measured: Evaluation) -> float:
    return measured.output_errors[-1] if measured.outputs else 0.0

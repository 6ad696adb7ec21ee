"""Finding levels: thresholds that cost as few spikes as a stated loss of accuracy allows, by measurement."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pmsm_cli.calibration.allocation import (
    Allocation,
    Point,
    SiteCost,
    neurons_at,
    price_for,
    smoothed_loss,
)
from pmsm_cli.calibration.by_site import by_site
from pmsm_cli.calibration.emission import (
    expected_spikes,
)
from pmsm_cli.errors import UsageError
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.matching import apply_corrections
from pmsm_cli.graph.scores import class_count, class_scores
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.pipeline.inputs import Progress
from pmsm_cli.pipeline.site_costs import Setting, site_costs
from pmsm_cli.runtime.evaluate import Evaluation, beats_chance, evaluate
from pmsm_cli.runtime.fit import check_labels
from pmsm_cli.runtime.match import match_moments
from pmsm_cli.runtime.remembered import Remembered
from pmsm_cli.runtime.session import Session, open_session
from pmsm_cli.runtime.spiking import open_tried
from pmsm_cli.sources.images import ImageSet, sample_images

DEFAULT_DROP = 0.5  # points of top-1, or of agreement where there are no labels
DEFAULT_ERROR = 5.0  # percent of the output, where classes cannot be compared: none, or too few images in the time

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
    costs = site_costs(setting, search.probed_images(), progress)
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
        if setting.images.labels is not None:
            check_labels(self._images, setting.network.model)
        self._source = Remembered(self._opened_source)
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

    def _opened_source(self) -> Session:
        setting = self._setting
        return open_session(setting.network.model, subject=setting.network.subject, threads=setting.threads)

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
                setting.batches(self._matched),
                source=setting.moments,
                threads=setting.threads,
                on_batch=self._progress.advance,
            )
            spiking = apply_corrections(spiking, corrections, fold=True)
        self._progress.start(f"Finding levels: measuring point {number}", len(self._images))
        return evaluate(
            open_tried(spiking, subject=setting.network.subject, threads=setting.threads),
            setting.batches(self._images),
            timesteps=1,
            scores=class_scores(setting.network.model),
            source=self._source,
            on_batch=self._progress.advance,
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

    spikes = by_site(
        lambda name: expected_spikes(setting.statistics[name], neurons[name]), counts, threads=setting.threads
    )
    return Point(
        spikes_per_neuron=mean(spikes.__getitem__),
        most_levels=max(max(each.positive_levels, each.negative_levels) for each in neurons.values()),
        mean_levels=mean(lambda name: neurons[name].positive_levels + neurons[name].negative_levels),
        top1=measured.snn.top1,
        agreement=measured.agreement,
        output_error=_output_error(measured),
    )


def _output_error(measured: Evaluation) -> float:
    return measured.output_errors[-1] if measured.outputs else 0.0

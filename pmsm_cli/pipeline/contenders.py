"""The baselines of a comparison: whether each applies, its best setting by calibration images, and how that does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from pmsm_cli.baselines.counting import COUNT_PREFIX, arriving_name, emitted_name, operations_name
from pmsm_cli.baselines.methods import ABOUT, Baseline, Candidate, Observed, candidates
from pmsm_cli.baselines.plan import NeuronPlan, plan_neurons
from pmsm_cli.baselines.spiking import spiking_model
from pmsm_cli.baselines.work import BaselineWork, baseline_work
from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.energy.facts import Neurons, SpikingFacts, drive_of
from pmsm_cli.errors import CheckFailedError, shorten
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.pipeline.bench import Bench, Run
from pmsm_cli.pipeline.trained_contenders import trained_qcfs
from pmsm_cli.report.comparison import MethodPoint
from pmsm_cli.runtime.count import SiteCount
from pmsm_cli.runtime.counted import Counted, Totals
from pmsm_cli.runtime.evaluate import Evaluation
from pmsm_cli.runtime.maxima import largest_activations
from pmsm_cli.runtime.observe import PASSES, observe
from pmsm_cli.runtime.workload import shapes_of
from pmsm_cli.sources.images import ImageSet, sample_images

_CHOSEN_ON = 128  # calibration images that each setting is tried on
_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contender:
    """A method of the comparison after its runs, at its best setting for each number of timesteps."""

    name: str
    title: str
    paper: str
    tried: int = 0  # settings
    neurons: int = 0  # of one image
    reason: str | None = None  # why it did not run
    points: tuple[MethodPoint, ...] = ()


def run_baselines(bench: Bench, statistics: Mapping[str, SiteStatistics]) -> list[Contender]:
    """Every baseline; `statistics` are those of our own conversion of the same network."""
    loaded, epochs = bench.loaded, bench.settings.finetune
    neurons = plan_neurons(loaded.network, loaded.plan, loaded.shapes)
    absent = [_contender(method) for method in Baseline] + [_contender(Baseline.QCFS, epochs)] * bool(epochs)
    reason = why_not(neurons, loaded.plan, statistics)
    if reason:
        return [replace(each, reason=reason) for each in absent]
    observed = observe_activations(bench, neurons)
    tried_on = sample_images(bench.calibration, bench.whole_batches(_CHOSEN_ON), bench.settings.seed)

    def ran(contender: Contender, choices: list[Candidate]) -> Contender:
        best = _best(bench, neurons, contender.title, choices, tried_on)
        points: list[MethodPoint] = []
        for candidate, timesteps in best:
            run = _measure(bench, neurons, contender.title, candidate, timesteps[-1])
            points += run.points(timesteps, candidate.description)
        points.sort(key=lambda point: point.timesteps)
        return replace(contender, tried=len(choices), neurons=neurons.count, points=tuple(points))

    contenders = [
        ran(each, list(candidates(method, neurons, observed))) for each, method in zip(absent, Baseline, strict=False)
    ]
    if epochs:
        try:
            contenders.append(ran(absent[-1], trained_qcfs(bench, neurons, observed)))
        except CheckFailedError as error:
            contenders.append(replace(absent[-1], reason=error.problem))
    return contenders


def _contender(method: Baseline, epochs: int = 0) -> Contender:
    about = ABOUT[method]
    if not epochs:
        return Contender(name=method.value, title=about.title, paper=about.paper)
    return Contender(name=f"{method.value}-finetuned", title=f"{about.title}, fine-tuned", paper=about.paper)


def why_not(neurons: NeuronPlan, plan: SitePlan, statistics: Mapping[str, SiteStatistics]) -> str | None:
    """Why the baselines cannot represent a network; None: they can.

    `statistics` of the tensors that synapses read say which of them hold negative values.
    """
    negative = [name for name in neurons.uncovered if float(statistics[name].lowest.min()) < 0]
    others = len(neurons.uncovered) - len(negative)
    of_all = f"of {len(plan.sites)} tensors that synapses read"
    reasons = [f"{of_all} {len(negative)} need{'s' * (len(negative) == 1)} negative values"] * bool(negative)
    beside = "more" if negative else of_all
    reasons += [f"{others} {beside} do{'es' * (others == 1)} not come out of a ReLU"] * bool(others)
    if not reasons and neurons.obstacles:
        reasons = [f"cannot be spread over timesteps: {', '.join(shorten(neurons.obstacles, most=_MOST_NAMED))}"]
    return "; ".join(reasons) or None


def observe_activations(bench: Bench, neurons: NeuronPlan) -> dict[str, Observed]:
    """What the calibration images show of each activation that neurons take the place of."""
    loaded, progress, images = bench.loaded, bench.progress, bench.calibration
    names = [site.name for site in neurons.neurons]
    progress.start("Baselines: observing activations", (PASSES + 1) * len(images))
    seen = observe(
        loaded.network,
        SitePlan(sites=neurons.neurons, analog_layers=(), other_ops={}),
        lambda: bench.batches(images),
        threads=bench.settings.threads,
        on_batch=progress.advance,
    )
    maxima = largest_activations(
        loaded.network, names, bench.batches(images), threads=bench.settings.threads, on_batch=progress.advance
    )
    return {name: Observed(statistics=seen.statistics[name], maxima=maxima[name]) for name in names}


def _best(
    bench: Bench,
    neurons: NeuronPlan,
    title: str,
    choices: list[Candidate],
    tried_on: ImageSet,
) -> list[tuple[Candidate, list[int]]]:
    """For each number of timesteps the setting of the highest agreement with the source; those that are best for any.

    Without classes it is the one of the least output error. Of equal settings that with the better mean is taken.
    """
    timesteps = bench.settings.timesteps

    def merits(evaluation: Evaluation) -> list[float]:
        if evaluation.agreement_per_step:
            return [evaluation.agreement_per_step[count - 1] for count in timesteps]
        return [-evaluation.output_errors[count - 1] for count in timesteps]

    found = []
    for index, candidate in enumerate(choices):
        stage = f"{title}: setting {index + 1} of {len(choices)}"
        spiking = bench.open(_model(bench, neurons, candidate, timesteps[-1], counting=False))
        found.append(merits(bench.evaluate(spiking, timesteps=timesteps[-1], stage=stage, images=tried_on)))
    best: dict[int, list[int]] = {}
    for place, count in enumerate(timesteps):
        chosen = max(range(len(choices)), key=lambda index: (found[index][place], float(np.mean(found[index]))))
        best.setdefault(chosen, []).append(count)
    return [(choices[index], counts) for index, counts in best.items()]


def _measure(bench: Bench, neurons: NeuronPlan, title: str, chosen: Candidate, timesteps: int) -> Run:
    """A chosen setting over all images, with what it spends."""
    spiking = Counted(
        bench.open(_model(bench, neurons, chosen, timesteps, counting=True)), prefix=COUNT_PREFIX, timesteps=timesteps
    )
    evaluation = bench.evaluate(spiking, timesteps=timesteps, stage=f"{title}: measuring")
    loaded, model = bench.loaded, _model(bench, neurons, chosen, timesteps, counting=False)
    shapes = shapes_of(model, loaded.preprocessing.shape, subject=loaded.network.subject)
    work = baseline_work(model, loaded.plan, neurons, shapes, batch=loaded.network.image.batch or 1)
    emitted = {site.name: spiking.mean(emitted_name(site.name)) for site in neurons.neurons}
    return Run(
        evaluation=evaluation,
        facts=facts_of_baseline(work, loaded.plan, neurons, emitted, _counts(loaded.plan, spiking)),
        spikes_per_neuron=np.sum(list(emitted.values()), axis=0) / neurons.count,
        neurons=neurons.count,
        profiles=bench.profiles,
    )


def _counts(plan: SitePlan, spiking: Counted) -> list[SiteCount]:
    """What arrived at each site, where a spike is one whichever its sign."""
    return [
        SiteCount(
            name=site.name,
            neurons=site.neurons or 1,
            spikes=spiking.mean(arriving_name(site.name)),
            firing=spiking.mean(arriving_name(site.name)),
            synaptic_ops=spiking.mean(operations_name(site.name)),
        )
        for site in plan.sites
    ]


def facts_of_baseline(
    done: BaselineWork, plan: SitePlan, neurons: NeuronPlan, emitted: Mapping[str, Totals], counts: Sequence[SiteCount]
) -> SpikingFacts:
    """All that the energy of a baseline's network follows from: what there is to do, and what was counted."""
    return SpikingFacts(
        drives=[
            drive_of(site, count, done.work, done.levels[site.name])
            for site, count in zip(plan.sites, counts, strict=True)
        ],
        neurons=[
            Neurons(count=site.neurons or 0, firing=emitted[site.name], first=done.neuron, later=done.neuron)
            for site in neurons.neurons
        ],
        state_bits=done.state_bits,
        analog_layers=plan.analog_layers,
        work=done.work,
    )


def _model(bench: Bench, neurons: NeuronPlan, candidate: Candidate, timesteps: int, *, counting: bool) -> ir.Model:
    loaded = bench.loaded
    return spiking_model(
        candidate.trained or loaded.network,
        loaded.plan,
        neurons,
        candidate.neurons,
        loaded.shapes,
        timesteps=timesteps,
        counting=counting,
    )

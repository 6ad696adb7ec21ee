"""The same network by several methods: ours, and those that it is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.energy.account import account
from pmsm_cli.energy.facts import facts_of, sites_of
from pmsm_cli.errors import CheckFailedError
from pmsm_cli.finetune.records import Listener
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.pipeline.bench import Bench, ComparisonSettings, Run
from pmsm_cli.pipeline.contenders import Contender, run_baselines
from pmsm_cli.pipeline.conversion import Calibrated, CalibrationSettings, Loaded, calibrate_source, convert
from pmsm_cli.pipeline.refitting import refit_weights
from pmsm_cli.pipeline.trained_contenders import trained_ours
from pmsm_cli.report.comparison import COMPARISON_VERSION, Comparison, MethodResult, SourceFigures, points_lost
from pmsm_cli.runtime.count import SpikeCount, count_spikes

_PAPER = "Zhang, Yu, Li: Quantization meets spikes, arXiv 2508.14520"
_NAMES = {Coding.REFINE: "pmsm-refine", Coding.RATE: "pmsm-rate"}
_TITLES = {Coding.REFINE: "polarity multi-spike, refine", Coding.RATE: "polarity multi-spike, rate"}
_TRAINED_NAME, _TRAINED_TITLE = "pmsm-finetuned", "polarity multi-spike, fine-tuned"
_ASSUMPTIONS = (
    "the first layer reads the image itself and is computed once, in all methods",
    "a baseline's spike is one accumulate on each of its synapses, whatever its sign; where spikes are averaged before "
    "a synapse all of them count, under a maximum the one that gets through",
    "along shortcuts baselines send their spikes, polarity multi-spike mapping the value itself; these additions are "
    "no synaptic operations in any method",
    "what is not linear (max pooling, softmax) works on averages over the steps so far",
)
_MEMORY = (
    "where memory is billed, weights are fetched, spikes moved and membranes read and written anew at every step, in "
    "all methods; a machine that ran all steps of a layer before the next one would fetch its weights once",
)
_SAME_FOLDER = "thresholds are set on the images that are measured on: --calibration-data names another one"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Ours:
    """One of our codings, after its run."""

    contender: Contender
    count: SpikeCount
    run: Run
    manifest: Manifest
    calibrated: Calibrated
    settings: CalibrationSettings

    @property
    def statistics(self) -> Mapping[str, SiteStatistics]:
        """What the calibration images showed of the tensors that synapses read."""
        return self.calibrated.statistics or {}


def compare(loaded: Loaded, settings: ComparisonSettings, progress: Listener) -> Comparison:
    """Accuracy, spikes and energy of all methods after each number of timesteps.

    Raises:
        BadInputError: the network, the images or the energy profile cannot be used.
    """
    bench = Bench(loaded, settings, progress)
    ours = [_run_ours(bench, coding) for coding in Coding if coding is Coding.REFINE or settings.timesteps[-1] > 1]
    contenders = [each.contender for each in ours]
    if settings.finetune:
        contenders.append(_run_trained(bench, ours[0]))
    contenders += run_baselines(bench, ours[0].statistics)
    measured = ours[0].run.evaluation
    ann = _source_figures(bench, ours[0])
    by_memory = any(profile.memory for profile in bench.profiles.values())
    warnings = dict.fromkeys([*loaded.warnings, *(warning for each in ours for warning in each.calibrated.warnings)])
    return Comparison(
        version=COMPARISON_VERSION,
        source=loaded.source.name,
        images=measured.images,
        origin=bench.images.origin,
        calibration_images=ours[0].manifest.calibration.images.images,
        calibration_origin=bench.calibration.origin,
        within=settings.within,
        measure="top-1" if ann.top1 is not None else "agreement" if measured.agreement is not None else None,
        profile=settings.profile,
        profiles=tuple(bench.profiles),
        ann=ann,
        methods=tuple(_result(each, settings, ann) for each in contenders),
        assumptions=(*_ASSUMPTIONS, *_MEMORY * by_memory, *bench.assumptions),
        seed=settings.seed,
        skipped=measured.skipped,
        warnings=(*warnings, *[_SAME_FOLDER] * (settings.calibration_data is None)),
    )


def _source_figures(bench: Bench, ours: _Ours) -> SourceFigures:
    """What the source does, and costs, beside our conversion of it."""
    ann = ours.run.evaluation.ann
    costs = {name: account(ours.manifest, ours.count, profile).energy_mj for name, profile in bench.profiles.items()}
    chosen = costs[bench.settings.profile]
    return SourceFigures(
        top1=ann.top1 if ann else None,
        energy_mj=chosen.ann,
        energy_int8_mj=chosen.ann_int8,
        energy_by_profile={name: cost.ann for name, cost in costs.items()},
        energy_int8_by_profile={name: cost.ann_int8 for name, cost in costs.items()},
    )


def _result(contender: Contender, settings: ComparisonSettings, ann: SourceFigures) -> MethodResult:
    lost = [points_lost(ann, point) for point in contender.points]
    kept = (
        point
        for point, loss in zip(contender.points, lost, strict=True)
        if loss is not None and loss <= settings.within
    )
    return MethodResult(
        name=contender.name,
        title=contender.title,
        paper=contender.paper,
        tried=contender.tried,
        neurons=contender.neurons,
        reason=contender.reason,
        points=contender.points,
        first_within=next(kept, None),
    )


def _run_ours(bench: Bench, coding: Coding) -> _Ours:
    """Our own conversion, as `pmsm convert` makes it for the largest number of timesteps."""
    loaded, settings = bench.loaded, bench.settings
    timesteps = settings.timesteps[-1]
    how = CalibrationSettings(
        data=settings.calibrated_on,
        samples=settings.calibration_samples,
        levels=settings.levels,
        horizon=timesteps if coding is Coding.RATE else 1,
        refit=True,
        seed=settings.seed,
        threads=settings.threads,
        keep_statistics=True,
    )
    calibrated = calibrate_source(loaded, how, bench.progress)
    refitted = refit_weights(loaded, calibrated, how, bench.progress, timesteps=timesteps, coding=coding)
    made = convert(loaded, calibrated, timesteps=timesteps, coding=coding, refitted=refitted)
    checkpoint = Checkpoint(subject=loaded.network.subject, model=made.model, manifest=made.manifest)
    count, run = _measure(bench, checkpoint, _TITLES[coding])
    contender = Contender(
        name=_NAMES[coding],
        title=_TITLES[coding],
        paper=_PAPER,
        tried=1,
        neurons=run.neurons,
        points=run.points(settings.timesteps, f"{_setting(made.manifest)}, as pmsm convert sets them"),
    )
    return _Ours(contender=contender, count=count, run=run, manifest=made.manifest, calibrated=calibrated, settings=how)


def _run_trained(bench: Bench, ours: _Ours) -> Contender:
    """Our conversion at one timestep after training; later timesteps are not trained."""
    contender = Contender(name=_TRAINED_NAME, title=_TRAINED_TITLE, paper=_PAPER, tried=1)
    refitted = refit_weights(bench.loaded, ours.calibrated, ours.settings, bench.progress)
    made = convert(bench.loaded, ours.calibrated, timesteps=1, coding=Coding.REFINE, refitted=refitted)
    try:
        tuned = trained_ours(bench, made)
    except CheckFailedError as error:
        return replace(contender, reason=error.problem)
    checkpoint = Checkpoint(subject=bench.loaded.network.subject, model=tuned.model, manifest=tuned.manifest)
    setting = f"{_setting(tuned.manifest)}, trained for {tuned.outcome.best} epochs"
    _, run = _measure(bench, checkpoint, _TRAINED_TITLE)
    return replace(contender, neurons=run.neurons, points=run.points(bench.settings.timesteps, setting))


def _measure(bench: Bench, checkpoint: Checkpoint, title: str) -> tuple[SpikeCount, Run]:
    bench.progress.start(f"{title}: measuring", len(bench.images))
    counted = count_spikes(
        checkpoint,
        bench.batches(bench.images),
        source=bench.remembered,
        threads=bench.settings.threads,
        on_batch=bench.progress.advance,
    )
    assert counted.evaluation is not None  # where no image can be read, there are no batches either
    facts = facts_of(sites_of(checkpoint.manifest, counted.sites, counted.work), checkpoint.manifest.plan, counted.work)
    neurons = sum(site.neurons for site in counted.sites)
    return counted, Run(
        evaluation=counted.evaluation,
        facts=facts,
        spikes_per_neuron=np.sum([site.spikes for site in counted.sites], axis=0) / neurons,
        neurons=neurons,
        profiles=bench.profiles,
    )


def _setting(manifest: Manifest) -> str:
    """How thresholds and levels were set, in words."""
    calibration = manifest.calibration
    if calibration.allocation:
        levels = f"levels found, {calibration.allocation.chosen.mean_levels:.1f} on the mean"
    else:
        levels = f"{calibration.levels} levels"
    return f"thresholds by {calibration.method.value}, {levels}"

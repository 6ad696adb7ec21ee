"""The same network by several methods: ours, and those that it is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pmsm_cli.baselines.methods import ABOUT
from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.energy.account import account
from pmsm_cli.energy.profile import open_profile
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.pipeline.bench import Bench, ComparisonSettings, Run
from pmsm_cli.pipeline.contenders import run_baselines
from pmsm_cli.pipeline.conversion import CalibrationSettings, Loaded, calibrate_source, convert
from pmsm_cli.pipeline.inputs import Progress
from pmsm_cli.report.comparison import Comparison, MethodResult, SourceFigures, points_lost
from pmsm_cli.runtime.count import count_spikes

_PAPER = "Zhang, Yu, Li: Quantization meets spikes, arXiv 2508.14520"
_NAMES = {Coding.REFINE: "pmsm-refine", Coding.RATE: "pmsm-rate"}
_TITLES = {Coding.REFINE: "polarity multi-spike, refine", Coding.RATE: "polarity multi-spike, rate"}
_ASSUMPTIONS = (
    "the first layer reads the image itself and is computed once, in all methods",
    "a baseline's spike is one accumulate on each of its synapses, whatever its sign; where spikes are averaged before "
    "a synapse all of them count, under a maximum the one that gets through",
    "along shortcuts baselines send their spikes, polarity multi-spike mapping the value itself; these additions are "
    "not counted in any method",
    "what is not linear (max pooling, softmax) works on averages over the steps so far",
)
_SAME_FOLDER = "thresholds are set on images of the folder that is measured on: --calibration-data names another one"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Ours:
    """One of our codings, after its run."""

    coding: Coding
    run: Run
    manifest: Manifest
    statistics: Mapping[str, SiteStatistics]
    warnings: tuple[str, ...]

    @property
    def setting(self) -> str:
        """How thresholds and levels were set, in words."""
        calibration = self.manifest.calibration
        found = "levels found" if calibration.allocation else f"{calibration.levels} levels"
        return f"{calibration.method.value}, {found}, as pmsm convert does it"


def compare(loaded: Loaded, settings: ComparisonSettings, progress: Progress) -> Comparison:
    """Accuracy, spikes and energy of all methods after each number of timesteps.

    Raises:
        BadInputError: the network, the images or the energy profile cannot be used.
    """
    bench = Bench(loaded, settings, open_profile(settings.profile), progress)
    ours = [_run_ours(bench, coding) for coding in Coding if coding is Coding.REFINE or settings.timesteps[-1] > 1]
    contenders = run_baselines(bench, ours[0].manifest, ours[0].statistics)
    measured, cost = ours[0].run.evaluation, ours[0].run.energy.energy_mj
    ann = SourceFigures(
        top1=measured.ann.top1 if measured.ann else None, energy_mj=cost.ann, energy_int8_mj=cost.ann_int8
    )
    measure = "top-1" if ann.top1 is not None else "agreement" if measured.agreement is not None else None

    def result(
        name: str, title: str, paper: str, run: Run | None, *, setting: str, tried: int = 1, reason: str | None = None
    ) -> MethodResult:
        points = run.points(settings.timesteps) if run else ()
        lost = [points_lost(ann, point) for point in points]
        kept = (point for point, loss in zip(points, lost, strict=True) if loss is not None and loss <= settings.within)
        return MethodResult(
            name=name,
            title=title,
            paper=paper,
            setting=setting,
            tried=tried,
            neurons=run.neurons if run else 0,
            reason=reason,
            points=points,
            first_within=next(kept, None),
        )

    methods = [
        result(_NAMES[each.coding], _TITLES[each.coding], _PAPER, each.run, setting=each.setting) for each in ours
    ]
    for each in contenders:
        title, paper = ABOUT[each.method].title, ABOUT[each.method].paper
        methods.append(
            result(
                each.method.value, title, paper, each.run, setting=each.setting, tried=each.tried, reason=each.reason
            )
        )
    warnings = dict.fromkeys([*loaded.warnings, *(warning for each in ours for warning in each.warnings)])
    return Comparison(
        source=loaded.source.name,
        images=measured.images,
        origin=bench.images.origin,
        calibration_images=ours[0].manifest.calibration.images.images,
        calibration_origin=bench.calibration.origin,
        within=settings.within,
        measure=measure,
        profile=settings.profile,
        ann=ann,
        methods=tuple(methods),
        assumptions=(*_ASSUMPTIONS, *bench.profile.assumptions),
        seed=settings.seed,
        skipped=measured.skipped,
        warnings=(*warnings, *[_SAME_FOLDER] * (settings.calibration_data is None)),
    )


def _run_ours(bench: Bench, coding: Coding) -> _Ours:
    """Our own conversion, as `pmsm convert` makes it for the largest number of timesteps."""
    loaded, settings, progress = bench.loaded, bench.settings, bench.progress
    timesteps = settings.timesteps[-1]
    calibrated = calibrate_source(
        loaded,
        CalibrationSettings(
            data=settings.calibrated_on,
            samples=settings.calibration_samples,
            levels=settings.levels,
            horizon=timesteps if coding is Coding.RATE else 1,
            seed=settings.seed,
            threads=settings.threads,
            keep_statistics=True,
        ),
        progress,
    )
    made = convert(loaded, calibrated, timesteps=timesteps, coding=coding)
    title = _TITLES[coding]
    evaluation = bench.evaluate(bench.open(made.model), timesteps=timesteps, stage=f"{title}: measuring")
    progress.start(f"{title}: counting spikes", len(bench.images))
    checkpoint = Checkpoint(subject=loaded.network.subject, model=made.model, manifest=made.manifest)
    counted = count_spikes(checkpoint, bench.batches(bench.images), threads=settings.threads, on_batch=progress.advance)
    energy = account(made.manifest, counted, bench.profile)
    run = Run(
        evaluation=evaluation,
        energy=energy,
        spikes_per_neuron=np.asarray(energy.spikes_per_neuron),
        neurons=sum(site.neurons for site in counted.sites),
    )
    return _Ours(
        coding=coding,
        run=run,
        manifest=made.manifest,
        statistics=calibrated.statistics or {},
        warnings=calibrated.warnings,
    )

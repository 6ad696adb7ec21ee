"""Methods of a comparison whose weights are trained: briefly, by the same training, towards the source."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pmsm_cli.baselines.methods import QCFS_LEVELS, Candidate, Observed
from pmsm_cli.baselines.plan import NeuronPlan
from pmsm_cli.baselines.qcfs import quantised_for_training, trained_neurons, without_quantisers
from pmsm_cli.baselines.thresholds import least_squares
from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.errors import CheckFailedError
from pmsm_cli.finetune.records import Teacher, TuningSettings
from pmsm_cli.finetune.settings import default_learning_rate
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.pipeline.bench import Bench
from pmsm_cli.pipeline.conversion import Conversion
from pmsm_cli.pipeline.inputs import open_sample
from pmsm_cli.pipeline.tuning import Guide, Tuned, check_torch, finetune_checkpoint

_TRAINED_LEVELS = QCFS_LEVELS[:2]  # L of what is trained; the paper's own are 4 and 8


def trained_qcfs(bench: Bench, plan: NeuronPlan, observed: Mapping[str, Observed]) -> list[Candidate]:
    """QCFS as its authors mean it: its activation trained, weights and lambda, then fired.

    Its paper trains from scratch on labels for hundreds of epochs, one lambda a layer; here training starts from the
    source and from lambdas of least squared error, one a channel, which does better untrained, and learns the source's
    outputs, as polarity multi-spike mapping does.

    Raises:
        CheckFailedError: no epoch made any of them better.
        SetupError: torch is missing.
        UnsupportedGraphError: some operators have no torch function.
    """
    check_torch()
    found, failure = [], None
    for levels in _TRAINED_LEVELS:
        try:
            found.append(_trained_at(bench, plan, observed, levels))
        except CheckFailedError as error:
            failure = error
    if failure is not None and not found:
        raise failure
    return found


def _trained_at(bench: Bench, plan: NeuronPlan, observed: Mapping[str, Observed], levels: int) -> Candidate:
    from pmsm_cli.finetune.images import TrainingImages
    from pmsm_cli.finetune.training import finetune

    network, settings = bench.loaded.network, bench.settings
    start = {}
    for site in plan.neurons:
        widest = least_squares(observed[site.name].statistics, levels)
        threshold = np.asarray(widest / np.float32(levels), np.float32)
        if site.channel_axis is None:
            threshold = threshold.reshape(())
        start[site.name] = NeuronParameters(threshold=threshold, negative_levels=0, positive_levels=levels)
    model, quantised = quantised_for_training(network, plan, start)
    outcome = finetune(
        model,
        quantised,
        start,
        network.model,
        TrainingImages(open_sample(settings.calibrated_on, None, settings.seed), bench.loaded.preprocessing),
        bench.loaded.preprocessing,
        _tuning(bench, levels),
        bench.progress,
        subject=network.subject,
        fixed_batch=network.image.batch,
    )
    return Candidate(
        description=f"trained for {outcome.best} epochs with {levels} levels, one a channel, start at half",
        neurons=trained_neurons(plan, outcome.neurons),
        trained=replace(network, model=without_quantisers(outcome.model, plan)),
    )


def trained_ours(bench: Bench, made: Conversion) -> Tuned:
    """Our own conversion at one timestep, trained as `pmsm convert --finetune` does it.

    Raises:
        CheckFailedError: no epoch made it better.
        SetupError: torch is missing.
    """
    settings, network = bench.settings, bench.loaded.network
    guide = Guide(kind=Teacher.SOURCE, name=network.subject, model=network.model)
    images = open_sample(settings.calibrated_on, None, settings.seed)
    checkpoint = Checkpoint(subject=network.subject, model=made.model, manifest=made.manifest)
    tuning = _tuning(bench, made.manifest.calibration.usual_levels)
    return finetune_checkpoint(checkpoint, images, guide, tuning, bench.progress)


def _tuning(bench: Bench, levels: int) -> TuningSettings:
    settings = bench.settings
    return TuningSettings(
        epochs=settings.finetune,
        learning_rate=default_learning_rate(levels),
        seed=settings.seed,
        threads=settings.threads,
    )

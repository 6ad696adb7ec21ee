"""`pmsm finetune`, and what `pmsm convert --finetune` shares with it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmsm_cli.cli import console, options
from pmsm_cli.cli.written import check_outputs
from pmsm_cli.errors import CheckFailedError, InterruptedRunError, UsageError
from pmsm_cli.finetune.settings import DEFAULT_EPOCHS, Device, default_learning_rate

if TYPE_CHECKING:
    from pmsm_cli.finetune.records import EpochRecord
    from pmsm_cli.pipeline.conversion import Conversion, Loaded
    from pmsm_cli.pipeline.tuning import Tuned


class EpochProgress(console.ProgressBar):
    """The progress bar, with a line on stderr for each epoch."""

    def epoch(self, record: "EpochRecord") -> None:
        """Say what an epoch gave."""
        parts = [f"loss {record.loss:.4g}"]
        parts += [] if record.agreement is None else [f"agreement {record.agreement:.2f} %"]
        parts += [] if record.top1 is None else [f"top-1 {record.top1:.2f} %"]
        name = f"epoch {record.epoch}" if record.epoch else "before training"
        self.say(f"{name}: {', '.join(parts)} on held-out images, {record.seconds:.0f} s")


def finetune(
    checkpoint: options.CheckpointFile,
    data: Annotated[
        Path,
        options.path_option(metavar="PATH", help="Images to train on; labels are not needed.", show_default=False),
    ],
    source: Annotated[
        Path | None,
        options.path_option(
            metavar="SOURCE",
            help="The network to train towards.  [default: the source, if it lies beside the checkpoint; else labels]",
            show_default=False,
        ),
    ] = None,
    weights_file: options.WeightsFile = None,
    random_weights: options.RandomWeights = False,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Passes over the images.")] = DEFAULT_EPOCHS,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Learning rate of the weights at its peak.  [default: 0.0256 / (levels + 1)^2, 0.003 at most]",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Images a step.  [default: 64, fewer where there are few]")
    ] = None,
    samples: options.SomeSamples = None,
    output: Annotated[
        Path | None,
        options.path_option(
            "--output", "-o", metavar="FILE", help="Where to write it.  [default: CHECKPOINT.tuned.snn.onnx, here]"
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to train; auto takes CUDA where it is.")] = Device.AUTO,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Train a spiking network briefly, so that it comes closer to its source at the first timestep.

    pmsm finetune r20.snn.onnx --data images/ --source resnet20.onnx --epochs 2
    """
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import open_checkpoint, write_file
    from pmsm_cli.finetune.records import TuningSettings
    from pmsm_cli.report import tables
    from pmsm_cli.report.records import to_json
    from pmsm_cli.sources.source import check_weights

    target = output or Path(f"{checkpoint.stem.removesuffix('.snn')}.tuned.snn.onnx")
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise UsageError(f"a learning rate must be above 0 and finite, not {learning_rate:g}")
    weights = check_weights(source, file=weights_file, random=random_weights, seed=seed)
    check_outputs([target], inputs=[checkpoint, data, source, weights_file])
    pipeline.check_torch()
    opened = open_checkpoint(checkpoint)
    settings = TuningSettings(
        epochs=epochs,
        learning_rate=learning_rate or default_learning_rate(opened.manifest.calibration.usual_levels),
        batch=batch,
        seed=seed,
        device=device,
        threads=threads,
    )
    with EpochProgress() as progress:
        images = pipeline.open_sample(data, samples, seed, classes=opened.manifest.labels, labels_needed=False)
        stated = pipeline.open_source_of(opened, source, weights, progress) if source else None
        guide = pipeline.find_guide(opened, images, source=stated)
        for warning in guide.warnings:
            progress.say(f"warning: {warning}")
        try:
            tuned = pipeline.finetune_checkpoint(opened, images, guide, settings, progress)
        except CheckFailedError as error:
            raise in_vain(error, "nothing was written") from error
        write_file(target, tuned.data)
    summary = pipeline.summarise_tuning(tuned, target)
    console.warn_skipped(summary.skipped)
    if json:
        console.print_json(to_json(summary))
    else:
        console.print_result(tables.tuning_table(summary))
    say_if_stopped(tuned, target)


def check_tuning(epochs: int, data: Path | None, timesteps: int) -> None:
    """Refuse `convert --finetune` where it cannot work, before the work begins.

    Raises:
        UsageError: there are no images, or more timesteps than the one that is trained.
        SetupError: torch is missing.
    """
    if not epochs:
        return
    if timesteps > 1:
        raise UsageError("--finetune trains the first timestep", hint="leave out --timesteps, or --finetune")
    if data is None:
        raise UsageError("--finetune needs images to train on", hint="pass --data IMAGES as well")
    from pmsm_cli import pipeline

    pipeline.check_torch()


def tune_conversion(
    made: "Conversion",
    loaded: "Loaded",
    data: Path,
    target: Path,
    epochs: int,
    seed: int,
    threads: int | None,
    progress: EpochProgress,
) -> "Training":
    """Train a conversion towards the source that it was made from, on all images of a path."""
    from pmsm_cli import pipeline
    from pmsm_cli.checkpoint.file import Checkpoint
    from pmsm_cli.finetune.records import Teacher, TuningSettings

    checkpoint = Checkpoint(subject=str(target), model=made.model, manifest=made.manifest)
    guide = pipeline.Guide(kind=Teacher.SOURCE, name=str(loaded.source.path), model=loaded.network.model)
    images = pipeline.open_sample(data, None, seed)
    rate = default_learning_rate(made.manifest.calibration.usual_levels)
    settings = TuningSettings(epochs=epochs, learning_rate=rate, seed=seed, threads=threads)
    try:
        tuned = pipeline.finetune_checkpoint(checkpoint, images, guide, settings, progress)
    except CheckFailedError as error:
        hint = f"more images, or `pmsm finetune {target} --data {data}` with another --learning-rate"
        return Training(made=made, vain=in_vain(error, "it was written without training", hint=hint))
    return Training(made=replace(made, model=tuned.model, data=tuned.data, manifest=tuned.manifest), tuned=tuned)


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What became of a conversion in training."""

    made: "Conversion"  # as it was before, where there was no training, or it was in vain
    tuned: "Tuned | None" = None
    vain: CheckFailedError | None = None

    def say_how_it_ended(self, target: Path) -> None:
        """Fail, after what there is was written, where training was in vain or ended early.

        Raises:
            InterruptedRunError: the user interrupted it.
            CheckFailedError: it diverged, or came no closer to the source.
        """
        if self.vain:
            raise self.vain
        if self.tuned:
            say_if_stopped(self.tuned, target)


def in_vain(error: CheckFailedError, left: str, *, hint: str | None = None) -> CheckFailedError:
    """What to say where training gave nothing to keep: why, and what is `left`."""
    return CheckFailedError(f"{error.problem}; {left}", subject=error.subject, hint=hint or error.hint)


def say_if_stopped(tuned: "Tuned", target: Path) -> None:
    """Fail with what was written where a run ended early.

    Raises:
        InterruptedRunError: the user interrupted it.
        CheckFailedError: it diverged.
    """
    from pmsm_cli.finetune.records import Stop

    outcome = tuned.outcome
    kept = f"{target} was written with epoch {outcome.best}, the best until then"
    if outcome.stopped is Stop.INTERRUPTED:
        raise InterruptedRunError(f"interrupted after {len(outcome.epochs) - 1} epoch(s); {kept}")
    if outcome.stopped is Stop.DIVERGED:
        rate = tuned.manifest.finetuning[-1].learning_rate
        raise CheckFailedError(
            f"training diverged in epoch {len(outcome.epochs)} at learning rate {rate:g}; {kept}",
            hint=f"a smaller learning rate: --learning-rate {rate / 10:g}",
        )

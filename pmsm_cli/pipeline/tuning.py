"""Fine-tuning a checkpoint: find its teacher, train, and pack the best of it as a checkpoint again."""

from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from pmsm_cli import __version__
from pmsm_cli.calibration.calibrate import SiteCalibration
from pmsm_cli.calibration.quality import assess
from pmsm_cli.checkpoint.file import Checkpoint, check_names, pack
from pmsm_cli.checkpoint.manifest import Manifest, TuningRun
from pmsm_cli.errors import PmsmError, SetupError, UsageError
from pmsm_cli.finetune.records import Listener, Outcome, Teacher, TuningSettings
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.network import Network, find_image_input
from pmsm_cli.graph.scores import class_scores
from pmsm_cli.lowering.precision import Precision
from pmsm_cli.pipeline.inputs import batch_size, is_source, source_remarks
from pmsm_cli.report.summary import TuningSummary
from pmsm_cli.runtime.fit import check_comparable, check_labels
from pmsm_cli.runtime.observe import observe
from pmsm_cli.runtime.session import model_bytes, open_session
from pmsm_cli.sources.images import ImageSet, SkippedImage, read_batches, sample_images
from pmsm_cli.sources.onnx_file import open_onnx
from pmsm_cli.sources.records import Source
from pmsm_cli.sources.source import source_path
from pmsm_cli.sources.timm_names import is_timm

_OBSERVED = 512  # images that the statistics of the tuned thresholds come from


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Guide:
    """What a checkpoint is trained towards."""

    kind: Teacher
    name: str  # the source's file, or what says the labels
    model: ir.Model | None  # None: labels
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tuned:
    """A fine-tuned checkpoint, not yet written."""

    model: ir.Model
    data: bytes  # the model as it is written
    manifest: Manifest
    outcome: Outcome
    guide: Guide
    skipped: tuple[SkippedImage, ...]


def check_torch() -> None:
    """Fail where torch is not installed.

    Raises:
        SetupError: it is missing.
    """
    try:
        import torch  # noqa: F401, TID251
    except ImportError as error:
        raise SetupError(
            "fine-tuning needs torch, which is not installed", hint="pip install 'pmsm-cli[finetune]'"
        ) from error


def find_guide(checkpoint: Checkpoint, images: ImageSet, *, source: Source | None) -> Guide:
    """The source network, stated or lying beside the checkpoint; else the labels of the images.

    Raises:
        UsageError: the checkpoint has more than one timestep or int8 weights, or there is nothing to train towards.
        BadInputError: the stated network cannot be the source, or the labels do not fit.
    """
    manifest = checkpoint.manifest
    if manifest.timesteps != 1:
        raise UsageError(
            f"has {manifest.timesteps} timesteps; fine-tuning trains the first one",
            subject=checkpoint.subject,
            hint="fine-tune a checkpoint of `pmsm convert --timesteps 1`",
        )
    if manifest.weights is not Precision.FLOAT:
        raise UsageError(
            "has int8 weights; fine-tuning trains floats",
            subject=checkpoint.subject,
            hint="pmsm convert SOURCE --finetune EPOCHS --weights int8",
        )
    source = source or _source_beside(checkpoint)
    if source is not None:
        spiking = open_session(checkpoint.model, subject=checkpoint.subject)
        subject = str(source.path)
        network = ingest(source.proto, subject=subject)
        teacher = open_session(network.model, subject=subject)
        check_comparable(spiking, teacher, source_name=manifest.source_name, option="--source")
        warnings = source_remarks(source, checkpoint)
        return Guide(kind=Teacher.SOURCE, name=subject, model=network.model, warnings=warnings)
    origin = source_path(manifest.source_name)
    absent = f"{origin} is not stated" if is_timm(origin) else f"{origin} does not lie beside the checkpoint"
    scored = class_scores(checkpoint.model) is not None
    if images.labels is None or not scored:
        lack = "the images have no labels" if scored else "the network gives no class scores"
        raise UsageError(
            f"there is nothing to train towards: {lack}, and {absent}",
            subject=checkpoint.subject,
            hint=f"name the network that it was made from: --source {origin}",
        )
    check_labels(images, checkpoint.model)
    warning = f"training towards the labels: {absent} (--source names it, and serves better)"
    return Guide(kind=Teacher.LABELS, name=images.origin, model=None, warnings=(warning,))


def finetune_checkpoint(
    checkpoint: Checkpoint, images: ImageSet, guide: Guide, settings: TuningSettings, listener: Listener
) -> Tuned:
    """Train a checkpoint's weights and thresholds; the result is checked to run before it is handed out.

    Raises:
        CheckFailedError: training diverged, or made nothing better.
        CheckpointError: another program has changed the checkpoint.
        UsageError: no output is a float.
        SetupError: torch is missing, or CUDA is asked for and not there.
    """
    check_torch()
    from pmsm_cli.finetune.images import TrainingImages
    from pmsm_cli.finetune.training import finetune

    manifest, subject = checkpoint.manifest, checkpoint.subject
    check_names(checkpoint, neurons=True)
    if all(value.dtype not in (None, ir.DataType.FLOAT) for value in checkpoint.model.graph.outputs):
        raise UsageError("puts out whole numbers alone, from which there is nothing to learn", subject=subject)
    image = find_image_input(checkpoint.model.graph, subject=subject)
    training = TrainingImages(images, manifest.preprocessing)
    outcome = finetune(
        checkpoint.model,
        manifest.plan,
        manifest.calibration.parameters,
        guide.model,
        training,
        manifest.preprocessing,
        settings,
        listener,
        subject=subject,
        fixed_batch=image.batch,
    )
    network = Network(subject=subject, model=outcome.model, image=image, outputs=())
    tuned = replace(
        manifest,
        tool_version=__version__,
        calibration=replace(manifest.calibration, sites=_sites(network, manifest, outcome, images, settings, listener)),
        finetuning=(*manifest.finetuning, _run(outcome, guide, settings, images)),
    )
    model = pack(outcome.model, tuned)
    data = model_bytes(model, subject=subject)
    open_session(data, subject=subject)
    return Tuned(model=model, data=data, manifest=tuned, outcome=outcome, guide=guide, skipped=training.skipped)


def summarise_tuning(tuned: Tuned, path: Path) -> TuningSummary:
    """What the epochs gave, for the table and the JSON."""
    return TuningSummary(
        checkpoint=path,
        source=tuned.manifest.source_name,
        teacher=tuned.guide.kind.value,
        teacher_name=tuned.guide.name,
        images=tuned.manifest.finetuning[-1].images,
        origin=tuned.manifest.finetuning[-1].origin,
        epochs=tuned.outcome.epochs,
        best_epoch=tuned.outcome.best,
        total_epochs=sum(run.epochs for run in tuned.manifest.finetuning),
        learning_rate=tuned.manifest.finetuning[-1].learning_rate,
        seed=tuned.manifest.finetuning[-1].seed,
        stopped=tuned.outcome.stopped.value if tuned.outcome.stopped else None,
        skipped=tuned.skipped,
        warnings=tuned.guide.warnings,
    )


def _source_beside(checkpoint: Checkpoint) -> Source | None:
    """The very file that the checkpoint was made from, in the same folder under the name that the manifest states."""
    manifest = checkpoint.manifest
    path = source_path(manifest.source_name)
    if is_timm(path):
        return None
    try:
        source = open_onnx(Path(checkpoint.subject).with_name(path.name))
    except (PmsmError, OSError):  # not there, or another thing of that name
        return None
    return source if is_source(source, checkpoint) else None


def _run(outcome: Outcome, guide: Guide, settings: TuningSettings, images: ImageSet) -> TuningRun:
    best = outcome.epochs[outcome.best]
    return TuningRun(
        epochs=outcome.best,
        images=best.images,
        origin=images.origin,
        teacher=guide.kind.value,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        loss_before=outcome.epochs[0].loss,
        loss=best.loss,
    )


def _sites(
    network: Network,
    manifest: Manifest,
    outcome: Outcome,
    images: ImageSet,
    settings: TuningSettings,
    listener: Listener,
) -> tuple[SiteCalibration, ...]:
    """The tuned neurons, and what they keep of the activations that the tuned network has."""
    some = sample_images(images, _OBSERVED, settings.seed)
    size = batch_size(manifest.plan, network.image.batch)
    listener.start("Observing the tuned network", 2 * len(some))
    seen = observe(
        network,
        manifest.plan,
        lambda: read_batches(some, manifest.preprocessing, size),
        threads=settings.threads,
        on_batch=listener.advance,
    )
    return tuple(
        SiteCalibration(
            name=site.name,
            parameters=outcome.neurons[site.name],
            quality=assess(seen.statistics[site.name], outcome.neurons[site.name]),
            centre=site.centre,
        )
        for site in manifest.calibration.sites
    )

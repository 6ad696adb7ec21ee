"""What a checkpoint does: accuracy, spikes and energy, predictions."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.energy.account import account
from pmsm_cli.energy.estimate import estimate_spikes
from pmsm_cli.energy.profile import open_profile
from pmsm_cli.energy.records import EnergyReport
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.scores import class_count, class_scores
from pmsm_cli.pipeline.inputs import Progress, batch_size
from pmsm_cli.runtime.count import count_spikes
from pmsm_cli.runtime.evaluate import Evaluation, evaluate
from pmsm_cli.runtime.fit import check_comparable, check_labels
from pmsm_cli.runtime.predict import Prediction, predict
from pmsm_cli.runtime.session import Array, Session, open_session
from pmsm_cli.runtime.spiking import open_spiking
from pmsm_cli.runtime.workload import fixed_batch
from pmsm_cli.sources.images import (
    Batch,
    ImageSet,
    SkippedImage,
    join_images,
    open_images,
    read_batches,
    without_images,
)
from pmsm_cli.sources.records import Source


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    images: ImageSet,
    *,
    against: Source | None,
    threads: int | None,
    progress: Progress,
) -> Evaluation:
    """Accuracy of a checkpoint at every step, beside that of its source where one is given."""
    spiking = open_spiking(checkpoint, batch=_at_a_time(checkpoint, images), threads=threads)
    check_labels(images, checkpoint.model)
    source = open_reference(against, threads=threads) if against else None
    if source:
        check_comparable(spiking, source, source_name=checkpoint.manifest.source_name)
    progress.start("Evaluating", len(images))
    return evaluate(
        spiking,
        _read_for(checkpoint, images, spiking),
        timesteps=checkpoint.manifest.timesteps,
        scores=class_scores(checkpoint.model),
        source=source,
        on_batch=progress.advance,
    )


def open_reference(source: Source, *, threads: int | None) -> Session:
    """A source network as it is, ready to run beside its checkpoint."""
    subject = str(source.path)
    return open_session(ingest(source.proto, subject=subject).model, subject=subject, threads=threads)


def report_checkpoint(
    checkpoint: Checkpoint,
    images: ImageSet | None,
    *,
    profile: str,
    threads: int | None,
    progress: Progress,
    against: Source | None = None,
) -> EnergyReport:
    """Spikes and energy of a checkpoint: counted on images, or else estimated from what calibration saw.

    Where the images have labels the same run gives the accuracy, beside that of the source where one is given.
    """
    chosen = open_profile(profile)
    if images is None:
        return account(checkpoint.manifest, estimate_spikes(checkpoint), chosen)
    source = open_reference(against, threads=threads) if against else None
    if source:
        spiking = open_session(checkpoint.model, subject=checkpoint.subject, threads=threads)
        check_comparable(spiking, source, source_name=checkpoint.manifest.source_name)
    size = batch_size(checkpoint.manifest.plan, fixed_batch(checkpoint.model))
    batches = read_batches(images, checkpoint.manifest.preprocessing, size)
    if not has_labels(checkpoint, images):
        batches = (replace(batch, labels=None) for batch in batches)
    progress.start("Counting spikes", len(images))
    counted = count_spikes(checkpoint, batches, source=source, threads=threads, on_batch=progress.advance)
    return account(checkpoint.manifest, counted, chosen)


def has_labels(checkpoint: Checkpoint, images: ImageSet) -> bool:
    """Whether images have labels, and the network as many classes as these need, as far as its graph states them."""
    classes = class_count(checkpoint.model)
    return images.labels is not None and (classes is None or bool(images.labels.max() < classes))


def tells_classes_apart(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint scores classes."""
    return class_scores(checkpoint.model) is not None


def predict_images(
    checkpoint: Checkpoint,
    paths: Sequence[Path],
    *,
    labels: Sequence[str],
    top_k: int,
    threads: int | None,
    progress: Progress,
    on_outputs: Callable[[dict[str, Array]], None] | None = None,
    done: Collection[str] = (),
) -> Iterator[Prediction | SkippedImage]:
    """The outputs for each image, as they come; `on_outputs` is handed the raw outputs of each batch.

    Images whose names are in `done` are left out.
    """
    images = without_images(join_images([open_images(path) for path in paths]), done)
    session = open_spiking(checkpoint, batch=_at_a_time(checkpoint, images), threads=threads)
    progress.start("Running", len(images))
    return predict(
        session,
        _read_for(checkpoint, images, session),
        scores=class_scores(checkpoint.model),
        labels=labels,
        top_k=top_k,
        on_batch=progress.advance,
        on_outputs=on_outputs or (lambda outputs: None),
    )


def _at_a_time(checkpoint: Checkpoint, images: ImageSet) -> int:
    """How many images the network is given at once."""
    return fixed_batch(checkpoint.model) or max(1, min(len(images), batch_size(checkpoint.manifest.plan, None)))


def _read_for(checkpoint: Checkpoint, images: ImageSet, session: Session) -> Iterator[Batch]:
    size = batch_size(checkpoint.manifest.plan, session.fixed_batch)
    return read_batches(images, checkpoint.manifest.preprocessing, size)

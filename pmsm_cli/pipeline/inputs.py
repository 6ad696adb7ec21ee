"""What the jobs are handed beside a network: images, class names, files of either kind."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.errors import DataError
from pmsm_cli.graph.scores import class_count
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.sources.images import ImageFiles, ImageSet, labelled_as, open_images, sample_images
from pmsm_cli.sources.onnx_file import open_onnx
from pmsm_cli.sources.records import PRETRAINED, Source, Weights
from pmsm_cli.sources.source import open_source
from pmsm_cli.sources.timm_names import is_timm

_LARGEST_BATCH = 64
_VALUES_AT_ONCE = 2**25  # activations of all sites that are held at a time, which bounds the batch of large networks


class Progress(Protocol):
    """Told how far a stage has come; the command line draws it."""

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` images begins."""
        ...

    def advance(self, images: int) -> None:
        """So many more images are done."""
        ...


class _Silent:
    """Progress that nobody is told of."""

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` images begins."""

    def advance(self, images: int) -> None:
        """So many more images are done."""


SILENT = _Silent()


def open_network(
    path: Path, weights: Weights = PRETRAINED, *, image_size: int | None = None, progress: Progress = SILENT
) -> Source:
    """A source network, from a file or from timm; the stages of the latter take seconds each, and are announced."""
    return open_source(path, weights, image_size=image_size, on_stage=lambda stage: progress.start(stage, 1))


def open_source_of(checkpoint: Checkpoint, path: Path, weights: Weights, progress: Progress) -> Source:
    """What is to be compared with a checkpoint as its source; a timm model in the size that the checkpoint reads."""
    preprocessing = checkpoint.manifest.preprocessing
    square = preprocessing.height == preprocessing.width
    return open_network(path, weights, image_size=preprocessing.height if square else None, progress=progress)


def open_sample(
    path: Path, samples: int | None, seed: int, *, classes: Sequence[str] = (), labels_needed: bool = True
) -> ImageSet:
    """The images of a path, or so many of them; labels are those of `classes`, where folders have their names.

    Labels that are not needed are left out where some of the folders have such names and others have not.

    Raises:
        DataError: there are none, or labels are needed and unclear.
    """
    images = open_images(path)
    try:
        images = labelled_as(images, classes)
    except DataError:
        if labels_needed or not isinstance(images, ImageFiles):
            raise
        images = replace(images, labels=None, class_names=())
    return sample_images(images, samples, seed)


def is_checkpoint(path: Path) -> bool:
    """Whether a network is one of our checkpoints (of any format version)."""
    return not is_timm(path) and any(entry.key.startswith("pmsm.") for entry in open_onnx(path).proto.metadata_props)


def read_labels(path: Path, model: ir.Model) -> tuple[str, ...]:
    """Class names for a network, one a line.

    Raises:
        DataError: the file cannot be read, or holds more or fewer names than the network tells classes apart.
    """
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", subject=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError("is not a text in UTF-8", subject=str(path)) from error
    hint = "one name a line, in the order of the classes"
    if not names:
        raise DataError("holds no class names", subject=str(path), hint=hint)
    classes = class_count(model)
    if classes not in (None, len(names)):
        problem = f"holds {len(names)} class names, the network has {classes} classes"
        raise DataError(problem, subject=str(path), hint=hint)
    return names


def is_source(source: Source, checkpoint: Checkpoint) -> bool:
    """Whether a network is the very one that a checkpoint was made from."""
    return source.sha256 == checkpoint.manifest.source_sha256


def source_remarks(source: Source, checkpoint: Checkpoint) -> tuple[str, ...]:
    """What to say of a network that a checkpoint is held against: how it was read, and whether it is another one."""
    name = checkpoint.manifest.source_name
    if is_source(source, checkpoint):
        return source.warnings
    if source.name == name:
        than = "than the one that the checkpoint was made from, by its weights or its export"
        return (*source.warnings, f"{source.path} is another {name} {than}")
    return (*source.warnings, f"{source.path} is not the network that the checkpoint was made from ({name})")


def batch_size(plan: SitePlan, fixed: int | None) -> int:
    """How many images to run at a time: the graph's fixed number, or fewer the larger the network."""
    if fixed:
        return fixed
    neurons = sum(site.neurons or 0 for site in plan.sites)
    return max(1, min(_LARGEST_BATCH, _VALUES_AT_ONCE // max(neurons, 1)))

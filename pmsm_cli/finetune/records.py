"""What fine-tuning is asked for and what it reports; nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import onnx_ir as ir

from pmsm_cli.finetune.settings import Device
from pmsm_cli.neuron.parameters import NeuronParameters


class Teacher(StrEnum):
    """What the spiking network is trained towards."""

    SOURCE = "source"  # the outputs of the network that it was converted from
    LABELS = "labels"  # the classes of the images


class Stop(StrEnum):
    """Why a run ended before its last epoch."""

    INTERRUPTED = "interrupted"
    DIVERGED = "diverged"


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningSettings:
    """How to train."""

    epochs: int
    learning_rate: float  # of weights at its peak (Adam), in shares of their own size
    threshold_rate: float = 1e-2  # of thresholds, in shares of themselves
    batch: int | None = None  # None: 64, fewer where that would leave an epoch less than 64 steps, but 8 at least
    seed: int = 0
    device: Device = Device.AUTO
    threads: int | None = None  # None: one a core


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """What one epoch gave; measured on images held out from training."""

    epoch: int  # 0: before training
    loss: float
    training_loss: float | None  # mean over the epoch; None before training
    agreement: float | None  # percent of the images to which the teacher gives the same class; None: no classes
    top1: float | None  # percent of the images that are labelled; None: no labels
    images: int  # trained on in this epoch
    seconds: float  # the epoch, measuring included


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outcome:
    """The best of a run, by the loss on held-out images."""

    model: ir.Model  # as a checkpoint holds it, thresholds in the weights
    neurons: Mapping[str, NeuronParameters]  # by site
    epochs: tuple[EpochRecord, ...]  # the first is the state before training
    best: int  # the epoch that `model` comes from
    stopped: Stop | None = None


class Listener(Protocol):
    """Told how far a run has come."""

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` images begins."""
        ...

    def advance(self, images: int) -> None:
        """So many more images are done."""
        ...

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is over (0: the state before the first)."""
        ...

"""Fine-tuning in tests: tiny networks and their checkpoints, and a listener that remembers."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import spiking
import tiny

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.finetune.images import TrainingImages
from pmsm_cli.finetune.records import EpochRecord, Outcome, TuningSettings
from pmsm_cli.finetune.training import finetune
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.sources.arrays import ImageArray
from pmsm_cli.sources.images import open_images, read_batches
from pmsm_cli.sources.onnx_file import open_onnx
from pmsm_cli.sources.preprocessing import Channels, Layout, Preprocessing

IMAGES = tiny.images(160)


SAMPLES = Path(__file__).parent.parent.parent / "sample_models"


@functools.cache
def digits() -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """The bundled network, its 597 test images as it reads them, mixed, and their labels."""
    images = open_images(SAMPLES / "digits" / "test")
    proto = open_onnx(SAMPLES / "digits.onnx").proto
    channels, size = (proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value for axis in (1, 2))
    preprocessing = Preprocessing(height=size, width=size, channels=Channels.GRAY, layout=Layout.NCHW)
    assert channels == 1
    (batch,) = read_batches(images, preprocessing, len(images))
    order = np.random.default_rng(0).permutation(len(images))  # they come class by class
    return proto, batch.inputs[order], batch.labels[order]


class Listening:
    """Remembers what it is told; `on_epoch` may do something after an epoch."""

    def __init__(self, on_epoch: Callable[[EpochRecord], None] = lambda record: None) -> None:
        self.stages: list[str] = []
        self.records: list[EpochRecord] = []
        self.images = 0
        self.on_epoch = on_epoch

    def start(self, stage: str, total: int) -> None:
        self.stages.append(stage)

    def advance(self, images: int) -> None:
        self.images += images

    def epoch(self, record: EpochRecord) -> None:
        self.records.append(record)
        self.on_epoch(record)


def tune(
    proto: onnx.ModelProto,
    *,
    images: np.ndarray = IMAGES,
    levels: int = 1,
    labels: np.ndarray | None = None,
    teacher: bool = True,
    listener: Listening | None = None,
    checkpoint: Checkpoint | None = None,
    **settings: object,
) -> tuple[Checkpoint, Outcome]:
    """A checkpoint of a tiny network, and what fine-tuning it gives."""
    made = checkpoint or spiking.checkpoint_of(proto, images, levels=levels)
    source = ingest(proto, subject="net.onnx")
    outcome = finetune(
        made.model,
        made.manifest.plan,
        made.manifest.calibration.parameters,
        source.model if teacher else None,
        TrainingImages(ImageArray(origin="x.npy", values=images, labels=labels), made.manifest.preprocessing),
        made.manifest.preprocessing,
        TuningSettings(**{"epochs": 4, "threads": 1, "learning_rate": 3e-3, **settings}),
        listener or Listening(),
        subject="net.snn.onnx",
        fixed_batch=source.image.batch,
    )
    return made, outcome

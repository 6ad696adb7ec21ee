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
from pmsm_cli.sources.images import ImageArray, open_images, read_batches
from pmsm_cli.sources.onnx_file import open_source
from pmsm_cli.sources.preprocessing import Channels, Layout, Preprocessing

IMAGES = tiny.images(160)


SAMPLES = Path(__file__).parent.parent.parent / "sample_models"


@functools.cache
def digits() -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """The bundled network, its 597 test images as it reads them, and their labels."""
    images = open_images(SAMPLES / "digits" / "test")
    proto = open_source(SAMPLES / "digits.onnx").proto
    channels, size = (proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value for axis in (1, 2))
    preprocessing = Preprocessing(height=size, width=size, channels=Channels.GRAY, layout=Layout.NCHW)
    assert channels == 1
    (batch,) = read_batches(images, preprocessing, len(images))
    return proto, batch.inputs, batch.labels


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


def varied(*, batch: int | str = "N") -> onnx.ModelProto:
    """Conv, Relu, Conv, Relu, Flatten, Gemm: without pooling, so that noise images get different classes."""
    return tiny.model(
        f"""
        tiny_varied (float[{batch}, 3, 8, 8] image) => (float[{batch}, 5] scores) {{
            a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (image, w1, b1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (b, w2, b2)
            d = Relu (c)
            e = Flatten (d)
            scores = Gemm <transB = 1> (e, w3, b3)
        }}""",
        w1=tiny.weights(8, 3, 3, 3),
        b1=tiny.weights(8, scale=0.1),
        w2=tiny.weights(8, 8, 3, 3),
        b2=tiny.weights(8, seed=1, scale=0.1),
        w3=tiny.weights(5, 32, scale=0.5),
        b3=tiny.weights(5, scale=0.1),
    )


def attention() -> onnx.ModelProto:
    """One block of a transformer: products of two activations, layer norm, GELU, biases that are added."""
    return tiny.model(
        """
        tiny_attention (float[N, 3, 8, 8] image) => (float[N, 5] scores) {
            p = Conv <strides = [2, 2]> (image, wp, bp)
            f = Reshape (p, tokens)
            x = Transpose <perm = [0, 2, 1]> (f)
            n = LayerNormalization (x, g1, b1)
            q = MatMul (n, wq)
            k = MatMul (n, wk)
            v = MatMul (n, wv)
            kt = Transpose <perm = [0, 2, 1]> (k)
            d = MatMul (q, kt)
            s = Mul (d, root)
            a = Softmax (s)
            o = MatMul (a, v)
            y = MatMul (o, wo)
            z = Add (y, bo)
            r = Add (x, z)
            m = LayerNormalization (r, g2, b2)
            h = MatMul (m, w1)
            u = Gelu (h)
            t = ReduceMean <keepdims = 0> (u, axis)
            scores = Gemm <transB = 1> (t, w2, b3)
        }""",
        tokens=np.array([0, 8, -1], np.int64),
        axis=np.array([1], np.int64),
        root=np.float32(8**-0.5),
        wp=tiny.weights(8, 3, 2, 2),
        bp=tiny.weights(8),
        **{name: tiny.weights(8, 8, seed=index) for index, name in enumerate(("wq", "wk", "wv", "wo"))},
        **{name: 1 + tiny.weights(8, seed=index, scale=0.1) for index, name in enumerate(("g1", "g2"))},
        **{name: tiny.weights(8, seed=index + 5, scale=0.1) for index, name in enumerate(("b1", "b2", "bo"))},
        w1=tiny.weights(8, 16),
        w2=tiny.weights(5, 16),
        b3=tiny.weights(5),
    )


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
        TuningSettings(**{"epochs": 4, "threads": 1, **settings}),
        listener or Listening(),
        subject="net.snn.onnx",
        fixed_batch=source.image.batch,
    )
    return made, outcome

"""What is said about images, labels and accuracies that nobody should rely on."""

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
import tiny

from pmsm_cli.graph.ingest import ingest
from pmsm_cli.pipeline.image_remarks import accuracy_remarks, image_remarks
from pmsm_cli.runtime.evaluate import Accuracy, Evaluation
from pmsm_cli.sources.arrays import ImageArray
from pmsm_cli.sources.preprocessing import InputShape, Layout, Preprocessing, resolve_preprocessing

MODEL = ingest(tiny.convolutional(), subject="net").model  # of five classes


def read_as(preset: str) -> Preprocessing:
    return resolve_preprocessing(preset, InputShape(height=8, width=8, channel_count=3, layout=Layout.NCHW))


def array(values: np.ndarray, names: tuple[str, ...] = (), labels: list[int] | None = None) -> ImageArray:
    own = None if labels is None else np.array(labels)
    return ImageArray(origin="x.npz", values=values, labels=own, class_names=names)


FROM_0 = np.linspace(0, 255, 3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("values", "preset", "noticed"),
    [
        (FROM_0, "imagenet", True),
        (FROM_0 / 255, "imagenet", True),
        (FROM_0 / 255 - 0.5, "imagenet", False),
        (FROM_0 / 255, "none", False),
        (FROM_0.astype(np.uint8).transpose(0, 2, 3, 1), "imagenet", False),
    ],
    ids=["bytes in floats", "shares", "around 0", "no mean", "bytes"],
)
def test_floats_that_look_like_pixels_are_noticed(values: np.ndarray, preset: str, noticed: bool):
    said = image_remarks(array(values), MODEL, read_as(preset))
    assert [("read as they are" in remark) for remark in said] == [True] * noticed


@pytest.mark.parametrize(
    ("names", "known", "noticed"),
    [
        (("1", "10", "2", "3", "4"), ("ant", "bee"), True),
        (("1", "10", "2", "3", "4"), ("1", "10", "2", "3", "4"), False),
        (("01", "02", "03", "04", "10"), (), False),
    ],
)
def test_numbered_class_folders_in_the_order_of_texts_are_noticed(names, known, noticed: bool):
    said = image_remarks(array(FROM_0 - 100, names, [0]), MODEL, read_as("imagenet"), known=known)
    assert [("1, 10, 2" in remark) for remark in said] == [True] * noticed


def test_labels_that_a_network_without_classes_has_no_use_for_are_noticed():
    maps = ingest(tiny.two_outputs(), subject="pair").model
    maps.graph.outputs.pop(0)
    (said,) = image_remarks(array(FROM_0 - 100, (), [0]), maps, read_as("imagenet"))
    assert said == "x.npz: its labels are of no use: the network gives no class scores"


@pytest.mark.parametrize(
    ("right", "images", "noticed"), [(25.0, 100, True), (45.0, 100, False), (25.0, 20, False), (None, 100, False)]
)
def test_an_accuracy_that_chance_would_give_is_noticed(right: float | None, images: int, noticed: bool):
    accuracy = Accuracy(top1=right, top5=right)
    result = Evaluation(
        images=images,
        timesteps=1,
        snn=accuracy,
        ann=None,
        agreement=None,
        agreement_per_step=None,
        expected_drop=None,
        outputs=(),
        skipped=(),
    )
    assert bool(accuracy_remarks(result, array(FROM_0), MODEL)) == noticed
    beside = dataclasses.replace(result, ann=dataclasses.replace(accuracy, top1=None if right is None else 90.0))
    assert accuracy_remarks(beside, array(FROM_0), MODEL) == ()
    open_count = MODEL.clone()
    open_count.graph.outputs[0].shape = ir.Shape(["N", None])
    assert accuracy_remarks(result, array(FROM_0), open_count) == ()

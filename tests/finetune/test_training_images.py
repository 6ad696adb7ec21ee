"""Training images: the same floats from memory and from a stream, broken ones left out, augmented within bounds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images

from pmsm_cli.errors import DataError
from pmsm_cli.finetune.images import TrainingImages, augment, from_pixels, to_pixels
from pmsm_cli.sources.arrays import ImageArray
from pmsm_cli.sources.images import open_images, read_batches
from pmsm_cli.sources.preprocessing import Channels, Fit, Layout, Preprocessing

STREAMED = 0  # bytes of memory allowed


def preprocessing(**options: object) -> Preprocessing:
    record = {
        "height": 8,
        "width": 8,
        "channels": Channels.RGB,
        "layout": Layout.NCHW,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return Preprocessing(**{**record, **options})


def all_of(batches: Iterator) -> tuple[np.ndarray, np.ndarray | None]:
    parts = list(batches)
    labels = [part.labels for part in parts]
    return np.concatenate([part.inputs for part in parts]), None if labels[0] is None else np.concatenate(labels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten images of odd sizes."""
    path = tmp_path_factory.mktemp("images")
    for index, name in enumerate(("a", "b")):
        write_images(path / name, 10, size=(11, 9), seed=index)
    return path


@pytest.mark.parametrize(
    "record",
    [
        preprocessing(),
        preprocessing(layout=Layout.NHWC, channels=Channels.BGR),
        preprocessing(channels=Channels.GRAY, mean=(0.5,), std=(0.5,), fit=Fit.STRETCH),
        preprocessing(mean=(0.0,), std=(1.0,)),
    ],
)
def test_pixels_give_the_very_floats_that_they_came_from(folder, record: Preprocessing):
    (batch,) = read_batches(open_images(folder), record, 20)
    pixels = to_pixels(batch.inputs, record)
    assert pixels is not None
    assert pixels.dtype == np.uint8
    assert np.array_equal(from_pixels(pixels, record), batch.inputs)


def test_floats_that_come_from_no_pixels_are_recognised():
    values = np.random.default_rng(0).normal(0, 1, (3, 3, 8, 8)).astype(np.float32)
    assert to_pixels(values, preprocessing()) is None
    assert to_pixels(values * 100, preprocessing()) is None


@pytest.mark.parametrize("most", [STREAMED, 2**20])
def test_memory_and_stream_give_the_same_images_in_the_order_asked_for(folder, most: int):
    images = TrainingImages(open_images(folder), preprocessing(), most_cached=most)
    seen: list[int] = []
    images.decode(seen.append)
    assert images.cached is (most > 0)
    assert sum(seen) == (20 if most else 0)
    order = np.random.default_rng(1).permutation(20)
    (whole,) = read_batches(open_images(folder), preprocessing(), 20)
    inputs, labels = all_of(images.batches(order, 6))
    assert np.array_equal(inputs, whole.inputs[order])
    assert np.array_equal(labels, whole.labels[order])


@pytest.mark.parametrize(("most", "cached"), [(3 * 64 * 40, False), (3 * 64 * 40 * 4, True)])
def test_inputs_that_were_preprocessed_before_take_four_times_the_memory(most: int, cached: bool):
    values = np.random.default_rng(0).normal(0, 1, (40, 3, 8, 8)).astype(np.float32)
    images = TrainingImages(ImageArray(origin="x.npy", values=values), preprocessing(), most_cached=most)
    images.decode()
    assert images.cached is cached
    inputs, labels = all_of(images.batches(np.arange(40), 16))
    assert np.array_equal(inputs, values)
    assert labels is None


@pytest.mark.parametrize("most", [STREAMED, 2**20])
def test_broken_images_are_left_out_and_named(tmp_path, most: int):
    write_images(tmp_path, 6)
    (tmp_path / "002.png").write_bytes(b"no image")
    images = TrainingImages(open_images(tmp_path), preprocessing(), most_cached=most)
    images.decode()
    (batch,) = images.batches(images.readable, 6)
    assert len(batch.inputs) == 5
    assert [Path(image.name).name for image in images.skipped] == ["002.png"]
    assert len(images.readable) == (5 if most else 6)


@pytest.mark.parametrize("most", [STREAMED, 2**20])
def test_a_folder_without_one_image_that_can_be_read_is_refused(tmp_path, most: int):
    (tmp_path / "0.png").write_bytes(b"no image")
    images = TrainingImages(open_images(tmp_path), preprocessing(), most_cached=most)
    with pytest.raises(DataError, match="none of the 1 images can be read"):
        images.decode() or list(images.batches(images.readable, 6))


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("flip", [True, False])
def test_augmented_images_are_moved_by_a_sixteenth_at_most_and_mirrored_if_asked(layout: Layout, flip: bool):
    record = preprocessing(height=32, width=48, layout=layout)
    rows = 1 if layout is Layout.NCHW else 0  # of one image
    image = np.random.default_rng(0).normal(0, 1, record.shape).astype(np.float32)
    inputs = np.stack([image] * 200)
    before = inputs.copy()
    moved = augment(inputs, record, np.random.default_rng(1), flip=flip)
    assert np.array_equal(inputs, before)
    padding = [(2, 2) if axis in (rows, rows + 1) else (0, 0) for axis in range(3)]
    padded = np.pad(image, padding, mode="reflect")
    windows = {}
    for down in range(5):
        for right in range(5):
            window = padded.take(range(down, down + 32), rows).take(range(right, right + 48), rows + 1)
            windows[window.tobytes()] = (down, right, False)
            windows[np.ascontiguousarray(np.flip(window, rows + 1)).tobytes()] = (down, right, True)
    found = [windows[np.ascontiguousarray(each).tobytes()] for each in moved]  # fails for anything else
    assert {mirrored for _, _, mirrored in found} == ({True, False} if flip else {False})
    assert {down for down, _, _ in found} == {right for _, right, _ in found} == set(range(5))

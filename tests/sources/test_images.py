"""Images from folders: which are found, what their labels are, how they stream, and what happens to broken ones."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images
from PIL import Image

from pmsm_cli.errors import DataError
from pmsm_cli.sources.images import ImageFiles, join_images, labelled_as, open_images, read_batches, sample_images
from pmsm_cli.sources.preprocessing import Channels, Layout, Preprocessing

RGB = Preprocessing(height=8, width=8, channels=Channels.RGB, layout=Layout.NCHW)


def image(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(path)
    return path


def names(images, folder: Path) -> list[str]:
    return [str(Path(images.name(index)).relative_to(folder)) for index in range(len(images))]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_images(path)
    return str(caught.value)


# What is found


def test_class_folders_in_alphabetical_order_are_the_class_indices(tmp_path: Path):
    for name in ("zebra", "ant", "Bee"):
        image(tmp_path / name / "1.png")
    found = open_images(tmp_path)
    assert found.class_names == ("Bee", "ant", "zebra")
    assert found.labels.tolist() == [0, 1, 2]
    assert names(found, tmp_path) == ["Bee/1.png", "ant/1.png", "zebra/1.png"]


def test_a_class_folder_that_cannot_be_opened_is_refused_by_name(tmp_path: Path, monkeypatch):
    for name in ("ant", "bee"):
        image(tmp_path / name / "deeper" / "0.png")
    closed = tmp_path / "bee" / "deeper"
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed)  # root may open anything
    with pytest.raises(DataError) as caught:
        open_images(tmp_path)
    assert str(caught.value) == f"{closed}: cannot be read (Permission denied)"


def test_what_cannot_be_opened_beside_loose_images_or_hidden_is_none_of_the_set(tmp_path: Path, monkeypatch):
    image(tmp_path / "0.png")
    (tmp_path / "lost+found").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "lost+found" and ".cache" not in path.parts)
    assert len(open_images(tmp_path)) == 1
    image(tmp_path / "set" / "ant" / "0.png")
    (tmp_path / "set" / "ant" / ".cache" / "deeper").mkdir(parents=True)
    assert len(open_images(tmp_path / "set")) == 1


def test_an_empty_class_folder_keeps_its_index(tmp_path: Path):
    image(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    image(tmp_path / "c" / "1.png")
    found = open_images(tmp_path)
    assert found.class_names == ("a", "b", "c")
    assert found.labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("classes", "labels", "known"),
    [
        (("zebra", "ant", "cow", "bee"), [1, 3], True),  # some of a network's classes, in its own order
        (("ant", "bee"), [0, 1], True),
        (("bee", "ant"), [1, 0], True),
        (("cow", "dog"), [0, 1], False),  # the folders have other names
        (("ant", "a bee"), [0, 1], False),  # one is spelt otherwise, and all are in order
        (("bee", "ant", "ant"), [0, 1], False),  # which of the two?
        ((), [0, 1], False),
    ],
)
def test_labels_follow_the_folders_names_where_a_network_knows_them(tmp_path: Path, classes, labels, known):
    for name in ("ant", "bee"):
        image(tmp_path / name / "1.png")
    found = labelled_as(open_images(tmp_path), classes)
    assert found.labels.tolist() == labels
    assert found.class_names == (classes if known else ("ant", "bee"))
    assert sample_images(found, 1, 0).class_names == found.class_names


def test_an_empty_folder_of_another_name_moves_no_label(tmp_path: Path):
    for name in ("bee", "cow"):
        image(tmp_path / name / "1.png")
    (tmp_path / "__MACOSX").mkdir()
    found = labelled_as(open_images(tmp_path), ("ant", "bee", "cow"))
    assert found.labels.tolist() == [1, 2]
    assert found.class_names == ("ant", "bee", "cow")


def test_a_folder_that_is_no_class_among_such_that_are_is_named(tmp_path: Path):
    for name in ("ant", "unsure"):
        image(tmp_path / name / "1.png")
    with pytest.raises(DataError) as refused:
        labelled_as(open_images(tmp_path), ("ant", "bee", "cow"))
    assert str(refused.value) == (
        f"{tmp_path}: sub-folders that are none of the network's classes: unsure\n"
        "  the classes begin with ant, bee, cow\n"
        "hint: rename them, or move them away"
    )


def test_images_below_a_class_folder_belong_to_it_however_deep_they_lie(tmp_path: Path):
    image(tmp_path / "a" / "x" / "y" / "1.png")
    image(tmp_path / "a" / "2.png")
    image(tmp_path / "b" / "1.png")
    found = open_images(tmp_path)
    assert names(found, tmp_path) == ["a/2.png", "a/x/y/1.png", "b/1.png"]
    assert found.labels.tolist() == [0, 0, 1]


def test_loose_images_have_no_labels(tmp_path: Path):
    for name in ("b.png", "a.png"):
        image(tmp_path / name)
    (tmp_path / "notes").mkdir()  # a folder without images does no harm
    found = open_images(tmp_path)
    assert names(found, tmp_path) == ["a.png", "b.png"]
    assert found.labels is None
    assert found.class_names == ()


def test_links_to_images_count_and_those_to_folders_or_in_a_circle_do_not(tmp_path: Path):
    image(tmp_path / "a" / "one.png")
    image(tmp_path / "elsewhere" / "deep" / "two.png")
    images = tmp_path / "images"
    (images / "a").mkdir(parents=True)
    (images / "a" / "linked.png").symlink_to(tmp_path / "a" / "one.png")
    (images / "a" / "gone.png").symlink_to(tmp_path / "a" / "none.png")
    (images / "a" / "circle.png").symlink_to("circle.png")
    (images / "a" / "folder").symlink_to(tmp_path / "elsewhere")
    assert names(open_images(images), images) == ["a/linked.png"]


def test_hidden_files_and_folders_are_left_aside(tmp_path: Path):
    image(tmp_path / "a" / "1.png")
    image(tmp_path / "a" / ".thumbnails" / "1.png")
    image(tmp_path / "a" / "._1.png")
    image(tmp_path / ".cache" / "1.png")
    found = open_images(tmp_path)
    assert found.class_names == ("a",)
    assert names(found, tmp_path) == ["a/1.png"]


def test_images_below_a_hidden_folder_are_found_when_it_is_the_one_asked_for(tmp_path: Path):
    image(tmp_path / ".cache" / "a" / "1.png")
    assert len(open_images(tmp_path / ".cache")) == 1


def test_endings_are_known_in_upper_case_too(tmp_path: Path):
    image(tmp_path / "1.PNG")
    image(tmp_path / "2.Jpeg")
    (tmp_path / "readme.TXT").write_text("no image")
    assert names(open_images(tmp_path), tmp_path) == ["1.PNG", "2.Jpeg"]


def test_a_single_image_is_a_set_of_one(tmp_path: Path):
    path = image(tmp_path / "one [1].png")
    found = open_images(path)
    assert (len(found), found.name(0), found.labels) == (1, str(path), None)


# What is refused


def test_images_beside_class_folders_are_refused(tmp_path: Path):
    image(tmp_path / "1.png")
    image(tmp_path / "a" / "1.png")
    assert refusal(tmp_path) == (
        f"{tmp_path}: holds both images and sub-folders with images, so the labels are unclear\n"
        "hint: name one of the sub-folders, or move the loose images away"
    )


def test_a_folder_without_images_is_refused(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("no image")
    assert refusal(tmp_path) == (
        f"{tmp_path}: holds no images\nhint: known endings: .bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp"
    )


def test_a_missing_path_is_refused(tmp_path: Path):
    assert refusal(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: no such file or folder"


def test_a_name_too_long_for_the_disk_is_refused(tmp_path: Path):
    path = tmp_path / ("x" * 300)
    assert refusal(path) == f"{path}: cannot be read (File name too long)"


def test_a_file_that_is_no_image_is_refused(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("no image")
    assert refusal(path) == f"{path}: is neither a folder, an image nor an .npy or .npz file"


# Streaming


def test_batches_come_in_order_whatever_their_size(tmp_path: Path):
    for index in range(7):
        image(tmp_path / f"{index}.png", value=index)
    found = open_images(tmp_path)
    for size in (1, 3, 7, 64):
        batches = list(read_batches(found, RGB, size))
        assert [len(batch.inputs) for batch in batches] == [min(size, 7 - start) for start in range(0, 7, size)]
        inputs = np.concatenate([batch.inputs for batch in batches])
        assert (inputs[:, 0, 0, 0] * 255).round().tolist() == list(range(7))
        assert [name for batch in batches for name in batch.names] == [found.name(index) for index in range(7)]


def test_labels_travel_with_their_images(tmp_path: Path):
    for name in ("a", "b", "c"):
        write_images(tmp_path / name, 2)
    (first, second) = read_batches(open_images(tmp_path), RGB, 4)
    assert first.labels.tolist() == [0, 0, 1, 1]
    assert second.labels.tolist() == [2, 2]


class Slow:
    """Images that say how many of them were loaded."""

    origin, labels, class_names = "slow", None, ()

    def __init__(self, count: int) -> None:
        self.count, self.loaded = count, 0

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return str(index)

    def load(self, index: int, preprocessing: Preprocessing) -> np.ndarray:
        self.loaded += 1
        return np.zeros(preprocessing.shape, np.float32)


def test_no_more_than_a_few_batches_are_decoded_ahead():
    images = Slow(1000)
    stream = read_batches(images, RGB, 10)
    next(stream)
    time.sleep(0.05)  # the threads have nothing more to do, however long one waits
    assert images.loaded <= 40
    stream.close()


def test_a_stream_that_is_closed_early_leaves_no_thread_behind():
    stream = read_batches(Slow(1000), RGB, 10)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pmsm-decode")]


def test_a_failure_of_the_whole_set_ends_the_stream():
    images = Slow(10)
    images.load = lambda index, preprocessing: (_ for _ in ()).throw(DataError("does not fit"))
    with pytest.raises(DataError, match="does not fit"):
        list(read_batches(images, RGB, 2))


# Broken images


BROKEN = {
    "text": (b"this is text", "not an image file"),
    "empty": (b"", "not an image file"),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_image_is_skipped_and_named(tmp_path: Path, content, reason):
    for index in (0, 1, 3):
        image(tmp_path / f"{index}.png", value=index)
    broken = tmp_path / "2.png"
    broken.write_bytes(content)
    (batch,) = read_batches(open_images(tmp_path), RGB, 8)
    assert (batch.inputs[:, 0, 0, 0] * 255).round().tolist() == [0, 1, 3]
    assert [(skipped.name, skipped.reason) for skipped in batch.skipped] == [(str(broken), reason)]


def test_labels_stay_with_the_right_images_when_one_is_broken(tmp_path: Path):
    for name in ("a", "b", "c"):
        image(tmp_path / name / "1.png")
    (tmp_path / "b" / "1.png").write_bytes(b"text")
    (batch,) = read_batches(open_images(tmp_path), RGB, 8)
    assert batch.labels.tolist() == [0, 2]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"])
def test_an_image_cut_short_anywhere_is_read_or_skipped_but_never_fatal(tmp_path: Path, ending):
    whole = tmp_path / f"whole.{ending}"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(whole)
    data = whole.read_bytes()
    lengths = range(0, len(data), max(1, len(data) // 40))
    for length in lengths:
        (tmp_path / f"{length:05}.{ending}").write_bytes(data[:length])
    (batch,) = read_batches(open_images(tmp_path), RGB, 1000)
    assert len(batch.inputs) + len(batch.skipped) == len(lengths) + 1
    assert str(whole) in batch.names
    assert batch.skipped


def test_an_image_whose_decoder_fails_in_any_way_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import struct

    def fail(image: Image.Image) -> Image.Image:
        raise struct.error("unpack requires a buffer of 2 bytes")

    monkeypatch.setattr("pmsm_cli.sources.images.ImageOps.exif_transpose", fail)
    files = ImageFiles(origin="set", paths=(image(tmp_path / "1.png"),))
    with pytest.raises(DataError, match=r"unpack requires a buffer of 2 bytes"):
        files.load(0, RGB)


def test_too_little_memory_is_not_taken_for_a_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(image: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr("pmsm_cli.sources.images.ImageOps.exif_transpose", fail)
    files = ImageFiles(origin="set", paths=(image(tmp_path / "1.png"),))
    with pytest.raises(MemoryError):
        files.load(0, RGB)


def test_a_folder_of_broken_images_only_is_refused_with_some_of_the_reasons(tmp_path: Path):
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(b"text")
    with pytest.raises(DataError) as caught:
        list(read_batches(open_images(tmp_path), RGB, 8))
    reasons = "".join(f"\n  {tmp_path / f'{index}.png'}: not an image file" for index in range(3))
    assert str(caught.value) == f"{tmp_path}: none of the 4 images can be read{reasons}"


# Samples and several paths


def test_a_sample_is_the_same_every_time_and_in_the_sets_own_order():
    images = Slow(100)
    drawn = sample_images(images, 10, seed=3)
    chosen = [drawn.name(index) for index in range(len(drawn))]
    assert len(set(chosen)) == 10
    assert chosen == sorted(chosen, key=int)
    again = sample_images(images, 10, seed=3)
    assert chosen == [again.name(index) for index in range(len(again))]
    other = sample_images(images, 10, seed=4)
    assert chosen != [other.name(index) for index in range(len(other))]


@pytest.mark.parametrize("samples", [None, 100, 101])
def test_a_sample_is_the_whole_set_when_it_is_large_enough(samples):
    images = Slow(100)
    assert sample_images(images, samples, seed=0) is images


def test_a_sample_keeps_labels_and_class_names(tmp_path: Path):
    for name in ("a", "b", "c"):
        write_images(tmp_path / name, 3)
    drawn = sample_images(open_images(tmp_path), 4, seed=0)
    assert drawn.class_names == ("a", "b", "c")
    folders = [Path(drawn.name(index)).parent.name for index in range(4)]
    assert ["abc"[label] for label in drawn.labels] == folders
    assert drawn.origin == str(tmp_path)


def test_several_paths_become_one_set_without_labels(tmp_path: Path):
    write_images(tmp_path / "x" / "a", 2)
    one = image(tmp_path / "one.png")
    joined = join_images([open_images(one), open_images(tmp_path / "x")])
    assert names(joined, tmp_path) == ["one.png", "x/a/000.png", "x/a/001.png"]
    assert joined.labels is None


def test_one_path_alone_keeps_its_labels(tmp_path: Path):
    write_images(tmp_path / "a", 2)
    assert join_images([open_images(tmp_path)]).labels.tolist() == [0, 0]

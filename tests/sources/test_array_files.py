"""Images from .npy and .npz files."""

from pathlib import Path

import numpy as np
import pytest

from pmsm_cli.errors import DataError
from pmsm_cli.sources.images import join_images, open_images, read_batches
from pmsm_cli.sources.preprocessing import Channels, Layout, Preprocessing

RGB = Preprocessing(height=4, width=6, channels=Channels.RGB, layout=Layout.NCHW, mean=(0.5,), std=(0.5,))


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(path: Path, *args: np.ndarray, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays) if arrays else np.save(path, *args)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_images(path)
    return str(caught.value)


def all_inputs(path: Path, preprocessing: Preprocessing = RGB) -> np.ndarray:
    return np.concatenate([batch.inputs for batch in read_batches(open_images(path), preprocessing, 2)])


def test_bytes_are_pixels_that_go_through_the_preprocessing(tmp_path: Path):
    values = pixels(3, 4, 6, 3)
    expected = (values.astype(np.float32).transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(all_inputs(saved(tmp_path / "x.npy", values)), expected, atol=1e-6)


def test_bytes_of_the_networks_own_size_are_not_cropped_when_the_preset_crops(tmp_path: Path):
    crops = Preprocessing(height=4, width=6, channels=Channels.RGB, layout=Layout.NCHW, crop_fraction=0.5)
    values = pixels(1, 4, 6, 3)
    result = all_inputs(saved(tmp_path / "x.npy", values), crops)
    np.testing.assert_allclose(result, values.transpose(0, 3, 1, 2) / np.float32(255))


def test_bytes_of_another_size_are_scaled_as_images_are(tmp_path: Path):
    assert all_inputs(saved(tmp_path / "x.npy", pixels(2, 9, 9, 3))).shape == (2, 3, 4, 6)


def test_grey_bytes_feed_a_colour_network_as_grey_images_do(tmp_path: Path):
    result = all_inputs(saved(tmp_path / "x.npy", pixels(2, 4, 6, 1)))
    assert result.shape == (2, 3, 4, 6)
    np.testing.assert_array_equal(result[:, 0], result[:, 2])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_inputs_as_the_network_reads_them(tmp_path: Path, dtype):
    values = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype(dtype)
    result = all_inputs(saved(tmp_path / "x.npy", values))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, values.astype(np.float32))


def test_labels_come_from_y(tmp_path: Path):
    path = saved(tmp_path / "x.npz", x=pixels(3, 4, 6, 3), y=np.array([4, 0, 2], np.uint8))
    (batch,) = read_batches(open_images(path), RGB, 8)
    assert batch.labels.tolist() == [4, 0, 2]
    assert batch.labels.dtype == np.int64
    assert batch.names == tuple(f"{path}[{index}]" for index in range(3))


def test_there_are_no_labels_when_y_is_missing(tmp_path: Path):
    assert open_images(saved(tmp_path / "x.npz", x=pixels(3, 4, 6, 3))).labels is None


def test_the_content_decides_when_the_ending_is_the_wrong_one(tmp_path: Path):
    path = saved(tmp_path / "x.npz", x=pixels(3, 4, 6, 3)).rename(tmp_path / "y.npy")
    assert len(open_images(path)) == 3
    path = saved(tmp_path / "z.npy", pixels(3, 4, 6, 3)).rename(tmp_path / "w.npz")
    assert len(open_images(path)) == 3


def test_floats_of_another_shape_than_the_network_reads_are_refused(tmp_path: Path):
    path = saved(tmp_path / "x.npy", np.zeros((2, 4, 6, 3), np.float32))
    with pytest.raises(DataError) as caught:
        all_inputs(path)
    assert str(caught.value) == f"{path}: holds inputs of shape (4, 6, 3), the network reads (3, 4, 6)"


ROLES = "hint: uint8: images x height x width x channels; float: inputs as the network reads them"
UNUSABLE = {
    "three axes": ({"x": pixels(3, 4, 6)}, f"must hold images x 3 more axes, not an array of shape (3, 4, 6)\n{ROLES}"),
    "no images": (
        {"x": pixels(0, 4, 6, 3)},
        "holds no images",
    ),
    "channels first": (
        {"x": pixels(2, 3, 4, 6)},
        "pixels must have 1 or 3 channels last, not shape (2, 3, 4, 6)",
    ),
    "whole numbers": ({"x": pixels(2, 4, 6, 3).astype(np.int64)}, "must hold uint8 pixels or floats, not int64"),
    "no x": ({"images": pixels(1, 4, 6, 3), "y": np.zeros(1)}, "has no array `x`, only images, y"),
    "one label for two": (
        {"x": pixels(2, 4, 6, 3), "y": np.zeros(1, np.int64)},
        "`y` must hold one label an image, shape (2,) and not (1,)",
    ),
    "labels in a row each": (
        {"x": pixels(2, 4, 6, 3), "y": np.zeros((2, 1), np.int64)},
        "`y` must hold one label an image, shape (2,) and not (2, 1)",
    ),
    "labels with a point": (
        {"x": pixels(2, 4, 6, 3), "y": np.zeros(2)},
        "`y` must hold whole numbers, not float64",
    ),
    "negative label": (
        {"x": pixels(2, 4, 6, 3), "y": np.array([0, -1])},
        "`y` must hold class indices from 0 on, not -1",
    ),
}


@pytest.mark.parametrize(("arrays", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_array_is_refused_with_the_reason(tmp_path: Path, arrays, message):
    path = saved(tmp_path / "x.npz", **arrays)
    assert refusal(path) == f"{path}: {message}"


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 half a zip", b"\x93NUMPY half an array"])
def test_a_file_that_is_no_array_is_refused(tmp_path: Path, ending, content):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: is not a readable array file (")


def test_an_archive_cut_short_or_damaged_anywhere_is_refused(tmp_path: Path):
    whole = saved(tmp_path / "whole.npz", x=pixels(2, 4, 6, 3)).read_bytes()
    path = tmp_path / "x.npz"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert "is not a readable array file" in refusal(path)
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 0xFF
    path.write_bytes(bytes(damaged))
    assert "is not a readable array file" in refusal(path)


def test_a_pickled_array_is_refused_and_not_run(tmp_path: Path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was run",))

    for path, save in ((tmp_path / "x.npy", np.save), (tmp_path / "x.npz", lambda path, x: np.savez(path, x=x))):
        save(path, np.array([Harmful()], dtype=object))
        assert refusal(path).startswith(f"{path}: is not a readable array file (")
    assert not (tmp_path / "was run").exists()


def test_an_array_beside_other_paths_is_refused(tmp_path: Path):
    one = open_images(saved(tmp_path / "x.npy", pixels(1, 4, 6, 3)))
    with pytest.raises(DataError) as caught:
        join_images([one, one])
    assert str(caught.value) == (
        "array files cannot be mixed with other paths\nhint: pass one .npy or .npz file at a time"
    )

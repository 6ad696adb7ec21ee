"""Attention's keys about their mean, from the images to the checkpoint and what reads it."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tiny
from trainable import attention

from pmsm_cli.checkpoint.file import open_checkpoint

PLAIN = ["--preprocess", "none"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tiny.save(attention(), tmp_path / "attention.onnx")
    return tmp_path / "attention.onnx"


@pytest.fixture
def calibration(pmsm, source, pictures, tmp_path: Path) -> Path:
    path = tmp_path / "attention.calibration.json"
    assert pmsm("calibrate", source, pictures, *PLAIN, "--levels", 15, "-o", path).code == 0
    return path


def centre_in(path: Path) -> np.ndarray | None:
    return open_checkpoint(path).manifest.calibration.centres.get("kt")


def test_the_checkpoint_holds_what_is_taken_off_and_a_calibration_file_gives_the_same(
    pmsm, source, pictures, calibration, tmp_path: Path
):
    ours, theirs = tmp_path / "ours.onnx", tmp_path / "theirs.onnx"
    assert pmsm("convert", source, "--data", pictures, *PLAIN, "--levels", 15, "-o", ours).code == 0
    assert pmsm("convert", source, "--calibration", calibration, "--data", pictures, "-o", theirs).code == 0
    centre = centre_in(ours)
    assert centre is not None
    assert centre.shape == (8, 1)
    np.testing.assert_array_equal(centre, centre_in(theirs))
    got, again = (
        ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"]).run(None, {"image": tiny.images(4)})
        for path in (ours, theirs)
    )
    np.testing.assert_array_equal(got[0], again[0])


@pytest.mark.parametrize("options", [["-T", 3], ["-T", 3, "--coding", "rate"], ["--weights", "int8"], ["--no-refit"]])
def test_tensors_are_compared_as_neurons_read_them(pmsm, source, pictures, tmp_path: Path, options):
    path = tmp_path / "out.onnx"
    assert pmsm("convert", source, "--data", pictures, *PLAIN, "--levels", 31, *options, "-o", path).code == 0
    shown = pmsm("diff", path, "--against", source, "--data", pictures, "--json")
    assert shown.code == 0
    (keys,) = (site for site in shown.record["sites"] if site["name"] == "kt")
    assert keys["alone_db"] > 25
    assert keys["accumulated_db"] > 15


def test_more_levels_are_tried_with_keys_about_their_mean(pmsm, source, pictures, tmp_path: Path):
    path = tmp_path / "out.onnx"
    assert pmsm("convert", source, "--data", pictures, *PLAIN, "--levels", 2, "-o", path).code == 0
    shown = pmsm("diff", path, "--against", source, "--data", pictures, "--bisect", "--target-drop", 99, "--json")
    assert shown.code == 0
    assert shown.record["bisection"]["kept"]


def test_other_methods_leave_keys_as_they_are(pmsm, source, pictures, tmp_path: Path):
    path = tmp_path / "out.onnx"
    options = ["--method", "mse", "--levels", 15]
    assert pmsm("convert", source, "--data", pictures, *PLAIN, *options, "-o", path).code == 0
    assert centre_in(path) is None


def test_levels_are_found_for_keys_about_their_mean(pmsm, source, pictures, tmp_path: Path):
    path = tmp_path / "out.onnx"
    assert pmsm("convert", source, "--data", pictures, *PLAIN, "-o", path).code == 0
    assert centre_in(path) is not None


def test_fine_tuning_keeps_what_is_taken_off(pmsm, source, pictures, tmp_path: Path):
    pytest.importorskip("torch")
    path, tuned = tmp_path / "out.onnx", tmp_path / "tuned.onnx"
    assert pmsm("convert", source, "--data", pictures, *PLAIN, "--levels", 3, "-o", path).code == 0
    options = ["--data", pictures, "--epochs", 1, "--source", source, "-o", tuned]
    assert pmsm("finetune", path, *options).code == 0
    np.testing.assert_array_equal(centre_in(tuned), centre_in(path))
    assert pmsm("diff", tuned, "--against", source, "--data", pictures).code == 0


def test_a_calibration_with_another_centre_is_refused(pmsm, source, calibration, tmp_path: Path):
    def refusal(name: str, centre: object) -> str:
        record = json.loads(calibration.read_text())
        (site,) = (site for site in record["sites"] if site["name"] == name)
        site["centre"] = centre
        damaged = tmp_path / "damaged.json"
        damaged.write_text(json.dumps(record))
        shown = pmsm("convert", source, "--calibration", damaged, "-o", tmp_path / "out.onnx")
        assert (shown.code, shown.out) == (3, "")
        return shown.err

    assert "kt: a centre (1, 1), where (8, 1) is possible" in refusal("kt", [[0.5]])
    assert "n: a centre (8, 1), where none is possible" in refusal("n", [[0.5]] * 8)
    assert "kt: a centre that is infinite or not a number" in refusal("kt", [[float("nan")]] * 8)
    assert "is damaged" in refusal("kt", "much")

"""Attention's keys about their mean, from the images to the checkpoint and what reads it."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
from conftest import write_images
from trainable import attention

from pmsm_cli.checkpoint.file import open_checkpoint

PLAIN = ["--preprocess", "none"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tiny.save(attention(), tmp_path / "attention.onnx")
    return tmp_path / "attention.onnx"


def with_keys(keys: str, scores: str = "d = MatMul (q, k)") -> onnx.ModelProto:
    """Eight tokens of an image, of which `keys` makes the keys k [8, 16] and `scores` the scores d."""
    return tiny.model(
        f"""
        g (float[N, 3, 8, 8] image) => (float[N, 5] scores) {{
            p = Conv <strides = [2, 2]> (image, wp, bp)
            r = Relu (p)
            x = Reshape (r, flat)
            q0 = Conv (x, wq)
            q = Transpose <perm = [0, 2, 1]> (q0)
            {keys}
            v0 = Conv (x, wv)
            v = Transpose <perm = [0, 2, 1]> (v0)
            {scores}
            a = Softmax (d)
            o = MatMul (a, v)
            t = ReduceMean <keepdims = 0> (o, axis)
            scores = Gemm <transB = 1> (t, w2)
        }}""",
        wp=tiny.weights(4, 3, 2, 2),
        bp=tiny.weights(4),
        flat=np.array([0, 4, 16]),
        axis=np.array([1]),
        queries=tiny.weights(8, 8, seed=5, scale=0.3),
        wq=tiny.weights(8, 4, 1, scale=0.3),
        wk=tiny.weights(8, 4, 1, seed=1),
        bk=np.full(8, 3, np.float32),
        wv=tiny.weights(8, 4, 1, seed=2),
        w2=tiny.weights(5, 8),
        **{name: np.ones(8, np.float32) for name in ("gamma", "variance")},
        **{name: tiny.weights(8, seed=seed) for seed, name in enumerate(("beta", "mean"))},
    )


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


def test_keys_whose_queries_are_constant_may_rest_besides(pmsm, pictures, tmp_path: Path):
    source, path = (
        tiny.save(with_keys("k = Conv (x, wk, bk)", "d = MatMul (queries, k)"), tmp_path / "net.onnx"),
        "o.onnx",
    )
    made = pmsm("convert", source, "--data", pictures, *PLAIN, "--levels", 31, "-o", tmp_path / path)
    assert made.code == 0
    keys = next(site for site in open_checkpoint(tmp_path / path).manifest.calibration.sites if site.name == "k")
    assert keys.centre is not None
    assert pmsm("diff", tmp_path / path, "--against", source, "--data", pictures).code == 0
    assert pmsm("report", tmp_path / path, "--data", pictures).code == 0


def test_without_images_keys_behind_a_batch_norm_are_brought_to_its_moments_first(pmsm, tmp_path: Path):
    keys = "k0 = Conv (x, wk)  k = BatchNormalization (k0, gamma, beta, mean, variance)"
    source = tiny.save(with_keys(keys), tmp_path / "net.onnx")
    assert pmsm("convert", source, *PLAIN, "--levels", 15, "-o", tmp_path / "o.onnx").code == 0
    centre = open_checkpoint(tmp_path / "o.onnx").manifest.calibration.centres["k"]
    np.testing.assert_allclose(centre[:, 0], tiny.weights(8, seed=0), atol=0.2)  # beta, of deviation 1


def test_a_single_image_that_can_be_read_is_found_among_many(pmsm, source, tmp_path: Path):
    folder = tmp_path / "pictures"
    write_images(folder, 200)
    for path in sorted(folder.iterdir())[:-1]:
        path.write_bytes(b"no image")
    path = tmp_path / "out.onnx"
    assert pmsm("convert", source, "--data", folder, *PLAIN, "--levels", 7, "-o", path).code == 0
    assert centre_in(path) is not None


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

"""`pmsm convert` and `pmsm calibrate`: what they write and what they say."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
from conftest import CLASSES, fails, shows, write_images

from pmsm_cli import __version__
from pmsm_cli.checkpoint.file import open_checkpoint

FEW = "warning: calibrated on 8 image(s) only: a few hundred give steadier thresholds\n"
ASSUMED = "warning: the preprocessing is not stated, 'imagenet' is assumed: a wrong one costs much accuracy\n"


def test_convert_takes_the_preprocessing_from_the_calibration(pmsm, network, calibration_file, checkpoint, tmp_path):
    shown = pmsm("convert", network, "--calibration", calibration_file, "-o", tmp_path / "x.onnx")
    assert (shown.code, shown.err) == (0, "")
    assert (tmp_path / "x.onnx").read_bytes() == checkpoint.read_bytes()


def test_convert_prints_one_table_and_writes_a_file_that_runs(pmsm, network, pictures, tmp_path: Path):
    target = tmp_path / "out.onnx"
    made = pmsm("convert", network, "--data", pictures, "--preprocess", "none", "-o", target)
    assert made.code == 0
    assert made.err == ""
    for text in ("convolutional as a spiking network", str(target), f"{pictures} (40 images)", "reads the image"):
        assert shows(made.out, text)
    stock = ort.InferenceSession(target.read_bytes(), providers=["CPUExecutionProvider"])
    (scores,) = stock.run(None, {"image": tiny.images(3)})
    assert scores.shape == (3, tiny.CLASSES)
    assert np.isfinite(scores).all()


def test_convert_gives_the_record_of_its_table_as_json(pmsm, network, pictures, tmp_path: Path):
    target = tmp_path / "out.onnx"
    made = pmsm("convert", network, "--data", pictures, "--preprocess", "none", "-o", target, "--levels", 7, "--json")
    assert made.code == 0
    record = made.record
    assert record.keys() == {
        "allocation", "finetuning",
        "checkpoint", "source", "timesteps", "coding", "weights", "synapses_refitted", "levels", "sites", "spiking_share", "analog", "images",
        "origin", "mean_spikes", "worst_db", "worst_site", "skipped", "warnings",
    }  # fmt: skip
    assert (record["checkpoint"], record["source"]) == (str(target), "convolutional")
    assert (record["timesteps"], record["levels"], record["sites"], record["images"]) == (1, 7, 2, 40)
    assert (record["skipped"], record["warnings"]) == ([], [])
    assert 50 < record["spiking_share"] < 100


def test_convert_records_how_the_checkpoint_came_about(pmsm, network, pictures, tmp_path: Path):
    target = tmp_path / "out.onnx"
    arguments = ["--data", pictures, "--preprocess", "cifar10", "--samples", 17, "--seed", 5, "-T", 2]
    made = pmsm("convert", network, *arguments, "--coding", "rate", "-o", target)
    assert made.code == 0, made.err
    manifest = open_checkpoint(target).manifest
    assert (manifest.timesteps, manifest.coding, manifest.tool_version) == (2, "rate", __version__)
    assert (manifest.source_name, len(manifest.source_sha256)) == ("convolutional", 64)
    assert manifest.preprocessing.mean == (0.4914, 0.4822, 0.4465)
    images = manifest.calibration.images
    assert (images.origin, images.images, images.seed) == (str(pictures), 17, 5)
    assert manifest.moments_matched


@pytest.mark.parametrize("timesteps", [1, 2])
def test_class_names_of_the_data_folder_or_of_a_file_travel_in_the_checkpoint(
    pmsm, network, pictures, tmp_path: Path, timesteps
):
    target = tmp_path / "out.onnx"
    assert pmsm("convert", network, "--data", pictures, "-T", timesteps, "-o", target).code == 0
    assert open_checkpoint(target).manifest.labels == CLASSES
    names = tmp_path / "names.txt"
    names.write_text("eins\nzwei\n\ndrei\nvier\nfünf\n", encoding="utf-8")
    made = pmsm("convert", network, "--data", pictures, "-T", timesteps, "-o", target, "--labels", names)
    assert made.code == 0, made.err
    assert open_checkpoint(target).manifest.labels == ("eins", "zwei", "drei", "vier", "fünf")


def test_convert_without_data_warns_plainly(pmsm, network, tmp_path: Path):
    made = pmsm("convert", network, "-o", tmp_path / "out.onnx", "--json")
    assert made.code == 0
    assert made.err.startswith(ASSUMED + "warning: no images given")
    assert made.record["warnings"] == [line.removeprefix("warning: ") for line in made.err.splitlines()]
    assert made.record["images"] == 128


def test_convert_warns_when_there_are_few_images(pmsm, network, tmp_path: Path):
    write_images(tmp_path / "few", 8)
    made = pmsm("convert", network, "--data", tmp_path / "few", "--preprocess", "none", "-o", tmp_path / "out.onnx")
    assert (made.code, made.err) == (0, FEW)


def test_convert_names_its_output_after_the_source_in_the_working_folder(
    pmsm, network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert pmsm("convert", network).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["convolutional.snn.onnx"]


def test_convert_gives_the_same_file_every_time(pmsm, network, pictures, tmp_path: Path):
    files = []
    for name in ("a", "b"):
        assert pmsm("convert", network, "--data", pictures, "-T", 2, "-o", tmp_path / name).code == 0
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("timesteps", [1, 3])
def test_a_calibration_file_gives_the_checkpoint_that_its_images_would_give(
    pmsm, network, pictures, checkpoints, tmp_path: Path, timesteps
):
    target = tmp_path / "out.onnx"
    settings = ["--preprocess", "none", "--levels", 15]
    made = pmsm("convert", network, "--data", pictures, *settings, "-T", timesteps, "-o", target)
    assert made.code == 0
    again = ["--calibration", checkpoints / "network.calibration.json", "--data", pictures, "--preprocess", "none"]
    from_file = tmp_path / "again.onnx"
    assert pmsm("convert", network, *again, "-T", timesteps, "-o", from_file).code == 0
    inputs = tiny.images(4)
    outputs = [
        ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"]).run(None, {"image": inputs})
        for path in (target, from_file)
    ]
    for ours, theirs in zip(*outputs, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("form", ["json", "md", "html"])
def test_convert_writes_the_energy_report_too_when_asked(pmsm, network, pictures, tmp_path: Path, form):
    report = tmp_path / f"report.{form}"
    target = tmp_path / "out.onnx"
    settings = ["--data", pictures, "--preprocess", "none", "-T", 2, "-o", target, "--report", report]
    assert pmsm("convert", network, *settings).code == 0
    shown = pmsm("report", target, "--data", pictures, "--format", form)
    assert report.read_text(encoding="utf-8") == shown.out


def test_spiking_input_leaves_no_layer_analog(pmsm, networks, pictures, tmp_path: Path):
    made = pmsm(
        "convert", networks / "one_layer.onnx", "--data", pictures, "--spiking-input", "--preprocess", "inception",
        "-o", tmp_path / "out.onnx", "--json",
    )  # fmt: skip
    assert made.code == 0
    assert (made.record["sites"], made.record["analog"], made.record["spiking_share"]) == (1, [], 100.0)


def test_a_network_of_open_size_is_converted_at_the_size_stated(pmsm, pictures, tmp_path: Path):
    source = tiny.save(tiny.convolutional(size="S"), tmp_path / "open.onnx")
    made = pmsm("convert", source, "--data", pictures, "--image-size", 12, "-o", tmp_path / "out.onnx")
    assert made.code == 0, made.err
    assert open_checkpoint(tmp_path / "out.onnx").manifest.preprocessing.shape == (3, 12, 12)


def test_a_network_of_fixed_batch_is_converted_and_run(pmsm, pictures, tmp_path: Path):
    source = tiny.save(tiny.convolutional(batch=3), tmp_path / "fixed.onnx")  # 40 images are no multiple of 3
    target = tmp_path / "out.onnx"
    made = pmsm("convert", source, "--data", pictures, "--preprocess", "none", "-o", target)
    assert made.code == 0, made.err
    shown = pmsm("eval", target, pictures, "--against", source, "--json")
    assert shown.record["images"] == 40
    assert onnx.load(target).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3


def test_a_network_that_reads_channels_last_is_converted(pmsm, pictures, tmp_path: Path):
    source = tiny.save(tiny.channels_last(), tmp_path / "nhwc.onnx")
    target = tmp_path / "out.onnx"
    assert pmsm("convert", source, "--data", pictures, "--preprocess", "none", "-o", target).code == 0
    assert open_checkpoint(target).manifest.preprocessing.shape == (8, 8, 3)
    assert pmsm("eval", target, pictures, "--against", source, "--json").record["agreement"] > 80


# calibrate


def test_calibrate_prints_a_table_and_writes_json(pmsm, network, pictures, tmp_path: Path):
    target = tmp_path / "out.json"
    made = pmsm("calibrate", network, pictures, "--preprocess", "none", "-o", target)
    assert made.code == 0
    assert made.err == f"written to {target}\n"
    assert "Calibration by entropy on 40 images" in made.out
    record = json.loads(target.read_text(encoding="utf-8"))
    assert [site["name"] for site in record["sites"]] == ["b", "f"]


def test_calibrate_prints_what_it_writes_when_asked_for_json(pmsm, network, pictures, tmp_path: Path):
    target = tmp_path / "out.json"
    made = pmsm("calibrate", network, pictures, "--preprocess", "none", "-o", target, "--levels", 3, "--json")
    assert (made.code, made.err) == (0, "")
    record = made.record
    assert record.pop("file") == str(target)
    assert record == json.loads(target.read_text(encoding="utf-8"))
    assert record.keys() >= {"source_sha256", "method", "levels", "images", "sites"}
    assert record["levels"] == 3
    assert all(site["positive_levels"] <= 3 for site in record["sites"])


def test_calibrate_names_its_output_after_the_source_in_the_working_folder(
    pmsm, network, pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    made = pmsm("calibrate", network, pictures)
    assert made.code == 0
    assert made.err == f"{ASSUMED}written to convolutional.calibration.json\n"
    assert [path.name for path in tmp_path.iterdir()] == ["convolutional.calibration.json"]


def test_calibrate_without_matching_leaves_the_moments_alone(pmsm, network, pictures, tmp_path: Path):
    made = pmsm("calibrate", network, pictures, "--no-match-moments", "-o", tmp_path / "out.json", "--json")
    assert made.record["corrections"] == []


def test_calibrate_writes_figures_channel_by_channel_and_the_comparison_of_halves(pmsm, network, pictures, tmp_path):
    record = pmsm("calibrate", network, pictures, "--preprocess", "none", "-o", tmp_path / "x.json", "--json").record
    for site in record["sites"]:
        lengths = {len(values) for values in site["channels"].values()}
        assert len(lengths) == 1
        assert site["channels"].keys() >= {"threshold", "entropy_bits", "activation_entropy_bits", "information_bits"}
        assert site["channels"]["threshold"] == site["threshold"]
        quality = site["statistics"]
        assert quality["activation_entropy_bits"] >= quality["channel_entropy_bits"] >= quality["information_bits"] >= 0
    assert record["adequacy"]["median"] > 0
    assert [site["name"] for site in record["adequacy"]["sites"]] == ["b", "f"]


def test_a_checkpoint_holds_no_figures_channel_by_channel(checkpoint):
    metadata = {entry.key: entry.value for entry in onnx.load(checkpoint).metadata_props}
    assert all(isinstance(site["channels"], int) for site in json.loads(metadata["pmsm.sites"]))


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_calibrate_draws_a_plot_beside_the_file(pmsm, network, pictures, tmp_path: Path, ending: str):
    target, plot = tmp_path / "x.json", tmp_path / f"x.{ending}"
    made = pmsm(
        "calibrate", network, pictures, "--preprocess", "none", "-o", target, "--plot", plot, "--plot-sites", "f"
    )
    assert (made.code, made.err) == (0, f"written to {target} and {plot}\n")
    assert plot.stat().st_size > 1000


def test_a_plot_of_unknown_tensors_leaves_no_files(pmsm, network, pictures, tmp_path: Path):
    target, plot = tmp_path / "x.json", tmp_path / "x.png"
    made = pmsm("calibrate", network, pictures, "-o", target, "--plot", plot, "--plot-sites", "f,g")
    assert made.code == 2
    assert "--plot-sites: no tensor is called g\n  b\n  f\n" in made.err
    assert list(tmp_path.iterdir()) == []


def test_a_plot_of_another_kind_of_file_is_refused(pmsm, network, pictures, tmp_path: Path):
    path = tmp_path / "x.jpg"
    fails(
        pmsm("calibrate", network, pictures, "--plot", path),
        2,
        f"{path}: a plot is written as .png, .svg, .pdf, not .jpg",
    )


def test_without_matplotlib_a_plot_is_refused_before_the_work(pmsm, network, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    made = pmsm("calibrate", network, pictures, "--plot", "x.png")
    fails(made, 4, "--plot needs matplotlib\nhint: pip install 'pmsm-cli[plot]'")
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_all_alike_are_warned_of_in_one_line(pmsm, network, tmp_path: Path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((20, 3, 8, 8), np.float32))
    made = pmsm("calibrate", network, path, "--preprocess", "none", "-o", tmp_path / "x.json")
    assert made.code == 0
    assert made.err == (
        "warning: most channels hold one value whatever the image, and tell nothing, at 2 of 2 tensors: b (4 of 4), "
        f"f (6 of 6); check the images and the preprocessing\nwritten to {tmp_path / 'x.json'}\n"
    )


def test_images_unlike_each_other_are_warned_of(pmsm, network, tmp_path: Path):
    random = np.random.default_rng(0)
    images = random.normal(size=(20, 3, 8, 8)) * np.array([1, 5] * 10).reshape(-1, 1, 1, 1)
    np.save(tmp_path / "x.npy", images.astype(np.float32))
    made = pmsm("calibrate", network, tmp_path / "x.npy", "--preprocess", "none", "-o", tmp_path / "x.json")
    assert made.code == 0
    assert "warning: 20 images are too few, or too unlike each other: thresholds from two halves" in made.err


def test_weights_are_refitted_with_images_unless_told_not_to(pmsm, network, pictures, tmp_path: Path):
    def refitted(*options: object) -> int:
        made = pmsm("convert", network, "--preprocess", "none", "-o", tmp_path / "out.onnx", "--json", *options)
        assert made.code == 0, made.err
        manifest = open_checkpoint(tmp_path / "out.onnx").manifest
        assert made.record["synapses_refitted"] == manifest.synapses_refitted
        return manifest.synapses_refitted

    images = ["--data", pictures, "--levels", 3]
    assert refitted(*images) == 2
    assert refitted(*images, "--no-refit") == 0
    assert refitted(*images, "--no-match-moments") == 0
    assert refitted(*images, "--samples", 7) == 0  # too few to tell
    assert refitted(*images, "-T", 2) > 0
    assert refitted(*images, "-T", 2, "--coding", "rate") > 0
    assert refitted(*images, "-T", 2, "--no-refit") == 0
    assert refitted("--levels", 3) == 0

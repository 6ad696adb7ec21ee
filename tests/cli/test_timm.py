"""`timm:NAME` in every command that takes a source, with the weights that it is asked to have."""

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest
from conftest import fails, write_images

pytest.importorskip("timm", reason="timm is not installed")

import torch
import zoo

from pmsm_cli import pipeline
from pmsm_cli.checkpoint.file import open_checkpoint
from pmsm_cli.cli.app import run
from pmsm_cli.finetune.records import Teacher
from pmsm_cli.sources.records import Weights

PLAIN = "timm:pmsm_plain"
QUICK = ["--levels", 15, "--threads", 1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights for `timm:pmsm_plain`: those of `--random-weights`, of the seed 0."""
    file = tmp_path_factory.mktemp("weights") / "plain.pth"
    torch.save(zoo.plain().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A checkpoint of `timm:pmsm_plain` with random weights."""
    path = tmp_path_factory.mktemp("made") / "plain.onnx"
    arguments = ["convert", PLAIN, "--random-weights", "--data", pictures, *QUICK, "-o", path]
    assert run([str(each) for each in arguments]) == 0
    return path


def test_a_transformer_converts_without_a_word_of_others_and_agrees_with_its_source(pmsm, tmp_path: Path):
    write_images(tmp_path / "images", 40, size=(70, 90))
    source = ["timm:test_vit.r160_in1k", "--random-weights"]
    arguments = [*source, "--image-size", "64", "--data", "images", "--levels", "255", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "pmsm_cli", "convert", *arguments],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "timm:test_vit.r160_in1k as a spiking network" in done.stdout
    (checkpoint,) = tmp_path.glob("*.onnx")
    assert checkpoint.name == "test_vit.r160_in1k.snn.onnx"
    shown = pmsm("eval", checkpoint, tmp_path / "images", "--against", *source, "--threads", 1, "--json")
    assert (shown.code, shown.err) == (0, "")
    assert shown.record["outputs"][0]["relative_error"] < 2
    assert pmsm("inspect", checkpoint, "--json").record["spiking_share"] > 80


def test_the_preprocessing_is_the_models_own_and_travels_in_the_checkpoint(made):
    preprocessing = open_checkpoint(made).manifest.preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (preprocessing.interpolation, preprocessing.fit) == ("bicubic", "crop")
    assert preprocessing.crop_fraction == 16 / 17  # timm takes the floor of 16 / 0.9
    assert preprocessing.shape == (3, 16, 16)


def test_a_checkpoint_of_a_timm_model_needs_nothing_of_torch(made, pictures):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['timm'] = None\n"
        "from pmsm_cli.cli.app import run\n"
        f"sys.exit(run(['run', {str(made)!r}, {str(pictures / 'ant')!r}]) or run(['report', {str(made)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    session = ort.InferenceSession(made.read_bytes(), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 16, 16]


def test_the_source_is_recognised_by_its_weights_wherever_they_come_from(pmsm, made, pictures, weights):
    against = ["eval", made, pictures, "--threads", 1, "--json", "--against"]
    shown = pmsm(*against, f"{PLAIN}.made_up", "--weights-file", weights)
    assert (shown.code, shown.err) == (0, "")
    shown = pmsm(*against, PLAIN, "--random-weights", "--seed", 1)
    than = "than the one that the checkpoint was made from, by its weights or its export"
    stranger = f"warning: {PLAIN} is another {PLAIN} {than}\n"
    assert (shown.code, shown.err) == (0, stranger)


def test_a_calibration_serves_the_model_that_it_was_made_with(pmsm, pictures, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = [PLAIN, "--random-weights"]
    shown = pmsm("calibrate", *source, pictures, *QUICK)
    assert (shown.code, shown.err) == (0, "written to pmsm_plain.calibration.json\n")
    calibration = ["--calibration", "pmsm_plain.calibration.json"]
    assert pmsm("convert", *source, *calibration, "-o", "x.onnx").code == 0
    message = (
        f"pmsm_plain.calibration.json: was made with another network than {PLAIN}\n"
        f"hint: pmsm calibrate {PLAIN} IMAGES -o pmsm_plain.calibration.json"
    )
    fails(pmsm("convert", *source, "--seed", 1, *calibration, "-o", "y.onnx"), 3, message)


def test_without_images_batch_norm_is_followed_and_a_stated_preprocessing_goes_before_the_models_own(pmsm, tmp_path):
    target = tmp_path / "x.onnx"
    shown = pmsm("convert", PLAIN, "--random-weights", "--preprocess", "cifar10", "-o", target, "--threads", 1)
    assert shown.code == 0
    assert shown.err.startswith("warning: no images given: thresholds come from batch norm statistics")
    assert open_checkpoint(target).manifest.preprocessing.std == (0.2470, 0.2435, 0.2616)


def test_a_checkpoint_is_trained_towards_the_model_it_was_made_from(made, pictures):
    opened, images = open_checkpoint(made), pipeline.open_sample(pictures, None, 0)
    source = pipeline.open_network(Path(PLAIN), Weights(random=True))
    guide = pipeline.find_guide(opened, images, source=source)
    assert (guide.kind, guide.name, guide.warnings) == (Teacher.SOURCE, PLAIN, ())
    guide = pipeline.find_guide(opened, images, source=None)
    (warning,) = guide.warnings
    assert guide.kind is Teacher.LABELS
    assert warning == f"training towards the labels: {PLAIN} is not stated (--source names it, and serves better)"


def test_inspect_shows_a_model_by_its_modules(pmsm):
    shown = pmsm("inspect", PLAIN, "--random-weights", "--json")
    assert (shown.code, shown.err) == (0, "")
    assert [site["name"] for site in shown.record["sites"]] == ["Relu", "ReduceMean"]
    assert [layer["node"] for layer in shown.record["analog_layers"]] == ["stem/Conv"]


# --preprocess timm:NAME


def test_the_preprocessing_of_a_timm_model_can_be_had_for_an_onnx_file(pmsm, network, pictures, tmp_path: Path):
    target = tmp_path / "x.onnx"
    arguments = ["--data", pictures, "--preprocess", "timm:pmsm_plain.squashed", *QUICK, "-o", target]
    shown = pmsm("convert", network, *arguments)
    assert (shown.code, shown.err) == (0, "")
    preprocessing = open_checkpoint(target).manifest.preprocessing
    assert preprocessing.shape == (3, 8, 8)  # the network's own
    assert (preprocessing.mean, preprocessing.fit) == ((0.1, 0.2, 0.3), "stretch")


@pytest.mark.parametrize("preset", ["timm:pmsm_plian", "timm:pmsm_plain.squahsed"])
def test_the_preprocessing_of_no_model_is_refused(pmsm, network, pictures, preset):
    shown = pmsm("convert", network, "--data", pictures, "--preprocess", preset)
    assert (shown.code, shown.out) == (3, "")
    assert shown.err.startswith(f"error: {preset}: timm has no ")
    right = "pmsm_plain.squashed" if "." in preset else "pmsm_plain"
    assert shown.err.endswith(f"hint: did you mean timm:{right}?\n")


# Refusals


@pytest.mark.parametrize("command", ["convert", "calibrate", "inspect", "eval", "finetune"])
def test_every_command_suggests_the_nearest_name(pmsm, made, pictures, tmp_path: Path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = {
        "convert": ["timm:pmsm_plian"],
        "calibrate": ["timm:pmsm_plian", pictures],
        "inspect": ["timm:pmsm_plian"],
        "eval": [made, pictures, "--against", "timm:pmsm_plian"],
        "finetune": [made, "--data", pictures, "--source", "timm:pmsm_plian"],
    }[command]
    shown = pmsm(command, *line, "--random-weights")
    assert (shown.code, shown.out) == (3, "")
    assert shown.err.startswith("error: timm:pmsm_plian: timm has no model of this name\n  pmsm_plain\n")
    assert shown.err.endswith("hint: did you mean timm:pmsm_plain?\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["convert", "calibrate", "inspect", "eval", "finetune"])
def test_a_missing_package_is_said_with_what_installs_it(pmsm, made, pictures, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    line = {
        "convert": [PLAIN],
        "calibrate": [PLAIN, pictures],
        "inspect": [PLAIN],
        "eval": [made, pictures, "--against", PLAIN],
        "finetune": [made, "--data", pictures, "--source", PLAIN],
    }[command]
    message = f"{PLAIN}: needs timm, which is not installed\nhint: pip install 'pmsm-cli[timm]'"
    fails(pmsm(command, *line), 4, message)


def test_pretrained_weights_out_of_reach_are_said(pmsm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def unreachable() -> None:
        raise ConnectionError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("pmsm_cli.sources.timm_weights._ask_hub", unreachable)
    message = (
        f"{PLAIN}: its pretrained weights cannot be fetched\n"
        "  ConnectionError: no route to host\n"
        "hint: --weights-file FILE brings weights from elsewhere, --random-weights does without (a dry run)"
    )
    fails(pmsm("convert", PLAIN), 4, message)


CONTRADICTIONS = {
    "two kinds of weights": (
        "inspect {plain} --random-weights --weights-file {weights}",
        "--weights-file and --random-weights contradict each other\nhint: leave out one of the two",
    ),
    "random weights for a file": (
        "convert {network} --random-weights",
        "--random-weights is for timm models, and {network} brings its own weights\n"
        "hint: name the model as timm:NAME, or leave out --random-weights",
    ),
    "a file of weights for a file": (
        "calibrate {network} {pictures} --weights-file {weights}",
        "--weights-file is for timm models, and {network} brings its own weights\n"
        "hint: name the model as timm:NAME, or leave out --weights-file",
    ),
    "random weights for nothing": (
        "eval {made} {pictures} --random-weights",
        "--random-weights is for timm models, and no source is named\n"
        "hint: name the model as timm:NAME, or leave out --random-weights",
    ),
    "weights for a trained checkpoint without its source": (
        "finetune {made} --data {pictures} --weights-file {weights}",
        "--weights-file is for timm models, and no source is named\n"
        "hint: name the model as timm:NAME, or leave out --weights-file",
    ),
    "output over the weights": (
        "convert {plain} --weights-file {weights} -o {weights}",
        "{weights}: is written and read by one command\nhint: name another file",
    ),
}


@pytest.mark.parametrize(("line", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_options_that_contradict_each_other_are_refused(pmsm, made, network, pictures, weights, line, message):
    places = {"made": made, "network": network, "pictures": pictures, "weights": weights, "plain": PLAIN}
    fails(pmsm(*line.format(**places).split()), 2, message.format(**places))


def test_a_model_is_no_checkpoint(pmsm, pictures):
    message = f"{PLAIN}: no such file\nhint: make a checkpoint first: pmsm convert {PLAIN}"
    fails(pmsm("eval", PLAIN, pictures), 3, message)


def test_weights_of_another_model_are_refused(pmsm, weights):
    shown = pmsm("inspect", "timm:test_resnet", "--weights-file", weights)
    assert (shown.code, shown.out) == (3, "")
    assert shown.err.startswith(f"error: {weights}: its weights do not fit timm:test_resnet\n  missing: ")
    assert shown.err.endswith("hint: is it the model that they were trained for, with its tag and the --image-size?\n")

"""Real pretrained networks on real images, where they lie beside the checkout: a part of benchmarks/main_job.py."""

import json
import tarfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from pmsm_cli.cli.app import run

SHARED = Path(__file__).parent.parent.parent / "shared"
MODELS, DATA = SHARED / "models", SHARED / "data"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not MODELS.is_dir(), reason="the real networks are not beside this checkout (../shared/models)"),
]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every 20th of CIFAR-10's test images: 500."""
    folder = tmp_path_factory.mktemp("cifar")
    with tarfile.open(DATA / "cifar10-test.tar.xz") as archive:
        for index, member in enumerate(archive):
            if member.isfile() and index % 20 == 0:
                archive.extract(member, folder, filter="data")
    return folder / "cifar10" / "test"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five street and room scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    with tarfile.open(DATA / "detection-sample.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "detection-sample"


def pmsm_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert run([*(str(argument) for argument in arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_resnet20_keeps_its_accuracy_at_the_first_timestep(cifar, tmp_path, capsys):
    source, checkpoint = MODELS / "resnet20_cifar10_bn.onnx", tmp_path / "r20.onnx"
    pmsm_json(
        capsys, "convert", source, "--data", cifar, "--samples", 128, "--preprocess", "imagenet", "-o", checkpoint
    )
    result = pmsm_json(capsys, "eval", checkpoint, cifar, "--against", source)
    assert result["images"] == 500
    assert result["ann"]["top1"] > 85
    assert result["snn"]["top1"] >= result["ann"]["top1"] - 2  # one image in 500 is 0.2 points
    assert result["agreement"] > 94


def test_resnet20_with_three_levels_recovers_with_more_timesteps(cifar, tmp_path, capsys):
    source, checkpoint = MODELS / "resnet20_cifar10_folded.onnx", tmp_path / "r20.onnx"
    settings = ["--preprocess", "imagenet", "--samples", 128, "--levels", 3, "-T", 4, "-o", checkpoint]
    pmsm_json(capsys, "convert", source, "--data", cifar, *settings)
    result = pmsm_json(capsys, "eval", checkpoint, cifar, "--against", source, "--samples", 200)
    errors = result["outputs"][0]["per_step"]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 4
    # The file alone, in an onnxruntime that knows nothing of us, gives what `pmsm run` gives.
    raw = tmp_path / "raw.npz"
    pmsm_json(capsys, "run", checkpoint, cifar / "cat", "--outputs", raw)
    from pmsm_cli.checkpoint.file import open_checkpoint
    from pmsm_cli.sources.images import open_images, read_batches

    preprocessing = open_checkpoint(checkpoint).manifest.preprocessing
    (batch,) = read_batches(open_images(cifar / "cat"), preprocessing, 64)
    stock = ort.InferenceSession(str(checkpoint), providers=["CPUExecutionProvider"])
    logits, per_step = stock.run(None, {stock.get_inputs()[0].name: batch.inputs})
    # But for ties: on the library convolutions sum up in another order, and a value between two counts may flip a spike.
    with np.load(raw) as ours:
        same = np.isclose(ours["logits_per_step"], per_step, rtol=1e-4, atol=1e-4).all(axis=2)
        assert same[0].mean() > 0.95  # at the first step
        assert same.mean() > 0.85
        np.testing.assert_array_equal(ours["logits"], ours["logits_per_step"][-1])
        assert (ours["logits"].argmax(axis=1) == logits.argmax(axis=1)).mean() >= 0.96  # a flip may decide a class


def test_a_detector_converts_and_its_output_stays_close(scenes, tmp_path, capsys):
    source, checkpoint = MODELS / "fastestdet_coco.onnx", tmp_path / "detector.onnx"
    preset = tmp_path / "bgr.json"
    preset.write_text('{"channels": "BGR", "fit": "stretch"}')
    pmsm_json(capsys, "convert", source, "--data", scenes, "--preprocess", preset, "--levels", 255, "-o", checkpoint)
    result = pmsm_json(capsys, "eval", checkpoint, scenes, "--against", source)
    assert result["snn"]["top1"] is None
    assert result["outputs"][0]["relative_error"] < 5


def test_the_depthwise_network_finds_its_sites(capsys):
    plan = pmsm_json(capsys, "inspect", MODELS / "mobilenet_v1_025_imagenet.onnx")
    assert len(plan["sites"]) == 27
    assert [layer["op_type"] for layer in plan["analog_layers"]] == ["Conv"]
    assert plan["spiking_share"] > 90

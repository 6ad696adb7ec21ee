"""`convert --weights int8`, and what the other commands do with such a checkpoint."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
from conftest import fails

from pmsm_cli.checkpoint.file import open_checkpoint
from pmsm_cli.lowering.precision import Precision
from pmsm_cli.runtime.spiking import open_spiking


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    return tiny.save(tiny.residual(), tmp_path_factory.mktemp("int8") / "residual.onnx")


@pytest.fixture(scope="module")
def rounded(residual, pictures):
    from pmsm_cli.cli.app import run

    target = residual.with_name("residual.int8.onnx")
    options = ["--data", str(pictures), "--preprocess", "none", "--levels", "15", "--weights", "int8"]
    assert run(["convert", str(residual), *options, "-o", str(target)]) == 0
    return target


def test_the_checkpoint_says_so_and_holds_bytes(rounded):
    opened = open_checkpoint(rounded)
    assert opened.manifest.weights is Precision.INT8
    assert opened.int8_weights
    kept = {each.name: each.data_type for each in onnx.load(rounded).graph.initializer}
    assert all(kept[f"{name}/int8"] == onnx.TensorProto.INT8 for name in opened.int8_weights)


def test_stock_onnxruntime_and_the_integer_graph_give_nearly_the_same(rounded):
    inputs = tiny.images(16)
    stock = ort.InferenceSession(rounded, providers=["CPUExecutionProvider"])
    (expected,) = stock.run(None, {"image": inputs})
    (got,) = open_spiking(open_checkpoint(rounded)).run(inputs)
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)  # ties aside


def test_it_costs_little_of_the_output(pmsm, rounded, residual, pictures):
    whole = rounded.with_name("residual.float.onnx")
    options = ["--data", pictures, "--preprocess", "none", "--levels", "15"]
    pmsm("convert", residual, *options, "-o", whole)
    errors = [
        pmsm("eval", checkpoint, pictures, "--against", residual, "--json").record["outputs"][0]["relative_error"]
        for checkpoint in (whole, rounded)
    ]
    assert errors[1] < 1.2 * errors[0] + 1


@pytest.mark.parametrize("command", ["run", "report", "inspect", "eval"])
def test_every_command_takes_it(pmsm, rounded, pictures, command):
    arguments = {"inspect": [], "report": ["--data", pictures]}.get(command, [pictures])
    assert pmsm(command, rounded, *arguments, "--json").code == 0


def test_more_timesteps_are_rounded_too(pmsm, residual, pictures, tmp_path):
    target = tmp_path / "three.onnx"
    options = ["--data", pictures, "--preprocess", "none", "--levels", "15", "-T", "3", "--weights", "int8"]
    assert pmsm("convert", residual, *options, "-o", target).code == 0
    shown = pmsm("eval", target, pictures, "--against", residual, "--json").record
    assert shown["outputs"][0]["per_step"][2] < shown["outputs"][0]["per_step"][0]


def test_ranges_come_from_synthetic_images_where_there_are_no_others(pmsm, residual, tmp_path):
    options = ["--preprocess", "none", "--levels", "15", "--weights", "int8", "-o", tmp_path / "x.onnx"]
    shown = pmsm("convert", residual, *options)
    assert shown.code == 0
    assert "the range of what is carried in 8 bits comes from synthetic images; pass --data" in shown.err


def test_it_cannot_be_trained_any_more(pmsm, rounded, pictures):
    pytest.importorskip("torch")
    fails(
        pmsm("finetune", rounded, "--data", pictures),
        2,
        f"{rounded}: has int8 weights; fine-tuning trains floats\n"
        "hint: pmsm convert SOURCE --finetune EPOCHS --weights int8",
    )

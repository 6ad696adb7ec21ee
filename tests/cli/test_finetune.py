"""`pmsm finetune` and `pmsm convert --finetune`: what they write and say, whom they learn from, how they end."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import tiny
from conftest import fails, shows
from onnx import inliner
from trainable import grouped

from pmsm_cli.checkpoint.file import open_checkpoint
from pmsm_cli.cli.app import run
from pmsm_cli.cli.tuning import EpochProgress

SAMPLES = Path(__file__).parent.parent.parent / "sample_models"
SOURCE, IMAGES, OTHERS = SAMPLES / "digits.onnx", SAMPLES / "digits" / "test", SAMPLES / "digits" / "calibration"
SETTINGS = ["--samples", 300, "--threads", 1]


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled digits with one spike a neuron, in a folder of its own."""
    path = tmp_path_factory.mktemp("binary") / "d.snn.onnx"
    # Refitted weights leave less to learn than a few epochs on 300 images can.
    options = ["--data", OTHERS, "--preprocess", "none", "--levels", 1, "--no-refit", "--threads", 1, "-o", path]
    assert run(["convert", str(SOURCE), *map(str, options)]) == 0
    return path


@pytest.fixture
def beside(binary: Path, tmp_path: Path) -> Path:
    """The checkpoint with its source beside it."""
    shutil.copy(SOURCE, tmp_path / "digits.onnx")
    return Path(shutil.copy(binary, tmp_path / "d.snn.onnx"))


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """Images without class folders."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((IMAGES / "0").iterdir())[:20]:
        shutil.copy(path, folder)
    return folder


def raising_after(epoch: int) -> Callable:
    say = EpochProgress.epoch

    def on_epoch(self, record) -> None:
        say(self, record)
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


def agreement(pmsm, checkpoint: Path) -> float:
    return pmsm("eval", checkpoint, OTHERS, "--against", SOURCE, "--threads", 1, "--json").record["agreement"]


def test_it_writes_an_ordinary_checkpoint_that_agrees_better_with_its_source(pmsm, binary, tmp_path):
    target = tmp_path / "better.onnx"
    shown = pmsm("finetune", binary, "--data", IMAGES, "--source", SOURCE, *SETTINGS, "--epochs", 12, "-o", target)
    assert shown.code == 0
    assert re.search(r"epoch \d+ written to", shown.out)
    assert shows(shown.out, f"written to {target}")
    lines = [line for line in shown.err.splitlines() if line.startswith(("before training: loss ", "epoch "))]
    assert len(lines) == 13
    assert "agreement" in lines[1]
    assert "top-1" in lines[1]
    assert agreement(pmsm, target) > agreement(pmsm, binary) + 5
    before, after = open_checkpoint(binary).manifest, open_checkpoint(target).manifest
    assert (after.timesteps, after.source_sha256, after.labels) == (1, before.source_sha256, before.labels)
    for old, new in zip(before.calibration.sites, after.calibration.sites, strict=True):
        assert old.name == new.name
        assert (old.parameters.threshold != new.parameters.threshold).any()
        assert old.quality != new.quality
    assert pmsm("report", target).code == 0
    assert pmsm("inspect", target).code == 0


def test_json_is_one_record_with_stable_keys(pmsm, binary, tmp_path):
    target = tmp_path / "t.onnx"
    arguments = ["--source", SOURCE, *SETTINGS, "--epochs", 2, "--seed", 5, "--learning-rate", 0.002, "-o", target]
    record = pmsm("finetune", binary, "--data", IMAGES, *arguments, "--json").record
    assert set(record) == {
        *("checkpoint", "source", "teacher", "teacher_name", "images", "origin", "epochs", "best_epoch"),
        *("total_epochs", "learning_rate", "seed", "stopped", "skipped", "warnings"),
    }
    assert set(record["epochs"][1]) == {"epoch", "loss", "training_loss", "agreement", "top1", "images", "seconds"}
    assert (record["teacher"], record["images"], record["seed"]) == ("source", 270, 5)
    assert (record["learning_rate"], record["stopped"], record["checkpoint"]) == (0.002, None, str(target))
    assert [each["epoch"] for each in record["epochs"]] == [0, 1, 2]


def test_a_second_run_goes_on_from_the_first_and_adds_its_epochs(pmsm, binary, tmp_path):
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    arguments = ["--data", IMAGES, "--source", SOURCE, *SETTINGS, "--json"]
    one = pmsm("finetune", binary, *arguments, "--epochs", 3, "-o", first).record
    two = pmsm("finetune", first, *arguments, "--epochs", 6, "-o", second).record
    assert two["total_epochs"] == one["best_epoch"] + two["best_epoch"]
    # The same images are held out for the same seed, so the second begins where the first ended.
    assert two["epochs"][0]["loss"] == pytest.approx(one["epochs"][one["best_epoch"]]["loss"], rel=0.1)
    runs = open_checkpoint(second).manifest.finetuning
    assert [run.epochs for run in runs] == [one["best_epoch"], two["best_epoch"]]
    assert runs[1].loss < runs[1].loss_before


def test_the_default_output_is_named_after_the_checkpoint_and_lies_here(pmsm, beside, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert pmsm("finetune", beside, "--data", IMAGES, *SETTINGS, "--epochs", 3).code == 0
    assert [path.name for path in here.iterdir()] == ["d.tuned.snn.onnx"]


def test_the_source_beside_the_checkpoint_is_the_teacher(pmsm, beside, tmp_path):
    arguments = ["--data", IMAGES, *SETTINGS, "--epochs", 3, "-o", tmp_path / "t.onnx", "--json"]
    shown = pmsm("finetune", beside, *arguments)
    assert (shown.record["teacher"], shown.record["teacher_name"]) == ("source", str(tmp_path / "digits.onnx"))
    assert "warning" not in shown.err


def test_another_file_of_that_name_is_not_and_labels_take_its_place(pmsm, beside, binary, tmp_path):
    shutil.copy(binary, tmp_path / "digits.onnx")
    # Labels alone teach little of what the network knows already: from a good start nothing would come closer.
    options = ["--data", OTHERS, "--preprocess", "none", "--levels", 1, "--method", "mse", "--threads", 1]
    assert pmsm("convert", SOURCE, *options, "-o", beside).code == 0
    arguments = ["--data", IMAGES, *SETTINGS, "--epochs", 3, "-o", tmp_path / "t.onnx", "--json"]
    shown = pmsm("finetune", beside, *arguments)
    assert shown.code == 0, shown.err
    assert shown.record["teacher"] == "labels"
    assert shown.record["epochs"][0]["agreement"] is None
    assert shown.err.startswith("warning: training towards the labels: digits.onnx does not lie beside the checkpoint")


def test_without_source_and_labels_there_is_nothing_to_learn(pmsm, binary, unlabelled, tmp_path):
    shown = pmsm("finetune", binary, "--data", unlabelled, "-o", tmp_path / "t.onnx")
    fails(
        shown,
        2,
        f"{binary}: there is nothing to train towards: the images have no labels, "
        "and digits.onnx does not lie beside the checkpoint\n"
        "hint: name the network that it was made from: --source digits.onnx",
    )


def test_labels_are_no_goal_for_a_network_without_class_scores(pmsm, pictures, tmp_path):
    source = tiny.save(grouped(), tmp_path / "grouped.onnx")
    checkpoint = tmp_path / "elsewhere" / "g.onnx"
    checkpoint.parent.mkdir()
    assert pmsm("convert", source, "--data", pictures, "--preprocess", "none", "-o", checkpoint).code == 0
    shown = pmsm("finetune", checkpoint, "--data", pictures, "-o", tmp_path / "t.onnx")
    assert shown.code == 2
    assert "nothing to train towards: the network gives no class scores, and grouped.onnx does not lie" in shown.err
    arguments = ["--source", source, "--epochs", 20, "--learning-rate", 0.001, "-o", tmp_path / "t.onnx", "--json"]
    epochs = pmsm("finetune", checkpoint, "--data", pictures, *arguments).record["epochs"]
    assert epochs[0]["agreement"] is epochs[0]["top1"] is None
    assert min(each["loss"] for each in epochs) < epochs[0]["loss"]


def test_another_form_of_the_source_serves_and_is_said(pmsm, binary, tmp_path):
    import onnx

    other = tmp_path / "other.onnx"
    proto = onnx.load(SOURCE)
    proto.doc_string = "changed"
    onnx.save(proto, other)
    arguments = ["--source", other, *SETTINGS, "--epochs", 3, "-o", tmp_path / "t.onnx"]
    shown = pmsm("finetune", binary, "--data", IMAGES, *arguments)
    assert shown.code == 0
    assert f"warning: {other} is not the network that the checkpoint was made from (digits)" in shown.err


def test_a_network_that_cannot_be_the_source_is_refused(pmsm, binary, network, tmp_path):
    shown = pmsm("finetune", binary, "--data", IMAGES, "--source", network, "-o", tmp_path / "t.onnx")
    assert shown.code == 3
    assert f"error: {network}: is not the network that the checkpoint was made from (digits)" in shown.err


def test_more_timesteps_are_refused(pmsm, stepwise, pictures, network, tmp_path):
    shown = pmsm("finetune", stepwise, "--data", pictures, "--source", network, "-o", tmp_path / "t.onnx")
    fails(
        shown,
        2,
        f"{stepwise}: has 3 timesteps; fine-tuning trains the first one\n"
        "hint: fine-tune a checkpoint of `pmsm convert --timesteps 1`",
    )


def test_missing_torch_is_said_before_anything_is_read(pmsm, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    message = "fine-tuning needs torch, which is not installed\nhint: pip install 'pmsm-cli[finetune]'"
    fails(pmsm("finetune", tmp_path / "none.onnx", "--data", tmp_path, "-o", tmp_path / "t.onnx"), 4, message)
    fails(pmsm("convert", tmp_path / "none.onnx", "--data", tmp_path, "--finetune", 1), 4, message)


def test_the_checkpoint_itself_is_not_written_over(pmsm, beside):
    before = beside.read_bytes()
    shown = pmsm("finetune", beside, "--data", IMAGES, "-o", beside)
    fails(shown, 2, f"{beside}: is written and read by one command\nhint: name another file")
    assert beside.read_bytes() == before


def test_a_folder_of_another_name_among_the_classes_costs_the_labels_which_are_not_needed(pmsm, binary, tmp_path):
    folder = tmp_path / "images"
    for name, of in (("0", "0"), ("unsure", "1")):
        (folder / name).mkdir(parents=True)
        for path in sorted((IMAGES / of).iterdir())[:20]:
            shutil.copy(path, folder / name)
    epochs = ["--source", SOURCE, "--epochs", 1, "--threads", 1]
    shown = pmsm("finetune", binary, "--data", folder, *epochs, "-o", tmp_path / "better.onnx", "--json")
    assert "sub-folders" not in shown.err
    assert shown.code in (0, 5)


def test_a_checkpoint_whose_neurons_were_inlined_cannot_be_trained(pmsm, binary, tmp_path):
    path = tiny.save(inliner.inline_local_functions(onnx.load(binary)), tmp_path / "inlined.onnx")
    shown = pmsm("finetune", path, "--data", IMAGES, "--source", SOURCE, *SETTINGS, "-o", tmp_path / "better.onnx")
    assert shown.code == 3
    assert "operators that it speaks of are gone, or have other names" in shown.err


def test_a_network_that_puts_out_whole_numbers_alone_cannot_be_trained(pmsm, pictures, tmp_path):
    proto = tiny.convolutional()
    proto.graph.node.append(onnx.helper.make_node("ArgMax", ["scores"], ["best"], axis=1))
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info("best", onnx.TensorProto.INT64, None))
    source, path = tiny.save(onnx.shape_inference.infer_shapes(proto), tmp_path / "x.onnx"), tmp_path / "x.snn.onnx"
    options = ["--data", pictures, "--preprocess", "none", "--levels", 3]
    assert pmsm("convert", source, *options, "-o", path).code == 0
    shown = pmsm("finetune", path, "--data", pictures, "--source", source, "-o", tmp_path / "better.onnx")
    fails(shown, 2, f"{path}: puts out whole numbers alone, from which there is nothing to learn")


def test_a_learning_rate_that_diverges_is_named_and_nothing_is_lost(pmsm, beside, tmp_path):
    target = tmp_path / "t.onnx"
    target.write_text("precious")
    shown = pmsm("finetune", beside, "--data", IMAGES, *SETTINGS, "--learning-rate", 1000, "-o", target)
    assert (shown.code, shown.out) == (5, "")
    last = shown.err[shown.err.index("error: ") :]
    assert last.startswith(f"error: {beside}: training diverged at learning rate 1000: the loss left ")
    assert last.endswith("; nothing was written\nhint: a smaller learning rate: --learning-rate 100\n")
    assert target.read_text() == "precious"


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_learning_rate_that_cannot_be_is_refused(pmsm, tmp_path, rate: str):
    shown = pmsm("finetune", tmp_path / "none.onnx", "--data", tmp_path, f"--learning-rate={rate}")
    fails(shown, 2, f"a learning rate must be above 0 and finite, not {rate}")


def test_a_conversion_that_training_does_not_help_is_written_without_it(pmsm, tmp_path, monkeypatch):
    monkeypatch.setattr("pmsm_cli.cli.tuning.default_learning_rate", lambda levels: 1000.0)
    plain, target = tmp_path / "plain.onnx", tmp_path / "d.onnx"
    options = ["--data", OTHERS, "--preprocess", "none", "--levels", 7, "--threads", 1]
    assert pmsm("convert", SOURCE, *options, "-o", plain).code == 0
    shown = pmsm("convert", SOURCE, *options, "--finetune", 1, "-o", target)
    assert shown.code == 5
    assert shows(shown.out, str(target))
    last = shown.err[shown.err.index("error: ") :].replace("\n", " ")
    assert last.startswith(f"error: {target}: training diverged at learning rate 1000: ")
    assert "; it was written without training hint: more images, or `pmsm finetune" in last
    assert target.read_bytes() == plain.read_bytes()


def test_an_interruption_writes_the_best_epoch_and_says_so(pmsm, beside, tmp_path, monkeypatch):
    # The first steps are large, and what they leave is worse than what there was.
    monkeypatch.setattr(EpochProgress, "epoch", raising_after(4))
    target = tmp_path / "t.onnx"
    shown = pmsm("finetune", beside, "--data", IMAGES, *SETTINGS, "--epochs", 9, "-o", target, "--json")
    assert shown.code == 130
    best = shown.record["best_epoch"]
    assert shown.record["stopped"] == "interrupted"
    assert shown.err.endswith(
        f"error: interrupted after 4 epoch(s); {target} was written with epoch {best}, the best until then\n"
    )
    assert open_checkpoint(target).manifest.finetuning[0].epochs == best
    assert agreement(pmsm, target) > agreement(pmsm, beside)


def test_an_interruption_before_the_first_epoch_writes_nothing(pmsm, beside, tmp_path, monkeypatch):
    monkeypatch.setattr(EpochProgress, "epoch", raising_after(0))
    target = tmp_path / "t.onnx"
    target.write_text("precious")
    shown = pmsm("finetune", beside, "--data", IMAGES, *SETTINGS, "-o", target)
    assert (shown.code, shown.out) == (130, "")
    assert shown.err.endswith("error: interrupted; nothing was written\n")
    assert target.read_text() == "precious"


def test_ctrl_c_in_the_middle_of_training_keeps_the_best(beside, tmp_path):
    """A real signal to a real process."""
    target = tmp_path / "t.onnx"
    arguments = ["finetune", beside, "--data", IMAGES, *SETTINGS, "--epochs", 1000, "-o", target, "--json"]
    command = [sys.executable, "-u", "-c", "from pmsm_cli.cli.app import main; main()", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            losses = (float(line.split("loss ")[1].split(",")[0]) for line in process.stderr if "loss " in line)
            first = next(losses)
            assert next(loss for loss in losses if loss < first)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"{target} was written with epoch " in err
    assert json.loads(out)["stopped"] == "interrupted"
    assert open_checkpoint(target).manifest.finetuning[0].epochs == json.loads(out)["best_epoch"]


def test_convert_trains_at_once_if_asked(pmsm, tmp_path):
    target = tmp_path / "t.onnx"
    arguments = ["--data", OTHERS, "--preprocess", "none", "--levels", 1, "--no-refit", "--threads", 1, "-o", target]
    plain = pmsm("convert", SOURCE, *arguments, "--json").record
    before = agreement(pmsm, target)
    shown = pmsm("convert", SOURCE, *arguments, "--finetune", 6, "--json")
    assert shown.code == 0
    assert plain["finetuning"] is None
    assert set(shown.record) == set(plain)
    assert shown.record["finetuning"]["teacher_name"] == str(SOURCE)
    assert shown.record["finetuning"]["images"] == 180
    assert len(open_checkpoint(target).manifest.finetuning) == 1
    assert agreement(pmsm, target) > before
    table = pmsm("convert", SOURCE, *arguments, "--finetune", 6).out
    assert "fine-tuned towards" in table


def test_convert_refuses_training_that_cannot_be(pmsm, network, pictures):
    shown = pmsm("convert", network, "--finetune", 1)
    fails(shown, 2, "--finetune needs images to train on\nhint: pass --data IMAGES as well")
    shown = pmsm("convert", network, "--data", pictures, "--finetune", 1, "-T", 2)
    fails(shown, 2, "--finetune trains the first timestep\nhint: leave out --timesteps, or --finetune")


def test_a_calibration_file_may_come_with_images_to_train_on(pmsm, network, calibration_file, pictures, tmp_path):
    arguments = ["--calibration", calibration_file, "--preprocess", "none", "-o", tmp_path / "t.onnx"]
    shown = pmsm("convert", network, *arguments, "--data", pictures, "--finetune", 1)
    assert shown.code in (0, 5), shown.err  # on so few images training may make nothing better
    assert pmsm("convert", network, *arguments, "--data", pictures, "--no-refit").code == 2

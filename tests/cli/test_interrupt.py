"""Ctrl-C, too little memory, and our own mistakes: what is said, what is left, and the exit code."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

IMAGES = 300_000  # keep the command below busy for as long as it takes
PMSM = [sys.executable, "-c", "from pmsm_cli.cli.app import main; main()"]


def raising(error: BaseException):
    def stage(*args: object, **kwargs: object) -> None:
        raise error

    return stage


STAGES = {
    "convert": ["load_source", "calibrate_source", "convert", "report_checkpoint"],
    "calibrate": ["load_source", "calibrate_source"],
    "inspect": ["is_checkpoint", "load_source"],
    "eval": ["open_sample", "evaluate_checkpoint"],
    "run": ["predict_images"],
    "report": ["open_sample", "report_checkpoint"],
    "finetune": ["check_torch", "open_sample", "find_guide", "finetune_checkpoint"],
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that was there before."""
    path = tmp_path / "out.json"
    path.write_text("precious")
    return path


@pytest.fixture
def line(network, checkpoint, pictures, target):
    """A command line that writes to `target`, if the command writes anything."""
    lines = {
        "convert": ["convert", network, "--data", pictures, "-o", target, "--report", target.with_name("r.md")],
        "calibrate": ["calibrate", network, pictures, "-o", target],
        "inspect": ["inspect", network],
        "eval": ["eval", checkpoint, pictures],
        "run": ["run", checkpoint, pictures, "--outputs", target],
        "report": ["report", checkpoint, "--data", pictures, "-o", target],
        "finetune": ["finetune", checkpoint, "--data", pictures, "--source", network, "-o", target],
    }
    return lambda command: lines[command]


@pytest.mark.parametrize(("command", "stage"), [(command, stage) for command in STAGES for stage in STAGES[command]])
def test_an_interruption_writes_nothing_whatever_the_stage(
    pmsm, line, target, command, stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(f"pmsm_cli.pipeline.{stage}", raising(KeyboardInterrupt()))
    shown = pmsm(*line(command))
    assert (shown.code, shown.out, shown.err.strip()) == (130, "", "error: interrupted; nothing was written")
    assert target.read_text() == "precious"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("step", ["mkstemp", "fsync", "replace"])
def test_an_interruption_while_writing_leaves_the_old_file_and_no_other(
    pmsm, line, target, step, monkeypatch: pytest.MonkeyPatch
):
    owner = "tempfile" if step == "mkstemp" else "os"
    monkeypatch.setattr(f"pmsm_cli.checkpoint.file.{owner}.{step}", raising(KeyboardInterrupt()))
    assert pmsm(*line("calibrate")).code == 130
    assert target.read_text() == "precious"
    assert list(target.parent.iterdir()) == [target]


def test_too_little_memory_is_said_and_writes_nothing(pmsm, line, target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pmsm_cli.pipeline.calibrate_source", raising(MemoryError()))
    shown = pmsm(*line("convert"))
    assert (shown.code, shown.out) == (4, "")
    assert shown.err.startswith("error: there is not enough memory\n")
    assert target.read_text() == "precious"


def test_our_own_mistakes_keep_their_traceback(pmsm, line, target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pmsm_cli.pipeline.calibrate_source", raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        pmsm(*line("convert"))
    assert target.read_text() == "precious"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc to time the signal")
def test_ctrl_c_in_the_middle_ends_with_code_130_and_leaves_nothing(network, target):
    """A real signal to a real process."""
    pixels = np.lib.format.open_memmap(
        target.with_name("many.npy"), mode="w+", dtype=np.float32, shape=(IMAGES, 3, 8, 8)
    )  # a file of holes: it takes no room
    del pixels
    arguments = ["convert", network, "--data", target.with_name("many.npy"), "--samples", str(IMAGES), "-o", target]
    process = subprocess.Popen(
        [*PMSM, *arguments, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until_decoding(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (130, "")
    assert err.strip().endswith("error: interrupted; nothing was written")
    assert "Traceback" not in err
    assert target.read_text() == "precious"
    assert sorted(path.name for path in target.parent.iterdir()) == ["many.npy", "out.json"]


def wait_until_decoding(process: subprocess.Popen) -> None:
    """Until the process has the file of images open; how many threads decode it depends on how fast they are."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if has_mapped(process.pid, "many.npy"):
            time.sleep(0.3)
            return
        time.sleep(0.02)
    raise AssertionError(f"the command did not begin to read images: {process.poll()}")


def has_mapped(pid: int, name: str) -> bool:
    return name in Path(f"/proc/{pid}/maps").read_text()

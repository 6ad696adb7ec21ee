"""What tests of several rooms share: tiny networks, images and checkpoints on disk, and the command line in-process.

Everything of session scope is written once and must not be changed by a test; `tmp_path` is for what is.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from pmsm_cli.cli.app import run

CLASSES = ("ant", "bee", "cow", "dog", "elk")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one command line gave."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> Any:
        """The JSON object on stdout."""
        return json.loads(self.out)


@pytest.fixture
def pmsm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run one command line in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return call


def shows(out: str, text: str) -> bool:
    """Whether a text is printed, wherever lines and cells of a table wrap: paths of tests are of any length."""
    squeezed = ("".join(each.split()).replace("│", "") for each in (text, out))
    return next(squeezed) in next(squeezed)


def first_column(out: str) -> str:
    """What stands in the first column of tables, whose cells wrap where others are wide."""
    return " ".join(line.split("│")[1] for line in out.splitlines() if line.startswith("│"))


def fails(outcome: Outcome, code: int, message: str) -> None:
    """The command failed with this message as the last thing on stderr, and gave no result."""
    assert outcome.err.endswith(f"error: {message}\n"), outcome.err
    assert (outcome.code, outcome.out) == (code, "")


def write_images(folder: Path, count: int, *, size: tuple[int, int] = (8, 8), seed: int = 0) -> None:
    """Seeded colour noise as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each tiny network, by the name of its factory."""
    folder = tmp_path_factory.mktemp("networks")
    for make in (
        tiny.convolutional,
        tiny.two_outputs,
        tiny.one_layer,
        tiny.without_synapse,
        tiny.text_input,
        tiny.vector_input,
        tiny.quantised,
        tiny.custom_op,
    ):
        tiny.save(make(), folder / f"{make.__name__}.onnx")
    return folder


@pytest.fixture(scope="session")
def network(networks: Path) -> Path:
    """The network that most tests use: 8x8 colour images, five classes, two sites."""
    return networks / "convolutional.onnx"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five class folders of eight 8x8 images, which is enough noise for steady thresholds."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, name in enumerate(CLASSES):
        write_images(folder / name, 8, seed=index)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, network: Path, pictures: Path) -> Path:
    """`one.onnx` (T = 1) and `three.onnx` (T = 3) of `network`, and the calibration that both come from."""
    folder = tmp_path_factory.mktemp("checkpoints")
    calibration = folder / "network.calibration.json"
    settings = ["--preprocess", "none"]
    assert run(["calibrate", str(network), str(pictures), "-o", str(calibration), "--levels", "15", *settings]) == 0
    settings += ["--calibration", str(calibration)]
    for name, timesteps in (("one", "1"), ("three", "3")):
        assert run(["convert", str(network), *settings, "-T", timesteps, "-o", str(folder / f"{name}.onnx")]) == 0
    return folder


@pytest.fixture(scope="session")
def checkpoint(checkpoints: Path) -> Path:
    """`network` at one timestep."""
    return checkpoints / "one.onnx"


@pytest.fixture(scope="session")
def stepwise(checkpoints: Path) -> Path:
    """`network` at three timesteps."""
    return checkpoints / "three.onnx"


@pytest.fixture(scope="session")
def calibration_file(checkpoints: Path) -> Path:
    """The calibration of `network`."""
    return checkpoints / "network.calibration.json"

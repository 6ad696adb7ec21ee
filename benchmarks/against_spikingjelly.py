"""SpikingJelly running its own conversion of ResNet-20 beside ours: accuracy and images per second, in one run.

    pip install spikingjelly            # in an environment of its own: it is no dependency of pmsm
    python benchmarks/against_spikingjelly.py --models ../shared/models \\
        --train .cache/cifar10/train --test .cache/cifar10/test

Theirs: rate coding with thresholds a channel at the 99.9 % quantile and half a threshold to start from, calibrated on
the same images as ours; at the number of timesteps of the best accuracy, and at the first that is as accurate as ours.
The network is rebuilt in torch from the file's weights, its shortcuts as convolutions of fixed weights: SpikingJelly
does not take the padding that they are written with. Ours: `pmsm convert --levels L`, one timestep, in the form that
`pmsm run` opens. Both read the same batches on the same number of threads, in turn.
"""

# ruff: noqa: TID251, D102

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from machine import describe
from spikingjelly.activation_based import ann2snn, functional
from torch import nn

from pmsm_cli.checkpoint.file import open_checkpoint
from pmsm_cli.pipeline.inputs import open_sample
from pmsm_cli.runtime.session import open_session
from pmsm_cli.runtime.spiking import form_of
from pmsm_cli.sources.images import read_batches
from pmsm_cli.sources.preprocessing import Preprocessing

Batches = list[tuple[np.ndarray, np.ndarray]]
Run = Callable[[np.ndarray], Any]


class Block(nn.Module):
    """Two convolutions and a shortcut, which halves the map and pads the channels where the block does."""

    def __init__(self, planes_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Conv2d(planes_in, planes, 1, stride, bias=False)
            weight = torch.zeros(planes, planes_in, 1, 1)
            before = (planes - planes_in) // 2
            weight[before : before + planes_in, :, 0, 0] = torch.eye(planes_in)
            self.shortcut.weight.data = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class ResNet20(nn.Module):
    """The network of shared/models/resnet20_cifar10_bn.onnx."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        widths = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        for index, (before, planes, stride) in enumerate(widths, 1):
            blocks = [Block(before, planes, stride), Block(planes, planes, 1), Block(planes, planes, 1)]
            setattr(self, f"layer{index}", nn.Sequential(*blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(torch.flatten(self.pool(x), 1))


def main() -> None:
    """Print the comparison as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--timesteps", type=int, default=128)
    parser.add_argument("--levels", type=int, nargs="*", default=(7, 15))
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = arguments.models / "resnet20_cifar10_bn.onnx"
    with tempfile.TemporaryDirectory() as folder:
        ours = {levels: _convert(source, levels, Path(folder), arguments) for levels in arguments.levels}
        preprocessing = open_checkpoint(next(iter(ours.values()))).manifest.preprocessing
        test = list(_batches(arguments.test, arguments.images, preprocessing, arguments))
        train = list(_batches(arguments.train, arguments.samples, preprocessing, arguments))
        _compare(source, ours, test, train, arguments)


def _compare(source: Path, ours: dict[int, Path], test: Batches, train: Batches, arguments: argparse.Namespace) -> None:
    network = ResNet20()
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(source).graph.initializer}
    own = network.state_dict()
    network.load_state_dict({name: torch.tensor(weights[name]) if name in weights else own[name] for name in own})
    network.eval()
    recipe = ann2snn.RateCodingRecipe(
        [torch.tensor(inputs) for inputs, _ in train], mode="99.9%", channel_wise=True, half_threshold=True
    )
    with torch.no_grad():
        theirs = ann2snn.Converter(recipe).convert(network).eval()
        per_step = _accuracy_per_step(theirs, test, arguments.timesteps)
        float_accuracy = _accuracy([network(torch.tensor(inputs)).numpy() for inputs, _ in test], test)
        opened = {levels: _open(path, arguments.batch, arguments.threads) for levels, path in ours.items()}
        accuracies = {levels: _accuracy([run(inputs) for inputs, _ in test], test) for levels, run in opened.items()}
        runs: dict[str, Run] = {f"ours, {levels} levels, T = 1": run for levels, run in opened.items()}
        rows = dict(zip(runs, accuracies.values(), strict=True))
        steps = {int(np.argmax(per_step)) + 1: "their best"}
        for levels, accuracy in accuracies.items():
            reached = [step for step, each in enumerate(per_step, 1) if each >= accuracy]
            if reached:
                steps.setdefault(reached[0], f"as accurate as ours with {levels} levels")
        for step, why in sorted(steps.items()):
            name = f"theirs, T = {step} ({why})"
            runs[name] = lambda inputs, step=step: _steps(theirs, inputs, step)
            rows[name] = float(per_step[step - 1])
        speeds = _images_per_second(runs, [inputs for inputs, _ in test[:4]])
    versions = f"torch {torch.__version__}, SpikingJelly {version('spikingjelly')}"
    print(f"{describe()}, {versions}; {arguments.threads} thread(s), batch {arguments.batch};")
    print(f"{arguments.images} test and {arguments.samples} calibration images, seed {arguments.seed}\n")
    print(f"The source in float: {float_accuracy:.2f} %.\n")
    print("| network | accuracy | images per second |\n|---|--:|--:|")
    for name, accuracy in rows.items():
        print(f"| {name} | {accuracy:.2f} % | {speeds[name]:.0f} |")
    marks = [step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256) if step <= len(per_step)]
    print(f"\nTheirs, T: accuracy: {', '.join(f'{step}: {per_step[step - 1]:.2f}' for step in marks)}")


def _open(path: Path, batch: int, threads: int) -> Run:
    form = form_of(open_checkpoint(path), batch=batch)
    options = {"native": form.native, "integers": form.integers}
    session = open_session(form.model, subject=str(path), threads=threads, **options)
    return lambda inputs: session.run(inputs)[0]


def _convert(source: Path, levels: int, folder: Path, arguments: argparse.Namespace) -> Path:
    target = folder / f"{levels}.onnx"
    command = [sys.executable, "-m", "pmsm_cli", "convert", str(source), "--preprocess", "imagenet", "-o", str(target)]
    command += ["--data", str(arguments.train), "--samples", str(arguments.samples), "--levels", str(levels), "--json"]
    subprocess.run([*command, "--seed", str(arguments.seed)], check=True, stdout=subprocess.PIPE)
    return target


def _batches(
    folder: Path, count: int, preprocessing: Preprocessing, arguments: argparse.Namespace
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in read_batches(open_sample(folder, count, arguments.seed), preprocessing, arguments.batch):
        yield batch.inputs, np.asarray(batch.labels)


def _steps(network: nn.Module, inputs: np.ndarray, timesteps: int) -> torch.Tensor:
    functional.reset_net(network)
    images = torch.tensor(inputs)
    total = network(images)
    for _ in range(timesteps - 1):
        total = total + network(images)
    return total


def _accuracy_per_step(network: nn.Module, batches: Batches, timesteps: int) -> np.ndarray:
    right = np.zeros(timesteps)
    for inputs, labels in batches:
        functional.reset_net(network)
        images, total = torch.tensor(inputs), torch.zeros(len(inputs), 1)
        for step in range(timesteps):
            total = total + network(images)
            right[step] += (total.argmax(dim=1).numpy() == labels).sum()
    return 100 * right / sum(len(labels) for _, labels in batches)


def _accuracy(outputs: list[np.ndarray], batches: Batches) -> float:
    right = sum((each.argmax(axis=1) == labels).sum() for each, (_, labels) in zip(outputs, batches, strict=True))
    return float(100 * right / sum(len(labels) for _, labels in batches))


def _images_per_second(runs: dict[str, Run], batches: list[np.ndarray]) -> dict[str, float]:
    """Medians over the batches, everyone in turn, each after a run that is not timed."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for inputs in batches:
        for name, run in runs.items():
            run(inputs[:2])
            start = time.perf_counter()
            run(inputs)
            taken[name].append(len(inputs) / (time.perf_counter() - start))
    return {name: float(np.median(each)) for name, each in taken.items()}


if __name__ == "__main__":
    main()

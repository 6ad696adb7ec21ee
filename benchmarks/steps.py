"""What further timesteps cost on the native library: tables of docs/speed.md.

    python benchmarks/steps.py --models ../shared/models --images .cache/imagenet-sample --threads 2

Each network is converted at 7 levels for 1, 2 and 4 timesteps; these run in turn, every one in a process of its own.
With `--weights int8` that of four in floats runs with them. Large networks are of timm, with random weights.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from machine import describe

from pmsm_cli.checkpoint.file import Checkpoint, open_checkpoint
from pmsm_cli.runtime.race import Racer, race
from pmsm_cli.runtime.session import model_bytes
from pmsm_cli.runtime.spiking import form_of

TIMESTEPS = (1, 2, 4)
IN_FLOATS = "T = 4, in floats"
# source, how it is read
NETWORKS = {
    "resnet50": ("timm:resnet50", ["--random-weights"]),
    "vit_small_patch16_224": ("timm:vit_small_patch16_224", ["--random-weights"]),
    "resnet20_cifar10_bn": ("{models}/resnet20_cifar10_bn.onnx", ["--preprocess", "imagenet"]),
    "vit5_cifar10": ("{models}/vit5_cifar10.onnx", ["--preprocess", "cifar10"]),
}


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--weights", default="float", choices=("float", "int8"))
    arguments = parser.parse_args()
    print(
        f"{describe()}; {arguments.threads} thread(s), batch 1, 7 levels, {arguments.weights} weights; "
        f"{arguments.runs} runs in turn\n"
    )
    with_floats = arguments.weights == "int8"
    print("| network | T = 1: ms | T = 2 / T = 1 | T = 4 / T = 1 |", "T = 4 in floats / T = 1 |" * with_floats)
    print("|---|--:|--:|--:|", "--:|" * with_floats)
    for name, folder in networks(arguments):
        _row(name, folder, arguments)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What says which networks there are, and how they are converted and run."""
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--folder", type=Path, help="keep the converted networks there for the next run")


def networks(arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Those that were asked for, and where each may be converted to."""
    for name in NETWORKS:
        if not arguments.only or name in arguments.only:
            with tempfile.TemporaryDirectory() as temporary:
                folder = arguments.folder or Path(temporary)
                folder.mkdir(parents=True, exist_ok=True)
                yield name, folder


def _row(name: str, folder: Path, arguments: argparse.Namespace) -> None:
    checkpoints = [converted(name, timesteps, folder, arguments) for timesteps in TIMESTEPS]
    racers = [_racer(f"T = {steps}", each, folder) for steps, each in zip(TIMESTEPS, checkpoints, strict=True)]
    if arguments.weights == "int8":
        racers.append(_racer(IN_FLOATS, checkpoints[-1], folder, integers=False))
    shape = (1, *checkpoints[0].manifest.preprocessing.shape)
    timings = race(racers, shape, runs=arguments.runs, threads=arguments.threads)
    took = {timing.name: timing.median_ms for timing in timings}
    ratios = " | ".join(f"{took[racer.name] / took['T = 1']:.2f}" for racer in racers[1:])
    print(f"| {name} | {took['T = 1']:.2f} | {ratios} |", flush=True)


def converted(name: str, timesteps: int, folder: Path, arguments: argparse.Namespace) -> Checkpoint:
    """One of the networks, from the folder where it is there."""
    source, options = NETWORKS[name]
    target = folder / f"{name}.{arguments.weights}.{timesteps}.snn.onnx"
    command = [sys.executable, "-m", "pmsm_cli", "convert", source.format(models=arguments.models), *options]
    command += ["--data", str(arguments.images), "--samples", str(arguments.samples), "--levels", "7", "--no-refit"]
    command += ["--weights", arguments.weights]
    command += ["--timesteps", str(timesteps), "-o", str(target), "--json"]
    if not target.exists():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return open_checkpoint(target)


def _racer(name: str, checkpoint: Checkpoint, folder: Path, *, integers: bool = True) -> Racer:
    form = form_of(checkpoint, integers=integers)
    path = folder / f"{name}.onnx"
    path.write_bytes(model_bytes(form.model, subject=name))
    return Racer(name=name, path=path, native=form.native, integers=form.integers)


if __name__ == "__main__":
    main()

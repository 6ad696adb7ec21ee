"""Peak memory of `pmsm calibrate`, `convert` and `eval` with few and with many images.

    python benchmarks/memory.py ../shared/models/resnet20_cifar10_bn.onnx .cache/cifar10/train

It must not grow with their number; but `convert` refits weights on images that it holds, as many as a bound allows.
"""

import argparse
import tempfile
from pathlib import Path

from machine import describe
from resources import PMSM, taken


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--preprocess", default="imagenet")
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=1000)
    arguments = parser.parse_args()
    source, images, numbers = str(arguments.source), str(arguments.images), (arguments.few, arguments.many)
    print(f"{describe()}\n\n| peak MB | {numbers[0]} images | {numbers[1]} images | ratio |\n|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, read = str(Path(folder) / "checkpoint.onnx"), ["--preprocess", arguments.preprocess]
        commands = {
            "calibrate": ["calibrate", source, images, *read, "-o", str(Path(folder) / "calibration.json")],
            "convert, without refitting": ["convert", source, "--data", images, *read, "--no-refit", "-o", checkpoint],
            "convert": ["convert", source, "--data", images, *read, "-o", checkpoint],
            "eval": ["eval", checkpoint, images],
        }
        for name, command in commands.items():
            few, many = (taken([*PMSM, *command, "--samples", str(number)])[1] for number in numbers)
            print(f"| {name} | {few:.0f} | {many:.0f} | {many / few:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""Conversions without images beside those with 512 real ones: accuracy at T = 1, one table.

    python benchmarks/data_free.py --shared ../shared --images .cache [--samples N] > docs/data-free.md

Needs the networks of ../shared/models and the images of ../shared/data, unpacked as its README says. Every figure is
what `pmsm convert` (with --data or without) and `pmsm eval --json` give on the command line. Seed 0 throughout.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import describe
from main_job import pmsm

from pmsm_cli.checkpoint.file import open_checkpoint

THREADS = "1"


@dataclass(frozen=True)
class Row:
    """A network, and what its conversions are measured on."""

    source: Path
    levels: int
    calibrate_on: Path
    evaluate_on: Path
    preprocess: str


def rows(shared: Path, images: Path) -> list[Row]:
    """All of them, in the order of the table."""
    models, digits = shared / "models", Path("sample_models")
    cifar = (images / "cifar10/train", images / "cifar10/test")
    return [
        *(Row(models / "resnet20_cifar10_bn.onnx", levels, *cifar, "imagenet") for levels in (31, 15, 7)),
        *(Row(models / "resnet20_cifar10_folded.onnx", levels, *cifar, "imagenet") for levels in (31, 15)),
        Row(models / "mobilenet_v1_025_imagenet.onnx", 255, *[images / "imagenet-sample"] * 2, "inception"),
        *(Row(models / "vit5_cifar10.onnx", levels, *cifar, "cifar10") for levels in (255, 31)),
        Row(digits / "digits.onnx", 15, digits / "digits/calibration", digits / "digits/test", "none"),
    ]


def measure(row: Row, data: list[str], some: list[str], checkpoint: Path) -> tuple[dict, np.ndarray]:
    """What `eval` says of one conversion, and all its thresholds in a row."""
    source = str(row.source)
    options = ["--preprocess", row.preprocess, "--levels", str(row.levels), "--threads", THREADS]
    pmsm("convert", source, *data, *options, "-o", str(checkpoint))
    sites = open_checkpoint(checkpoint).manifest.calibration.sites
    result = pmsm("eval", str(checkpoint), str(row.evaluate_on), "--against", source, "--threads", THREADS, *some)
    return result, np.concatenate([site.parameters.threshold.reshape(-1) for site in sites])


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--samples", type=int, help="evaluate on so many images instead of all")
    arguments = parser.parse_args()
    some = ["--samples", str(arguments.samples)] if arguments.samples else []
    print("# Conversions without images\n")
    print(f"`{' '.join(['python', *sys.argv])}`\n\n{describe()}; seed 0.\n")
    print(
        "Top-1 in percent at T = 1, and in brackets the share of images that get the source's class. The last column is"
    )
    print("the threshold without images as a multiple of that with them, the median over all channels.\n")
    print("| network | levels | images | source | without images | with 512 real images | thresholds |")
    print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.onnx"
        for row in rows(arguments.shared, arguments.images):
            free, narrow = measure(row, [], some, checkpoint)
            real, wide = measure(row, ["--data", str(row.calibrate_on)], some, checkpoint)
            cells = " | ".join(f"{each['snn']['top1']:.2f} ({each['agreement']:.2f})" for each in (free, real))
            source = f"{row.source.stem} | {row.levels} | {free['images']} | {free['ann']['top1']:.2f}"
            print(f"| {source} | {cells} | {np.median(narrow / wide):.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""The main job on real networks and real images: convert, evaluate, one table.

    python benchmarks/main_job.py --shared ../shared --images .cache [--samples N] > docs/main-job.md

Needs the networks of ../shared/models and the images of ../shared/data, unpacked as its README says; our own ones are
those of sample_models/. Every row is what `pmsm convert` and `pmsm eval --json` give on the command line; the commands
stand in the table. Seed 0 throughout. --networks NAME... measures only the rows of these.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from machine import describe


@dataclass(frozen=True)
class Row:
    """One conversion and what it is measured on."""

    network: str
    calibrate_on: str
    evaluate_on: str
    preprocess: str
    options: str
    wanted: str  # what was promised of it


CIFAR = ("cifar10/train", "cifar10/test", "imagenet")
OWN_CIFAR = ("cifar10/train", "cifar10/test", "cifar10")
DETECTION = ("detection-sample", "detection-sample", "DETECTION")
ROWS = [
    Row("resnet20_cifar10_bn", *CIFAR, "-T 1 --levels 15", "at least 87.6"),
    Row("resnet20_cifar10_folded", *CIFAR, "-T 1 --levels 15", "within 0.2 of the row above"),
    Row("resnet20_cifar10_bn", *CIFAR, "-T 4 --levels 15", "no step 0.4 below the one before, last at least 87.9"),
    Row("resnet20_cifar10_bn", *CIFAR, "-T 4 --levels 3", "first about 73, last at least 87.3"),
    Row("resnet20_cifar10_bn", *CIFAR, "-T 4 --levels 3 --coding rate", "last at least 5 above the first"),
    Row("resnet20_cifar10_bn", *CIFAR, "-T 4 --levels 7", "last within 0.1 of the source"),
    Row("resnet20_cifar10_bn", *CIFAR, "-T 4 --levels 7 --weights int8", "no step 0.2 below the row above"),
    Row(
        "mobilenet_v1_025_imagenet", "imagenet-sample", "imagenet-sample", "inception", "--levels 255", "at least 57.5"
    ),
    Row("fastestdet_coco", *DETECTION, "-T 1 --levels 255", "output error under 5 %"),
    Row("fastestdet_coco", *DETECTION, "-T 4 --levels 255", "output error under 1 %"),
    Row(
        "resnet20_cifar10_bn", "", "cifar10/test", "imagenet", "-T 1 --levels 31", "no images: within 2.0 of the source"
    ),
    Row("vit5_cifar10", *OWN_CIFAR, "-T 1 --levels 15", "at least 68.2"),
    Row("vit5_cifar10", *OWN_CIFAR, "-T 2 --levels 7", "first at least 66.5, last at least 68.3"),
    Row("vit_cifar10", *OWN_CIFAR, "-T 1 --levels 15", "within 0.8 of the source"),
    Row("vit_cifar10", *OWN_CIFAR, "-T 1 --levels 31", "within 0.3 of the source"),
    Row("vit_cifar10", *OWN_CIFAR, "-T 3 --levels 7", "last within 0.3 of the source"),
]
OWN_MODELS = Path(__file__).parent.parent / "sample_models"


def pmsm(*arguments: str) -> dict:
    """One command's JSON."""
    command = [sys.executable, "-m", "pmsm_cli", *arguments, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(row: Row, shared: Path, images: Path, samples: int | None, folder: Path) -> str:
    """The row of the table."""
    file = f"{row.network}.onnx"
    source = str(next(path for path in (OWN_MODELS / file, shared / "models" / file) if path.exists()))
    checkpoint = str(folder / "checkpoint.onnx")
    preprocess = row.preprocess
    if preprocess == "DETECTION":  # blue, green, red; the whole scene, not its centre
        preprocess = str(folder / "detection.json")
        Path(preprocess).write_text('{"channels": "BGR", "fit": "stretch"}')
    data = ["--data", str(images / row.calibrate_on)] if row.calibrate_on else []
    pmsm("convert", source, *data, "--preprocess", preprocess, *row.options.split(), "-o", checkpoint)
    some = ["--samples", str(samples)] if samples else []
    result = pmsm("eval", checkpoint, str(images / row.evaluate_on), "--against", source, *some)
    steps = result["snn"]["top1_per_step"]
    accuracy = " ".join(f"{step:.2f}" for step in steps) if steps else "-"
    top1 = result["ann"]["top1"]
    error = " ".join(f"{step:.2f}" for step in result["outputs"][0]["per_step"])
    return (
        f"| {row.network} | `{row.options}` | {result['images']} | {'-' if top1 is None else f'{top1:.2f}'} "
        f"| {accuracy} | {error} | {row.wanted} |"
    )


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--samples", type=int, help="evaluate on so many images instead of all")
    parser.add_argument("--networks", nargs="+", help="only the rows of these")
    arguments = parser.parse_args()
    print("# The main job on real networks\n")
    print(f"`{' '.join(['python', *sys.argv])}`\n\n{describe()}; 512 calibration images (all, where fewer), seed 0.\n")
    print("Top-1 and output error (L2, against the source's outputs) in percent, at every timestep.\n")
    print("| network | options | images | source | spiking | output error | wanted |")
    print("|---|---|--:|--:|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for row in [row for row in ROWS if row.network in (arguments.networks or [row.network])]:
            print(measure(row, arguments.shared, arguments.images, arguments.samples, Path(folder)), flush=True)


if __name__ == "__main__":
    main()

"""The same network by several methods: what stands in docs/compare.md.

    python benchmarks/compare.py --shared ../shared --images .cache [--samples N] [--threads N] [--plots FOLDER]

Needs the networks of ../shared/models and the images of ../shared/data, unpacked as its README says. Each section is
what `pmsm compare --format md` gives on the command line; thresholds are set on training images, seed 0.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from machine import describe

# network -> images to measure on, images to set thresholds on, preprocessing, further options
RUNS = {
    "resnet20_cifar10_bn": ("cifar10/test", "cifar10/train", "imagenet", []),
    "mobilenet_v1_025_imagenet": ("imagenet-sample", "imagenet-sample", "inception", ["--levels", "63"]),
    "vit5_cifar10": ("cifar10/test", "cifar10/train", "cifar10", []),
}


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--networks", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--samples", default="500", help="images to measure on")
    parser.add_argument("--threads", help="threads to compute with")
    parser.add_argument("--options", default="", help="further options of pmsm compare")
    parser.add_argument("--plots", type=Path, help="also draw each comparison into this folder")
    arguments = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}`\n\n{describe()}.\n", flush=True)
    for network in arguments.networks:
        measured, calibrated, preprocess, further = RUNS[network]
        command = ["compare", str(arguments.shared / "models" / f"{network}.onnx")]
        command += [
            "--data",
            str(arguments.images / measured),
            "--calibration-data",
            str(arguments.images / calibrated),
        ]
        command += ["--preprocess", preprocess, "--samples", arguments.samples, *further, *arguments.options.split()]
        command += ["--threads", arguments.threads] if arguments.threads else []
        command += ["--plot", str(arguments.plots / f"{network}.png")] if arguments.plots else []
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pmsm_cli", *command, "--format", "md"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(f"`pmsm {' '.join(command)}` ({time.perf_counter() - start:.0f} s)\n\n{done.stdout}", flush=True)


if __name__ == "__main__":
    main()

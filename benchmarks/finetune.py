"""Fine-tuning on real networks and real images: accuracy before and after each epoch, and the time that it took.

    python benchmarks/finetune.py --shared ../shared --images .cache [--threads N] [--seeds 0 1] [--rows 3:5 7:2]

Needs the networks of ../shared/models and the images of ../shared/data, unpacked as its README says. The labels of the
training images are not used: they are measured on, not trained on. Every row is what `pmsm convert`, `pmsm finetune`
and `pmsm eval --json` give on the command line.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe

NETWORK, PREPROCESS = "resnet20_cifar10_bn", "imagenet"


def pmsm(*arguments: object) -> dict:
    """One command's JSON."""
    command = ["pmsm", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def row(levels: int, epochs: int, seed: int, arguments: argparse.Namespace, folder: Path) -> str:
    """One line of the table."""
    source = arguments.shared / "models" / f"{NETWORK}.onnx"
    train, test = arguments.images / "cifar10" / "train", arguments.images / "cifar10" / "test"
    before, after = folder / "before.onnx", folder / "after.onnx"
    threads = ["--threads", arguments.threads] if arguments.threads else []
    settings = ["--preprocess", PREPROCESS, "--levels", levels, "--seed", seed, *threads]
    pmsm("convert", source, "--data", train, *settings, "-o", before)
    tuning = ["--source", source, "--epochs", epochs, "--seed", seed, *threads]
    tuned = pmsm("finetune", before, "--data", train, *tuning, "-o", after)
    results = [pmsm("eval", path, test, "--against", source, *threads) for path in (before, after)]
    held_out = " ".join(f"{record['agreement']:.2f}" for record in tuned["epochs"])
    seconds = " ".join(f"{record['seconds']:.0f}" for record in tuned["epochs"][1:])
    accuracy = [f"{result['snn']['top1']:.2f}" for result in results]
    cells = [levels, seed, epochs, f"{results[0]['ann']['top1']:.2f}", *accuracy, tuned["best_epoch"]]
    return f"| {' | '.join(map(str, cells))} | {held_out} | {seconds} |"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--threads", type=int, help="threads to compute with (default: one a core)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", default=["7:2", "3:5"], metavar="LEVELS:EPOCHS")
    arguments = parser.parse_args()
    import torch  # noqa: TID251 (its version belongs beside the figures)

    print(f"`{' '.join(['python', *sys.argv])}`\n")
    print(f"{describe()}, torch {torch.__version__}; {arguments.threads or 'all'} threads.\n")
    print("| levels | seed | epochs | source | before | after | best epoch | agreement, held out | seconds an epoch |")
    print("|--:|--:|--:|--:|--:|--:|--:|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            for levels, epochs in (map(int, each.split(":")) for each in arguments.rows):
                print(row(levels, epochs, seed, arguments, Path(folder)), flush=True)


if __name__ == "__main__":
    main()

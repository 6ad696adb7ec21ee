"""The loss of accuracy that the source's own probabilities tell, beside the one that labels tell.

    python benchmarks/expected_loss.py --shared ../shared --images .cache [--levels N...]

Needs the networks of ../shared/models and the images of ../shared/data, unpacked as its README says. Every cell is what
`pmsm convert --levels N` and `pmsm eval --against --json` give: the source's top-1 less the checkpoint's, and
`expected_drop`, on all test images and on as many training images; seed 0.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from machine import describe
from main_job import pmsm

NETWORKS = {"vit5_cifar10": "cifar10", "resnet20_cifar10_bn": "imagenet"}
IMAGES = 10_000


def cell(checkpoint: Path, images: Path, source: Path) -> str:
    """Measured and expected, in points."""
    result = pmsm("eval", str(checkpoint), str(images), "--samples", str(IMAGES), "--against", str(source))
    return f"{result['ann']['top1'] - result['snn']['top1']:.2f} ({result['expected_drop']:.2f})"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--levels", nargs="+", type=int, default=[5, 8, 12])
    arguments = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}`\n\n{describe()}; {IMAGES} images, seed 0.\n")
    print(f"| network | images | {' | '.join(f'{levels} levels' for levels in arguments.levels)} |")
    print(f"|---|---|{'--:|' * len(arguments.levels)}", flush=True)
    cifar = arguments.images / "cifar10"
    with tempfile.TemporaryDirectory() as folder:
        for network, preprocess in NETWORKS.items():
            source = arguments.shared / "models" / f"{network}.onnx"
            checkpoints = [Path(folder) / f"{levels}.onnx" for levels in arguments.levels]
            for levels, checkpoint in zip(arguments.levels, checkpoints, strict=True):
                options = ["--data", str(cifar / "train"), "--preprocess", preprocess, "--levels", str(levels)]
                pmsm("convert", str(source), *options, "-o", str(checkpoint))
            for part, name in (("train", "training"), ("test", "test")):
                cells = [cell(checkpoint, cifar / part, source) for checkpoint in checkpoints]
                print(f"| {network} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

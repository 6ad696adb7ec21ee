"""What the margin of data-free thresholds is chosen by: training images of CIFAR-10, never the test images.

    python benchmarks/data_free_margin.py --shared ../shared --images .cache

For each margin: output error against the source (L2) and, in brackets, the share of images that get the source's
class, both in percent, on 1,000 training images (seed 1), at T = 1.
"""

import argparse
import tempfile
from pathlib import Path

from pmsm_cli import pipeline
from pmsm_cli.checkpoint.file import open_checkpoint, write_files
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.pipeline import data_free

MARGINS = (1.0, 1.15, 1.3, 1.6)
NETWORKS = [
    ("resnet20_cifar10_bn", "imagenet", 31),
    ("resnet20_cifar10_bn", "imagenet", 7),
    ("vit5_cifar10", "cifar10", 31),
    ("vit5_cifar10", "cifar10", 7),
]


class Silent:
    """Progress that nobody sees."""

    def start(self, stage: str, total: int) -> None:
        """Nothing."""

    def advance(self, images: int) -> None:
        """Nothing."""


def measure(source: Path, preprocess: str, levels: int, images: Path, checkpoint: Path) -> str:
    """One cell of the table, at the margin that is set."""
    loaded = pipeline.load_source(source, pipeline.InputSettings(preprocess=preprocess))
    settings = pipeline.CalibrationSettings(data=None, samples=0, levels=levels, threads=1)
    calibrated = pipeline.calibrate_source(loaded, settings, Silent())
    made = pipeline.convert(loaded, calibrated, timesteps=1, coding=Coding.REFINE)
    write_files({checkpoint: made.data})
    sample = pipeline.open_sample(images, 1000, 1)
    result = pipeline.evaluate_checkpoint(
        open_checkpoint(checkpoint), sample, against=source, threads=1, progress=Silent()
    )
    return f"{result.outputs[0].relative_error:.1f} ({result.agreement:.1f})"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    arguments = parser.parse_args()
    print(f"| network | levels | {' | '.join(f'margin {margin}' for margin in MARGINS)} |")
    print(f"|---|--:|{'--:|' * len(MARGINS)}", flush=True)
    train = arguments.images / "cifar10/train"
    with tempfile.TemporaryDirectory() as folder:
        for name, preprocess, levels in NETWORKS:
            cells = []
            for margin in MARGINS:
                data_free.MARGIN = margin
                source = arguments.shared / "models" / f"{name}.onnx"
                cells.append(measure(source, preprocess, levels, train, Path(folder) / "checkpoint.onnx"))
            print(f"| {name} | {levels} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

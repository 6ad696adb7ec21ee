"""How many times its share of the distortion clipping should count: what the outputs say (docs/calibration.md).

    python benchmarks/clipping.py --shared ../shared --images .cache [--counts 1 1.5 2 4] [--samples 2000]

Converts with `--method entropy` for each number (`CLIPPED_COUNTS` in `pmsm_cli.calibration.objectives`), T = 1, seed 0,
weights refitted, and measures what `pmsm eval --against` prints: the outputs' relative error in percent.
"""

import argparse
import tempfile
from pathlib import Path

from calibration import MOBILENET, RESNET, VIT, Subject, source_of
from machine import describe
from timm_coverage import pmsm

from pmsm_cli.calibration import objectives

ROWS = [(RESNET, 3), (RESNET, 7), (RESNET, 15), (MOBILENET, 15), (MOBILENET, 31), (VIT, 7), (VIT, 15)]


def measure(
    subject: Subject, levels: int, shared: Path, images: Path, samples: int, *, seed: int = 0
) -> tuple[float, float]:
    """The outputs' error in percent and the spikes per neuron, by the code as it is set."""
    source = source_of(subject, shared)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.onnx"
        made = pmsm(
            "convert", source, "--data", images / subject.calibrate_on, "--preprocess", subject.preprocess,
            "--samples", subject.calibration_images, "--seed", seed, "--levels", levels, "-o", checkpoint,
        )  # fmt: skip
        seen = pmsm("eval", checkpoint, images / subject.evaluate_on, "--against", source, "--samples", samples)
    return seen["outputs"][0]["relative_error"], made["mean_spikes"]


def main() -> None:
    """Print one row for each network and number of levels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--counts", type=float, nargs="+", default=[1.0, 1.5, 2.0, 4.0])
    parser.add_argument("--samples", type=int, default=2000)
    arguments = parser.parse_args()
    print(f"{describe()}; up to {arguments.samples} images, seed 0; output error in percent (spikes per neuron)\n")
    print(f"| network | levels | {' | '.join(f'{count:g} times' for count in arguments.counts)} |")
    print(f"|---|--:|{'--:|' * len(arguments.counts)}", flush=True)
    for subject, levels in ROWS:
        cells = []
        for count in arguments.counts:
            objectives.CLIPPED_COUNTS = count
            error, spikes = measure(subject, levels, arguments.shared, arguments.images, arguments.samples)
            cells.append(f"{error:.2f} ({spikes:.2f})")
        print(f"| {subject.name} | {levels} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

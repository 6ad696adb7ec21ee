"""What an image costs: every network of the comparison by every bundled profile, on real networks and real images.

    python benchmarks/energy.py --shared ../shared --images .cache [--samples N] > docs/energy-measured.md

Needs the networks of ../shared/models and the images of ../shared/data, unpacked as its README says. Every figure is
what `pmsm report --json` gives; seed 0 throughout.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from machine import describe

PROFILES = ("45nm", "45nm-memory", "loihi2")


@dataclass(frozen=True)
class Row:
    """One conversion and what it is measured on."""

    network: str
    calibrate_on: str
    measure_on: str
    preprocess: str
    options: str
    samples: int


ROWS = [
    Row("resnet20_cifar10_bn", "cifar10/train", "cifar10/test", "imagenet", "-T 1 --levels 15", 1000),
    Row("resnet20_cifar10_bn", "cifar10/train", "cifar10/test", "imagenet", "-T 1 --levels 3", 1000),
    Row("resnet20_cifar10_bn", "cifar10/train", "cifar10/test", "imagenet", "-T 4 --levels 3", 1000),
    Row("vit5_cifar10", "cifar10/train", "cifar10/test", "cifar10", "-T 1 --levels 7", 1000),
    Row("mobilenet_v1_025_imagenet", "imagenet-sample", "imagenet-sample", "inception", "-T 1 --levels 31", 200),
]


def pmsm(*arguments: str) -> str:
    """What one command prints."""
    command = [sys.executable, "-m", "pmsm_cli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def computed() -> float:
    """Seconds that commands have kept processors busy for so far: what else runs on the machine leaves no trace."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(row: Row, arguments: argparse.Namespace, folder: Path) -> list[str]:
    """The lines of the table that one conversion gives, and how long counting took."""
    source = str(arguments.shared / "models" / f"{row.network}.onnx")
    checkpoint = str(folder / "checkpoint.onnx")
    data = ["--data", str(arguments.images / row.calibrate_on), "--threads", str(arguments.threads)]
    pmsm("convert", source, *data, "--preprocess", row.preprocess, *row.options.split(), "-o", checkpoint)
    samples = str(min(row.samples, arguments.samples or row.samples))
    lines = []
    for profile in PROFILES:
        images = ["--data", str(arguments.images / row.measure_on), "--samples", samples, "--against", source]
        began = computed()
        options = ["--threads", str(arguments.threads), "--profile", profile, "--json"]
        report = json.loads(pmsm("report", checkpoint, *images, *options))
        seconds = computed() - began
        costs = {column["name"]: column for column in report["columns"]}
        cells = [f"{1e3 * costs[name]['total_mj']:.3g}" for name in costs]
        ratios = [f"{costs[name]['over_snn']:.2f} / {costs[name]['over_snn_int8']:.2f}" for name in list(costs)[:3]]
        steps = report["accuracy"]["top1_per_step"]
        accuracy = f"{report['accuracy']['source_top1']:.1f} / {steps[-1]:.1f}"
        lines.append(
            f"| {row.network} | `{row.options}` | {profile} | {report['images']} | {accuracy} "
            f"| {sum(report['spikes_per_neuron']):.2f} | {' | '.join(cells)} | {' | '.join(ratios)} | {seconds:.0f} |"
        )
    return lines


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--samples", type=int, help="measure on no more than so many images")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print("# What an image costs, measured\n")
    print(f"`{' '.join(['python', *sys.argv])}`\n\n{describe()}; 512 calibration images, seed 0.\n")
    print(
        "Energies in microjoule per image; [energy.md](energy.md) says what they hold. Ratios: the network named over"
    )
    print("the spiking one, with weights in fp32 / in int8: above 1 the spiking network takes less.\n")
    print(
        "| network | options | profile | images | top-1: source / spiking | spikes per neuron | source fp32 "
        "| source int8 | quantised | spiking fp32 | spiking int8 | fp32 over spiking | int8 over spiking "
        "| quantised over spiking | CPU s |"
    )
    print(f"|---|---|---|{'--:|' * 12}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for row in ROWS:
            print("\n".join(measure(row, arguments, Path(folder))), flush=True)


if __name__ == "__main__":
    main()

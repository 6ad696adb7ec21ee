"""The paper's rows: VGG-16, ResNet-20 and a vision transformer on CIFAR-10, beside QCFS. The tables of docs/paper.md.

    python benchmarks/paper.py --shared ../shared --images .cache --vgg16 .cache/vgg16_cifar10.onnx [--samples N]

Needs the networks of ../shared/models, the images of ../shared/data, unpacked as its README says, and the VGG-16 that
`sample_models/train_vgg.py` trains. Accuracy is what `pmsm convert -T 4` and `pmsm eval` give on all test images,
spikes and energy what `pmsm compare` gives on --samples of them; thresholds are set on training images, seed 0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe

STEPS = (1, 2, 4, 8, 16, 32)
SHOWN = (1, 2, 4)
OURS, BASELINE = "pmsm-refine", "qcfs"
WITHIN = 1.0  # points that the baseline may lose against the source
Result = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A network, and how it reads images."""

    title: str
    network: Path
    preprocess: str


def pmsm(*arguments: object) -> Result:
    """One command's JSON."""
    command = [sys.executable, "-m", "pmsm_cli", *map(str, arguments)]
    result: Result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def accuracy(subject: Subject, images: Path, threads: list[str]) -> Result:
    """Top-1 of the source and of the first steps, on all test images."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.onnx"
        data = ["--data", images / "train", "--preprocess", subject.preprocess]
        pmsm("convert", subject.network, *data, "-T", max(SHOWN), "-o", checkpoint, "--json", *threads)
        return pmsm("eval", checkpoint, images / "test", "--against", subject.network, "--json", *threads)


def compared(subject: Subject, images: Path, samples: int, threads: list[str]) -> dict[str, Result]:
    """Every method that could be run, by name; the source's figures under `source`."""
    data = ["--data", images / "test", "--calibration-data", images / "train", "--preprocess", subject.preprocess]
    listed = ",".join(map(str, STEPS))
    measured = ["--samples", samples, "--timesteps", listed, "--within", WITHIN, "--format", "json"]
    found = pmsm("compare", subject.network, *data, *measured, *threads)
    methods = {method["name"]: method for method in found["methods"] if method["points"]}
    return {**methods, "source": found["ann"]}


def at(method: Result, steps: int) -> Result:
    """A method's figures after so many steps."""
    point: Result = next(point for point in method["points"] if point["timesteps"] == steps)
    return point


def against_baseline(subject: Subject, images: Path, samples: int, threads: list[str]) -> list[str]:
    """Accuracy and energy of QCFS beside ours, and how many times as much it takes at equal accuracy."""
    methods = compared(subject, images, samples, threads)
    lines = ["| method | T | top-1 | spikes per neuron | synaptic operations | mJ, 45nm |", "|---|--:|--:|--:|--:|--:|"]
    source = methods["source"]
    lines.append(f"| source, fp32 | | {source['top1']:.1f} | | | {source['energy_mj']:.4f} |")
    lines.append(f"| source, int8 | | | | | {source['energy_int8_mj']:.4f} |")
    for name in (OURS, BASELINE):
        for point in methods[name]["points"] if name in methods else ():
            figures = f"{point['spikes_per_neuron']:.2f} | {point['synaptic_ops']:.3g} | {point['energy_mj']:.4f}"
            lines.append(f"| {methods[name]['title']} | {point['timesteps']} | {point['top1']:.1f} | {figures} |")
    first = methods[BASELINE]["first_within"] if BASELINE in methods else None
    if BASELINE not in methods:
        lines.append("\nQCFS has no neuron for values below 0, which this network needs.")
    elif first is None:
        lines.append(f"\nQCFS does not come within {WITHIN:g} point of the source in {STEPS[-1]} steps.")
    else:
        steps = first["timesteps"]
        ratio = first["energy_mj"] / at(methods[OURS], 1)["energy_mj"]
        lines.append(
            f"\nQCFS comes within {WITHIN:g} point of the source at T = {steps}: {ratio:.2f} times our energy at T = 1."
        )
    return lines


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--vgg16", type=Path, default=Path(".cache/vgg16_cifar10.onnx"))
    parser.add_argument("--samples", type=int, default=500, help="test images that spikes are counted on")
    parser.add_argument("--threads", help="threads to compute with")
    parser.add_argument("--only", nargs="+", help="VGG-16, ResNet-20, ViT")
    arguments = parser.parse_args()
    own = Path(__file__).parent.parent / "sample_models"
    subjects = [
        Subject("ResNet-20", arguments.shared / "models" / "resnet20_cifar10_bn.onnx", "imagenet"),
        Subject("VGG-16", arguments.vgg16, "cifar10"),
        Subject("ViT", own / "vit_cifar10.onnx", "cifar10"),
    ]
    subjects = [subject for subject in subjects if not arguments.only or subject.title in arguments.only]
    threads = ["--threads", arguments.threads] if arguments.threads else []
    images = arguments.images / "cifar10"
    print(f"`{' '.join(['python', *sys.argv])}`\n\n{describe()}; seed 0; {arguments.samples} images for energy.\n")
    print(f"| network | images | source | {' | '.join(f'T = {steps}' for steps in SHOWN)} |")
    print(f"|---|--:|--:|{'--:|' * len(SHOWN)}", flush=True)
    for subject in subjects:
        found = accuracy(subject, images, threads)
        steps = " | ".join(f"{found['snn']['top1_per_step'][count - 1]:.2f}" for count in SHOWN)
        print(f"| {subject.title} | {found['images']} | {found['ann']['top1']:.2f} | {steps} |", flush=True)
    for subject in subjects:
        print(f"\n### {subject.title}\n")
        print("\n".join(against_baseline(subject, images, arguments.samples, threads)), flush=True)


if __name__ == "__main__":
    main()

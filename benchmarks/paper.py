"""The paper's rows: VGG-16, ResNet-20 and a vision transformer on CIFAR-10, beside QCFS. The tables of docs/paper.md.

    python benchmarks/paper.py --shared ../shared --images .cache --vgg16 .cache/vgg16_cifar10.onnx [--samples N] \
        [--only NETWORK] [--parts accuracy energy]

Needs the networks of ../shared/models, the images of ../shared/data, unpacked as its README says, and the VGG-16 that
`sample_models/train_vgg.py` trains. Accuracy is what `pmsm convert -T 4` and `pmsm eval` give on all test images,
spikes and energy what `pmsm compare` gives on --samples of them; thresholds are set on training images, seed 0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe

STEPS = "1,2,4,8,16,32"
SHOWN = (1, 2, 4)
OURS, BASELINE = "pmsm-refine", "qcfs"
SHOWN_METHODS = (OURS, BASELINE)
PROFILE = "45nm"  # beside which `pmsm compare` bills 45nm-memory from the same counts
WITHIN = 1.0  # points that a method may lose against the source
PARTS = ("accuracy", "energy")
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


def compared(subject: Subject, images: Path, samples: int, steps: str, threads: list[str]) -> Result:
    """What `pmsm compare` found."""
    data = ["--data", images / "test", "--calibration-data", images / "train", "--preprocess", subject.preprocess]
    measured = ["--samples", samples, "--timesteps", steps, "--within", WITHIN, "--profile", PROFILE, "--json"]
    return pmsm("compare", subject.network, *data, *measured, *threads)


def row(*cells: object) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def every_step(found: Result) -> list[str]:
    """Ours and QCFS after every number of timesteps, by both profiles."""
    profiles = found["profiles"]
    titles = ["method", "T", "top-1", "spikes per neuron", "synaptic operations", *(f"mJ, {name}" for name in profiles)]
    lines = [row(*titles), row("---", *["--:"] * (len(titles) - 1))]
    source = found["ann"]
    for title, top1, key in (
        ("source, fp32", f"{source['top1']:.1f}", "energy_by_profile"),
        ("source, int8", "", "energy_int8_by_profile"),
    ):
        lines.append(row(title, "", top1, "", "", *(f"{source[key][name]:.4f}" for name in profiles)))
    for method in found["methods"]:
        for point in method["points"] if method["name"] in SHOWN_METHODS else ():
            figures = [f"{point['top1']:.1f}", f"{point['spikes_per_neuron']:.2f}", f"{point['synaptic_ops']:.3g}"]
            energies = [f"{point['energy_by_profile'][name]:.4f}" for name in profiles]
            lines.append(row(method["title"], point["timesteps"], *figures, *energies))
    return lines


def against_ours(found: Result) -> list[str]:
    """Each method where it first comes within a point of the source, over ours at one timestep, by both profiles."""
    profiles = found["profiles"]
    ours = next(method for method in found["methods"] if method["name"] == OURS)["points"][0]["energy_by_profile"]
    titles = [
        "method",
        "first T within a point",
        "top-1",
        "setting",
        *(f"over ours at T = 1, {name}" for name in profiles),
    ]
    lines = [row(*titles), row("---", "--:", "--:", "---", *["--:"] * len(profiles))]
    for method in found["methods"]:
        point, last = method["first_within"], method["points"][-1:]
        if point:
            ratios = [f"{point['energy_by_profile'][name] / ours[name]:.2f}x" for name in profiles]
            cells = [point["timesteps"], f"{point['top1']:.1f}", point["setting"], *ratios]
            lines.append(row(method["title"], *cells))
        elif last:
            reached = f"> {last[0]['timesteps']}"
            lines.append(row(method["title"], reached, f"{last[0]['top1']:.1f}", "", *[""] * len(profiles)))
        else:
            lines.append(row(method["title"], "", "", f"does not apply: {method['reason']}", *[""] * len(profiles)))
    return lines


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--vgg16", type=Path, default=Path(".cache/vgg16_cifar10.onnx"))
    parser.add_argument("--samples", type=int, default=500, help="test images that spikes are counted on")
    parser.add_argument("--threads", help="threads to compute with")
    parser.add_argument("--timesteps", default=STEPS, help="numbers of timesteps that energy is compared at")
    parser.add_argument("--only", nargs="+", help="VGG-16, ResNet-20, ViT")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="which tables")
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
    if "accuracy" in arguments.parts:
        print(row("network", "images", "source", *(f"T = {steps}" for steps in SHOWN)))
        print(row("---", *["--:"] * (len(SHOWN) + 2)), flush=True)
        for subject in subjects:
            found = accuracy(subject, images, threads)
            steps = [f"{found['snn']['top1_per_step'][count - 1]:.2f}" for count in SHOWN]
            print(row(subject.title, found["images"], f"{found['ann']['top1']:.2f}", *steps), flush=True)
    if "energy" in arguments.parts:
        for subject in subjects:
            start = time.perf_counter()
            found = compared(subject, images, arguments.samples, arguments.timesteps, threads)
            seconds = time.perf_counter() - start
            print(f"\n### {subject.title}, {found['images']} images ({seconds:.0f} s)\n")
            print("\n".join([*every_step(found), "", *against_ours(found)]), flush=True)


if __name__ == "__main__":
    main()

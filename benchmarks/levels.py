"""Levels found for a target against even levels: spikes per neuron at which half a point of accuracy is kept.

    python benchmarks/levels.py --shared ../shared --images .cache > docs/levels-found.md

Needs the networks of ../shared/models (or of sample_models) and the images of ../shared/data, unpacked as its README
says. Levels are found on training images, with their labels; the drop that counts is that on all test images, which the
search never sees. Every row is what `pmsm convert` and `pmsm eval --json` give; seed 0, 512 images for the thresholds.
Even levels are tried one by one, from few to many, until the drop on the test images is kept.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from machine import describe
from main_job import pmsm

NETWORKS = {"resnet20_cifar10_bn": "imagenet", "vit5_cifar10": "cifar10", "vit_cifar10": "cifar10"}
OWN = Path(__file__).parent.parent / "sample_models"
EVEN = (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 21, 23, 27, 31)


def measure(source: Path, preprocess: str, images: Path, options: list[str], target: Path) -> tuple[dict, dict]:
    """The summary of a conversion and its evaluation on the test images."""
    data = ["--data", str(images / "cifar10/train"), "--preprocess", preprocess]
    made = pmsm("convert", str(source), *data, *options, "-o", str(target))
    return made, pmsm("eval", str(target), str(images / "cifar10/test"), "--against", str(source))


def row(network: str, options: list[str], made: dict, result: dict) -> str:
    """One row of the table."""
    source, spiking = result["ann"]["top1"], result["snn"]["top1"]
    return (
        f"| {network} | `{' '.join(options)}` | {source:.2f} | {spiking:.2f} | {source - spiking:.2f} "
        f"| {result['agreement']:.2f} | {result['outputs'][0]['relative_error']:.2f} | {made['mean_spikes']:.3f} |"
    )


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--target-drop", type=float, default=0.5)
    parser.add_argument("--even", nargs="*", type=int, default=EVEN, help="the even levels to try")
    arguments = parser.parse_args()
    drop = arguments.target_drop
    print("# Levels found, against even levels\n")
    print(f"`{' '.join(['python', *sys.argv])}`\n\n{describe()}.")
    print("\n10,000 test images, 512 training images for the thresholds, seed 0, T = 1.\n")
    curves = []
    print("| network | options | source | spiking | drop | agreement | output error | spikes per neuron |")
    print("|---|---|--:|--:|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "checkpoint.onnx"
        for network in arguments.networks:
            preprocess = NETWORKS[network]
            own = OWN / f"{network}.onnx"
            source = own if own.exists() else arguments.shared / "models" / f"{network}.onnx"
            options = ["--target-drop", f"{drop:g}"]
            found, result = measure(source, preprocess, arguments.images, options, target)
            print(row(network, options, found, result), flush=True)
            curves.append((network, found["allocation"]))
            for levels in arguments.even:
                options = ["--levels", str(levels)]
                even, result = measure(source, preprocess, arguments.images, options, target)
                print(row(network, options, even, result), flush=True)
                if result["ann"]["top1"] - result["snn"]["top1"] <= drop:
                    saved = 100 * (1 - found["mean_spikes"] / even["mean_spikes"])
                    curves[-1][1]["saved"] = f"{saved:.0f} % fewer spikes than --levels {levels}, the first to keep it"
                    break
    for network, allocation in curves:
        print(f"\n## {network}: {allocation.get('saved', 'no even levels keep it')}\n")
        print(f"The search, on {allocation['images']} training images:\n")
        print("| spikes per neuron | mean N + P | top-1 | agreement | output error |")
        print("|--:|--:|--:|--:|--:|")
        for point in allocation["curve"]:
            mark = "**" if point == allocation["chosen"] else ""
            print(
                f"| {mark}{point['spikes_per_neuron']:.3f}{mark} | {point['mean_levels']:.1f} | {point['top1']:.2f} "
                f"| {point['agreement']:.2f} | {point['output_error']:.2f} |"
            )


if __name__ == "__main__":
    main()

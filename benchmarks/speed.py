"""How fast checkpoints run beside the networks that they come from: the table of docs/speed.md.

    python benchmarks/speed.py --models ../shared/models --images .cache/imagenet-sample --threads 2

Large networks are timm's architectures with random weights (speed does not depend on them), converted at 15 levels with
--weights int8 and with --weights float; small ones the trained files of --models. Each is timed by `pmsm bench`: all
forms in turn, every one in a process of its own. `--folder` keeps the converted networks for the next run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe

LARGE = ("resnet50", "vgg16", "vit_small_patch16_224", "mobilenetv2_100")
# network, preprocessing, levels
SMALL = (
    ("resnet20_cifar10_bn", "imagenet", 15),
    ("mobilenet_v1_025_imagenet", "inception", 63),
    ("vit5_cifar10", "cifar10", 15),
)
FORMS = {
    "source, onnxruntime's static int8": "static int8",
    "spiking, portable": "portable",
    "spiking, stock operators": "stock",
    "spiking, native library": "library",
    "spiking, integers": "integers",
    "spiking, integers and native library": "both",
}


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    print(f"{describe()}; {arguments.threads} thread(s), batch 1, T = 1, {arguments.runs} runs in turn\n")
    print(f"Source's time over that of\n\n| network | weights | source, float: ms | {' | '.join(FORMS.values())} |")
    print(f"|---|---|--:|{'--:|' * len(FORMS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        rows = [(f"timm:{name}", None, 15) for name in LARGE]
        rows += [(str(arguments.models / f"{name}.onnx"), preprocess, levels) for name, preprocess, levels in SMALL]
        for source, preprocess, levels in rows:
            if not arguments.only or any(name in source for name in arguments.only):
                for weights in ("float", "int8"):
                    _row(source, preprocess, levels, weights, folder, arguments)


def _row(
    source: str, preprocess: str | None, levels: int, weights: str, folder: Path, arguments: argparse.Namespace
) -> None:
    name = source.removeprefix("timm:") if source.startswith("timm:") else Path(source).stem
    target = folder / f"{name}.{levels}.{weights}.onnx"
    own = ["--random-weights"] if source.startswith("timm:") else ["--preprocess", preprocess]
    threads = ["--threads", str(arguments.threads)]
    if not target.exists():
        images = ["--data", str(arguments.images), "--samples", str(arguments.samples)]
        _pmsm(
            "convert", source, *own, *images, *threads, "--levels", str(levels), "--weights", weights, "-o", str(target)
        )
    random = own if source.startswith("timm:") else []
    images = ["--data", str(arguments.images), "--runs", str(arguments.runs)]
    record = _pmsm("bench", str(target), "--against", source, *random, *threads, *images)
    by_name = {each["name"]: each["median_ms"] for each in record["contenders"]}
    base = record["ann"]["median_ms"]
    cells = [f"{base / by_name[form]:.2f}" if form in by_name else "-" for form in FORMS]
    print(f"| {name} | {weights}, {levels} levels | {base:.2f} | {' | '.join(cells)} |", flush=True)


def _pmsm(*arguments: str) -> dict:
    command = [sys.executable, "-m", "pmsm_cli", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


if __name__ == "__main__":
    main()

"""Peak memory of `pmsm convert` with few and with many images, and of `pmsm eval`: it must not grow with their number.

python benchmarks/memory.py ../shared/models/resnet20_cifar10_bn.onnx .cache/cifar10/train --few 500 --many 5000
"""

import argparse
import tempfile
from pathlib import Path

from machine import describe
from resources import PMSM, taken


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--preprocess", default="imagenet")
    parser.add_argument("--few", type=int, default=500)
    parser.add_argument("--many", type=int, default=5000)
    arguments = parser.parse_args()
    print(f"{describe()}\n\n| command | images | peak MB |\n|---|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = str(Path(folder) / "checkpoint.onnx")
        common = ["--preprocess", arguments.preprocess, "-o", checkpoint]
        peaks = []
        for samples in (arguments.few, arguments.many):
            command = [*PMSM, "convert", str(arguments.source), "--data", str(arguments.images), *common]
            peaks.append(taken([*command, "--samples", str(samples)])[1])
            print(f"| convert | {samples} | {peaks[-1]:.0f} |", flush=True)
        print(f"| convert, ratio | | {peaks[1] / peaks[0]:.3f} |")
        for samples in (arguments.few, arguments.many):
            command = [*PMSM, "eval", checkpoint, str(arguments.images), "--samples", str(samples)]
            print(f"| eval | {samples} | {taken(command)[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()

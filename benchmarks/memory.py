"""Peak memory of `pmsm convert` with few and with many images, and of `pmsm eval`: it must not grow with their number.

python benchmarks/memory.py ../shared/models/resnet20_cifar10_bn.onnx .cache/cifar10/train --few 500 --many 5000
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from machine import describe


def peak_megabytes(command: list[str]) -> float:
    """The largest resident size of one command, as the operating system accounts it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss / 1024


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
            command = ["pmsm", "convert", str(arguments.source), "--data", str(arguments.images), *common]
            peaks.append(peak_megabytes([*command, "--samples", str(samples)]))
            print(f"| convert | {samples} | {peaks[-1]:.0f} |", flush=True)
        print(f"| convert, ratio | | {peaks[1] / peaks[0]:.3f} |")
        for samples in (arguments.few, arguments.many):
            command = ["pmsm", "eval", checkpoint, str(arguments.images), "--samples", str(samples)]
            print(f"| eval | {samples} | {peak_megabytes(command):.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""What a `pmsm` command takes: seconds and peak memory, several times.

    python benchmarks/resources.py --runs 3 -- calibrate timm:vit_small_patch16_224 .cache/imagenet-sample \\
        --random-weights --samples 64

What the command writes goes to a folder that is deleted; `-o` is added.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

PMSM = (sys.executable, "-m", "pmsm_cli")


def taken(command: list[str]) -> tuple[float, float]:
    """Seconds, and the largest resident size in MB as the operating system accounts it."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("command", nargs="+", metavar="-- COMMAND ...")
    arguments = parser.parse_args()
    print(f"{describe()}\n\n| `pmsm {' '.join(arguments.command)}` | seconds | peak MB |\n|---|--:|--:|")
    for run in range(1, arguments.runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            output = ["-o", str(Path(folder) / "written")]
            seconds, megabytes = taken([*PMSM, *arguments.command, *output])
        print(f"| run {run} | {seconds:.1f} | {megabytes:.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""How long the spiking network takes beside its source, in the same onnxruntime: ratios of interleaved runs.

    python benchmarks/evaluation_speed.py ../shared/models/resnet20_cifar10_bn.onnx r20.onnx .cache/cifar10/test

Both run over the same decoded images in turn, batch after batch, so that a noisy machine is fair to both. The spiking
network runs three times: in the form that is fastest here, its file with the native library, and with the function
bodies alone.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from machine import describe

from pmsm_cli import pipeline
from pmsm_cli.checkpoint.file import open_checkpoint
from pmsm_cli.runtime.session import open_session
from pmsm_cli.runtime.spiking import open_spiking
from pmsm_cli.sources.images import read_batches


def main() -> None:
    """Print seconds and ratios as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samples", type=int)
    arguments = parser.parse_args()
    checkpoint = open_checkpoint(arguments.checkpoint)
    threads = arguments.threads
    sessions = {
        "source": pipeline.open_reference(pipeline.open_network(arguments.source), threads=threads),
        "spiking, as `pmsm eval` runs it": open_spiking(checkpoint, batch=arguments.batch, threads=threads),
        "spiking, native library": open_session(checkpoint.model, subject="native", threads=threads),
        "spiking, function bodies": open_session(checkpoint.model, subject="portable", threads=threads, native=False),
    }
    seconds = {name: [] for name in sessions}
    images = pipeline.open_sample(arguments.images, arguments.samples, seed=0)
    for batch in read_batches(images, checkpoint.manifest.preprocessing, arguments.batch):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(batch.inputs)
            seconds[name].append(time.perf_counter() - start)
    baseline = np.array(seconds["source"][1:])  # the first batch warms up
    print(
        f"{describe()}; {threads} threads, batch {arguments.batch}, {len(images)} images, T = "
        f"{checkpoint.manifest.timesteps}\n"
    )
    print("| network | total s | ratio to the source: total | median of the batches |\n|---|--:|--:|--:|")
    for name, taken in seconds.items():
        own = np.array(taken[1:])
        print(f"| {name} | {own.sum():.2f} | {own.sum() / baseline.sum():.2f} | {np.median(own / baseline):.2f} |")


if __name__ == "__main__":
    main()

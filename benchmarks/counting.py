"""What counting spikes costs on the native library, at one timestep: a table of docs/speed.md.

    python benchmarks/counting.py --models ../shared/models --images .cache/imagenet-sample --threads 2 --batches 1 32

Networks are those of steps.py. Each round opens either form anew, the counted one first every other time, since where
buffers happen to lie makes several percent, and runs them in turn, a few times each. The mean of the rounds' ratios of
medians stands with its standard error.
"""

import argparse
import time

import numpy as np
from machine import describe
from steps import add_options, converted, networks

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.runtime.count import fan_out_a_position
from pmsm_cli.runtime.counters import add_counters
from pmsm_cli.runtime.library import find_library
from pmsm_cli.runtime.session import Session, open_session
from pmsm_cli.runtime.spiking import form_of, has_codes
from pmsm_cli.runtime.workload import measure_shapes

AT_A_TIME = 5  # runs of one form before the other's turn; the first of them warms up


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(weights="float")  # with int8 ones there is a further form, in which nothing is counted
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=12, help="at least 2")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a round takes")
    arguments = parser.parse_args()
    print(
        f"{describe()}; {arguments.threads} thread(s), 7 levels, float weights, T = 1; "
        f"{arguments.rounds} rounds of {arguments.seconds:g} s\n"
    )
    print("| network | batch | not counted: ms | counting costs | rounds |\n|---|--:|--:|--:|--:|")
    for name, folder in networks(arguments):
        checkpoint = converted(name, 1, folder, arguments)
        for batch in arguments.batches:
            _row(name, checkpoint, batch, arguments)


def _row(name: str, checkpoint: Checkpoint, batch: int, arguments: argparse.Namespace) -> None:
    shapes = measure_shapes(checkpoint)
    fans = fan_out_a_position(checkpoint, shapes)
    plain = form_of(checkpoint, batch=batch).model
    counted = add_counters(checkpoint, shapes, fans, library=find_library()).model
    random = np.random.default_rng(0)
    inputs = random.normal(size=(batch, *checkpoint.manifest.preprocessing.shape)).astype(np.float32)
    rounds = []
    for number in range(arguments.rounds):
        models = [plain, counted][:: -1 if number % 2 else 1]
        sessions = [
            open_session(model, subject=name, threads=arguments.threads, integers=has_codes(model)) for model in models
        ]
        rounds.append(_medians(sessions[:: -1 if number % 2 else 1], inputs, arguments.seconds))
    without, with_counts = np.array(rounds).T
    percent = 100 * (with_counts / without - 1)
    error = percent.std(ddof=1) / len(percent) ** 0.5
    print(
        f"| {name} | {batch} | {1000 * np.median(without):.2f} | {percent.mean():.1f} ± {error:.1f} % | "
        f"{percent.min():.1f} to {percent.max():.1f} |",
        flush=True,
    )


def _medians(sessions: list[Session], inputs: np.ndarray, seconds: float) -> list[float]:
    taken: list[list[float]] = [[] for _ in sessions]
    end, turn = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or turn < 2:
        for index in range(len(sessions))[:: -1 if turn % 2 else 1]:
            for run in range(AT_A_TIME):
                start = time.perf_counter()
                sessions[index].run(inputs)
                if run:
                    taken[index].append(time.perf_counter() - start)
        turn += 1
    return [float(np.median(each)) for each in taken]


if __name__ == "__main__":
    main()

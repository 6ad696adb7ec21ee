"""Networks timed against each other: each in a process of its own, in turn, on the same input.

A process of its own, because peak memory is a property of a process. In turn, run by run, because a noisy machine is
then noisy to all alike. Threads that wait for work do not spin between runs, which would slow down whoever is next.
"""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from pmsm_cli.errors import PmsmError, SetupError, UnsupportedGraphError
from pmsm_cli.runtime.session import Session, open_session

_WARM_UP = 3  # runs that are not counted: memory is laid out, kernels are chosen
_PATIENCE = 600.0  # seconds for a network to load, or for one run


@dataclass(frozen=True, kw_only=True, slots=True)
class Racer:
    """A network in a file, and how it is opened."""

    name: str
    path: Path
    native: bool = False  # with the library of neurons
    integers: bool = False  # as `open_session` has it


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What one network took."""

    name: str
    median_ms: float  # of a batch
    p95_ms: float
    images_per_second: float  # by the median
    peak_memory_mb: float  # beyond the bare process, from opening the file on
    model_mb: float  # size of the file


def race(
    racers: Sequence[Racer],
    shape: tuple[int, ...],
    *,
    runs: int,
    threads: int | None,
    on_run: Callable[[int], None] = lambda runs: None,
) -> tuple[Timing, ...]:
    """Run all networks `runs` times on the same values of a shape, batch first; `on_run` is told of each round.

    Each turn is a run that is not timed, then one that is: whoever runs one network finds its weights in the caches.

    Raises:
        UnsupportedGraphError: onnxruntime cannot run one of them.
        SetupError: a process died, for want of memory as a rule.
    """
    with contextlib.ExitStack() as stack:
        lanes = [stack.enter_context(_lane(racer, shape, threads)) for racer in racers]
        peaks = [_answer(lane, racer) for lane, racer in zip(lanes, racers, strict=True)]
        taken: list[list[float]] = [[] for _ in racers]
        for round_ in range(_WARM_UP + runs):
            # Whoever comes first has the cooler machine: everyone in turn.
            for index in np.roll(np.arange(len(racers)), -round_).tolist():
                lanes[index].send("run")
                seconds = _answer(lanes[index], racers[index])
                if round_ >= _WARM_UP:
                    taken[index].append(seconds)
            on_run(1)
        for lane in lanes:
            lane.send("stop")
        peaks = [_answer(lane, racer) for lane, racer in zip(lanes, racers, strict=True)]
    return tuple(
        _timing(racer, seconds, peak, shape[0]) for racer, seconds, peak in zip(racers, taken, peaks, strict=True)
    )


def _timing(racer: Racer, seconds: Sequence[float], peak: float, images: int) -> Timing:
    median = float(np.median(seconds))
    return Timing(
        name=racer.name,
        median_ms=1000 * median,
        p95_ms=1000 * float(np.percentile(seconds, 95)),
        images_per_second=images / median,
        peak_memory_mb=peak / 2**20,
        model_mb=racer.path.stat().st_size / 2**20,
    )


@contextlib.contextmanager
def _lane(racer: Racer, shape: tuple[int, ...], threads: int | None) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process: BaseProcess = context.Process(target=_run_lane, args=(theirs, racer, shape, threads), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(timeout=1)
        if process.is_alive():
            process.kill()
            process.join()


def _answer(lane: Connection, racer: Racer) -> float:
    try:
        if not lane.poll(_PATIENCE):
            raise SetupError(f"did not answer in {_PATIENCE:.0f} seconds", subject=racer.name)
        answer = lane.recv()
    except EOFError as error:
        raise SetupError(
            "its process ended before the time",
            subject=racer.name,
            hint="is there enough memory? try a smaller --batch",
        ) from error
    if isinstance(answer, str):
        raise UnsupportedGraphError("onnxruntime cannot run it", subject=racer.name, details=[answer])
    return float(answer)


def _run_lane(lane: Connection, racer: Racer, shape: tuple[int, ...], threads: int | None) -> None:
    """One network's process: opens it, then runs it as often as it is told to."""
    bare = _memory("VmRSS")
    try:
        with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):  # whoever asked has gone
            session = _open(racer, threads)
            inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
            lane.send(0.0)
            while lane.recv() == "run":
                session.run(inputs)  # the others have used the caches since
                start = time.perf_counter()
                session.run(inputs)
                lane.send(time.perf_counter() - start)
            lane.send(float(max(_memory("VmHWM") - bare, 0)))
    except MemoryError:
        lane.close()  # as if it had been killed for it, which is how it ends as often
    except PmsmError as error:
        lane.send("; ".join([error.problem, *error.details]))


def _open(racer: Racer, threads: int | None) -> Session:
    return open_session(racer.path, subject=racer.name, threads=threads, native=racer.native, integers=racer.integers)


def _memory(kind: str) -> int:
    """Bytes that this process takes (VmRSS) or took at most (VmHWM); 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next((line for line in status.read_text().splitlines() if line.startswith(f"{kind}:")), "0 0 kB")
    return int(line.split()[1]) * 1024

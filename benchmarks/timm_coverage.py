"""Every module of timm.models, its smallest model, converted with 255 levels at T = 1 and held against its source.

    python benchmarks/timm_coverage.py --images .cache/imagenet-sample [--modules NAME...] > docs/timm-coverage.md

Needs torch and timm, no network: weights are random and seeded (`timm_models.py` says how). Each model has a process of
its own, with bounded memory and time. What is done is in the results file, one line a model, and is not done again;
remove a line, or the file, to repeat it. `--no-steps` leaves out the table of three models at several timesteps.

Every conversion is `pmsm convert FILE.onnx --data images.npy --levels 255 --threads 1`, every error what `pmsm eval
--against` prints as output error: the L2 norm of the difference over that of the source's output, over all test images.
"""

import argparse
import contextlib
import functools
import io
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

LEVELS = 255
WITHIN = 2.0  # percent, the largest error that counts as faithful
TEST_IMAGES = 32
# Calibration images: as many as so many multiply-accumulates pay for, within these bounds. Where the error is not
# within what is wanted then as many as the upper one, and at last as many as `pmsm convert` takes by itself.
WORK, FEWEST, MOST, USUAL = 50e9, 64, 256, 512
WEIGHTS = ("made", "revived")  # kinds of weights, each converted
STEPS = (1, 2, 4, 8)
STEPPED = {"regnet": 7, "deit": 7, "levit": 7}  # a CNN, a transformer, a hybrid; with so many levels

Record = dict[str, Any]


def pmsm(*arguments: object) -> Record:
    """One command's JSON, run in this process; its error message, in one line, is what is raised."""
    from pmsm_cli.cli.app import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*(str(argument) for argument in arguments), "--json"])
    if code:
        message = err.getvalue().rpartition("error: ")[2].partition("\nhint:")[0]
        raise RuntimeError("; ".join(line.strip() for line in message.splitlines()))
    return json.loads(out.getvalue())


class Measurement:
    """One model on disk, with one kind of weights, ready to be converted."""

    def __init__(self, choice: Record, weights: str, pictures: Path | None, folder: Path) -> None:
        """Everything that is written goes into `folder`; `pictures` are the images, None: made up."""
        import onnx
        import timm_models

        from pmsm_cli.sources.timm_model import export_open_or_fixed

        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.source = folder / f"{weights}.onnx"
        self.calibration, self.test = (folder / name for name in ("seen.npy", "new.npy"))
        chosen = timm_models.Choice(**choice)
        started = time.perf_counter()
        module = timm_models.make(chosen)
        proto, _ = export_open_or_fixed(module, (3, chosen.size, chosen.size), chosen.model)
        self.export_seconds = time.perf_counter() - started
        if weights == "revived":
            timm_models.revive(module, chosen, pictures)
            proto = timm_models.with_weights_of(proto, module)
        onnx.save(proto, self.source)
        self.plan = pmsm("inspect", self.source, "--preprocess", "none")
        self._images = functools.partial(timm_models.images, choice=chosen, folder=pictures)
        self.calibrate_on(int(np.clip(WORK / max(self.plan["total_macs"], 1), FEWEST, MOST)))
        np.save(self.test, self._images(range(MOST, MOST + TEST_IMAGES)))

    def calibrate_on(self, images: int) -> None:
        """How many images conversions read from now on."""
        self.images = images
        numbers = [*range(MOST), *range(MOST + TEST_IMAGES, USUAL + TEST_IMAGES)]  # those between are for the test
        np.save(self.calibration, self._images(numbers[:images]))

    def convert(self, levels: int, *options: object) -> Path:
        """A checkpoint of the model."""
        target = self.folder / "checkpoint.onnx"
        data = ["--data", self.calibration, "--samples", self.images, "--preprocess", "none"]
        pmsm("convert", self.source, *data, "--levels", levels, "--threads", 1, *options, "-o", target)
        return target

    def error(self, checkpoint: Path) -> float:
        """The largest output error that `pmsm eval` finds against the source, in percent."""
        result = pmsm("eval", checkpoint, self.test, "--against", self.source, "--threads", 1)
        return max(output["relative_error"] for output in result["outputs"])


def measure(choice: Record, weights: str, pictures: Path | None, keep: Path | None) -> Record:
    """Convert and compare one model."""
    with tempfile.TemporaryDirectory() as folder:
        model = Measurement(choice, weights, pictures, keep or Path(folder))
        checkpoint, seconds, error = _converted(model)
        for images in (MOST, USUAL):
            if error >= WITHIN and model.images < images:
                model.calibrate_on(images)
                checkpoint, seconds, error = _converted(model)
        return {
            "sites": len(model.plan["sites"]),
            "share": model.plan["spiking_share"],
            "analog": dict(Counter(f"{layer['op_type']}: {layer['reason']}" for layer in model.plan["analog_layers"])),
            "images": model.images,
            "export_seconds": model.export_seconds,
            "seconds": seconds,
            "error": error,
            **distances(model.source, checkpoint, np.load(model.test)),
        }


def _converted(model: Measurement) -> tuple[Path, float, float]:
    """A checkpoint, the seconds that it took, and its error."""
    started = time.perf_counter()
    checkpoint = model.convert(LEVELS)
    return checkpoint, time.perf_counter() - started, model.error(checkpoint)


def distances(source: Path, checkpoint: Path, inputs: np.ndarray) -> Record:
    """The median of each image's own relative error, and the error over what differs between images, in percent.

    None where the source puts out nothing, or the same for all images.
    """
    from pmsm_cli.runtime.session import open_session

    parts = np.split(inputs, len(inputs))  # one image at a time: some networks take gigabytes for it
    sessions = [open_session(path.read_bytes(), subject=path.name, threads=1) for path in (source, checkpoint)]
    outputs = [np.concatenate([session.run(part)[0] for part in parts]) for session in sessions]
    expected, given = (output.reshape(len(output), -1).astype(np.float64) for output in outputs)
    each = np.linalg.norm(given - expected, axis=1)
    varying = float(np.linalg.norm(expected - expected.mean(axis=0)))
    norms = np.linalg.norm(expected, axis=1)
    return {
        "median_error": 100 * float(np.median(each / norms)) if norms.all() else None,
        "varying_error": 100 * float(np.linalg.norm(each)) / varying if varying > 0 else None,
    }


def measure_steps(choice: Record, pictures: Path | None, *, levels: int) -> Record:
    """The error at the last of 1, 2, 4 and 8 timesteps, in both codings."""
    with tempfile.TemporaryDirectory() as folder:
        model = Measurement(choice, "revived", pictures, Path(folder))
        errors = {
            coding: [model.error(model.convert(levels, "-T", steps, "--coding", coding)) for steps in STEPS]
            for coding in ("refine", "rate")
        }
        return {"levels": levels, "sites": len(model.plan["sites"]), "images": model.images, "errors": errors}


def choose(module: str) -> Record:
    """The model that stands for a module, as a record."""
    import dataclasses

    import timm_models

    return dataclasses.asdict(timm_models.choose(module))


def bounded(work: Callable[..., Record], *arguments: Any, memory: float, seconds: float) -> Record:
    """What `work` returns in a process of its own, or `failed`: why there is nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm", "timm_models", "pmsm_cli.cli.app", "pmsm_cli.pipeline"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, memory, work, arguments))
    process.start()
    sender.close()
    result: Record = {"failed": f"took longer than {seconds:.0f} s"}
    try:
        if receiver.poll(seconds):
            result = receiver.recv()
    except EOFError:
        process.join()
        result = {"failed": f"its process ended with {process.exitcode} (memory: at most {memory:g} GiB)"}
    process.join(1)
    process.kill()  # where it is still at it, or hangs
    process.join()
    return result


def _child(sender: Connection, memory: float, work: Callable[..., Record], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    most = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        sender.send(work(*arguments))
    except Exception as error:  # whatever it is, the table says so, and the next model has its turn
        sender.send({"failed": " ".join(f"{type(error).__name__}: {error}".split())[:500]})


class Results:
    """A file of one JSON object a line: what is in it is done."""

    def __init__(self, path: Path) -> None:
        """Reads what is there."""
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.done = {(record["kind"], record["module"]): record for record in map(json.loads, lines)}

    def get(self, kind: str, module: str, work: Callable[[], Record]) -> Record:
        """The record of a module, from the file or by working for it."""
        if (kind, module) not in self.done:
            record = {"kind": kind, "module": module, **work()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            self.done[kind, module] = record
            print(json.dumps(record), file=sys.stderr, flush=True)
        return self.done[kind, module]


def sweep(results: Results, arguments: argparse.Namespace, limits: dict[str, float]) -> list[Record]:
    """A record a module, smallest models first: its choice, and what was found with each kind of weights."""
    import timm

    choices = {}
    for module in arguments.modules or timm.list_modules():
        choice = results.get("choice", module, lambda module=module: bounded(choose, module, **limits))
        choices[module] = {key: value for key, value in choice.items() if key not in ("kind", "module")}
    if arguments.as_far_as_measured:
        choices = {module: choice for module, choice in choices.items() if (WEIGHTS[0], module) in results.done}
    records = {module: {**choice, "module": module} for module, choice in choices.items()}
    for weights in arguments.weights:
        for module, choice in sorted(choices.items(), key=lambda each: (each[1].get("parameters", 0), each[0])):
            unmeasured = arguments.as_far_as_measured and (weights, module) not in results.done
            if "failed" in records[module] or unmeasured:
                continue
            kept = arguments.keep / module if arguments.keep else None
            work = functools.partial(bounded, measure, choice, weights, arguments.images, kept, **limits)
            records[module][weights] = results.get(weights, module, work)
            if "failed" in records[module][weights]:
                records[module]["failed"] = records[module][weights]["failed"]
    return sorted(records.values(), key=lambda record: record["module"])


def page(records: list[Record], stepped: list[Record]) -> str:
    """The page for docs/, in Markdown."""
    import timm

    converted = [record for record in records if "failed" not in record]
    failed = [record for record in records if "failed" in record]
    shares = {weights: _faithful(converted, weights) for weights in WEIGHTS}
    alike = [_name(record) for record in converted if record["made"]["varying_error"] in (None, 0)]
    over = [_name(record) for record in converted if record["made"]["error"] >= WITHIN]
    lines = [
        "# Every architecture in timm\n",
        f"`{' '.join(['python', *sys.argv])}`\n",
        f"{describe()}, {_versions()}; one thread; seed 0 for weights and images.\n",
        f"- {len(records)} of the {len(timm.list_modules())} modules of timm were measured.",
        f"- {len(converted)} of these {len(records)} convert and run ({_percent(len(converted), len(records))}).",
        f"- Of these, {shares['made']} have an output error under {WITHIN:g} % with {LEVELS} levels at T = 1 and "
        f"weights as timm makes them; revived (see below), {shares['revived']}.\n",
        _METHOD,
        "| module | model | px | images | sites | MACs by spikes | error | median | varying | revived: error | median "
        "| varying | s |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *map(_row, records),
        "",
        f"{WITHIN:g} % and more as timm makes them: {', '.join(over) or 'none'}.\n",
        f"With outputs that are the same for all images as timm makes them, so that only the revived network tells "
        f"anything: {', '.join(alike) or 'none'}.\n",
        "## What fails\n",
        *([f"- {_name(record)}: {record['failed']}" for record in failed] or ["Nothing."]),
        "",
    ]
    return "\n".join([*lines, *_analog(converted), *_steps(stepped)])


def _faithful(records: list[Record], weights: str) -> str:
    errors = [record[weights]["error"] for record in records if weights in record]
    if not errors:
        return "not measured yet"
    count = sum(error < WITHIN for error in errors)
    return f"{count} of {len(errors)} ({_percent(count, len(errors))})"


_METHOD = f"""\
The smallest model of each module of `timm.models`, at the smallest size from 128 pixels on that it accepts (px), with
seeded random weights. As timm makes them, many models hardly depend on their blocks: last scales of residual branches
are 0, layer scales 1e-5. "Revived" are the same weights, but for such ones, which get seeded values of a trained
network's size, and batch norms, which get the power of what they read as variance; `benchmarks/timm_models.py` has the
rules. Of models above 150 million parameters two blocks are taken ("depth 2"), for memory's sake. Images are those of
`--images` (else made up) in the model's own preprocessing. Thresholds are set on so many (images): {FEWEST} or more, as
many as {WORK / 1e9:.0f} billion multiply-accumulates pay for; where the error is {WITHIN:g} % or more then, {MOST}, and
where it still is, {USUAL}, as many as `pmsm convert` takes by itself. {TEST_IMAGES} others, which calibration has not
seen, are what errors are measured on. In percent:

- error: what `pmsm eval --against` calls output error, the L2 norm of the difference over that of the source's output,
  over all test images together. A single one that drives activations beyond what calibration saw can make most of it.
- median: half of the test images have a relative error of their own below this.
- varying: the error over the norm of what differs between images, the source's outputs less their mean. A random
  network's outputs may have most in common, which makes the first figure small.
- MACs by spikes: the share of the multiply-accumulates that spikes drive; the rest reads the image or is listed below.
- s: seconds for one `pmsm convert` on one core, with other work beside it.
"""


def _row(record: Record) -> str:
    kept = ", depth 2" if "depth" in record.get("arguments", {}) else ""
    start = f"| {record['module']} | {record.get('model', '')}{kept} | {record.get('size', '')} | "
    if "failed" in record:
        return f"{start}fails ||||||||||"
    found = [record.get(weights, {}) for weights in WEIGHTS]
    numbers = [each.get(kind) for each in found for kind in ("error", "median_error", "varying_error")]
    errors = " | ".join("-" if number is None else f"{number:.2f}" for number in numbers)
    made = record["made"]
    facts = f"{made['images']} | {made['sites']} | {made['share']:.2f}"
    return f"{start}{facts} | {errors} | {made['seconds']:.0f} |"


def _analog(records: list[Record]) -> list[str]:
    """What multiplies and accumulates without spikes, beside the layers that read the image."""
    found: dict[str, list[str]] = {}
    for record in records:
        for reason, count in record["made"]["analog"].items():
            if "reads the image" not in reason:
                found.setdefault(reason, []).append(f"{record['module']} ({count})")
    rows = [f"- {reason}: {', '.join(modules)}" for reason, modules in sorted(found.items())]
    text = "Layers that read the image itself (direct coding) are analog everywhere. Beside them:"
    return ["## What stays analog\n", f"{text}\n", *(rows or ["Nothing."]), ""]


def _steps(records: list[Record]) -> list[str]:
    if not records:
        return []
    lines = [
        "## More timesteps\n",
        "A convolutional network, a transformer and a hybrid of both, revived, at few levels, so that something is",
        "left to correct. Output error in percent; thresholds of `rate` are chosen for each T.\n",
        f"| model | levels | coding | {' | '.join(f'T = {steps}' for steps in STEPS)} |",
        f"|---|--:|---|{'--:|' * len(STEPS)}",
    ]
    for record in records:
        if "failed" in record:
            lines.append(f"| {_name(record)} | {record['failed']} |")
            continue
        for coding, errors in record["errors"].items():
            numbers = " | ".join(f"{error:.2f}" for error in errors)
            lines.append(f"| {record['model']} | {record['levels']} | {coding} | {numbers} |")
    return [*lines, ""]


def _name(record: Record) -> str:
    return f"{record['module']} ({record['model']})" if "model" in record else record["module"]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"


def _versions() -> str:
    import timm
    import torch

    return f"torch {torch.__version__}, timm {timm.__version__}"


def main() -> None:
    """Measure what is not measured yet, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).with_suffix(".jsonl"), help="where it resumes from"
    )
    parser.add_argument("--modules", nargs="+", help="only these modules of timm.models")
    parser.add_argument("--weights", nargs="+", default=WEIGHTS, choices=WEIGHTS, help="kinds of them, see the page")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB of address space for one model")
    parser.add_argument("--seconds", type=float, default=1800.0, help="for one model")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="at least 300; made up where left out")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave networks and images there")
    parser.add_argument("--as-far-as-measured", action="store_true", help="print the page of what the results hold")
    parser.add_argument("--no-steps", action="store_true", help="leave the table of timesteps out")
    arguments = parser.parse_args()
    limits = {"memory": arguments.memory, "seconds": arguments.seconds}
    results = Results(arguments.results)
    records = sweep(results, arguments, limits)
    chosen = {record["module"]: record for record in records}
    stepped = []
    for module, levels in STEPPED.items() if not arguments.no_steps else ():
        unmeasured = arguments.as_far_as_measured and ("steps", module) not in results.done
        if module in chosen and "model" in chosen[module] and not unmeasured:
            choice = {key: chosen[module][key] for key in ("model", "parameters", "size", "arguments")}
            steps = functools.partial(measure_steps, levels=levels)
            work = functools.partial(bounded, steps, choice, arguments.images, **limits)
            stepped.append({**choice, **results.get("steps", module, work), "module": module})
    print(page(records, stepped))


if __name__ == "__main__":
    main()

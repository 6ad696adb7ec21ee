"""The methods of calibration compared on real networks at the first timestep: the tables of docs/calibration.md.

    python benchmarks/calibration.py --shared ../shared --images .cache --cache cells.jsonl [--samples N] [--threads N]

Every cell is what `pmsm convert` and `pmsm eval --json` give on the command line. 512 calibration images (128 for
MobileNet), seed 0, no training. A cell that is done is kept in the file named by --cache and not measured again, so
that a run can be stopped and taken up. Spikes per neuron are those that `pmsm convert` states: on calibration images.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from machine import describe

SAMPLE_MODELS = Path(__file__).parent.parent / "sample_models"


@dataclass(frozen=True)
class Subject:
    """A network, and the images that it is calibrated and measured on."""

    name: str
    preprocess: str
    calibrate_on: str
    evaluate_on: str
    calibration_images: int
    ours: bool = False  # among the sample models, not in the shared folder


@dataclass(frozen=True)
class Cell:
    """One conversion and its measurement; the key of what is kept."""

    network: str
    levels: int
    options: str
    seed: int
    samples: int | None


RESNET = Subject("resnet20_cifar10_bn", "imagenet", "cifar10/train", "cifar10/test", 512)
MOBILENET = Subject("mobilenet_v1_025_imagenet", "inception", "imagenet-sample", "imagenet-sample", 128)
VIT = Subject("vit5_cifar10", "cifar10", "cifar10/train", "cifar10/test", 512)
OWN_VIT = Subject("vit_cifar10", "cifar10", "cifar10/train", "cifar10/test", 512, ours=True)
ROWS = [
    *((RESNET, levels) for levels in (3, 7, 15)),
    *((MOBILENET, levels) for levels in (15, 31, 63)),
    *((VIT, levels) for levels in (3, 7, 15)),
    *((OWN_VIT, levels) for levels in (15, 31)),
]
METHODS = ["entropy", "mse", "kl", "percentile", "max"]
# For comparison: without what is done to the weights, and least squares and nothing else.
OTHERS = {"entropy, not refitted": "entropy --no-refit", "mse, moments not matched": "mse --no-match-moments"}
COLUMNS = {name: f"--method {options}" for name, options in ({method: method for method in METHODS} | OTHERS).items()}
SEEDS = (0, 1, 2)
SEED_ROWS = [(RESNET, 7), (RESNET, 15), (OWN_VIT, 15)]


class Bench:
    """Measures cells, and remembers those that are done."""

    def __init__(
        self, shared: Path, images: Path, cache: Path | None, samples: int | None, threads: int | None
    ) -> None:
        self.shared, self.images, self.cache, self.samples = shared, images, cache, samples
        self.threads = ["--threads", str(threads)] if threads else []
        self.done: dict[str, dict] = {}
        if cache and cache.exists():
            for line in cache.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self.done[key(Cell(**record["cell"]))] = record["result"]

    def cell(self, subject: Subject, levels: int, options: str, seed: int = 0) -> dict:
        """Top-1 of source and spiking network in percent, and spikes per neuron."""
        cell = Cell(network=subject.name, levels=levels, options=options, seed=seed, samples=self.samples)
        if key(cell) not in self.done:
            self.done[key(cell)] = self._measure(subject, cell)
            if self.cache:
                with self.cache.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"cell": asdict(cell), "result": self.done[key(cell)]}) + "\n")
        return self.done[key(cell)]

    def _measure(self, subject: Subject, cell: Cell) -> dict:
        source = str(source_of(subject, self.shared))
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = str(Path(folder) / "checkpoint.onnx")
            made = self._pmsm(
                "convert", source, "--data", str(self.images / subject.calibrate_on), "-T", "1",
                "--preprocess", subject.preprocess, "--samples", str(subject.calibration_images),
                "--seed", str(cell.seed), "--levels", str(cell.levels), *cell.options.split(), "-o", checkpoint,
            )  # fmt: skip
            some = ["--samples", str(cell.samples)] if cell.samples else []
            data = str(self.images / subject.evaluate_on)
            result = self._pmsm("eval", checkpoint, data, "--against", source, *some)
        return {
            "top1": result["snn"]["top1"],
            "source": result["ann"]["top1"],
            "images": result["images"],
            "spikes": made["mean_spikes"],
        }

    def _pmsm(self, *arguments: str) -> dict:
        command = [sys.executable, "-m", "pmsm_cli", *arguments, *self.threads, "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout)


def source_of(subject: Subject, shared: Path) -> Path:
    """The file of a network."""
    return (SAMPLE_MODELS if subject.ours else shared / "models") / f"{subject.name}.onnx"


def key(cell: Cell) -> str:
    """One string for a cell, whatever the order of its fields in a file."""
    return json.dumps(asdict(cell), sort_keys=True)


def methods_table(bench: Bench, rows: list[tuple[Subject, int]]) -> None:
    """Print network x levels x method as it is measured, then averages and distances."""
    print(f"| network | levels | source | {' | '.join(COLUMNS)} |")
    print(f"|---|--:|--:|{'--:|' * len(COLUMNS)}", flush=True)
    table = []
    for subject, levels in rows:
        cells = [bench.cell(subject, levels, options) for options in COLUMNS.values()]
        table.append([cell["top1"] for cell in cells])
        best = max(table[-1])
        shown = [f"{bold(cell['top1'], best)} ({cell['spikes']:.2f})" for cell in cells]
        print(f"| {subject.name} | {levels} | {cells[0]['source']:.2f} | {' | '.join(shown)} |", flush=True)
    averages = [sum(column) / len(table) for column in zip(*table, strict=True)]
    behind = [max(max(row) - row[index] for row in table) for index in range(len(COLUMNS))]
    print(f"| average | | | {' | '.join(bold(each, max(averages)) for each in averages)} |")
    print(f"| furthest behind the best | | | {' | '.join(f'{each:.2f}' for each in behind)} |")


def bold(value: float, best: float) -> str:
    """The best of a row stands out."""
    return f"**{value:.2f}**" if value == best else f"{value:.2f}"


def seeds_table(bench: Bench) -> None:
    """Print how much the choice of calibration images matters."""
    print(f"| network | levels | source | {' | '.join(f'seed {seed}' for seed in SEEDS)} | mean |")
    print(f"|---|--:|--:|{'--:|' * (len(SEEDS) + 1)}", flush=True)
    for subject, levels in SEED_ROWS:
        cells = [bench.cell(subject, levels, COLUMNS["entropy"], seed) for seed in SEEDS]
        accuracies = [cell["top1"] for cell in cells]
        shown = " | ".join(f"{each:.2f}" for each in (*accuracies, sum(accuracies) / len(accuracies)))
        print(f"| {subject.name} | {levels} | {cells[0]['source']:.2f} | {shown} |", flush=True)


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--cache", type=Path, help="a file of JSON lines that keeps the cells that are done")
    parser.add_argument("--samples", type=int, help="evaluate on so many images instead of all")
    parser.add_argument("--threads", type=int, help="threads to compute with")
    parser.add_argument("--rows", type=int, nargs="*", help="only these rows, from 0, and no seeds: for a quick look")
    arguments = parser.parse_args()
    bench = Bench(arguments.shared, arguments.images, arguments.cache, arguments.samples, arguments.threads)
    print(f"`{' '.join(['python', *sys.argv])}`; {describe()}.\n")
    print("Top-1 in percent at T = 1 and, in brackets, spikes per neuron.\n")
    methods_table(bench, ROWS if arguments.rows is None else [ROWS[row] for row in arguments.rows])
    if arguments.rows is None:
        print("\n`entropy` with other calibration images:\n")
        seeds_table(bench)


if __name__ == "__main__":
    main()

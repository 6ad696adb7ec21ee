"""What it gives that neurons read attention's keys about their mean (docs/method.md).

    python benchmarks/keys.py --shared ../shared --images .cache [--samples 10000]

Converts both transformers with and without (`keys_of` in `pmsm_cli.pipeline.conversion` finds none), T = 1, 512
calibration images, and measures what `pmsm eval --against` prints: the outputs' relative error in percent.
"""

import argparse
from pathlib import Path

from calibration import OWN_VIT, SEEDS, VIT
from clipping import measure
from machine import describe

from pmsm_cli.pipeline import conversion

ROWS = [(OWN_VIT, 7), (OWN_VIT, 15), (OWN_VIT, 31), (VIT, 7), (VIT, 15)]


def main() -> None:
    """Print one row for each network and number of levels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=10000)
    arguments = parser.parse_args()
    finders = {"as they are": lambda *_: (), "about their mean": conversion.keys_of}
    print(f"{describe()}; {arguments.samples} images, mean of seeds {SEEDS}")
    print("\nOutput error in percent (spikes per neuron):\n")
    print(f"| network | levels | {' | '.join(f'keys {how}' for how in finders)} |")
    print(f"|---|--:|{'--:|' * len(finders)}", flush=True)
    for subject, levels in ROWS:
        cells = []
        for finder in finders.values():
            conversion.keys_of = finder
            measured = [
                measure(subject, levels, arguments.shared, arguments.images, arguments.samples, seed=seed)
                for seed in SEEDS
            ]
            error, spikes = (sum(column) / len(SEEDS) for column in zip(*measured, strict=True))
            cells.append(f"{error:.2f} ({spikes:.2f})")
        print(f"| {subject.name} | {levels} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""Every setting that a baseline of `pmsm compare` may choose from, measured: a table of docs/compare.md.

    python benchmarks/baseline_settings.py --shared ../shared --images .cache [--samples N] [--threads N]

Needs the networks of ../shared/models and the images of ../shared/data, unpacked as its README says. ResNet-20 on test
images of CIFAR-10, thresholds from 512 training images, seed 0; top-1 after T timesteps.
"""

import argparse
import sys
from pathlib import Path

from machine import describe

from pmsm_cli.baselines.methods import ABOUT, Baseline, candidates
from pmsm_cli.baselines.plan import plan_neurons
from pmsm_cli.baselines.spiking import spiking_model
from pmsm_cli.energy.profile import open_profile
from pmsm_cli.pipeline import InputSettings, load_source
from pmsm_cli.pipeline.bench import Bench, ComparisonSettings
from pmsm_cli.pipeline.contenders import observe_activations

TIMESTEPS = (1, 2, 4, 8, 16, 32)


class Silent:
    """Takes what progress there is."""

    def start(self, stage: str, total: int) -> None:
        """A stage begins."""

    def advance(self, images: int) -> None:
        """So many more images are done."""

    def epoch(self, record: object) -> None:
        """An epoch is over."""


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=Path, default=Path(".cache"))
    parser.add_argument("--samples", type=int, default=500, help="images to measure on")
    parser.add_argument("--threads", type=int, help="threads to compute with")
    arguments = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}`\n\n{describe()}.\n")
    loaded = load_source(arguments.shared / "models/resnet20_cifar10_bn.onnx", InputSettings(preprocess="imagenet"))
    settings = ComparisonSettings(
        data=arguments.images / "cifar10/test",
        calibration_data=arguments.images / "cifar10/train",
        samples=arguments.samples,
        calibration_samples=512,
        timesteps=TIMESTEPS,
        within=1.0,
        levels=15,
        finetune=0,
        profile="45nm",
        seed=0,
        threads=arguments.threads,
    )
    bench = Bench(loaded, settings, open_profile("45nm"), Silent())
    plan = plan_neurons(loaded.network, loaded.plan, loaded.shapes)
    observed = observe_activations(bench, plan)
    print(f"| method | setting | {' | '.join(f'T = {count}' for count in TIMESTEPS)} |")
    print(f"|---|---|{'--:|' * len(TIMESTEPS)}", flush=True)
    for method in Baseline:
        for each in candidates(method, plan, observed):
            model = spiking_model(
                loaded.network,
                loaded.plan,
                plan,
                each.neurons,
                loaded.shapes,
                timesteps=TIMESTEPS[-1],
                counting=False,
            )
            found = bench.evaluate(bench.open(model), timesteps=TIMESTEPS[-1], stage=each.description)
            steps = found.snn.top1_per_step or ()
            cells = " | ".join(f"{steps[count - 1]:.1f}" for count in TIMESTEPS)
            print(f"| {ABOUT[method].title} | {each.description} | {cells} |", flush=True)
    print(f"\nThe source: {found.ann.top1 if found.ann else None} %.")


if __name__ == "__main__":
    main()

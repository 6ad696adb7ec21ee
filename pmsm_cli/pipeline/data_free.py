"""Conversions without images: what stands in for them, and what that costs."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.sources.synthetic import SYNTHETIC, SyntheticImages

SYNTHETIC_SAMPLES = 128
# Activations on synthetic images have lighter tails than on real ones, and clipping costs more than rounding. Chosen by
# training images (benchmarks/data_free_margin.py, its table in docs/data-free.md): about as good as 1.3, better than 1.
MARGIN = 1.15

# From the table of docs/data-free.md.
BATCH_NORM_COST = "on ResNet-20 at 31 levels that costs 0.1 points against 512 real images"
SYNTHETIC_COST = "on ResNet-20 at 31 levels that costs 0.1 points against 512 real images"
_ORIGINS = {True: f"batch norm statistics and {SYNTHETIC}", False: SYNTHETIC}


def synthetic_images(fixed_batch: int | None, *, seed: int, normalised: bool) -> SyntheticImages:
    """As many as it takes, in whole batches where the graph fixes their size; they say what is used beside them."""
    batch = fixed_batch or 1
    count = -(-SYNTHETIC_SAMPLES // batch) * batch
    return SyntheticImages(count=count, seed=seed, origin=_ORIGINS[normalised])


def warning(*, normalised: bool) -> str:
    """Where the thresholds come from, and what that costs against real images."""
    if normalised:
        return (
            "no images given: thresholds come from batch norm statistics and synthetic images; "
            f"{BATCH_NORM_COST}; pass --data"
        )
    return (
        "no images given, and no batch norm statistics in the file: thresholds come from synthetic images alone; "
        f"{SYNTHETIC_COST}; pass --data"
    )


def widened(statistics: Mapping[str, SiteStatistics]) -> dict[str, SiteStatistics]:
    """The same activations, all of them `MARGIN` times as large: so will be the thresholds that they call for."""
    factor = np.float32(MARGIN)
    return {
        name: replace(each, lowest=each.lowest * factor, highest=each.highest * factor)
        for name, each in statistics.items()
    }

"""Whether there were enough images: thresholds from one half of them, held against those from the other half."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmsm_cli.calibration.by_site import by_site
from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.neuron.parameters import NeuronParameters

# Largest median difference that passes without a warning, in percent. Seen with least squares and 15 levels on 8, 32,
# 128 and 512 images: ResNet-20 17, 11, 6.7, 3.7; MobileNetV1-0.25 9, 4.7, 2.7; a small vision transformer 17, 9, 5. It
# falls as one over the root of the number. What it costs ResNet-20 (two drawings, 2,000 test images): with 8 images
# (16 to 19 %) about a point at 15 levels and nearly 9 at 3, against 512; with 32 (10 to 13 %) nothing measurable.
STEADY = 15.0
# Of wider sites an evenly spaced part is compared, so that the check costs little beside the calibration itself.
_MOST_CHANNELS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteAdequacy:
    """How far the thresholds of one site's channels differ between the halves, in percent of their mean."""

    name: str
    median: float
    worst: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Adequacy:
    """How far thresholds from two halves of the images differ, in percent of their mean."""

    median: float  # over all channels of all sites
    worst_site: str  # that of the largest median
    sites: tuple[SiteAdequacy, ...]

    @property
    def steady(self) -> bool:
        """Whether the thresholds can be relied on."""
        return self.median <= STEADY


def compare_halves(
    statistics: Mapping[str, SiteStatistics],
    choose: Callable[[str, SiteStatistics], NeuronParameters],
    *,
    threads: int | None = None,
) -> Adequacy | None:
    """The differences between the thresholds that `choose` makes of either half of each site, by its name.

    Of a site with many channels an evenly spaced part is compared. Channels that are constant in one half are left out:
    there is nothing to choose by. None where nothing is left, or where the images were not told apart. `threads`: how
    many sites at a time.
    """

    def differences_of(name: str) -> npt.NDArray[np.float64] | None:
        halves = statistics[name].halves
        if halves is None:
            return None
        halves = (_spaced(halves[0]), _spaced(halves[1]))
        one, other = (np.atleast_1d(choose(name, half).threshold).astype(np.float64) for half in halves)
        alive = (halves[0].highest > halves[0].lowest) & (halves[1].highest > halves[1].lowest)
        alive = alive if len(alive) == len(one) else np.full(one.shape, alive.any())
        return np.asarray((200 * np.abs(one - other) / (one + other))[alive], np.float64)

    found = by_site(differences_of, statistics, threads=threads)
    differences = {name: values for name, values in found.items() if values is not None and values.size}
    if not differences:
        return None
    sites = tuple(
        SiteAdequacy(name=name, median=float(np.median(values)), worst=float(values.max()))
        for name, values in differences.items()
    )
    return Adequacy(
        median=float(np.median(np.concatenate(list(differences.values())))),
        worst_site=max(sites, key=lambda site: site.median).name,
        sites=sites,
    )


def _spaced(statistics: SiteStatistics) -> SiteStatistics:
    step = -(-len(statistics.lowest) // _MOST_CHANNELS)
    return SiteStatistics(
        lowest=statistics.lowest[::step], highest=statistics.highest[::step], counts=statistics.counts[::step]
    )

"""The baselines by name, each with its paper and the settings among which it may take its best."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pmsm_cli.baselines.neuron import BaselineNeurons, Floats
from pmsm_cli.baselines.plan import NeuronPlan
from pmsm_cli.baselines.thresholds import largest, largest_of_neurons, least_squares, percentile, pooled
from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.sites import Site

QCFS_LEVELS = (4, 8, 16, 32)


class Baseline(StrEnum):
    """The conversions that ours is compared with."""

    QCFS = "qcfs"
    RATE_PERCENTILE = "rate-99.9"
    RATE_MAX = "rate-max"
    SIGNED_MEMORY = "signed-memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a method is called, and where it comes from."""

    title: str
    paper: str


ABOUT = {
    Baseline.QCFS: About(
        title="QCFS",
        paper="Bu, Fang, Ding, Dai, Yu, Huang: Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency "
        "spiking neural networks, ICLR 2022, arXiv 2303.04347",
    ),
    Baseline.RATE_PERCENTILE: About(
        title="rate, 99.9 % norm",
        paper="Rueckauer, Lungu, Hu, Pfeiffer, Liu: Conversion of continuous-valued deep networks to efficient "
        "event-driven networks for image classification, Front. Neurosci. 11, 2017, doi:10.3389/fnins.2017.00682",
    ),
    Baseline.RATE_MAX: About(
        title="rate, max norm",
        paper="Diehl, Neil, Binas, Cook, Liu, Pfeiffer: Fast-classifying, high-accuracy spiking deep networks through "
        "weight and threshold balancing, IJCNN 2015, doi:10.1109/IJCNN.2015.7280696",
    ),
    Baseline.SIGNED_MEMORY: About(
        title="signed with memory",
        paper="Wang, Zhang, Chen, Qu: Signed neuron with memory: towards simple, accurate and high-efficient ANN-SNN "
        "conversion, IJCAI 2022, doi:10.24963/ijcai.2022/347",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observed:
    """What calibration images showed of one activation."""

    statistics: SiteStatistics  # a row a channel
    maxima: Floats  # each neuron's largest activation, in the shape of one image's


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidate:
    """One way to set a method's neurons."""

    description: str
    neurons: Mapping[str, BaselineNeurons]  # by the activation's name
    trained: Network | None = None  # with weights that were trained for these neurons; None: the source's own


Rule = Callable[[SiteStatistics], Floats]


def candidates(method: Baseline, plan: NeuronPlan, observed: Mapping[str, Observed]) -> Iterator[Candidate]:
    """The settings among which a method may take what does best, its paper's own first.

    Thresholds for a layer and for each channel; membranes that start empty, as in the older papers, and at half a
    threshold, which rounds where an empty one rounds down (for QCFS always).
    """
    if method is Baseline.QCFS:
        for levels in QCFS_LEVELS:
            rule = _least_squares_of(levels)
            yield from _each(plan, observed, rule, f"least squares of {levels} levels", starts=(0.5,))
    elif method is Baseline.RATE_MAX:
        yield from _each(plan, observed, largest, "largest activation", starts=(0.0, 0.5))
    elif method is Baseline.RATE_PERCENTILE:
        for description, rule in _PERCENTILES.items():
            yield from _each(plan, observed, rule, description, starts=(0.0, 0.5))
    else:
        for start in (0.0, 0.5):
            neurons = {
                site.name: BaselineNeurons(
                    threshold=_neuron_thresholds(site, observed[site.name]), start=start, signed=True
                )
                for site in plan.neurons
            }
            yield Candidate(description=f"largest activation, one a neuron, {_START[start]}", neurons=neurons)
        for description, rule in _PERCENTILES.items():
            yield from _each(plan, observed, rule, description, starts=(0.5,), signed=True)


_PERCENTILES: dict[str, Rule] = {
    "99.9 % of the activations": percentile,
    "99.9 % of those above 0": functools.partial(percentile, above_zero=True),
}
_START = {0.0: "start empty", 0.5: "start at half"}


def _each(
    plan: NeuronPlan,
    observed: Mapping[str, Observed],
    rule: Rule,
    description: str,
    *,
    starts: tuple[float, ...],
    signed: bool = False,
) -> Iterator[Candidate]:
    for whose in ("layer", "channel"):
        thresholds = {}
        for site in plan.neurons:
            statistics = observed[site.name].statistics
            found = rule(pooled(statistics) if whose == "layer" else statistics)
            thresholds[site.name] = _along_channels(site, found)
        for start in starts:
            neurons = {
                name: BaselineNeurons(threshold=threshold, start=start, signed=signed)
                for name, threshold in thresholds.items()
            }
            yield Candidate(description=f"{description}, one a {whose}, {_START[start]}", neurons=neurons)


def _least_squares_of(levels: int) -> Rule:
    return lambda statistics: least_squares(statistics, levels)


def _along_channels(site: Site, threshold: Floats) -> Floats:
    """One threshold, or one for each channel, in a shape that broadcasts against the activations."""
    if len(threshold) == 1:
        return np.asarray(threshold[0], np.float32)
    return np.ascontiguousarray(threshold, np.float32).reshape(-1, *([1] * (-(site.channel_axis or -1) - 1)))


def _neuron_thresholds(site: Site, observed: Observed) -> Floats:
    return largest_of_neurons(observed.maxima, _along_channels(site, largest(observed.statistics)))

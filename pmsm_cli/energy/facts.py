"""Spiking networks as the columns see them: what spikes do at each step, and what a site is in the other networks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.energy.columns import QUANTISING, Column, Map
from pmsm_cli.graph.operations import Operations
from pmsm_cli.graph.sites import AnalogLayer, Site, SitePlan
from pmsm_cli.graph.work import COUNT_BITS, SUM_BITS, LayerWork, Work
from pmsm_cli.neuron.coding import Coding, later_negative_levels
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.runtime.count import SiteCount
from pmsm_cli.runtime.session import Totals

_MOST_BITS = 16  # a network quantised as finely as many steps make it needs no more
_EMITTING_AGAIN = QUANTISING + Operations(add=2)  # what was emitted before is subtracted and kept up


@dataclass(frozen=True, kw_only=True, slots=True)
class Drive:
    """The spikes of one tensor on their way to its synapses."""

    count: SiteCount
    macs: int
    levels: tuple[int, int]  # that an element's spikes tell apart, silence among them: at the first step, at later ones
    first: tuple[LayerWork, ...]  # that the first step's spikes drive
    later: tuple[LayerWork, ...]  # that each later step's do

    @property
    def events(self) -> tuple[float, ...]:
        """Synapses that spikes of any size reach; as many a spike as sizes tell, where events were not counted."""
        if self.count.events is not None:
            return tuple(map(float, self.count.events))
        sizes = zip(self.count.synaptic_ops, self.count.firing, self.count.spikes, strict=True)
        return tuple(float(ops * firing / spikes) if spikes else 0.0 for ops, firing, spikes in sizes)

    def spikes(self, step: int) -> Map:
        """The spikes of one step."""
        return Map(
            neurons=self.count.neurons,
            firing=float(self.count.firing[step]),
            events=self.events[step],
            macs=self.macs,
            bits=_bits(self.levels[step > 0]),
            layers=self.later if step else self.first,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Neurons:
    """What emits spikes."""

    count: int
    firing: Totals  # how many of them emit anything, [timesteps]
    first: Operations  # of one neuron, at the first step
    later: Operations  # at each later one


@dataclass(frozen=True, kw_only=True, slots=True)
class SpikingFacts:
    """A network with everything that its costs follow from."""

    drives: Sequence[Drive]
    neurons: Sequence[Neurons]
    state_bits: int  # what all of it keeps from step to step
    analog_layers: Sequence[AnalogLayer]
    work: Work | None  # None: not measured, and nothing but synapses can be billed


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteFacts:
    """One site of a checkpoint, and the same tensor in the other networks."""

    site: Site
    drive: Drive
    neurons: Neurons
    parameters: NeuronParameters
    timesteps: int
    coding: Coding

    @property
    def count(self) -> SiteCount:
        """What was counted."""
        return self.drive.count

    @property
    def state_bits(self) -> int:
        """What is kept from step to step: the sums of all that is driven, and what the neurons emitted."""
        return sum(layer.outputs for layer in self.drive.first) * SUM_BITS + self.count.neurons * COUNT_BITS

    def values(self, column: Column) -> Map:
        """The same tensor in the source, every value of it."""
        everything, macs = self.count.neurons, self.site.macs
        layers = self.drive.first
        return Map(neurons=everything, firing=everything, events=macs, macs=macs, bits=column.value_bits, layers=layers)

    @property
    def quantised(self) -> Map:
        """The same tensor on as many levels as the spikes of all steps together tell apart."""
        steps = 2 ** min(self.timesteps - 1, _MOST_BITS) if self.coding is Coding.REFINE else self.timesteps
        levels = (self.parameters.negative_levels + self.parameters.positive_levels) * steps + 1
        firing = self.count.firing[0] if self.count.nonzero is None else self.count.nonzero
        return Map(
            neurons=self.count.neurons,
            firing=float(firing),
            events=self.drive.events[0] if self.count.nonzero_ops is None else self.count.nonzero_ops,
            macs=self.site.macs,
            bits=min(_bits(levels), _MOST_BITS),
            layers=self.drive.first,
        )


def drive_of(site: Site, count: SiteCount, work: Work | None, levels: tuple[int, int]) -> Drive:
    """A tensor's spikes with the layers that they drive, whose sizes only `work` knows."""
    first, later = [], []
    for reader in site.readers:
        layer = work.layers.get((reader.node, reader.operand)) if work else None
        if layer is None:
            continue
        later.append(layer)
        if layer.constant or reader.operand == 0:  # the right operand of a product works from the second step on
            first.append(layer)
    return Drive(count=count, macs=site.macs, levels=levels, first=tuple(first), later=tuple(later))


def sites_of(manifest: Manifest, counts: Sequence[SiteCount], work: Work | None) -> list[SiteFacts]:
    """The facts of every site of a checkpoint."""
    sites = []
    for site, calibrated, count in zip(manifest.plan.sites, manifest.calibration.sites, counts, strict=True):
        negative, positive = calibrated.parameters.negative_levels, calibrated.parameters.positive_levels
        later = later_negative_levels(negative, positive)
        drive = drive_of(site, count, work, (negative + positive + 1, later + positive + 1))
        neurons = Neurons(count=count.neurons, firing=count.firing, first=QUANTISING, later=_EMITTING_AGAIN)
        sites.append(
            SiteFacts(
                site=site,
                drive=drive,
                neurons=neurons,
                parameters=calibrated.parameters,
                timesteps=manifest.timesteps,
                coding=manifest.coding,
            )
        )
    return sites


def facts_of(sites: Sequence[SiteFacts], plan: SitePlan, work: Work | None) -> SpikingFacts:
    """A checkpoint's network with everything that its costs follow from."""
    return SpikingFacts(
        drives=[each.drive for each in sites],
        neurons=[each.neurons for each in sites],
        state_bits=sum(each.state_bits for each in sites),
        analog_layers=plan.analog_layers,
        work=work,
    )


def _bits(levels: int) -> int:
    return max(1, math.ceil(math.log2(levels)))

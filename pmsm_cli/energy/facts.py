"""A site as the columns see it: what its spikes do at each step, and what the same tensor is in the other networks."""

import math
from dataclasses import dataclass

from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.energy.columns import SUM_BITS, Column, Map
from pmsm_cli.graph.sites import Site
from pmsm_cli.graph.work import LayerWork, Work
from pmsm_cli.neuron.coding import Coding, later_negative_levels
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.runtime.count import SiteCount

_MOST_BITS = 16  # a network quantised as finely as many steps make it needs no more
_COUNT_BITS = 16  # what a neuron has emitted so far


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteFacts:
    """One site with everything that its costs follow from."""

    site: Site
    count: SiteCount
    neurons: NeuronParameters
    timesteps: int
    coding: Coding
    first: tuple[LayerWork, ...]  # that the first step's spikes drive
    later: tuple[LayerWork, ...]  # that each later step's do

    @property
    def events(self) -> tuple[float, ...]:
        """Synapses that spikes of any size reach; as many a spike as sizes tell, where events were not counted."""
        if self.count.events is not None:
            return tuple(map(float, self.count.events))
        sizes = zip(self.count.synaptic_ops, self.count.firing, self.count.spikes, strict=True)
        return tuple(float(ops * firing / spikes) if spikes else 0.0 for ops, firing, spikes in sizes)

    @property
    def state_bits(self) -> int:
        """What is kept from step to step: the sums of all that is driven, and what the neurons emitted."""
        return sum(layer.outputs for layer in self.first) * SUM_BITS + self.count.neurons * _COUNT_BITS

    def spikes(self, step: int) -> Map:
        """The spikes of one step."""
        negative, positive = self.neurons.negative_levels, self.neurons.positive_levels
        if step:
            negative = later_negative_levels(negative, positive)
        return Map(
            neurons=self.count.neurons,
            firing=float(self.count.firing[step]),
            events=self.events[step],
            macs=self.site.macs,
            bits=_bits(negative + positive + 1),
            layers=self.later if step else self.first,
        )

    def values(self, column: Column) -> Map:
        """The same tensor in the source, every value of it."""
        everything, macs = self.count.neurons, self.site.macs
        return Map(
            neurons=everything, firing=everything, events=macs, macs=macs, bits=column.value_bits, layers=self.first
        )

    @property
    def quantised(self) -> Map:
        """The same tensor on as many levels as the spikes of all steps together tell apart."""
        steps = 2 ** min(self.timesteps - 1, _MOST_BITS) if self.coding is Coding.REFINE else self.timesteps
        levels = (self.neurons.negative_levels + self.neurons.positive_levels) * steps + 1
        firing = self.count.firing[0] if self.count.nonzero is None else self.count.nonzero
        return Map(
            neurons=self.count.neurons,
            firing=float(firing),
            events=self.events[0] if self.count.nonzero_ops is None else self.count.nonzero_ops,
            macs=self.site.macs,
            bits=min(_bits(levels), _MOST_BITS),
            layers=self.first,
        )


def facts_of(manifest: Manifest, counts: tuple[SiteCount, ...], work: Work | None) -> list[SiteFacts]:
    """The facts of every site; without `work`, which memory is billed by, layers have no sizes."""
    sites = []
    for site, calibrated, count in zip(manifest.plan.sites, manifest.calibration.sites, counts, strict=True):
        first, later = [], []
        for reader in site.readers:
            layer = work.layers.get((reader.node, reader.operand)) if work else None
            if layer is None:
                continue
            later.append(layer)
            if layer.constant or reader.operand == 0:  # the right operand of a product works from the second step on
                first.append(layer)
        sites.append(
            SiteFacts(
                site=site,
                count=count,
                neurons=calibrated.parameters,
                timesteps=manifest.timesteps,
                coding=manifest.coding,
                first=tuple(first),
                later=tuple(later),
            )
        )
    return sites


def _bits(levels: int) -> int:
    return max(1, math.ceil(math.log2(levels)))

"""From counted spikes to synaptic operations and energy, layer by layer."""

from dataclasses import dataclass

from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.energy.profile import EnergyProfile
from pmsm_cli.graph.sites import AnalogLayer, Site, SitePlan
from pmsm_cli.runtime.count import SiteCount, SpikeCount
from pmsm_cli.sources.images import SkippedImage

_MILLIJOULE = 1e-9  # of one pJ


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyMillijoule:
    """Energy of one image, in mJ."""

    ann: float  # the source in fp32: every multiply-accumulate
    ann_int8: float  # the source in int8, the fairer opponent
    snn: float  # the spiking network in fp32: accumulates for spikes, multiply-accumulates where it stays analog
    snn_spiking: float  # the part of it that spikes drive
    snn_analog: float  # the part that stays analog
    snn_per_step: tuple[float, ...]  # what each step costs; layers that read the image are computed in the first alone


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteReport:
    """One site, for one image; sequences have one entry a step."""

    name: str
    readers: tuple[str, ...]
    neurons: int
    macs: int  # of the source's layers that read this tensor
    spikes_per_neuron: tuple[float, ...]
    firing_rate: tuple[float, ...]  # percent of the neurons that emit at least one spike
    synaptic_ops: tuple[float, ...]
    break_even_spikes: float  # spikes per neuron at which the spiking layer costs as much as the source's in fp32
    ann_mj: float
    snn_mj: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyReport:
    """Spikes and energy of a checkpoint, measured on images; everything is per image."""

    images: int
    timesteps: int
    profile: str
    energy_mj: EnergyMillijoule
    ratio: float | None  # ann over snn: above 1 the spiking network is cheaper
    ratio_int8: float | None  # the int8 source over the (fp32) spiking network
    spikes_per_neuron: tuple[float, ...]  # over all sites
    firing_rate: tuple[float, ...]
    macs: int
    synaptic_ops: tuple[float, ...]
    sites: tuple[SiteReport, ...]
    analog_layers: tuple[AnalogLayer, ...]
    assumptions: tuple[str, ...]
    source: str  # of the constants
    skipped: tuple[SkippedImage, ...]


def account(manifest: Manifest, count: SpikeCount, profile: EnergyProfile) -> EnergyReport:
    """What the counted spikes cost by the profile's constants, beside what the source costs."""
    cost, plan = profile.picojoule, manifest.plan
    sites = tuple(_site(site, counted, profile) for site, counted in zip(plan.sites, count.sites, strict=True))
    steps = range(manifest.timesteps)
    synaptic_ops = tuple(sum(site.synaptic_ops[step] for site in sites) for step in steps)
    neurons = sum(site.neurons for site in sites)
    macs = plan.total_macs
    analog = [
        sum(layer.macs or 0 for layer in plan.analog_layers if step == 0 or layer.every_step)
        * cost.mac_fp32
        * _MILLIJOULE
        for step in steps
    ]
    spiking = [ops * cost.accumulate_fp32 * _MILLIJOULE for ops in synaptic_ops]
    ann, ann_int8 = macs * cost.mac_fp32 * _MILLIJOULE, macs * cost.mac_int8 * _MILLIJOULE
    snn = sum(spiking) + sum(analog)
    return EnergyReport(
        images=count.images,
        timesteps=manifest.timesteps,
        profile=profile.name,
        energy_mj=EnergyMillijoule(
            ann=ann,
            ann_int8=ann_int8,
            snn=snn,
            snn_spiking=sum(spiking),
            snn_analog=sum(analog),
            snn_per_step=tuple(map(sum, zip(spiking, analog, strict=True))),
        ),
        ratio=ann / snn if snn else None,
        ratio_int8=ann_int8 / snn if snn else None,
        spikes_per_neuron=tuple(float(sum(each.spikes[step] for each in count.sites)) / neurons for step in steps),
        firing_rate=tuple(100 * float(sum(each.firing[step] for each in count.sites)) / neurons for step in steps),
        macs=macs,
        synaptic_ops=synaptic_ops,
        sites=sites,
        analog_layers=plan.analog_layers,
        assumptions=(*profile.assumptions, *_resting(manifest), *_not_counted(plan)),
        source=profile.source,
        skipped=count.skipped,
    )


def _resting(manifest: Manifest) -> list[str]:
    """Where neurons rest above or below 0, what their rest costs a machine."""
    resting = sum(not site.parameters.rests_at_zero for site in manifest.calibration.sites)
    where = f"{resting} of {len(manifest.calibration.sites)} tensors"
    return [
        f"what rests at another value than 0 ({where}) is a bias, not counted, as biases are not, on either side"
    ] * (resting > 0)


def _not_counted(plan: SitePlan) -> list[str]:
    """What has no number of operations is said, rather than passed off as free."""
    unknown = [layer for layer in plan.analog_layers if layer.macs is None]
    return [
        f"{layer.node} ({layer.op_type}) is not counted, on either side: its size is not known" for layer in unknown
    ]


def _site(site: Site, counted: SiteCount, profile: EnergyProfile) -> SiteReport:
    cost = profile.picojoule
    operations = tuple(float(value) for value in counted.synaptic_ops)
    return SiteReport(
        name=site.name,
        readers=tuple(reader.node for reader in site.readers),
        neurons=counted.neurons,
        macs=site.macs,
        spikes_per_neuron=tuple(float(value) / counted.neurons for value in counted.spikes),
        firing_rate=tuple(100 * float(value) / counted.neurons for value in counted.firing),
        synaptic_ops=operations,
        break_even_spikes=cost.mac_fp32 / cost.accumulate_fp32 if cost.accumulate_fp32 else float("inf"),
        ann_mj=site.macs * cost.mac_fp32 * _MILLIJOULE,
        snn_mj=sum(operations) * cost.accumulate_fp32 * _MILLIJOULE,
    )

"""What an energy report says. Its JSON has these names; `version` counts the changes that a reader must know of."""

from collections.abc import Mapping
from dataclasses import dataclass

from pmsm_cli.energy.constants import Constant
from pmsm_cli.graph.operations import Operations
from pmsm_cli.graph.sites import AnalogLayer
from pmsm_cli.runtime.histogram import Histogram
from pmsm_cli.sources.images import SkippedImage

REPORT_VERSION = 2  # 1: the source in fp32 and int8 and the spiking network, without memory


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyMillijoule:
    """Energy of one image, in mJ."""

    ann: float  # the source in fp32: every multiply-accumulate
    ann_int8: float  # the source in int8
    quantised: float  # a network of the spiking one's levels, weights in int8, that skips zeros
    snn: float  # the spiking network in fp32: accumulates for spikes, multiply-accumulates where it stays analog
    snn_int8: float  # the same with weights in int8, which is not what the checkpoint holds
    snn_spiking: float  # the part of `snn` that spikes drive
    snn_analog: float  # the part that stays analog
    snn_per_step: tuple[float, ...]  # what each step costs; layers that read the image are computed in the first alone
    snn_int8_per_step: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnCost:
    """What one network pays somewhere, in mJ."""

    compute: float
    memory: float
    total: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnReport:
    """One network of the comparison, and the spiking network against it."""

    name: str
    label: str
    compute_mj: float
    memory_mj: float
    total_mj: float
    # Above 1 the spiking network is cheaper, by so much; None: it costs nothing.
    over_snn: float | None
    over_snn_int8: float | None
    # Spikes per neuron, all steps together, at which the spiking network would cost as much; None: none are few enough.
    break_even: float | None
    break_even_int8: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteReport:
    """One site, for one image; sequences have one entry a step."""

    name: str
    readers: tuple[str, ...]
    neurons: int
    macs: int  # of the source's layers that read this tensor
    spikes_per_neuron: tuple[float, ...]
    spikes_per_neuron_deviation: tuple[float, ...] | None  # over the images, like the two below; None: not measured
    firing_rate: tuple[float, ...]  # percent of the neurons that emit at least one spike
    firing_rate_deviation: tuple[float, ...] | None
    synaptic_ops: tuple[float, ...]
    synaptic_ops_deviation: tuple[float, ...] | None
    synaptic_events: tuple[float, ...]  # the same where a spike of any size is one
    channels: int | None  # that are told apart
    silent_channels: int | None  # without a spike in any image
    saturated_channels: int | None  # at their limit in most of their values, at the first step
    negative_levels: int
    positive_levels: int
    lowest_threshold: float
    highest_threshold: float
    thresholds: tuple[int, ...]  # how many channels have which, in even steps of the logarithm between these two
    histogram: Histogram | None  # spike counts at the first step
    activation_entropy_bits: float | None  # H(X), per value, on the calibration images, like the two below
    spike_entropy_bits: float | None  # H(s)
    information_bits: float | None  # R, the part of H(s) that tells the value
    break_even_spikes: float  # spikes per neuron at which accumulates cost as much as the source's products in fp32
    ann_mj: float
    snn_mj: float
    columns: Mapping[str, ColumnCost]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalogReport(AnalogLayer):
    """A layer that no spikes drive."""

    columns: Mapping[str, ColumnCost]


@dataclass(frozen=True, kw_only=True, slots=True)
class RestReport:
    """Arithmetic beside synapses, of one kind: counted by every profile, and billed by those that say what it costs."""

    kind: str
    operators: int
    added: bool  # by the conversion: the source does without
    source_operations: float
    spiking_operations: float  # all steps together
    first_step: Operations
    columns: Mapping[str, ColumnCost]


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyReport:
    """Percent of the same images; None where there are no labels, no class scores or no source."""

    top1_per_step: tuple[float, ...] | None
    top5: float | None
    source_top1: float | None
    source_top5: float | None
    agreement_per_step: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyReport:
    """Spikes and energy of a checkpoint, measured on images; everything is per image."""

    version: int
    network: str
    coding: str
    levels: int
    images: int
    timesteps: int
    profile: str
    profile_description: str
    energy_mj: EnergyMillijoule
    columns: tuple[ColumnReport, ...]
    ratio: float | None  # ann over snn: above 1 the spiking network is cheaper
    ratio_int8: float | None  # the int8 source over the (fp32) spiking network
    better: str | None  # in words, what the spiking network is cheaper than
    worse: str | None  # and what it is not
    accuracy: AccuracyReport | None
    spikes_per_neuron: tuple[float, ...]  # over all sites
    spikes_per_neuron_deviation: tuple[float, ...] | None
    firing_rate: tuple[float, ...]
    macs: int
    synaptic_ops: tuple[float, ...]
    synaptic_ops_deviation: tuple[float, ...] | None
    synaptic_events: tuple[float, ...]
    histogram_images: int
    sites: tuple[SiteReport, ...]
    analog_layers: tuple[AnalogReport, ...]
    rest: tuple[RestReport, ...]
    rest_billed: bool
    memory_billed: bool
    graded_spikes: bool
    assumptions: tuple[str, ...]
    source: str  # of the constants
    constants: tuple[Constant, ...]
    skipped: tuple[SkippedImage, ...]

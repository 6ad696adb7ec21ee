"""What a comparison of methods found; the record behind its table, JSON, Markdown and plot."""

from collections.abc import Mapping
from dataclasses import dataclass

from pmsm_cli.sources.images import SkippedImage

COMPARISON_VERSION = 2  # 1 (not stated): energy by one profile alone


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFigures:
    """The network that all methods convert."""

    top1: float | None  # percent; None: no labels, or no classes
    energy_mj: float  # per image, in fp32
    energy_int8_mj: float
    energy_by_profile: Mapping[str, float]
    energy_int8_by_profile: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodPoint:
    """What one method gives after so many timesteps; counts and energy are sums over them, means over images."""

    timesteps: int
    top1: float | None  # percent
    agreement: float | None  # percent of the images that get the source's class
    output_error: float | None  # mean over the outputs, L2 relative to the source's, percent
    spikes_per_neuron: float  # over the neurons that the method has
    synaptic_ops: float
    energy_mj: float  # where no more timesteps follow
    energy_by_profile: Mapping[str, float]
    setting: str  # how thresholds were set, in words


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodResult:
    """One method, and how it does."""

    name: str
    title: str
    paper: str
    tried: int  # settings that the best was chosen from for each number of timesteps, by calibration images
    neurons: int  # of one image
    reason: str | None  # why it does not apply; None: it does
    points: tuple[MethodPoint, ...]
    first_within: MethodPoint | None  # at the fewest timesteps that lose no more than allowed; None: none does


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The same network by several methods."""

    version: int
    source: str
    images: int
    origin: str
    calibration_images: int
    calibration_origin: str
    within: float  # points that may be lost against the source
    measure: str | None  # what is lost: "top-1" or "agreement"; None: no classes
    profile: str  # that `energy_mj` is by
    profiles: tuple[str, ...]  # all that the same counts were billed by, this one first
    ann: SourceFigures
    methods: tuple[MethodResult, ...]
    assumptions: tuple[str, ...]
    seed: int
    skipped: tuple[SkippedImage, ...]
    warnings: tuple[str, ...]


def points_lost(ann: SourceFigures, point: MethodPoint) -> float | None:
    """Points of top-1 lost against the source, or of agreement where there are no labels; None: no classes."""
    if ann.top1 is not None and point.top1 is not None:
        return ann.top1 - point.top1
    return None if point.agreement is None else 100.0 - point.agreement

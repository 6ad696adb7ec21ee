"""One look at a conversion."""

from dataclasses import dataclass
from pathlib import Path

from pmsm_cli.calibration.allocation import Allocation
from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.finetune.records import EpochRecord
from pmsm_cli.sources.images import SkippedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningSummary:
    """What `pmsm finetune` prints."""

    checkpoint: Path  # the file that was written
    source: str
    teacher: str  # source or labels
    teacher_name: str
    images: int  # trained on in each epoch
    origin: str
    epochs: tuple[EpochRecord, ...]  # the first is the state before training
    best_epoch: int  # the one that was written
    total_epochs: int  # with those of earlier runs
    learning_rate: float
    seed: int
    stopped: str | None  # interrupted or diverged; None: ran to its end
    skipped: tuple[SkippedImage, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionSummary:
    """What `pmsm convert` prints."""

    checkpoint: Path
    source: str
    timesteps: int
    coding: str
    weights: str  # float or int8
    synapses_refitted: int  # how many have weights that make up for what spikes lose
    levels: int  # the bound that was asked for, or that was found
    sites: int
    spiking_share: float  # percent of the multiply-accumulates
    analog: tuple[str, ...]  # layers not driven by spikes, and why
    images: int
    origin: str
    mean_spikes: float  # per neuron, as calibration saw it
    worst_db: float  # the lowest signal-to-distortion ratio of all sites
    worst_site: str
    skipped: tuple[SkippedImage, ...]
    warnings: tuple[str, ...]
    allocation: Allocation | None = None  # how levels were found; None: they were stated
    finetuning: TuningSummary | None = None


def summary_of(
    manifest: Manifest,
    *,
    checkpoint: Path,
    skipped: tuple[SkippedImage, ...],
    warnings: tuple[str, ...],
    finetuning: TuningSummary | None = None,
) -> ConversionSummary:
    """The summary of what a manifest says."""
    plan, calibration = manifest.plan, manifest.calibration
    neurons = [site.neurons or 1 for site in plan.sites]
    spikes = sum(count * site.quality.mean_spikes for count, site in zip(neurons, calibration.sites, strict=True))
    ratios = [(site.quality.signal_to_distortion_db, site.name) for site in calibration.sites]
    worst = min(((ratio, name) for ratio, name in ratios if ratio is not None), default=(float("inf"), "none"))
    return ConversionSummary(
        checkpoint=checkpoint,
        source=manifest.source_name,
        timesteps=manifest.timesteps,
        coding=manifest.coding.value,
        weights=manifest.weights.value,
        synapses_refitted=manifest.synapses_refitted,
        levels=calibration.levels,
        sites=len(plan.sites),
        spiking_share=plan.spiking_share,
        analog=tuple(f"{layer.node} ({layer.reason})" for layer in plan.analog_layers),
        images=calibration.images.images,
        origin=calibration.images.origin,
        mean_spikes=spikes / sum(neurons),
        worst_db=worst[0],
        worst_site=worst[1],
        skipped=skipped,
        warnings=warnings,
        allocation=calibration.allocation,
        finetuning=finetuning,
    )

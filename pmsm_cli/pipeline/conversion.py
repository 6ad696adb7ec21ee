"""From a network to a checkpoint: read it, set its thresholds, put the neurons in."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from pmsm_cli import __version__
from pmsm_cli.calibration import objectives
from pmsm_cli.calibration.by_site import by_site
from pmsm_cli.calibration.calibrate import Calibration, Images, calibrate
from pmsm_cli.calibration.method import Method
from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.calibration.unseen import FEWEST_IMAGES, with_unseen
from pmsm_cli.checkpoint.file import pack
from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.errors import PmsmError
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.keys import keys_of, with_centred_keys
from pmsm_cli.graph.matching import apply_corrections
from pmsm_cli.graph.network import ImageInput, Network, Shape
from pmsm_cli.graph.normalise import normalised_tensors
from pmsm_cli.graph.rest import resting_sites
from pmsm_cli.graph.scores import class_count
from pmsm_cli.graph.sites import SitePlan, find_sites
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.pipeline import data_free
from pmsm_cli.pipeline.image_remarks import level_remarks, value_remarks
from pmsm_cli.pipeline.inputs import SILENT, Progress, batch_size, open_network
from pmsm_cli.pipeline.levels import find_levels
from pmsm_cli.pipeline.remarks import remarks
from pmsm_cli.pipeline.site_costs import Setting
from pmsm_cli.pipeline.tuning import Tuned, summarise_tuning
from pmsm_cli.report.summary import ConversionSummary, summary_of
from pmsm_cli.runtime.match import SourceMoments, match_moments
from pmsm_cli.runtime.normalise import normalise_source
from pmsm_cli.runtime.observe import PASSES, observe
from pmsm_cli.runtime.refit import Refitted, can_refit
from pmsm_cli.runtime.session import model_bytes, open_session
from pmsm_cli.runtime.shapes import known_shapes
from pmsm_cli.sources.images import (
    ImageSet,
    SkippedImage,
    labelled_as,
    open_images,
    read_batches,
    sample_images,
)
from pmsm_cli.sources.preprocessing import InputShape, Layout, Preprocessing, resolve_preprocessing
from pmsm_cli.sources.records import PRETRAINED, Source, Weights

UNIFORM_LEVELS = 15  # where levels are neither stated nor found: without images, and by the methods for comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSettings:
    """How a source network's input is to be read."""

    preprocess: str | None = (
        None  # a preset or a JSON file; None: that of the calibration, else assumed, with a warning
    )
    calibration: Path | None = None  # a file that says what its calibration was made with
    image_size: int | None = None  # for networks that leave it open, and for timm models
    spiking_input: bool = False  # turn the image itself into spikes
    weights: Weights = PRETRAINED  # of a timm model


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loaded:
    """A source network, read and understood."""

    source: Source
    network: Network
    preprocessing: Preprocessing
    plan: SitePlan
    shapes: dict[str, Shape]  # of one image
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibrated:
    """A calibration, and what should be said about how it came about."""

    calibration: Calibration
    class_names: tuple[str, ...]
    skipped: tuple[SkippedImage, ...]
    warnings: tuple[str, ...]
    statistics: Mapping[str, SiteStatistics] | None = None  # only where they were asked for: they are large


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Conversion:
    """A checkpoint, not yet written."""

    model: ir.Model
    data: bytes  # the model as it is written
    manifest: Manifest
    skipped: tuple[SkippedImage, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSettings:
    """How thresholds are set."""

    data: Path | None  # None: synthetic images
    samples: int
    levels: int | None = None  # None: as few spikes as keep the accuracy
    target_drop: float | None = None  # points that finding the levels may cost; None: 0.5, as well as can be
    method: Method = Method.ENTROPY
    horizon: int = 1  # steps that running values are averaged over: T in `rate`
    match_moments: bool = True  # give each synapse's output the source's mean and deviation back
    refit: bool = False  # leave that to `refit_weights` where it can do it
    seed: int = 0
    threads: int | None = None
    keep_statistics: bool = False  # hand the histograms out, to draw them


def load_source(path: Path, settings: InputSettings, progress: Progress = SILENT) -> Loaded:
    """Read a network and find out what becomes spikes."""
    source = open_network(path, settings.weights, image_size=settings.image_size, progress=progress)
    network = ingest(source.proto, subject=str(path))
    warnings = list(source.warnings)
    preset = settings.preprocess
    preprocessing = None if preset or not settings.calibration else _stated_preprocessing(settings.calibration)
    if preprocessing is None or not _fits(preprocessing, network.image):
        preset = preset or source.preset
        if preset is None:
            preset = "none" if network.image.channels == 1 else "imagenet"
            warnings.append(f"the preprocessing is not stated, {preset!r} is assumed: a wrong one costs much accuracy")
        preprocessing = resolve_preprocessing(preset, _input_shape(network.image), image_size=settings.image_size)
    image_shape = network.image.shape(height=preprocessing.height, width=preprocessing.width)
    shapes = known_shapes(network, image_shape)
    return Loaded(
        source=source,
        network=network,
        preprocessing=preprocessing,
        plan=find_sites(network, shapes, spiking_input=settings.spiking_input),
        shapes=shapes,
        warnings=tuple(warnings),
    )


def calibrate_source(loaded: Loaded, settings: CalibrationSettings, progress: Progress) -> Calibrated:
    """Run a network over images and set the thresholds of all its sites."""
    warnings = []
    images: ImageSet
    whole: ImageSet | None = None  # listed once: of many files that takes a while
    finds_levels = settings.levels is None and settings.data is not None and settings.method is Method.ENTROPY
    normalised = settings.data is None and bool(normalised_tensors(loaded.network, loaded.shapes))
    if settings.data is None:
        images = data_free.synthetic_images(loaded.network.image.batch, seed=settings.seed, normalised=normalised)
        warnings.append(data_free.warning(normalised=normalised))
    else:
        classes = loaded.network.class_names if finds_levels else ()  # else labels serve nothing
        whole = labelled_as(open_images(settings.data), classes)
        images = sample_images(whole, settings.samples, settings.seed)
        warnings += value_remarks(images, loaded.preprocessing)
    size = batch_size(loaded.plan, loaded.network.image.batch)
    read = functools.partial(read_batches, images, loaded.preprocessing, size)
    # What is observed, and what moments are matched to: the source as it is on real images, or brought near that, its
    # keys about their mean.
    teacher, shapes = loaded.network, loaded.shapes
    if normalised:
        progress.start("Following batch norm statistics", len(images))
        teacher, shapes = normalise_source(teacher, shapes, read(), threads=settings.threads, on_batch=progress.advance)
    keys = keys_of(teacher, loaded.plan, shapes) if settings.method is Method.ENTROPY else ()
    progress.start("Observing the source network", PASSES * len(images))
    moments = SourceMoments(teacher, loaded.plan, shapes, threads=settings.threads)
    matches = settings.match_moments and not will_refit(loaded, settings, len(images))
    seen = observe(
        teacher,
        loaded.plan,
        read,
        keys=keys,
        shapes=shapes,
        moments=moments if matches or (settings.match_moments and finds_levels) else None,
        threads=settings.threads,
        on_batch=progress.advance,
    )
    teacher, shapes = with_centred_keys(teacher, loaded.plan, seen.centres, shapes)
    statistics = data_free.widened(seen.statistics) if settings.data is None else seen.statistics
    expected = dict(statistics)
    if settings.data is not None and settings.method is Method.ENTROPY and seen.images >= FEWEST_IMAGES:
        # Where levels are stated what is clipped counts more than once, but not what is only expected to be.
        weight = 1 / objectives.CLIPPED_COUNTS if settings.levels else 1.0

        def as_expected(name: str) -> SiteStatistics:
            return with_unseen(statistics[name], weight=weight, levels=settings.levels)

        expected = by_site(as_expected, statistics, threads=settings.threads)
    resting = resting_sites(loaded.network, loaded.plan, loaded.shapes)
    found, allocation = None, None
    if finds_levels and whole is not None:
        setting = Setting(
            network=teacher,
            plan=loaded.plan,
            shapes=shapes,
            statistics=expected,
            resting=resting if settings.horizon == 1 else frozenset(),
            images=whole,
            preprocessing=loaded.preprocessing,
            match_moments=settings.match_moments,
            moments=moments,
            threads=settings.threads,
            seed=settings.seed,
        )
        found, allocation = find_levels(setting, target_drop=settings.target_drop, progress=progress)
        warnings += level_remarks(allocation, whole, stated=settings.target_drop is not None)
    calibration = calibrate(
        statistics,
        levels=allocation.chosen.most_levels if allocation else settings.levels or UNIFORM_LEVELS,
        horizon=1 if found else settings.horizon,
        resting_sites=resting,
        found=found,
        expected=expected,
        centres=seen.centres,
        threads=settings.threads,
        method=settings.method,
        source_sha256=loaded.source.sha256,
        images=Images(
            origin=images.origin,
            images=seen.images,
            skipped=len(seen.skipped),
            digest=seen.digest,
            seed=settings.seed,
        ),
    )
    calibration = replace(calibration, allocation=allocation)
    warnings += remarks(calibration, synthetic=settings.data is None)
    if matches:
        progress.start("Matching moments", len(images))
        spiking = insert_neurons(teacher, loaded.plan, calibration.parameters, shapes)
        corrections = match_moments(
            teacher,
            loaded.plan,
            spiking,
            shapes,
            read(),
            source=moments,
            threads=settings.threads,
            on_batch=progress.advance,
        )
        calibration = replace(calibration, corrections=corrections)
    return Calibrated(
        calibration=calibration,
        class_names=images.class_names,
        skipped=seen.skipped,
        warnings=tuple(warnings),
        statistics=seen.statistics if settings.keep_statistics else None,
    )


def about_centres(loaded: Loaded, calibration: Calibration) -> Loaded:
    """The source as a calibration's neurons read it: keys of attention less their centres, and nothing else changed."""
    network, shapes = with_centred_keys(loaded.network, loaded.plan, calibration.centres, loaded.shapes)
    return replace(loaded, network=network, shapes=shapes)


def will_refit(loaded: Loaded, settings: CalibrationSettings, images: int) -> bool:
    """Whether weights are to be refitted, there are images for it, and the network can be run layer by layer."""
    wanted = settings.refit and settings.match_moments and settings.data is not None
    return wanted and images >= FEWEST_IMAGES and can_refit(loaded.network.model)


def _stated_preprocessing(path: Path) -> Preprocessing | None:
    """What a calibration was made with; None for a file that is none, which `read_calibration` has words for."""
    try:
        return Preprocessing.from_json(json.loads(path.read_text(encoding="utf-8"))["preprocessing"])
    except (OSError, ValueError, KeyError, TypeError, PmsmError):
        return None


def _fits(preprocessing: Preprocessing, image: ImageInput) -> bool:
    shape = image.shape(height=preprocessing.height, width=preprocessing.width)
    sizes = (image.height or preprocessing.height, image.width or preprocessing.width)
    return preprocessing.shape == shape[1:] and sizes == (preprocessing.height, preprocessing.width)


def convert(
    loaded: Loaded,
    calibrated: Calibrated,
    *,
    timesteps: int,
    coding: Coding,
    labels: Sequence[str] = (),
    refitted: Refitted | None = None,
) -> Conversion:
    """Put the neurons in and unroll the timesteps; the model is checked to run before it is handed out.

    `refitted` is what `refit_weights` made of this calibration, for as many timesteps; None: weights as they are.
    """
    calibration = calibrated.calibration
    if refitted:
        spiking = refitted.model
    else:
        source = about_centres(loaded, calibration)
        spiking = insert_neurons(source.network, loaded.plan, calibration.parameters, source.shapes)
        spiking = apply_corrections(spiking, calibration.corrections, fold=timesteps == 1)
    if timesteps > 1:
        spiking = unroll_timesteps(spiking, loaded.plan, timesteps=timesteps, coding=coding)
    manifest = Manifest(
        tool_version=__version__,
        timesteps=timesteps,
        coding=coding,
        source_name=loaded.source.name,
        source_sha256=loaded.source.sha256,
        preprocessing=loaded.preprocessing,
        plan=loaded.plan,
        calibration=replace(calibration, corrections=()),
        moments_matched=bool(calibration.corrections) or refitted is not None,
        synapses_refitted=refitted.synapses if refitted else 0,
        labels=tuple(labels) or loaded.network.class_names or _fitting(calibrated.class_names, spiking),
    )
    model = pack(spiking, manifest)
    data = model_bytes(model, subject=str(loaded.source.path))
    open_session(data, subject=str(loaded.source.path))
    return Conversion(
        model=model,
        data=data,
        manifest=manifest,
        skipped=calibrated.skipped,
        warnings=(*loaded.warnings, *calibrated.warnings),
    )


def summarise(made: Conversion, checkpoint: Path, tuned: Tuned | None = None) -> ConversionSummary:
    """One look at a conversion that was written to a file, and at its fine-tuning."""
    return summary_of(
        made.manifest,
        checkpoint=checkpoint,
        skipped=made.skipped,
        warnings=made.warnings,
        finetuning=summarise_tuning(tuned, checkpoint) if tuned else None,
    )


def _fitting(class_names: tuple[str, ...], model: ir.Model) -> tuple[str, ...]:
    """The names of the data folder's classes, if there are as many as the network tells apart."""
    return class_names if class_count(model) == len(class_names) else ()


def _input_shape(image: ImageInput) -> InputShape:
    return InputShape(
        height=image.height,
        width=image.width,
        channel_count=image.channels,
        layout=Layout.NHWC if image.channels_last else Layout.NCHW,
    )

"""From a checkpoint with float weights to one with int8 weights."""

from dataclasses import replace

from pmsm_cli.checkpoint.file import Checkpoint, pack
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.lowering.carried import carried_values, carry
from pmsm_cli.lowering.precision import Precision
from pmsm_cli.lowering.settle import correct_weights, settle_weights
from pmsm_cli.pipeline import data_free
from pmsm_cli.pipeline.conversion import CalibrationSettings, Conversion, Loaded
from pmsm_cli.pipeline.inputs import Progress, batch_size, open_sample
from pmsm_cli.runtime.match import match_moments
from pmsm_cli.runtime.ranges import value_ranges
from pmsm_cli.runtime.session import model_bytes
from pmsm_cli.runtime.spiking import open_spiking
from pmsm_cli.runtime.workload import measure_shapes
from pmsm_cli.sources.images import ImageSet, read_batches

_IMAGES = 128  # whose values set the range of what is carried in 8 bits


def round_to_int8(made: Conversion, loaded: Loaded, settings: CalibrationSettings, progress: Progress) -> Conversion:
    """The same checkpoint with weights of 8 bits and, at one timestep, residual sums in 8 bits.

    The range of these sums is that of the calibration images, or of synthetic ones. The result is checked to run.
    """
    subject = str(loaded.source.path)
    checkpoint = Checkpoint(subject=subject, model=made.model, manifest=made.manifest)
    shapes = measure_shapes(checkpoint)
    model, weights = settle_weights(made.model, shapes)
    images: ImageSet
    warnings = made.warnings
    if settings.data is not None and settings.match_moments and made.manifest.timesteps == 1:
        images = open_sample(settings.data, settings.samples, settings.seed)
        progress.start("Matching moments again", len(images))
        corrections = match_moments(
            loaded.network,
            _convolutions(loaded.plan),
            model,
            loaded.shapes,
            read_batches(images, loaded.preprocessing, batch_size(loaded.plan, loaded.network.image.batch)),
            threads=settings.threads,
            on_batch=progress.advance,
        )
        model, weights = correct_weights(model, weights, corrections)
    names = carried_values(model, shapes) if made.manifest.timesteps == 1 else ()
    if names:
        batch = loaded.network.image.batch
        if settings.data is None:
            images = data_free.synthetic_images(batch, seed=settings.seed, normalised=False)
            warnings = (*warnings, "the range of what is carried in 8 bits comes from synthetic images; pass --data")
        else:
            images = open_sample(settings.data, min(settings.samples, _IMAGES), settings.seed)
        progress.start("Finding ranges", len(images))
        batches = read_batches(images, loaded.preprocessing, batch_size(loaded.plan, batch))
        ranges = value_ranges(
            model, names, batches, subject=subject, threads=settings.threads, on_batch=progress.advance
        )
        model = carry(model, ranges)
    manifest = replace(made.manifest, weights=Precision.INT8)
    rounded = replace(checkpoint, model=model, manifest=manifest, int8_weights=weights)
    open_spiking(rounded)
    data = model_bytes(pack(model, manifest, weights), subject=subject)
    return replace(made, model=model, data=data, manifest=manifest, warnings=warnings)


def _convolutions(plan: SitePlan) -> SitePlan:
    """The same sites with the convolutions among their readers: the corrections of others are nodes, and stay."""
    return replace(
        plan,
        sites=tuple(
            replace(site, readers=tuple(reader for reader in site.readers if reader.op_type == "Conv"))
            for site in plan.sites
        ),
    )

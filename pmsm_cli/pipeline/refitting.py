"""From a calibration to weights that make up for what spikes lose."""

from dataclasses import replace

import numpy as np

from pmsm_cli.calibration.unseen import FEWEST_IMAGES
from pmsm_cli.graph.all_steps import back_to_first_step, through_all_steps
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.matching import apply_corrections, is_correcting, settle_corrections
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.pipeline.conversion import Calibrated, CalibrationSettings, Loaded, about_centres, will_refit
from pmsm_cli.pipeline.inputs import Progress, batch_size
from pmsm_cli.runtime.match import match_moments
from pmsm_cli.runtime.refit import Refitted, refit
from pmsm_cli.runtime.session import Array
from pmsm_cli.sources.images import ImageSet, open_images, read_batches, sample_images

_LARGEST_BATCH = 16
_MEMORY = 2**30  # bytes of activations that are held for all images
_HELD_AT_ONCE = 4  # times the largest tensor: either network's, and what passes beside it
_WORK = 200e9  # multiply-accumulates of the source on all images
_FEWEST, _MOST = 32, 2048  # images, whatever they take


def refit_weights(
    loaded: Loaded,
    calibrated: Calibrated,
    settings: CalibrationSettings,
    progress: Progress,
    *,
    timesteps: int = 1,
    coding: Coding = Coding.REFINE,
) -> Refitted | None:
    """Weights refitted on the calibration images to what all timesteps carry, with moments matched behind them.

    As many of the images take part as memory holds and as time allows. Moments are then matched once more on all
    images: where not all took part, and of several timesteps those of the first, which carries less. None where
    `will_refit` says no.
    """
    if not settings.refit or settings.data is None:
        return None
    images = open_images(settings.data)  # once: listing many takes a while
    if not will_refit(loaded, settings, min(len(images), settings.samples)):
        return None
    readers = sum(len(site.readers) for site in loaded.plan.sites)
    source = about_centres(loaded, calibrated.calibration)
    spiking = insert_neurons(source.network, loaded.plan, calibrated.calibration.parameters, source.shapes)
    batches = _batches(loaded, settings, images)
    progress.start("Refitting weights", readers)
    several = timesteps > 1
    refitted = refit(
        source.network,
        loaded.plan,
        through_all_steps(spiking, timesteps=timesteps, coding=coding) if several else spiking,
        source.shapes,
        batches,
        seed=settings.seed,
        threads=settings.threads,
        on_synapse=progress.advance,
    )
    matched = sample_images(images, settings.samples, settings.seed)
    if several:
        model = back_to_first_step(refitted.model, spiking)
        settle_corrections(model)
    elif len(matched) > sum(map(len, batches)) and not any(map(is_correcting, refitted.model.graph)):
        model = refitted.model
    else:
        return refitted
    progress.start("Matching moments", len(matched))
    corrections = match_moments(
        source.network,
        loaded.plan,
        model,
        source.shapes,
        read_batches(matched, loaded.preprocessing, batch_size(loaded.plan, loaded.network.image.batch)),
        threads=settings.threads,
        on_batch=progress.advance,
    )
    return replace(refitted, model=apply_corrections(model, corrections, fold=not several))


def _batches(loaded: Loaded, settings: CalibrationSettings, images: ImageSet) -> list[Array]:
    """The images that are held, in at least eight batches where there are images for them."""
    fixed = loaded.network.image.batch
    largest = max((int(np.prod(shape)) // (fixed or 1) for shape in loaded.shapes.values()), default=1)
    held = _MEMORY // (4 * _HELD_AT_ONCE * largest)
    paid = int(_WORK // max(loaded.plan.total_macs // (fixed or 1), 1))
    most = int(np.clip(min(held, paid), _FEWEST, _MOST))
    some = sample_images(images, min(settings.samples, most), settings.seed)
    size = fixed or max(1, min(_LARGEST_BATCH, len(some) // FEWEST_IMAGES))
    read = (batch.inputs for batch in read_batches(some, loaded.preprocessing, size))
    return [inputs for inputs in read if len(inputs) and (not fixed or len(inputs) == fixed)]

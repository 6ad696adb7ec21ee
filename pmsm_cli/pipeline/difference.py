"""Where a checkpoint's accuracy goes: error per site, alone and accumulated, and which sites to give more levels."""

import numpy as np

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.keys import with_centred_keys
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.sites import Site
from pmsm_cli.neuron.last_step import after_all_steps
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.pipeline.bisection import Trial, bisect, check_can_bisect
from pmsm_cli.pipeline.inputs import Progress, source_remarks
from pmsm_cli.report.difference import Difference, SiteFigures
from pmsm_cli.runtime.differences import SiteDifference, measure_differences
from pmsm_cli.runtime.fit import check_comparable, check_labels, check_same_tensors
from pmsm_cli.runtime.sensitivity import output_errors
from pmsm_cli.runtime.session import open_session
from pmsm_cli.sources.images import ImageSet, sample_images
from pmsm_cli.sources.records import Source

# Work that measuring the damage may take, in multiply-accumulates: it bounds the images of large networks.
_WORK, _FEWEST_PROBED, _MOST_PROBED = 2e11, 2, 32
_NEGLIGIBLE = 0.01  # share of the sum of all squared damages below which a site is not worth an effort
_MOSTLY_CLIPPED = 0.5  # share of a site's squared error from where on clipping is what to mend
_INHERITED_DB = 10.0  # how much lower the accumulated ratio is where most of the error comes from before


def diff_checkpoint(
    checkpoint: Checkpoint,
    images: ImageSet,
    against: Source,
    *,
    target_drop: float | None,
    seed: int,
    threads: int | None,
    progress: Progress,
) -> Difference:
    """Every site of a checkpoint beside its source's tensor; with `target_drop` also the sites to make finer.

    Raises:
        BadInputError: the source is another network, or the images do not fit.
        UsageError: `target_drop` is stated, but there is more than one timestep, fine-tuned weights, or no classes.
    """
    manifest, subject = checkpoint.manifest, checkpoint.subject
    if target_drop is not None:
        check_can_bisect(checkpoint)
    name = str(against.path)
    network = ingest(against.proto, subject=name)
    source = open_session(network.model, subject=name, threads=threads)
    spiking = open_session(checkpoint.model, subject=subject, threads=threads)
    check_comparable(spiking, source, source_name=manifest.source_name)
    check_same_tensors(network, manifest.plan, manifest.preprocessing.shape, source_name=manifest.source_name)
    check_labels(images, network.model)
    network, _ = with_centred_keys(network, manifest.plan, manifest.calibration.centres, {})
    trial = Trial(checkpoint, network, images, source, seed=seed, threads=threads, progress=progress)
    progress.start("Comparing tensors", len(images))
    seen = measure_differences(checkpoint, network, trial.batches(images), threads=threads, on_batch=progress.advance)
    probed = _probed(images, network, checkpoint, seed)
    inputs = np.concatenate([batch.inputs for batch in trial.batches(probed)])
    finest = {
        name: after_all_steps(neurons, manifest.timesteps, manifest.coding)
        for name, neurons in manifest.calibration.parameters.items()
    }
    progress.start("What each tensor does to the output", len(manifest.plan.sites))
    damage = output_errors(network, manifest.plan, finest, inputs, threads=threads, on_site=progress.advance)
    measured = trial.evaluate(spiking, "Measuring the accuracy")
    sites = _ranked(checkpoint, seen, {name: 100 * error**0.5 for name, error in damage.items()})
    bisection = None
    if target_drop is not None:
        bisection = bisect(trial, [site.name for site in sites], target_drop, measured)
    return Difference(
        checkpoint=subject,
        source=name,
        images=measured.images,
        probed_images=len(inputs),
        timesteps=manifest.timesteps,
        source_top1=measured.ann.top1 if measured.ann else None,
        top1=measured.snn.top1,
        agreement=measured.agreement,
        output_error=measured.output_errors[-1] if measured.outputs else None,
        sites=sites,
        bisection=bisection,
        skipped=measured.skipped,
        warnings=source_remarks(against, checkpoint),
    )


def _ranked(
    checkpoint: Checkpoint, seen: dict[str, SiteDifference], damage: dict[str, float]
) -> tuple[SiteFigures, ...]:
    manifest = checkpoint.manifest
    parameters = manifest.calibration.parameters
    all_damage = sum(value**2 for value in damage.values())
    reports = [
        _report(site, parameters[site.name], seen[site.name], damage[site.name], all_damage)
        for site in manifest.plan.sites
    ]
    return tuple(sorted(reports, key=lambda report: -report.damage))


def _report(
    site: Site, neurons: NeuronParameters, seen: SiteDifference, damage: float, all_damage: float
) -> SiteFigures:
    alone, accumulated = seen.alone, seen.accumulated
    clipped_share = seen.clipped_error / alone.error if alone.error > 0 else 0.0
    return SiteFigures(
        name=site.name,
        readers=tuple(reader.op_type for reader in site.readers),
        neurons=site.neurons,
        negative_levels=neurons.negative_levels,
        positive_levels=neurons.positive_levels,
        alone_db=alone.signal_to_noise_db,
        accumulated_db=accumulated.signal_to_noise_db,
        alone_cosine=alone.cosine,
        accumulated_cosine=accumulated.cosine,
        clipped=100 * seen.clipped / max(seen.values, 1),
        clipped_error=100 * clipped_share,
        damage=damage,
        advice=advise(seen, neurons, clipped_share, damage**2 / all_damage if all_damage > 0 else 0.0),
    )


def advise(seen: SiteDifference, neurons: NeuronParameters, clipped_share: float, damage_share: float) -> str:
    """What to try at a site, in a few words."""
    alone, accumulated = seen.alone.signal_to_noise_db, seen.accumulated.signal_to_noise_db
    if alone is None:
        return "nothing: it is exact"
    if damage_share < _NEGLIGIBLE:
        own = "nothing, or fewer levels"
    elif clipped_share > _MOSTLY_CLIPPED:
        unsigned = neurons.negative_levels == 0 and neurons.rests_at_zero and seen.negative > 0
        own = "negative levels: calibrate on such images" if unsigned else "a wider threshold, or more levels"
    else:
        own = "more levels"
    inherited = accumulated is not None and alone - accumulated > _INHERITED_DB
    return f"{own}; most of its error comes from before it" if inherited else own


def _probed(images: ImageSet, network: Network, checkpoint: Checkpoint, seed: int) -> ImageSet:
    plan, batch = checkpoint.manifest.plan, network.image.batch or 1
    most = int(np.clip(_WORK // (max(plan.total_macs, 1) * len(plan.sites)), _FEWEST_PROBED, _MOST_PROBED))
    return sample_images(images, max(most // batch, 1) * batch, seed)

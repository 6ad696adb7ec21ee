"""From a checkpoint with float weights to one with int8 weights."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import onnx_ir as ir

from pmsm_cli.checkpoint.file import Checkpoint, pack
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.lowering.carried import carried_values, carry
from pmsm_cli.lowering.int8 import Int8Weights
from pmsm_cli.lowering.precision import Precision
from pmsm_cli.lowering.rounding import Moments
from pmsm_cli.lowering.settle import correct_weights, settle_weights
from pmsm_cli.pipeline import data_free
from pmsm_cli.pipeline.conversion import CalibrationSettings, Conversion, Loaded
from pmsm_cli.pipeline.inputs import Progress, batch_size, open_sample
from pmsm_cli.runtime.input_moments import input_moments
from pmsm_cli.runtime.match import match_moments
from pmsm_cli.runtime.ranges import value_ranges
from pmsm_cli.runtime.session import model_bytes
from pmsm_cli.runtime.spiking import open_spiking
from pmsm_cli.runtime.workload import measure_shapes
from pmsm_cli.sources.images import Batch, ImageSet, read_batches

_IMAGES = 128  # that show what spikes together, and the range of what is carried in 8 bits


def round_to_int8(made: Conversion, loaded: Loaded, settings: CalibrationSettings, progress: Progress) -> Conversion:
    """The same checkpoint with weights of 8 bits and, at one timestep, what passes the synapses in 8 bits.

    Weights are rounded by what they do to the outputs on the calibration images, and channels get the source's moments
    once more; without images weights are rounded to the nearest. The result is checked to run.
    """
    return _Rounding(made, loaded, settings, progress).result()


class _Rounding:
    """The stages of one rounding, and the images that they share."""

    def __init__(self, made: Conversion, loaded: Loaded, settings: CalibrationSettings, progress: Progress) -> None:
        self.made, self.loaded, self.settings, self.progress = made, loaded, settings, progress
        self.subject = str(loaded.source.path)
        self.one_step = made.manifest.timesteps == 1

    def result(self) -> Conversion:
        """The rounded checkpoint."""
        made = self.made
        checkpoint = Checkpoint(subject=self.subject, model=made.model, manifest=made.manifest)
        shapes = measure_shapes(checkpoint)
        model, weights = settle_weights(made.model, shapes, self._moments(shapes))
        if self.settings.data is not None and self.settings.match_moments and self.one_step:
            model, weights = self._matched(model, weights)
        warnings = made.warnings
        names = carried_values(model, shapes) if self.one_step else ()
        if names:
            if self.settings.data is None:
                synthetic = "the range of what is carried in 8 bits comes from synthetic images; pass --data"
                warnings = (*warnings, synthetic)
            ranges = value_ranges(
                model,
                names,
                self._batches("Finding ranges", self._images(_IMAGES)),
                subject=self.subject,
                threads=self.settings.threads,
                on_batch=self.progress.advance,
            )
            model = carry(model, ranges)
        manifest = replace(made.manifest, weights=Precision.INT8)
        open_spiking(replace(checkpoint, model=model, manifest=manifest, int8_weights=weights))
        data = model_bytes(pack(model, manifest, weights), subject=self.subject)
        return replace(made, model=model, data=data, manifest=manifest, warnings=warnings)

    def _moments(self, shapes: Mapping[str, Shape]) -> dict[str, Moments]:
        if self.settings.data is None:
            return {}
        return input_moments(
            self.made.model,
            shapes,
            self._batches("Finding what spikes together", self._images(_IMAGES)),
            subject=self.subject,
            seed=self.settings.seed,
            threads=self.settings.threads,
            on_batch=self.progress.advance,
        )

    def _matched(self, model: ir.Model, weights: dict[str, Int8Weights]) -> tuple[ir.Model, dict[str, Int8Weights]]:
        """With the source's moments behind convolutions; other synapses keep what they have."""
        corrections = match_moments(
            self.loaded.network,
            _convolutions(self.loaded.plan),
            model,
            self.loaded.shapes,
            self._batches("Matching moments again", self._images(self.settings.samples)),
            threads=self.settings.threads,
            on_batch=self.progress.advance,
        )
        return correct_weights(model, weights, corrections)

    def _images(self, most: int) -> ImageSet:
        data, seed = self.settings.data, self.settings.seed
        if data is None:
            return data_free.synthetic_images(self.loaded.network.image.batch, seed=seed, normalised=False)
        return open_sample(data, min(self.settings.samples, most), seed)

    def _batches(self, stage: str, images: ImageSet) -> Iterator[Batch]:
        self.progress.start(stage, len(images))
        size = batch_size(self.loaded.plan, self.loaded.network.image.batch)
        return read_batches(images, self.loaded.preprocessing, size)


def _convolutions(plan: SitePlan) -> SitePlan:
    """The same sites with the convolutions among their readers."""
    return replace(
        plan,
        sites=tuple(
            replace(site, readers=tuple(reader for reader in site.readers if reader.op_type == "Conv"))
            for site in plan.sites
        ),
    )

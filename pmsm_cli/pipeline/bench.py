"""Where methods are compared: the images, the source's outputs for them, and how one method's run becomes figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from pmsm_cli.energy.constants import EnergyProfile
from pmsm_cli.energy.costs import spiking_energy_mj
from pmsm_cli.energy.facts import SpikingFacts
from pmsm_cli.energy.profile import open_profile
from pmsm_cli.finetune.records import Listener
from pmsm_cli.graph.scores import class_scores
from pmsm_cli.pipeline.conversion import Loaded
from pmsm_cli.pipeline.inputs import batch_size, open_sample
from pmsm_cli.report.comparison import MethodPoint
from pmsm_cli.runtime.counted import Totals
from pmsm_cli.runtime.evaluate import Evaluation, Stepwise, evaluate
from pmsm_cli.runtime.fit import check_labels
from pmsm_cli.runtime.remembered import Remembered
from pmsm_cli.runtime.session import Session, open_session
from pmsm_cli.sources.images import Batch, ImageSet, read_batches

_BESIDE = {"45nm": "45nm-memory"}  # the papers' convention does not bill what timesteps cost beside synapses


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonSettings:
    """What is compared, on what."""

    data: Path
    calibration_data: Path | None  # None: images of `data`
    samples: int
    calibration_samples: int
    timesteps: tuple[int, ...]  # rising
    within: float  # points that may be lost
    levels: int | None  # of ours; None: found
    finetune: int  # passes over all calibration images, for the methods that can be trained; 0: none
    profile: str
    seed: int
    threads: int | None

    @property
    def calibrated_on(self) -> Path:
        """Where calibration images come from."""
        return self.calibration_data or self.data


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """One method over all images, at every timestep up to the last."""

    evaluation: Evaluation
    facts: SpikingFacts
    spikes_per_neuron: Totals  # of each step, [timesteps]
    neurons: int  # of one image
    profiles: Mapping[str, EnergyProfile]  # the one chosen first

    def points(self, timesteps: Sequence[int], setting: str) -> tuple[MethodPoint, ...]:
        """The figures after so many steps each, as far as it went."""
        spikes = np.cumsum(self.spikes_per_neuron)
        operations = np.cumsum(sum(drive.count.synaptic_ops for drive in self.facts.drives))
        steps = [count for count in timesteps if count <= len(spikes)]
        energy = {
            count: {
                name: spiking_energy_mj(self.facts, profile, timesteps=count) for name, profile in self.profiles.items()
            }
            for count in steps
        }
        measured = self.evaluation
        top1, agreement = measured.snn.top1_per_step, measured.agreement_per_step
        error = measured.output_errors
        return tuple(
            MethodPoint(
                timesteps=count,
                top1=top1[count - 1] if top1 else None,
                agreement=agreement[count - 1] if agreement else None,
                output_error=error[count - 1] if error else None,
                spikes_per_neuron=float(spikes[count - 1]),
                synaptic_ops=float(operations[count - 1]),
                energy_mj=next(iter(energy[count].values())),
                energy_by_profile=energy[count],
                setting=setting,
            )
            for count in steps
        )


class Bench:
    """What all methods share."""

    def __init__(self, loaded: Loaded, settings: ComparisonSettings, progress: Listener) -> None:
        """Open the energy profiles, the images and the source.

        Raises:
            ProfileError: there is no such profile, or it is none.
            DataError: the images cannot be used, or their labels do not fit the network.
        """
        names = [settings.profile, *([_BESIDE[settings.profile]] if settings.profile in _BESIDE else [])]
        self.profiles = {name: open_profile(name) for name in names}
        self.loaded, self.settings, self.progress = loaded, settings, progress
        classes = loaded.network.class_names
        self.images = open_sample(settings.data, settings.samples, settings.seed, classes=classes)
        self.calibration = open_sample(settings.calibrated_on, settings.calibration_samples, settings.seed)
        self.source = self.open(loaded.network.model)
        for images in (self.images, self.calibration):
            check_labels(images, loaded.network.model)
        self.remembered = Remembered(lambda: self.source)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the chosen profile assumes."""
        return next(iter(self.profiles.values())).assumptions

    def open(self, model: ir.Model, stacked: Sequence[str] = ()) -> Session:
        """A network of this comparison, ready to run."""
        subject = self.loaded.network.subject
        return open_session(model, subject=subject, threads=self.settings.threads, stacked=stacked)

    def batches(self, images: ImageSet) -> Iterator[Batch]:
        """The images as the network reads them."""
        return read_batches(images, self.loaded.preprocessing, self._batch_size)

    def whole_batches(self, images: int) -> int:
        """About so many images, in whole batches where the graph fixes their size."""
        fixed = self.loaded.network.image.batch or 1
        return max(images // fixed, 1) * fixed

    def evaluate(self, spiking: Stepwise, *, timesteps: int, stage: str, images: ImageSet | None = None) -> Evaluation:
        """How well a method does on these images, at every step; None: on all that methods are compared on."""
        images = self.images if images is None else images
        self.progress.start(stage, len(images))
        return evaluate(
            spiking,
            self.batches(images),
            timesteps=timesteps,
            scores=class_scores(self.loaded.network.model),
            source=self.remembered,
            on_batch=self.progress.advance,
        )

    @property
    def _batch_size(self) -> int:
        return batch_size(self.loaded.plan, self.loaded.network.image.batch)

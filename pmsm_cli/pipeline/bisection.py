"""The fewest sites of a checkpoint that need more levels for its accuracy to be kept, by measurement."""

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from pmsm_cli.calibration.thresholds import choose_parameters
from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.errors import UsageError
from pmsm_cli.graph.insert import insert_neurons
from pmsm_cli.graph.matching import apply_corrections
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.rest import resting_sites
from pmsm_cli.graph.scores import class_scores
from pmsm_cli.graph.shapes import infer_shapes
from pmsm_cli.neuron.parameters import MOST_LEVELS, NeuronParameters
from pmsm_cli.pipeline.inputs import Progress, batch_size
from pmsm_cli.report.difference import Bisection
from pmsm_cli.runtime.evaluate import Evaluation, evaluate
from pmsm_cli.runtime.match import SourceMoments, match_moments
from pmsm_cli.runtime.observe import PASSES, observe
from pmsm_cli.runtime.remembered import Remembered
from pmsm_cli.runtime.session import Session
from pmsm_cli.runtime.spiking import open_tried
from pmsm_cli.sources.images import Batch, ImageSet, read_batches, sample_images

FACTOR = 4  # how many times the levels a site is given where it is given more
_MOST_MATCHED = 512  # images that thresholds for more levels and moments come from


class Variants(Protocol):
    """Conversions of which some sites have more levels."""

    @property
    def tried(self) -> int:
        """How many were measured."""
        ...

    def drop(self, finer: Collection[str]) -> float:
        """The points that are lost with more levels at these sites."""
        ...


def bisect(trial: Variants, ranked: Sequence[str], target_drop: float, measured: Evaluation) -> Bisection:
    """The fewest sites found whose having more levels keeps the loss within the target, by measurement.

    The most damaging sites first, as many as it takes by bisection; of these, each from the least damaging one on is
    left out again if the target holds without it.

    Raises:
        UsageError: there are no classes to lose.
    """
    before = measured.drop
    if before is None:
        raise UsageError("--bisect goes by lost accuracy, but the network gives no class scores", hint="leave it out")
    everywhere = trial.drop(ranked)
    chosen: list[str] = []
    drop = before
    if before > target_drop >= everywhere:
        low, high = 0, len(ranked)  # `low` sites are too few, `high` are enough
        drop = everywhere
        while high - low > 1:
            middle = (low + high) // 2
            tried = trial.drop(ranked[:middle])
            if tried <= target_drop:
                high, drop = middle, tried
            else:
                low = middle
        chosen = list(ranked[:high])
        for name in reversed(ranked[: high - 1]):
            without = [each for each in chosen if each != name]
            tried = trial.drop(without)
            if tried <= target_drop:
                chosen, drop = without, tried
    labelled = measured.ann is not None and measured.ann.top1 is not None
    return Bisection(
        target_drop=target_drop,
        measure="top-1" if labelled else "agreement",
        factor=FACTOR,
        drop_before=before,
        drop_everywhere=everywhere,
        drop=drop,
        kept=drop <= target_drop,
        sites=tuple(chosen),
        tried=trial.tried,
    )


def check_can_bisect(checkpoint: Checkpoint) -> None:
    """Refuse checkpoints whose levels cannot be changed without more.

    Raises:
        UsageError: there is more than one timestep, or the weights were fine-tuned.
    """
    manifest, subject = checkpoint.manifest, checkpoint.subject
    if manifest.timesteps > 1:
        raise UsageError(
            f"has {manifest.timesteps} timesteps; --bisect gives more levels at one",
            subject=subject,
            hint="look at a checkpoint of `pmsm convert --timesteps 1`",
        )
    if manifest.finetuning:
        raise UsageError(
            "was fine-tuned: its weights are those for its levels, and --bisect changes levels alone",
            subject=subject,
            hint="look at the checkpoint before fine-tuning",
        )


class Trial:
    """Variants of one conversion on the same images."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        network: Network,
        images: ImageSet,
        source: Session,
        *,
        seed: int,
        threads: int | None,
        progress: Progress,
    ) -> None:
        self.manifest, self._network, self._images = checkpoint.manifest, network, images
        self._threads, self._progress = threads, progress
        preprocessing = self.manifest.preprocessing
        image_shape = network.image.shape(height=preprocessing.height, width=preprocessing.width)
        self._shapes = infer_shapes(network.model, image_shape)
        self._size = batch_size(self.manifest.plan, network.image.batch)
        self._source = Remembered(lambda: source)
        self._moments = SourceMoments(network, self.manifest.plan, self._shapes, threads=threads)
        batch = network.image.batch or 1
        self._matched = sample_images(images, max(_MOST_MATCHED // batch, 1) * batch, seed)
        self._finer: dict[str, NeuronParameters] = {}
        self.tried = 0

    def batches(self, images: ImageSet) -> Iterator[Batch]:
        """Images as the network reads them."""
        return read_batches(images, self.manifest.preprocessing, self._size)

    def evaluate(self, spiking: Session, stage: str) -> Evaluation:
        """How well a variant does beside the source."""
        self._progress.start(stage, len(self._images))
        return evaluate(
            spiking,
            self.batches(self._images),
            timesteps=self.manifest.timesteps,
            scores=class_scores(self._network.model),
            source=self._source,
            on_batch=self._progress.advance,
        )

    def _with_more_levels(self) -> dict[str, NeuronParameters]:
        """Each site's neurons with `FACTOR` times the levels, calibrated by the checkpoint's method on the images."""
        network, plan, calibration = self._network, self.manifest.plan, self.manifest.calibration
        self._progress.start("More levels: observing the source", PASSES * len(self._matched))
        seen = observe(
            network,
            plan,
            lambda: self.batches(self._matched),
            threads=self._threads,
            on_batch=self._progress.advance,
        )
        resting = resting_sites(network, plan, self._shapes)
        finer = {}
        for name, neurons in calibration.parameters.items():
            levels = min(FACTOR * max(neurons.negative_levels, neurons.positive_levels), MOST_LEVELS)
            statistics = seen.statistics[name]
            finer[name] = choose_parameters(statistics, calibration.method, levels, may_rest=name in resting)
        return finer

    def drop(self, finer: Collection[str]) -> float:
        """The points that are lost by a conversion with more levels at these sites, its moments matched anew."""
        self.tried += 1
        network, plan = self._network, self.manifest.plan
        if not self._finer:
            self._finer = self._with_more_levels()
        own = self.manifest.calibration.parameters
        neurons = {name: self._finer[name] if name in finer else each for name, each in own.items()}
        model = insert_neurons(network, plan, neurons, self._shapes)
        stage = f"More levels at {len(finer)} tensor(s)"
        if self.manifest.moments_matched:
            self._progress.start(f"{stage}: matching moments", len(self._matched))
            corrections = match_moments(
                network,
                plan,
                model,
                self._shapes,
                self.batches(self._matched),
                source=self._moments,
                threads=self._threads,
                on_batch=self._progress.advance,
            )
            model = apply_corrections(model, corrections, fold=True)
        lost = self.evaluate(open_tried(model, subject=network.subject, threads=self._threads), stage).drop
        assert lost is not None  # there are classes: `bisect` has seen to that
        return lost

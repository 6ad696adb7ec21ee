"""How well a spiking network does: accuracy at every step, and how far it is from its source."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pmsm_cli.errors import DataError
from pmsm_cli.graph.scan import PER_STEP
from pmsm_cli.runtime.remembered import Runs
from pmsm_cli.runtime.session import Array
from pmsm_cli.runtime.tensors import squared_difference
from pmsm_cli.sources.images import Batch, SkippedImage

FOLDERS_HINT = "one sub-folder a class, all classes present, in the network's alphabetical order"
_ROUNDING = 1e-3  # by which probabilities may miss 1 in sum


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Percent of the labelled images; None where there are no labels or no class scores."""

    top1: float | None
    top5: float | None
    top1_per_step: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputError:
    """How far one output is from the source's: the L2 norm of the difference over that of the source, in percent.

    Whole numbers, such as classes or truth values, are the same or not: of them the percent that differ.
    """

    name: str
    relative_error: float
    per_step: tuple[float, ...]
    whole_numbers: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What a run over a set of images showed."""

    images: int
    timesteps: int
    snn: Accuracy
    ann: Accuracy | None  # None: no source to compare with
    agreement: float | None  # percent of the images to which both give the same class
    agreement_per_step: tuple[float, ...] | None
    # Points of top-1 that the classes which the last step changes cost, by the source's own probabilities of them: an
    # estimate that needs no labels and, on as many images, has a small part of the chance in the measured one.
    expected_drop: float | None
    outputs: tuple[OutputError, ...]
    skipped: tuple[SkippedImage, ...]

    @property
    def drop(self) -> float | None:
        """Points of top-1 lost against the source, or of agreement where there are no labels; None: no classes."""
        if self.ann and self.ann.top1 is not None and self.snn.top1 is not None:
            return self.ann.top1 - self.snn.top1
        return None if self.agreement is None else 100.0 - self.agreement

    @property
    def output_errors(self) -> tuple[float, ...]:
        """The errors of the outputs at each step, their mean over the outputs; empty without a source.

        Whole numbers count where there is nothing else.
        """
        counted = [each for each in self.outputs if not each.whole_numbers] or self.outputs
        return tuple(sum(each) / len(each) for each in zip(*(output.per_step for output in counted), strict=True))


class Stepwise(Runs, Protocol):
    """A spiking network, by what it gives out."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of its outputs, in order; `<name>_per_step` holds every step of another one."""
        ...


def evaluate(
    spiking: Stepwise,
    batches: Iterable[Batch],
    *,
    timesteps: int,
    scores: str | None,
    source: Runs | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Run the spiking network, and the source where given, over all batches; `on_batch` is told of their sizes.

    `scores` is the output that scores classes, [images, classes] (`pmsm_cli.graph.scores`); None: there is none.

    Raises:
        DataError: a label is beyond the network's classes.
    """
    tally = Tally(spiking.output_names, timesteps, scores=scores)
    for batch in batches:
        tally.skipped += batch.skipped
        if len(batch.inputs):
            tally.add(batch, spiking.run(batch.inputs), source.run(batch.inputs) if source else None)
        on_batch(len(batch.inputs) + len(batch.skipped))
    return tally.result()


def per_step_outputs(names: Sequence[str], results: list[Array], timesteps: int) -> list[Array]:
    """Each source output at every step, [timesteps, images, ...], in the order of the source's outputs."""
    if timesteps == 1:
        return [result[None] for result in results]
    named = dict(zip(names, results, strict=True))
    return [named[f"{name}{PER_STEP}"] for name in source_outputs(names)]


def source_outputs(names: Sequence[str]) -> list[str]:
    """The outputs that the source has too: all but those that hold every step of another one."""
    known = set(names)
    return [name for name in names if not (name.endswith(PER_STEP) and name.removesuffix(PER_STEP) in known)]


def beats_chance(top1: float, classes: int | None) -> bool:
    """Whether so many percent of labels are told more often than by guessing among the classes: they are the network's.

    By as much again as chance gives, or, of few classes, by a quarter of what it leaves.

    >>> [beats_chance(top1, 10) for top1 in (15, 25)], [beats_chance(top1, 2) for top1 in (55, 70)]
    ([False, True], [False, True])
    """
    chance = 100 / (classes or 1)
    return top1 > chance + min(chance, (100 - chance) / 4)


def class_rows(values: Array, before: int) -> Array | None:
    """Class scores with so many axes before that of the classes, without further ones; None: they are more than these.

    >>> class_rows(np.zeros((2, 10, 1, 1)), 1).shape
    (2, 10)
    """
    if values.ndim <= before or values.shape[before] == 1 or any(size != 1 for size in values.shape[before + 1 :]):
        return None
    return values.reshape(values.shape[: before + 1])


class Tally:
    """Running sums of what outputs show; nothing here grows with the number of images but the list of skipped ones."""

    def __init__(self, output_names: Sequence[str], timesteps: int, *, scores: str | None) -> None:
        """`output_names` are those of a checkpoint, in order; `scores` is the one that scores classes."""
        self.output_names, self.timesteps, self._scores = output_names, timesteps, scores
        self.images, self.labelled = 0, 0
        self.skipped: tuple[SkippedImage, ...] = ()
        self.scored = False
        self.compared = False
        self.right = np.zeros(timesteps, np.int64)
        self.right5, self.source_right, self.source_right5 = 0, 0, 0
        self.same = np.zeros(timesteps, np.int64)
        self.expected_loss = 0.0
        self.error: list[npt.NDArray[np.float64]] = []
        self.power: list[float] = []
        self.whole: list[bool] = []  # of outputs: whole numbers

    def _names(self) -> list[str]:
        return source_outputs(self.output_names) if self.timesteps > 1 else list(self.output_names)

    def add(self, batch: Batch, results: list[Array], source_results: list[Array] | None) -> None:
        """Take in one batch."""
        steps = per_step_outputs(self.output_names, results, self.timesteps)
        self.images += len(batch.inputs)
        names = self._names()
        scored = names.index(self._scores) if self._scores in names else None
        scores = None if scored is None else class_rows(steps[scored], 2)
        if scores is None or scores.shape[1] != len(batch.inputs):
            scored = scores = None  # the graph did not state its shape, or gives an image several rows
        self.scored = scores is not None
        if source_results is not None:
            self._compare(steps, source_results)
        if scored is None or scores is None:
            return
        source_scores = None if source_results is None else class_rows(source_results[scored], 1)
        if source_scores is not None:
            chosen, believed = scores.argmax(-1), _probabilities(source_scores)
            self.same += (chosen == source_scores.argmax(-1)).sum(axis=1)
            self.expected_loss += float((believed.max(-1) - believed[np.arange(len(believed)), chosen[-1]]).sum())
        if batch.labels is not None:
            self._score(batch.labels, scores, source_scores)

    def _compare(self, steps: list[Array], source_results: list[Array]) -> None:
        if not self.compared:
            self.error = [np.zeros(self.timesteps) for _ in steps]
            self.power = [0.0 for _ in steps]
            self.whole = [not np.issubdtype(result.dtype, np.floating) for result in source_results]
            self.compared = True
        for index, (step, result) in enumerate(zip(steps, source_results, strict=True)):
            if self.whole[index]:
                self.error[index] += (step != result).reshape(self.timesteps, -1).sum(axis=1)
                self.power[index] += result.size
                continue
            self.error[index] += (
                squared_difference(step, np.broadcast_to(result, step.shape)).reshape(len(step), -1).sum(1)
            )
            self.power[index] += float(np.square(result[np.isfinite(result)], dtype=np.float64).sum())

    def _score(self, labels: npt.NDArray[np.int64], scores: Array, source_scores: Array | None) -> None:
        if labels.max() >= scores.shape[-1]:
            raise DataError(
                f"the labels need {int(labels.max()) + 1} classes, the network has {scores.shape[-1]}",
                hint=FOLDERS_HINT,
            )
        self.labelled += len(labels)
        self.right += (scores.argmax(-1) == labels).sum(axis=1)
        self.right5 += _among_best(scores[-1], labels, 5)
        if source_scores is not None:
            self.source_right += int((source_scores.argmax(-1) == labels).sum())
            self.source_right5 += _among_best(source_scores, labels, 5)

    def result(self) -> Evaluation:
        """The percentages."""

        def share(count: int | np.int64, of: int) -> float:
            return round(100.0 * int(count) / of, 4)

        labelled, compared = self.labelled, self.compared
        names = self._names()
        # Against a source that gives nothing but zeros, the norm of the error itself.
        squared = [error / (power or 1.0) for error, power in zip(self.error, self.power, strict=True)]
        agreement = [share(same, self.images) for same in self.same] if compared and self.scored else None
        return Evaluation(
            images=self.images,
            timesteps=self.timesteps,
            snn=Accuracy(
                top1=share(self.right[-1], labelled) if labelled else None,
                top5=share(self.right5, labelled) if labelled else None,
                top1_per_step=tuple(share(right, labelled) for right in self.right) if labelled else None,
            ),
            ann=Accuracy(
                top1=share(self.source_right, labelled) if labelled else None,
                top5=share(self.source_right5, labelled) if labelled else None,
            )
            if compared
            else None,
            agreement=agreement[-1] if agreement else None,
            agreement_per_step=tuple(agreement) if agreement else None,
            expected_drop=round(100 * self.expected_loss / self.images, 4) if agreement else None,
            outputs=tuple(
                OutputError(
                    name=name,
                    relative_error=round(100 * float(errors[-1]), 6),
                    per_step=tuple(round(100 * float(error), 6) for error in errors),
                    whole_numbers=whole,
                )
                for name, whole, each in zip(names, self.whole, squared, strict=False)
                for errors in (each if whole else np.sqrt(each),)
            ),
            skipped=self.skipped,
        )


def _probabilities(scores: Array) -> npt.NDArray[np.float64]:
    """Class scores [images, classes] as probabilities: their softmax, unless they are probabilities already."""
    values = scores.astype(np.float64)
    if values.min() >= 0 and np.abs(values.sum(-1) - 1).max() < _ROUNDING:
        return values
    powers = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _among_best(scores: Array, labels: npt.NDArray[np.int64], most: int) -> int:
    if scores.shape[-1] <= most:
        return len(labels)
    best = np.argpartition(-scores, most, axis=-1)[:, :most]
    return int((best == labels[:, None]).any(axis=1).sum())

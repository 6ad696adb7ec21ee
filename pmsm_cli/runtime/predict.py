"""What a checkpoint says of images, one after the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pmsm_cli.runtime.evaluate import class_rows, source_outputs
from pmsm_cli.runtime.session import Array, Session
from pmsm_cli.sources.images import Batch, SkippedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One class and its score, as the network gives it."""

    index: int
    label: str | None
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """One output that is no list of class scores."""

    name: str
    shape: tuple[int, ...]
    lowest: float
    highest: float
    mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the network says of one image: the best classes, or what its outputs look like."""

    image: str
    top: tuple[Scored, ...]
    outputs: tuple[Summary, ...]


def predict(
    session: Session,
    batches: Iterable[Batch],
    *,
    scores: str | None,
    labels: Sequence[str],
    top_k: int,
    on_batch: Callable[[int], None] = lambda images: None,
    on_outputs: Callable[[dict[str, Array]], None] = lambda outputs: None,
) -> Iterator[Prediction | SkippedImage]:
    """A prediction for every image that can be read, and the reason for every other; in order within a batch."""
    for batch in batches:
        if len(batch.inputs):
            outputs = dict(zip(session.output_names, session.run(batch.inputs), strict=True))
            on_outputs(outputs)
            final = {name: outputs[name] for name in source_outputs(session.output_names)}
            for index, name in enumerate(batch.names):
                yield _prediction(name, final, index, scores, labels, top_k)
        yield from batch.skipped
        on_batch(len(batch.inputs) + len(batch.skipped))


def _prediction(
    image: str, outputs: dict[str, Array], index: int, scores: str | None, labels: Sequence[str], top_k: int
) -> Prediction:
    of_classes = class_rows(outputs[scores], 1) if scores in outputs else None
    if of_classes is not None and index < len(of_classes):
        own = of_classes[index]
        best = np.argsort(-own, kind="stable")[:top_k]
        top = tuple(
            Scored(index=int(k), label=labels[k] if k < len(labels) else None, score=float(own[k])) for k in best
        )
        return Prediction(image=image, top=top, outputs=())
    summaries = []
    for name, value in outputs.items():
        own = value[index] if value.ndim and index < len(value) else value
        summaries.append(
            Summary(
                name=name,
                shape=tuple(own.shape),
                lowest=float(own.min()),
                highest=float(own.max()),
                mean=float(own.mean()),
            )
        )
    return Prediction(image=image, top=(), outputs=tuple(summaries))

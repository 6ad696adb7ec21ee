"""Whether what is to be evaluated fits together, found out before a long run rather than in the midst of it."""

from typing import Any

from pmsm_cli.errors import BadInputError, DataError
from pmsm_cli.graph.unroll import PER_STEP
from pmsm_cli.runtime.session import Session
from pmsm_cli.sources.images import ImageSet


def check_labels(images: ImageSet, session: Session) -> None:
    """Fail where the network has too few classes for the labels.

    Raises:
        DataError: a label is beyond the network's classes, as far as its graph states how many there are.
    """
    classes = next((output.shape[1] for output in session.runner.get_outputs() if len(output.shape) == 2), None)
    if images.labels is not None and isinstance(classes, int) and images.labels.max() >= classes:
        raise DataError(
            f"its labels need {int(images.labels.max()) + 1} classes, the network has {classes}",
            subject=images.origin,
            hint="one sub-folder a class, all classes present, in the network's alphabetical order",
        )


def check_comparable(spiking: Session, source: Session, *, source_name: str) -> None:
    """Fail where two networks do not read and give tensors of the same sizes; any form of the source will do.

    Raises:
        BadInputError: they cannot be the same network.
    """
    mine = [output for output in spiking.runner.get_outputs() if not output.name.endswith(PER_STEP)]
    theirs = source.runner.get_outputs()
    pairs = [(spiking.runner.get_inputs()[0], source.runner.get_inputs()[0]), *zip(mine, theirs, strict=False)]
    different = [
        f"{other.name}: {_sizes(other)}, in the checkpoint {own.name}: {_sizes(own)}"
        for own, other in pairs
        if not _may_be_equal(own.shape, other.shape)
    ]
    if len(mine) != len(theirs):
        different.append(f"{len(theirs)} outputs, in the checkpoint {len(mine)}")
    if different:
        raise BadInputError(
            f"is not the network that the checkpoint was made from ({source_name})",
            subject=source.subject,
            details=different,
            hint="--against takes the source network, as one ONNX file or another",
        )


def _may_be_equal(own: list[Any], other: list[Any]) -> bool:
    """Sizes that a graph leaves open are names or None and fit anything, and so does any size of the batch."""
    pairs = zip(own[1:], other[1:], strict=False)
    return len(own) == len(other) and all(
        mine == theirs for mine, theirs in pairs if isinstance(mine, int) and isinstance(theirs, int)
    )


def _sizes(value: Any) -> str:
    return "x".join("?" if size is None else str(size) for size in value.shape)

"""Named tensors of a graph, batch after batch of images."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.runtime.session import Array, open_session
from pmsm_cli.sources.images import Batch


def squared_difference(got: Array, wanted: Array) -> npt.NDArray[np.float64]:
    """The squares of what two tensors differ by; the same infinity (a class that is masked) is no difference."""
    with np.errstate(invalid="ignore"):
        difference = np.asarray(np.subtract(got, wanted, dtype=np.float64))
    difference[got == wanted] = 0
    return np.asarray(np.square(difference))


def tensors_of(
    model: ir.Model,
    names: Sequence[str],
    batches: Iterable[Batch],
    *,
    subject: str,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Iterator[dict[str, Array]]:
    """The named tensors of every batch that has images; `on_batch` is told how many images each had or skipped."""
    session = open_session(with_outputs(model, names), subject=subject, threads=threads)
    for batch in batches:
        if len(batch.inputs):
            yield dict(zip(session.output_names, session.run(batch.inputs), strict=True))
        on_batch(len(batch.inputs) + len(batch.skipped))

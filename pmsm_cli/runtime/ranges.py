"""The smallest and the largest value of tensors over images."""

from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.runtime.session import open_session
from pmsm_cli.sources.images import Batch


def value_ranges(
    model: ir.Model,
    names: Sequence[str],
    batches: Iterable[Batch],
    *,
    subject: str,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, tuple[float, float]]:
    """For each named tensor the smallest and the largest value over all images."""
    session = open_session(with_outputs(model, names), subject=subject, threads=threads)
    ranges: dict[str, tuple[float, float]] = {}
    for batch in batches:
        if len(batch.inputs):
            for name, values in zip(session.output_names, session.run(batch.inputs), strict=True):
                lowest, highest = ranges.get(name, (float("inf"), float("-inf")))
                ranges[name] = min(lowest, float(values.min())), max(highest, float(values.max()))
        on_batch(len(batch.inputs) + len(batch.skipped))
    return ranges

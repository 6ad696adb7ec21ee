"""The smallest and the largest value of tensors over images."""

from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

from pmsm_cli.runtime.tensors import tensors_of
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
    ranges: dict[str, tuple[float, float]] = {}
    for tensors in tensors_of(model, names, batches, subject=subject, threads=threads, on_batch=on_batch):
        for name, values in tensors.items():
            lowest, highest = ranges.get(name, (float("inf"), float("-inf")))
            ranges[name] = min(lowest, float(values.min())), max(highest, float(values.max()))
    return ranges

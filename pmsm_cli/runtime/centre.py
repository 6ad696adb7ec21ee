"""Finding what all keys of an attention have in common."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pmsm_cli.graph.keys import Keys
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.runtime.session import Array, open_session
from pmsm_cli.sources.images import Batch


def mean_keys(
    network: Network,
    keys: Sequence[Keys],
    batches: Iterable[Batch],
    *,
    images: int,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, Array]:
    """The mean of each site of keys over its first images, their windows and the keys themselves, by the site's name.

    It stops behind the batch with which it has seen so many `images`.

    Raises:
        UnsupportedGraphError: onnxruntime cannot run the network.
    """
    session = open_session(
        with_outputs(network.model, (each.site for each in keys)), subject=network.subject, threads=threads
    )
    totals = {each.site: np.zeros(each.shape) for each in keys}
    seen = 0
    for batch in batches:
        if len(batch.inputs):
            seen += len(batch.inputs)
            for each, values in zip(keys, session.run(batch.inputs), strict=True):
                totals[each.site] += len(batch.inputs) * _mean(values, each)
        on_batch(len(batch.inputs) + len(batch.skipped))
        if seen >= images:
            break
    return {site: np.asarray(total / max(seen, 1), np.float32) for site, total in totals.items()}


def _mean(values: Array, keys: Keys) -> np.typing.NDArray[np.float64]:
    leading = tuple(range(values.ndim - len(keys.shape)))
    mean = values.mean(axis=(*leading, -1), dtype=np.float64)
    return np.asarray(mean.reshape(keys.shape))

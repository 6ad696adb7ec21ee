"""The largest activation of every single neuron."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pmsm_cli.graph.network import Network
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.runtime.session import Array, open_session
from pmsm_cli.sources.images import Batch


def largest_activations(
    network: Network,
    names: Sequence[str],
    batches: Iterable[Batch],
    *,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, Array]:
    """For each named tensor the largest value over all images, in the shape that one image's has."""
    session = open_session(with_outputs(network.model, names), subject=network.subject, threads=threads)
    largest: dict[str, Array] = {}
    for batch in batches:
        if len(batch.inputs):
            for name, values in zip(session.output_names, session.run(batch.inputs), strict=True):
                seen = values.max(axis=0)
                largest[name] = np.maximum(largest.get(name, seen), seen)
        on_batch(len(batch.inputs) + len(batch.skipped))
    return largest

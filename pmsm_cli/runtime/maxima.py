"""The largest activation of every single neuron."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pmsm_cli.graph.network import Network
from pmsm_cli.runtime.session import Array
from pmsm_cli.runtime.tensors import tensors_of
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
    seen = tensors_of(network.model, names, batches, subject=network.subject, threads=threads, on_batch=on_batch)
    largest: dict[str, Array] = {}
    for tensors in seen:
        for name, values in tensors.items():
            most = values.max(axis=0)
            largest[name] = np.maximum(largest.get(name, most), most)
    return largest

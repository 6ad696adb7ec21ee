"""Finding what brings a source network to its batch norms' moments on images that are not those it was trained on."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.normalise import SHARE, add_running_normalisation, normalised_tensors, with_normalisation
from pmsm_cli.runtime.session import Array, open_session
from pmsm_cli.sources.images import Batch


def normalise_source(
    network: Network,
    shapes: Mapping[str, Shape],
    batches: Iterable[Batch],
    *,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> tuple[Network, dict[str, Shape]]:
    """One pass: a copy of the source whose channels have the moments of `network.moments` on these images.

    The copy's shapes come with it; a network without known moments comes back as it is. Where the graph fixes the
    batch, an incomplete last one is left out: padding would count as images.

    Raises:
        UnsupportedGraphError: onnxruntime cannot run the network.
    """
    tensors = normalised_tensors(network, shapes)
    if not tensors:
        return network, dict(shapes)
    model = add_running_normalisation(network.model, tensors)
    session = open_session(model, subject=network.subject, threads=threads)
    running: dict[str, Array] = {name: np.zeros(each.shape, np.float32) for each in tensors for name in each.outputs}
    count = 0
    for batch in batches:
        usable = len(batch.inputs) - len(batch.inputs) % (network.image.batch or 1)
        if usable:
            count += usable
            # The first batches went through layers that were not normalised well yet, so that later ones count for
            # more: with equal batches the k-th weighs k times as much as the first.
            share = min(1.0, 2 * usable / (count + usable))
            others = {new: running[old] for each in tensors for new, old in zip(each.inputs, each.outputs, strict=True)}
            others[SHARE] = np.asarray(share, np.float32)
            running = dict(zip(session.output_names, session.run(batch.inputs[:usable], others), strict=True))
        on_batch(len(batch.inputs) + len(batch.skipped))
    return with_normalisation(network, tensors, running, shapes) if count else (network, dict(shapes))

"""Finding the corrections that give each spiking synapse the source's moments back."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.matching import (
    LARGEST_SCALE,
    SMALLEST_SCALE,
    MatchedReader,
    add_measuring,
    matched_readers,
    with_moments,
)
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.neuron.parameters import Correction
from pmsm_cli.runtime.remembered import Runs
from pmsm_cli.runtime.session import Session, open_session
from pmsm_cli.runtime.spiking import open_tried
from pmsm_cli.sources.images import Batch

Doubles = npt.NDArray[np.float64]

_LARGE = 2**30  # multiply-accumulates of an image


def match_moments(
    network: Network,
    plan: SitePlan,
    spiking: ir.Model,
    shapes: Mapping[str, Shape],
    batches: Iterable[Batch],
    *,
    source: Runs | None = None,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> tuple[Correction, ...]:
    """One pass: the source on each batch, then the spiking network matched to it; means over images.

    `spiking` is the one-timestep graph without corrections; `source` is `open_moments` of the same network, where it
    serves several passes. Where the graph fixes the batch, an incomplete last one is left out: padding would count as
    images.
    """
    readers = matched_readers(network.model, plan, shapes)
    if not readers:
        return ()
    source = source or open_moments(network, plan, shapes, threads=threads)
    names = [name for reader in readers for name in reader.inputs]
    measuring, slices = add_measuring(spiking, readers), _pays_in_slices(network, plan, readers)
    session = open_tried(measuring, subject=network.subject, threads=threads, slices=slices)
    totals: dict[str, Doubles] = {}
    count = 0
    for batch in batches:
        usable = len(batch.inputs) - len(batch.inputs) % (network.image.batch or 1)
        if usable:
            inputs = batch.inputs[:usable]
            moments = dict(zip(names, source.run(inputs), strict=True))
            measured = session.run(inputs, moments)
            named = dict(zip(session.output_names, measured, strict=True))
            for reader in readers:
                own = [named[name].reshape(-1).astype(np.float64) for name in reader.outputs]
                wanted = [moments[name].reshape(-1).astype(np.float64) for name in reader.inputs]
                sums = usable * np.stack([own[0], own[1] ** 2, wanted[0], wanted[1] ** 2])
                totals[reader.node] = totals.get(reader.node, 0) + sums
            count += usable
        on_batch(len(batch.inputs) + len(batch.skipped))
    if not count:
        return ()
    return tuple(correction_of(reader.node, *(totals[reader.node] / count)) for reader in readers)


def _pays_in_slices(network: Network, plan: SitePlan, readers: list[MatchedReader]) -> bool:
    """Whether weights are multiplied faster in slices where every synapse's output is normalised in floats.

    Of convolutions these then are turned from channels last to channels first, which small ones do not make up for, nor
    those of each channel by itself.
    """
    names = {reader.node for reader in readers}
    synapses = [node for node in network.model.graph if node.name in names]
    groups = [node.attributes.get_int("group", 1) for node in synapses if node.op_type in ("Conv", "ConvTranspose")]
    macs = plan.total_macs // (network.image.batch or 1)
    return not groups or (max(groups) == 1 and macs >= _LARGE)


def correction_of(
    node: str, mean: Doubles, variance: Doubles, source_mean: Doubles, source_variance: Doubles
) -> Correction:
    """What gives a synapse's output channels the source's mean and, as far as a correction goes, deviation."""
    wanted = np.sqrt(source_variance / variance)
    scale = np.where((wanted >= SMALLEST_SCALE) & (wanted <= LARGEST_SCALE), wanted, 1.0)
    return Correction(
        node=node,
        scale=scale.astype(np.float32),
        shift=(source_mean - scale * mean).astype(np.float32),
    )


def open_moments(
    network: Network, plan: SitePlan, shapes: Mapping[str, Shape], *, threads: int | None = None
) -> Session:
    """The source network as the mean and deviation of every synapse's output over a batch."""
    model = with_moments(network.model, matched_readers(network.model, plan, shapes))
    return open_session(model, subject=network.subject, threads=threads)

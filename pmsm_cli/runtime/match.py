"""Finding the corrections that give each spiking synapse the source's moments back."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pmsm_cli.graph.matching import (
    LARGEST_SCALE,
    SMALLEST_DEVIATION,
    SMALLEST_SCALE,
    MatchedReader,
    add_measuring,
    matched_readers,
)
from pmsm_cli.graph.network import Network, Shape
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.graph.sites import SitePlan
from pmsm_cli.neuron.parameters import Correction
from pmsm_cli.runtime.session import Array, Session, open_session
from pmsm_cli.sources.images import Batch


def match_moments(
    network: Network,
    plan: SitePlan,
    spiking: ir.Model,
    shapes: Mapping[str, Shape],
    batches: Iterable[Batch],
    *,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> tuple[Correction, ...]:
    """One pass: the source on each batch, then the spiking network matched to it; means over images.

    `spiking` is the one-timestep graph without corrections. Where the graph fixes the batch, an incomplete last one is
    left out: padding would count as images.
    """
    readers = matched_readers(network.model, plan, shapes)
    if not readers:
        return ()
    source = _source_session(network, readers, threads)
    session = open_session(add_measuring(spiking, readers), subject=network.subject, threads=threads)
    totals: dict[str, npt.NDArray[np.float64]] = {}
    count = 0
    for batch in batches:
        usable = len(batch.inputs) - len(batch.inputs) % (network.image.batch or 1)
        if usable:
            inputs = batch.inputs[:usable]
            moments = _moments(source, readers, inputs)
            measured = session.run(inputs, {name: value for pair in moments.values() for name, value in pair.items()})
            named = dict(zip(session.output_names, measured, strict=True))
            for reader in readers:
                own = [named[name].reshape(-1).astype(np.float64) for name in reader.outputs]
                wanted = [moments[reader.node][name].reshape(-1).astype(np.float64) for name in reader.inputs]
                sums = usable * np.stack([own[0], own[1] ** 2, wanted[0], wanted[1] ** 2])
                totals[reader.node] = totals.get(reader.node, 0) + sums
            count += usable
        on_batch(len(batch.inputs) + len(batch.skipped))
    corrections = []
    for reader in readers if count else []:
        mean, variance, source_mean, source_variance = totals[reader.node] / count
        scale = np.clip(np.sqrt(source_variance / variance), SMALLEST_SCALE, LARGEST_SCALE)
        corrections.append(
            Correction(
                node=reader.node,
                scale=scale.astype(np.float32),
                shift=(source_mean - scale * mean).astype(np.float32),
            )
        )
    return tuple(corrections)


def _source_session(network: Network, readers: list[MatchedReader], threads: int | None) -> Session:
    outputs = {node.name: node.outputs[0].name or "" for node in network.model.graph}
    model = with_outputs(network.model, (outputs[reader.node] for reader in readers))
    return open_session(model, subject=network.subject, threads=threads)


def _moments(source: Session, readers: list[MatchedReader], inputs: Array) -> dict[str, dict[str, Array]]:
    """For each reader the mean and deviation of its output in the source, under the names that the graph reads."""
    moments = {}
    for reader, output in zip(readers, source.run(inputs), strict=True):
        mean = reader.along_channels(output.mean(axis=reader.other_axes, dtype=np.float64))
        variance = output.var(axis=reader.other_axes, dtype=np.float64)
        deviation = reader.along_channels(np.sqrt(variance + SMALLEST_DEVIATION**2))
        moments[reader.node] = dict(zip(reader.inputs, (mean, deviation), strict=True))
    return moments

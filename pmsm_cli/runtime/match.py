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
from pmsm_cli.runtime.remembered import Remembered
from pmsm_cli.runtime.session import Array, Session, open_session
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
    source: "SourceMoments | None" = None,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> tuple[Correction, ...]:
    """One pass: the source on each batch, then the spiking network matched to it; means over images.

    `spiking` is the one-timestep graph without corrections; `source` are moments of the same network, where they
    serve several passes. Where the graph fixes the batch, an incomplete last one is left out: padding would count as
    images.
    """
    source = source or SourceMoments(network, plan, shapes, threads=threads)
    readers = source.readers
    if not readers:
        return ()
    measuring, slices = add_measuring(spiking, readers), _pays_in_slices(network, plan, readers)
    session = open_tried(measuring, subject=network.subject, threads=threads, slices=slices)
    totals: dict[str, Doubles] = {}
    count = 0
    for batch in batches:
        usable = len(batch.inputs) - len(batch.inputs) % (network.image.batch or 1)
        if usable:
            inputs = batch.inputs[:usable]
            moments = source.run(inputs)
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


class SourceMoments:
    """The mean and deviation of every matched synapse's output in the source over a batch, found once for each."""

    def __init__(
        self, network: Network, plan: SitePlan, shapes: Mapping[str, Shape], *, threads: int | None = None
    ) -> None:
        """Nothing runs yet."""
        self.readers = matched_readers(network.model, plan, shapes)
        self.names = tuple(name for reader in self.readers for name in reader.inputs)
        self._network, self._threads = network, threads
        self._remembered = Remembered(self._opened)

    def run(self, inputs: Array) -> dict[str, Array]:
        """The moments of a batch by name."""
        return dict(zip(self.names, self._remembered.run(inputs), strict=True))

    def remember(self, inputs: Array, moments: Mapping[str, Array]) -> None:
        """Take in the moments of a batch by name, from where the source has run already."""
        self._remembered.remember(inputs, [moments[name] for name in self.names])

    def _opened(self) -> Session:
        model = with_moments(self._network.model, self.readers)
        return open_session(model, subject=self._network.subject, threads=self._threads)

"""What each site's spikes make of its tensor: by themselves, and in the spiking network with all that is before it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.errors import BadInputError, shorten
from pmsm_cli.graph.insert import along_channels, spikes_name
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.outputs import with_outputs
from pmsm_cli.graph.rows import LEAST_SUM
from pmsm_cli.graph.scan import SCAN_NAME
from pmsm_cli.graph.sites import Site
from pmsm_cli.neuron.last_step import after_all_steps
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.runtime.session import Array, open_session
from pmsm_cli.sources.images import Batch


@dataclass(kw_only=True)
class Distance:
    """Sums over the values of a site: how far what spikes carry is from the source's tensor."""

    signal: float = 0.0  # of the source's values, squared
    error: float = 0.0  # of the differences, squared
    carried: float = 0.0  # of what is carried, squared
    product: float = 0.0  # of the source's values times what is carried

    def add(self, values: Array, carried: Array) -> None:
        """Take in the values of one batch."""
        wanted, got = values.astype(np.float64).ravel(), carried.astype(np.float64).ravel()
        self.signal += float(wanted @ wanted)
        self.carried += float(got @ got)
        self.product += float(wanted @ got)
        difference = wanted - got
        self.error += float(difference @ difference)

    @property
    def signal_to_noise_db(self) -> float | None:
        """10 log10 of signal over error; None: no signal, or no error."""
        return 10 * float(np.log10(self.signal / self.error)) if self.signal > 0 and self.error > 0 else None

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between the two; None: one of them is nothing."""
        size = self.signal * self.carried
        return self.product / size**0.5 if size > 0 else None


@dataclass(kw_only=True)
class SiteDifference:
    """What was seen of one site."""

    alone: Distance = field(default_factory=Distance)  # its neurons read the source's own values
    accumulated: Distance = field(default_factory=Distance)  # in the spiking network, at the last step
    values: int = 0
    clipped: int = 0  # of the source's values, beyond what its neurons can carry
    clipped_error: float = 0.0  # the part of the error alone that these make
    negative: int = 0  # of the source's values, below 0


def measure_differences(
    checkpoint: Checkpoint,
    source: Network,
    batches: Iterable[Batch],
    *,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, SiteDifference]:
    """Run source and checkpoint side by side, and compare each site's tensor with what its spikes carry.

    Raises:
        BadInputError: the source lacks a tensor that the checkpoint turned into spikes.
    """
    manifest = checkpoint.manifest
    sites, image_name = manifest.plan.sites, source.image.name
    known = {output.name for node in source.model.graph for output in node.outputs}
    missing = [site.name for site in sites if site.name not in known and site.name != image_name]
    if missing:
        raise BadInputError(
            "does not have the tensors that the checkpoint turned into spikes",
            subject=source.subject,
            details=shorten(missing),
            hint=f"pass the network that it was made from, {manifest.source_name}.onnx",
        )
    wanted = open_session(
        with_outputs(source.model, [site.name for site in sites if site.name != image_name]),
        subject=source.subject,
        threads=threads,
    )
    counts = emitted_names(checkpoint)
    spiking = open_session(with_outputs(checkpoint.model, counts.values()), subject=checkpoint.subject, threads=threads)
    horizon = np.float32(manifest.coding.at(manifest.timesteps).horizon)
    neurons = manifest.calibration.parameters
    finest = {name: after_all_steps(each, manifest.timesteps, manifest.coding) for name, each in neurons.items()}
    seen = {site.name: SiteDifference() for site in sites}
    for batch in batches:
        if len(batch.inputs):
            values = (
                dict(zip(wanted.output_names, wanted.run(batch.inputs), strict=True)) if wanted.output_names else {}
            )
            emitted = dict(zip(spiking.output_names, spiking.run(batch.inputs), strict=True))
            for site in sites:
                own = batch.inputs if site.name == image_name else values.pop(site.name)
                got = emitted.pop(counts[site.name]) / horizon
                _note(seen[site.name], site, finest[site.name], own)
                seen[site.name].accumulated.add(own, _carried(got, site, neurons[site.name]))
        on_batch(len(batch.inputs) + len(batch.skipped))
    return seen


def emitted_names(checkpoint: Checkpoint) -> Mapping[str, str]:
    """For each site the value of the checkpoint's graph that holds all that was emitted, after the last step."""
    names = {site.name: spikes_name(site.name) for site in checkpoint.manifest.plan.sites}
    scan = next((node for node in checkpoint.model.graph if node.name == SCAN_NAME), None)
    if scan is None:
        return names
    # States come first, in the same order, in what a Scan reads and in what it gives.
    ends = {value.name: end.name for value, end in zip(scan.inputs, scan.outputs, strict=False) if value is not None}
    return {site: str(ends[name]) for site, name in names.items()}


def _note(seen: SiteDifference, site: Site, neurons: NeuronParameters, values: Array) -> None:
    """What neurons make of the source's own values."""
    threshold, rest = (along_channels(site, each) for each in (neurons.threshold, neurons.rest))
    read = values
    if site.relative_axis is not None:
        read = values / values.max(axis=site.relative_axis, keepdims=True)
    wanted = np.round(read / threshold - rest)
    spikes = np.clip(wanted, -neurons.negative_levels, neurons.positive_levels)
    carried = _carried(spikes, site, neurons)
    beyond = wanted != spikes
    seen.alone.add(values, carried)
    seen.values += values.size
    seen.clipped += int(beyond.sum())
    seen.clipped_error += float(np.square(values[beyond] - carried[beyond], dtype=np.float64).sum())
    seen.negative += int((values < 0).sum())


def _carried(counts: Array, site: Site, neurons: NeuronParameters) -> Array:
    """What counts stand for; rows of a softmax are divided by their sum."""
    threshold, rest = (along_channels(site, each) for each in (neurons.threshold, neurons.rest))
    carried = np.asarray(threshold * (counts + rest), np.float32)
    if site.relative_axis is not None:
        carried = carried / np.maximum(carried.sum(axis=site.relative_axis, keepdims=True), np.float32(LEAST_SUM))
    return carried

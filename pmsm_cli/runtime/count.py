"""Counting spikes: a checkpoint that also says what each of its sites emitted at every step.

Signs never cancel, and a spike of size k counts as k. The counts leave the network summed over channels only, as whole
numbers that float32 holds exactly, so that the sums over positions and synapses are exact too.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pmsm_cli.checkpoint.file import Checkpoint, check_names
from pmsm_cli.graph.insert import spikes_name
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.rows import row_sum_name
from pmsm_cli.graph.scores import class_scores
from pmsm_cli.graph.synapse import Floats, fan_out, operand_fan_out, product_of, synapse_of
from pmsm_cli.graph.work import Work
from pmsm_cli.runtime.counters import LATER, LIMIT, STEP_KINDS, Counting, add_counters
from pmsm_cli.runtime.evaluate import Evaluation, Tally
from pmsm_cli.runtime.histogram import Histogram, HistogramCount
from pmsm_cli.runtime.library import find_library
from pmsm_cli.runtime.native_counters import REACHED
from pmsm_cli.runtime.remembered import Runs
from pmsm_cli.runtime.session import Array, Session, Totals, open_session
from pmsm_cli.runtime.spiking import has_codes
from pmsm_cli.runtime.workload import measure_shapes, measure_work
from pmsm_cli.sources.images import Batch, SkippedImage

SATURATED = 0.5  # the share of a channel's values at -N or P from which on it counts as saturated


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SiteCount:
    """What one site did, per image, at each step: arrays of [timesteps]; None where it was not measured."""

    name: str
    neurons: int  # of one image
    spikes: Totals  # sum of |s|
    firing: Totals  # neurons that emitted at least one spike
    synaptic_ops: Totals  # spikes times the synapses that each of them reaches, borders exact
    events: Totals | None = None  # the same where a spike of any size is one event
    nonzero: float | None = None  # neurons whose value after the last step is not 0
    nonzero_ops: float | None = None  # their synapses
    spikes_deviation: Totals | None = None  # standard deviation over the images
    firing_deviation: Totals | None = None
    synaptic_ops_deviation: Totals | None = None
    channels: int | None = None
    silent_channels: int | None = None  # without a spike in any image, at any step
    saturated_channels: int | None = None  # at -N or P in most of their values at the first step
    histogram: Histogram | None = None  # of the spike counts at the first step


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpikeCount:
    """Means over images."""

    images: int
    sites: tuple[SiteCount, ...]
    skipped: tuple[SkippedImage, ...]
    spikes_deviation: Totals | None = None  # of all sites together, [timesteps]
    synaptic_ops_deviation: Totals | None = None
    histogram_images: int = 0  # how many images the histograms are of
    evaluation: Evaluation | None = None  # what the outputs of the same run showed
    work: Work | None = None  # what else the network does for an image


def count_spikes(
    checkpoint: Checkpoint,
    batches: Iterable[Batch],
    *,
    source: Runs | None = None,
    threads: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> SpikeCount:
    """Run the checkpoint, and the source where given, over all batches and count what every site emits."""
    timesteps = checkpoint.manifest.timesteps
    check_names(checkpoint)
    shapes = measure_shapes(checkpoint)
    fans = fan_out_a_position(checkpoint, shapes)
    counting = add_counters(checkpoint, shapes, fans, library=find_library())
    session = open_session(
        counting.model,
        subject=checkpoint.subject,
        threads=threads,
        integers=has_codes(counting.model),
        stacked=counting.stacked,
    )
    counter = _Counter(checkpoint, counting, shapes, fans, session)
    histograms = HistogramCount(checkpoint, counter.neurons, threads=threads)
    tally = Tally(counting.outputs, timesteps, scores=class_scores(checkpoint.model))
    for batch in batches:
        tally.skipped += batch.skipped
        if len(batch.inputs):
            named = counting.named(dict(zip(session.output_names, session.run(batch.inputs), strict=True)))
            counter.add(named, len(batch.inputs))
            histograms.add(batch.inputs)
            outputs = [named[name] for name in counting.outputs]
            tally.add(batch, outputs, source.run(batch.inputs) if source else None)
        on_batch(len(batch.inputs) + len(batch.skipped))
    return SpikeCount(
        images=counter.images,
        sites=counter.sites(histograms.result()),
        skipped=tally.skipped,
        spikes_deviation=counter.spread.deviation[-1, 0],
        synaptic_ops_deviation=counter.spread.deviation[-1, 2],
        histogram_images=histograms.images,
        evaluation=tally.result() if counter.images else None,
        work=measure_work(checkpoint, shapes),
    )


class _Counter:
    """Running sums over images, as whole numbers: how the images were batched leaves no trace."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        counting: Counting,
        shapes: Mapping[str, Shape],
        fans: Mapping[str, list[Totals]],
        session: Session,
    ) -> None:
        self.plan, self.timesteps = checkpoint.manifest.plan.sites, checkpoint.manifest.timesteps
        self.images, self.counting = 0, counting
        self.fans = fans
        batch = session.fixed_batch or 1
        self.neurons = {site.name: math.prod(shapes[spikes_name(site.name)]) // batch for site in self.plan}
        # spikes, firing, synaptic operations, events
        self.totals = {site.name: np.zeros((4, self.timesteps)) for site in self.plan}
        self.nonzero = {site.name: np.zeros(2) for site in self.plan}  # neurons, and their synapses
        self.fired = {name: np.zeros(size) for name, size in counting.channels.items()}
        self.limited = {name: np.zeros(size) for name, size in counting.channels.items()}
        self.spread = _Spread((len(self.plan) + 1, 3, self.timesteps))

    def add(self, named: dict[str, Array], images: int) -> None:
        """Take in the counts of one batch."""
        self.images += images
        by_image = np.zeros((images, len(self.plan) + 1, 3, self.timesteps))
        for index, site in enumerate(self.plan):
            fans = self.fans[site.name]
            of_steps = [_of_steps(named, site.name, fans[:1], "", images)]
            if self.timesteps > 1:
                of_steps.append(_of_steps(named, site.name, fans[1:], LATER, images))
            per_image = np.concatenate(of_steps, axis=1)
            self.totals[site.name] += per_image.sum(axis=2)
            by_image[:, index] = per_image[:3].transpose(2, 0, 1)
            if nonzero := self.counting.nonzero.get(site.name):
                kept = named[nonzero].astype(np.float64)
                self.nonzero[site.name] += kept.sum(), _reached(kept[None], fans[:1]).sum()
            else:  # of a single step
                self.nonzero[site.name] += per_image[1, 0].sum(), per_image[3, 0].sum()
            if site.name in self.fired:
                for kind in ("channels", "channels/later"):
                    if (emitted := named.get(f"{site.name}/{kind}")) is not None:
                        self.fired[site.name] += emitted.reshape(-1, emitted.shape[-1]).sum(axis=0, dtype=np.float64)
                self.limited[site.name] += named[f"{site.name}/{LIMIT}"].sum(axis=0, dtype=np.float64)
        by_image[:, -1] = by_image[:, :-1].sum(axis=1)
        self.spread.add(by_image)

    def sites(self, histograms: Mapping[str, Histogram]) -> tuple[SiteCount, ...]:
        """Means and deviations of all sites."""
        return tuple(self._site(index, histograms) for index in range(len(self.plan)))

    def _site(self, index: int, histograms: Mapping[str, Histogram]) -> SiteCount:
        name, deviation = self.plan[index].name, self.spread.deviation[index]
        spikes, firing, operations, events = self.totals[name] / max(self.images, 1)
        nonzero, nonzero_ops = (self.nonzero[name] / max(self.images, 1)).tolist()
        fired, limited = self.fired.get(name), self.limited.get(name)
        values = self.images * self.neurons[name] / (1 if limited is None else len(limited))  # of a channel
        return SiteCount(
            name=name,
            neurons=self.neurons[name],
            spikes=spikes,
            firing=firing,
            synaptic_ops=operations,
            events=events,
            nonzero=nonzero,
            nonzero_ops=nonzero_ops,
            spikes_deviation=deviation[0],
            firing_deviation=deviation[1],
            synaptic_ops_deviation=deviation[2],
            channels=None if fired is None else len(fired),
            silent_channels=None if fired is None else int((fired == 0).sum()),
            saturated_channels=None if limited is None else int((limited > SATURATED * values).sum()),
            histogram=histograms.get(name),
        )


class _Spread:
    """Standard deviations over images, image by image (B. P. Welford, Technometrics 4, 1962, 419-420)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._images, self._mean, self._squares = 0, np.zeros(shape), np.zeros(shape)

    def add(self, images: Totals) -> None:
        """Take in values of [images, ...]."""
        for values in images:
            self._images += 1
            before = values - self._mean
            self._mean += before / self._images
            self._squares += before * (values - self._mean)

    @property
    def deviation(self) -> Totals:
        """Of what was taken in."""
        return np.sqrt(self._squares / max(self._images, 1))


def _of_steps(named: Mapping[str, Array], site: str, fans: list[Totals], which: str, images: int) -> Totals:
    """Spikes, neurons that fire, and what both reach at the first step, or the later ones: [4, steps, images]."""
    emitted = [named[f"{site}/{kind}{which}"].astype(np.float64) for kind in STEP_KINDS]
    if f"{site}/{REACHED[0]}{which}" in named:
        reached = [named[f"{site}/{kind}{which}"].astype(np.float64) for kind in REACHED]
    else:
        reached = [_reached(each if which else each[None], fans) for each in emitted]
    return np.stack([each.reshape(len(fans), images, -1).sum(axis=2) for each in (*emitted, *reached)])


def _reached(counts: Totals, fans: list[Totals]) -> Totals:
    """How many synapses what was emitted reaches, position by position."""
    return np.stack([step * (fan if fan.size > 1 else fan.reshape(())) for step, fan in zip(counts, fans, strict=True)])


def fan_out_a_position(checkpoint: Checkpoint, shapes: Mapping[str, Shape]) -> dict[str, list[Totals]]:
    """The synapses of a site's neurons at each step, by position; every channel has as many."""
    products = {node.name: product for node in checkpoint.model.graph if (product := product_of(node))}
    synapses = {node.name: synapse for node in checkpoint.model.graph if (synapse := synapse_of(node))}
    names = {node.name for node in checkpoint.model.graph}
    fans: dict[str, list[Totals]] = {}
    for site in checkpoint.manifest.plan.sites:
        counts = []
        for reader in site.readers:
            if reader.node in synapses:
                counts.append((0, fan_out(synapses[reader.node], shapes)))
            else:  # the right operand of a product does its work from the second step on
                counts.append((reader.operand, operand_fan_out(products[reader.node], reader.operand, shapes)))
                if row_sum_name(reader.node, reader.operand) in names:  # sums up every spike of every step
                    counts.append((0, np.ones((1,) * (len(shapes[spikes_name(site.name)]) - 1), np.float32)))
        fans[site.name] = [
            _together([_of_any_channel(count) for first, count in counts if step >= first])
            for step in range(checkpoint.manifest.timesteps)
        ]
    return fans


def _together(counts: list[Totals]) -> Totals:
    """What all readers count: one number where it is the same at all positions, as it is without borders."""
    # Readers of different kinds state their counts in different shapes: a map, or one number for all positions.
    total = functools.reduce(np.add, counts, np.zeros(()))
    return total.reshape(-1)[:1].reshape(()) if total.size and (total == total.flat[0]).all() else total


def _of_any_channel(counts: Floats | None) -> Totals:
    if counts is None:
        raise ValueError("the shapes of all spikes were measured")
    return (counts[0] if counts.ndim else counts).astype(np.float64)

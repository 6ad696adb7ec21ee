"""From counted spikes to synaptic operations and energy, layer by layer, beside what other networks would cost."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pmsm_cli.calibration.quality import SiteQuality
from pmsm_cli.checkpoint.manifest import Manifest
from pmsm_cli.energy.columns import ANN, COLUMNS, SNN, SNN_INT8, Column, Cost, total_of
from pmsm_cli.energy.constants import EnergyProfile, SpikeSize
from pmsm_cli.energy.costs import MILLIJOULE, Steps, analog_steps, open_bill, rest_steps, site_steps
from pmsm_cli.energy.facts import SiteFacts, facts_of, sites_of
from pmsm_cli.energy.findings import findings
from pmsm_cli.energy.records import (
    REPORT_VERSION,
    AccuracyReport,
    AnalogReport,
    ColumnCost,
    ColumnReport,
    EnergyMillijoule,
    EnergyReport,
    RestReport,
    SiteReport,
)
from pmsm_cli.graph.sites import AnalogLayer
from pmsm_cli.graph.work import RestWork, Work
from pmsm_cli.runtime.count import SiteCount, SpikeCount
from pmsm_cli.runtime.evaluate import Evaluation
from pmsm_cli.runtime.session import Totals

__all__ = ["AccuracyReport", "EnergyMillijoule", "EnergyReport", "SiteReport", "account"]

_THRESHOLD_BARS = 16
Costs = dict[str, Steps]  # by column


def account(manifest: Manifest, count: SpikeCount, profile: EnergyProfile) -> EnergyReport:
    """What the counted spikes cost by the profile's constants, beside what the source and a quantised network cost.

    Raises:
        ValueError: the profile bills memory or the arithmetic beside synapses, and the count knows nothing of them.
    """
    plan, work, timesteps = manifest.plan, count.work, manifest.timesteps
    facts = sites_of(manifest, count.sites, work)
    bill = open_bill(facts_of(facts, plan, work), profile)
    sites = [{column.name: site_steps(each, column, bill) for column in COLUMNS} for each in facts]
    analog = [
        {column.name: analog_steps(layer, work, column, bill, timesteps) for column in COLUMNS}
        for layer in plan.analog_layers
    ]
    rest = [
        {column.name: rest_steps(each, column, bill, timesteps) for column in COLUMNS}
        for each in (work.rest if work else ())
    ]
    neurons = sum(each.neurons for each in count.sites)
    spikes_per_neuron = _sums(count.sites, lambda site: site.spikes, 1 / neurons)
    totals = {column.name: total_of(_all(column, [*sites, *analog, *rest])) for column in COLUMNS}
    columns = tuple(_column(column, totals, sum(spikes_per_neuron)) for column in COLUMNS)
    better, worse = findings(columns)
    return EnergyReport(
        version=REPORT_VERSION,
        network=manifest.source_name,
        coding=manifest.coding.value,
        levels=manifest.calibration.levels,
        images=count.images,
        timesteps=timesteps,
        profile=profile.name,
        profile_description=profile.description,
        energy_mj=_energy(columns, sites, [*analog, *rest], timesteps),
        columns=columns,
        ratio=columns[0].over_snn,
        ratio_int8=columns[1].over_snn,
        better=better,
        worse=worse,
        accuracy=_accuracy(count.evaluation),
        spikes_per_neuron=spikes_per_neuron,
        spikes_per_neuron_deviation=_listed(count.spikes_deviation, 1 / neurons),
        firing_rate=_sums(count.sites, lambda site: site.firing, 100 / neurons),
        macs=plan.total_macs,
        synaptic_ops=_sums(count.sites, lambda site: site.synaptic_ops),
        synaptic_ops_deviation=_listed(count.synaptic_ops_deviation),
        synaptic_events=tuple(sum(each.drive.events[step] for each in facts) for step in range(timesteps)),
        histogram_images=count.histogram_images,
        sites=tuple(
            _site(each, calibrated.quality, costs, profile)
            for each, calibrated, costs in zip(facts, manifest.calibration.sites, sites, strict=True)
        ),
        analog_layers=tuple(map(_analog, plan.analog_layers, analog)),
        rest=tuple(_rest(each, costs, timesteps) for each, costs in zip(work.rest if work else (), rest, strict=True)),
        rest_billed=profile.rest is not None,
        memory_billed=bool(profile.memory),
        graded_spikes=profile.spike is SpikeSize.GRADED,
        assumptions=(*_conventions(manifest, profile), *profile.assumptions, *_not_counted(manifest, work)),
        source=profile.source,
        constants=profile.constants,
        skipped=count.skipped,
    )


def _all(column: Column, parts: Iterable[Costs]) -> Iterator[Cost]:
    """What a network pays, part by part and step by step."""
    return (cost for costs in parts for cost in costs[column.name])


def _energy(
    columns: Sequence[ColumnReport], spiking: Sequence[Costs], analog: Sequence[Costs], timesteps: int
) -> EnergyMillijoule:
    def step_by_step(column: Column) -> tuple[float, ...]:
        parts = [costs[column.name] for costs in (*spiking, *analog)]
        return tuple(MILLIJOULE * sum(costs[step].total for costs in parts) for step in range(timesteps))

    return EnergyMillijoule(
        **{column.name: column.total_mj for column in columns},
        snn_spiking=MILLIJOULE * total_of(_all(SNN, spiking)).total,
        snn_analog=MILLIJOULE * total_of(_all(SNN, analog)).total,
        snn_per_step=step_by_step(SNN),
        snn_int8_per_step=step_by_step(SNN_INT8),
    )


def _column(column: Column, totals: Mapping[str, Cost], spikes: float) -> ColumnReport:
    cost, fp32, int8 = (totals[name] for name in (column.name, SNN.name, SNN_INT8.name))
    return ColumnReport(
        name=column.name,
        label=column.label,
        compute_mj=cost.compute * MILLIJOULE,
        memory_mj=cost.memory * MILLIJOULE,
        total_mj=cost.total * MILLIJOULE,
        over_snn=cost.total / fp32.total if fp32.total else None,
        over_snn_int8=cost.total / int8.total if int8.total else None,
        break_even=None if column.spiking else _break_even(cost, fp32, spikes),
        break_even_int8=None if column.spiking else _break_even(cost, int8, spikes),
    )


def _break_even(other: Cost, spiking: Cost, spikes: float) -> float | None:
    """The spikes per neuron at which both cost the same, where what spikes cause grows with their number."""
    left = other.total - (spiking.total - spiking.variable)
    return spikes * left / spiking.variable if spiking.variable and left > 0 else None


def _site(facts: SiteFacts, quality: SiteQuality, costs: Costs, profile: EnergyProfile) -> SiteReport:
    count, neurons, cost = facts.count, facts.parameters, profile.picojoule
    each = cost.accumulate_fp32 if cost.graded_event is None else cost.graded_event
    per_neuron = 1 / count.neurons
    columns = _in_millijoule(costs)
    return SiteReport(
        name=facts.site.name,
        readers=tuple(reader.node for reader in facts.site.readers),
        neurons=count.neurons,
        macs=facts.site.macs,
        spikes_per_neuron=_numbers(count.spikes, per_neuron),
        spikes_per_neuron_deviation=_listed(count.spikes_deviation, per_neuron),
        firing_rate=_numbers(count.firing, 100 * per_neuron),
        firing_rate_deviation=_listed(count.firing_deviation, 100 * per_neuron),
        synaptic_ops=_numbers(count.synaptic_ops),
        synaptic_ops_deviation=_listed(count.synaptic_ops_deviation),
        synaptic_events=facts.drive.events,
        channels=count.channels,
        silent_channels=count.silent_channels,
        saturated_channels=count.saturated_channels,
        negative_levels=neurons.negative_levels,
        positive_levels=neurons.positive_levels,
        lowest_threshold=float(neurons.threshold.min()),
        highest_threshold=float(neurons.threshold.max()),
        thresholds=_spread(neurons.threshold),
        histogram=count.histogram,
        activation_entropy_bits=quality.activation_entropy_bits,
        spike_entropy_bits=quality.channel_entropy_bits,
        information_bits=quality.information_bits,
        break_even_spikes=cost.mac_fp32 / each if each else float("inf"),
        ann_mj=columns[ANN.name].total,
        snn_mj=columns[SNN.name].total,
        columns=columns,
    )


def _spread(thresholds: NDArray[np.float32]) -> tuple[int, ...]:
    """How many thresholds lie in each of a few even steps of the logarithm; a single bar where all are the same."""
    logarithms = np.log(thresholds.ravel().astype(np.float64))
    low, high = logarithms.min(), logarithms.max()
    if low == high:
        return (len(logarithms),)
    return tuple(np.histogram(logarithms, _THRESHOLD_BARS, (low, high))[0].tolist())


def _analog(layer: AnalogLayer, costs: Costs) -> AnalogReport:
    return AnalogReport(
        node=layer.node,
        op_type=layer.op_type,
        reason=layer.reason,
        macs=layer.macs,
        every_step=layer.every_step,
        columns=_in_millijoule(costs),
    )


def _rest(work: RestWork, costs: Costs, timesteps: int) -> RestReport:
    return RestReport(
        kind=work.kind,
        operators=work.operators,
        added=work.added,
        source_operations=0.0 if work.added else work.first.total,
        spiking_operations=work.first.total + (timesteps - 1) * work.later.total,
        first_step=work.first,
        columns=_in_millijoule(costs),
    )


def _in_millijoule(costs: Costs) -> dict[str, ColumnCost]:
    totals = {name: total_of(steps) for name, steps in costs.items()}
    return {
        name: ColumnCost(
            compute=cost.compute * MILLIJOULE, memory=cost.memory * MILLIJOULE, total=cost.total * MILLIJOULE
        )
        for name, cost in totals.items()
    }


def _accuracy(evaluation: Evaluation | None) -> AccuracyReport | None:
    """What the outputs showed, where they showed anything of classes."""
    if evaluation is None or (evaluation.snn.top1 is None and evaluation.agreement is None):
        return None
    return AccuracyReport(
        top1_per_step=evaluation.snn.top1_per_step,
        top5=evaluation.snn.top5,
        source_top1=evaluation.ann.top1 if evaluation.ann else None,
        source_top5=evaluation.ann.top5 if evaluation.ann else None,
        agreement_per_step=evaluation.agreement_per_step,
    )


def _conventions(manifest: Manifest, profile: EnergyProfile) -> Iterable[str]:
    """What holds by every profile."""
    if profile.spike is SpikeSize.GRADED:
        yield "a spike of size k is one event on each of its synapses; signs never cancel"
    else:
        yield "a spike of size k costs k accumulates on each of its synapses; signs never cancel"
    yield "products with padding are not counted, on either side; biases begin the sums and cost nothing"
    yield (
        "the quantised network is the spiking one's graph and levels with weights in int8: it skips zeros, runs once, "
        "and its products cost in proportion to the bits of their values"
    )
    if manifest.timesteps > 1:
        yield "layers that read the image are computed once, whatever the number of timesteps"
    if any(site.relative_axis is not None for site in manifest.plan.sites):
        yield "the sums of attention's spikes cost an accumulate a spike"
    resting = sum(not site.parameters.rests_at_zero for site in manifest.calibration.sites)
    if resting:
        where = f"{resting} of {len(manifest.calibration.sites)} tensors"
        yield f"what rests at another value than 0 ({where}) begins the sums like a bias, where it is no map"


def _not_counted(manifest: Manifest, work: Work | None) -> list[str]:
    """What has no number of operations is said, rather than passed off as free."""
    layers = [f"{layer.node} ({layer.op_type})" for layer in manifest.plan.analog_layers if layer.macs is None]
    unknown = [*layers, *(work.uncounted if work else ())]
    return [f"{each} is not counted, on either side: its work is not known" for each in unknown]


def _sums(sites: Sequence[SiteCount], value: Callable[[SiteCount], Totals], factor: float = 1.0) -> tuple[float, ...]:
    return _numbers(np.sum([value(site) for site in sites], axis=0), factor)


def _numbers(values: Totals, factor: float = 1.0) -> tuple[float, ...]:
    return tuple((factor * values).tolist())


def _listed(values: Totals | None, factor: float = 1.0) -> tuple[float, ...] | None:
    return None if values is None else _numbers(values, factor)

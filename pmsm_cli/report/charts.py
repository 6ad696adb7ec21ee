"""The charts of an energy report."""

import itertools
import math
from collections.abc import Callable, Sequence
from html import escape

from pmsm_cli.energy.records import ColumnCost, EnergyReport, SiteReport
from pmsm_cli.report.numbers import energy, percent
from pmsm_cli.report.svg import Chart, Mark, element, figure, share, ticks, titled

_MOST_LABELS = 12
_MOST_BARS = 48  # of a small histogram
_REFERENCES = {"ann": "source, fp32", "ann_int8": "source, int8", "quantised": "quantised"}


def energy_unit(millijoule: float) -> tuple[float, str]:
    """What to multiply an energy in mJ with, and the unit that it has then.

    >>> energy_unit(0.17), energy_unit(2.0)
    ((1000.0, 'µJ'), (1.0, 'mJ'))
    """
    if millijoule >= 1:
        return 1.0, "mJ"
    return (1e3, "µJ") if millijoule >= 1e-3 else (1e6, "nJ")


def networks_chart(report: EnergyReport) -> str:
    """What an image costs each of the networks, compute and memory apart."""
    factor, unit = energy_unit(max(column.total_mj for column in report.columns))
    marks = ticks(0, factor * max(column.total_mj for column in report.columns))
    rules = "".join(
        element(
            "line", x1=share(100 * mark / marks[-1]), x2=share(100 * mark / marks[-1]), y1="0", y2="100%", class_="rule"
        )
        for mark in marks
    )
    rows = []
    for column in report.columns:
        left, parts = 0.0, []
        for kind, cost in (("compute", column.compute_mj), ("memory", column.memory_mj)):
            width = 100 * factor * cost / marks[-1]
            parts.append(
                element(
                    "rect", x=share(left), width=share(width), y="15%", height="70%", class_=f"{column.name} {kind}"
                )
            )
            left += width
        total = energy(column.total_mj).replace("uJ", "µJ")
        bar = element("svg", rules + titled(f"{column.label}: {total}", "".join(parts)), aria_hidden="true")
        rows.append(element("span", escape(column.label)) + bar + element("b", total))
    labels = "".join(element("span", f"{mark:g}", style=f"left:{share(100 * mark / marks[-1])}") for mark in marks)
    axis = f"<span></span>{element('div', labels, class_='along')}<span></span>"
    body = "".join(element("div", row, class_="row") for row in rows) + element("div", axis, class_="row axis")
    memory = "solid: compute, pale: memory" if report.memory_billed else "compute only: this profile bills no memory"
    graded = "; an event of a spike includes its memory" if report.graded_spikes else ""
    about = f"Energy in {unit}; {memory}{graded}."
    return figure("What one image costs", about, element("div", body, class_="networks"))


def accuracy_chart(report: EnergyReport) -> str:
    """Top-1 at every timestep (agreement, without labels), beside the source's."""
    accuracy = report.accuracy
    values = (accuracy.top1_per_step or accuracy.agreement_per_step) if accuracy else None
    if accuracy is None or values is None:
        return ""
    labelled = accuracy.top1_per_step is not None
    source = accuracy.source_top1 if labelled else None
    errors = [math.sqrt(value * (100 - value) / max(report.images, 1)) for value in values]  # of a share, in percent
    bounds = [(max(0.0, each - by), min(100.0, each + by)) for each, by in zip(values, errors, strict=True)]
    everything = [*itertools.chain(*bounds), *([] if source is None else [source])]
    chart = Chart(
        title="Accuracy" if labelled else "Agreement with the source",
        about=f"After each timestep; the whisker is the standard error on {report.images} images.",
        unit="% top-1" if labelled else "% the same class",
        below="timestep",
        low=max(0, min(everything) - 1),
        high=min(100, max(everything) + 1),
        key=[Mark(style="snn", label="spiking"), *([Mark(style="ann", label="source")] if source is not None else [])],
        style="half",
    )
    if source is not None:
        chart.level(source, "reference ann")
    places = _step_places(chart, report.timesteps)
    for (left, first), (right, last) in itertools.pairwise(zip(places, values, strict=True)):
        chart.marks.append(chart.line(left, right, first, last, "trend snn"))
    for step, (place, value) in enumerate(zip(places, values, strict=True)):
        drawn = chart.line(place, place, *bounds[step], "whisker") + chart.dot(place, value, "snn")
        chart.marks.append(titled(f"T = {step + 1}: {percent(value, 2)} ± {errors[step]:.2f}", drawn))
    return chart.html()


def energy_chart(report: EnergyReport) -> str:
    """What an image has cost after each timestep, beside what the other networks cost."""
    spent = [sum(report.energy_mj.snn_per_step[: step + 1]) for step in range(report.timesteps)]
    references = {column.name: column.total_mj for column in report.columns if column.name in _REFERENCES}
    shown = {name: cost for name, cost in references.items() if cost <= 4 * spent[-1]}
    factor, unit = energy_unit(max([*spent, *shown.values()]))
    beyond = [
        f"{_REFERENCES[name]}: {factor * references[name]:.3g} {unit}" for name in references if name not in shown
    ]
    off = f" Beyond the scale: {', '.join(beyond)}." if beyond else ""
    chart = Chart(
        title="Energy",
        about=f"Spent on an image by the end of each timestep, weights in fp32.{off}",
        unit=unit,
        below="timestep",
        high=factor * max([*spent, *shown.values()]) or 1,
        key=[Mark(style="snn", label="spiking"), *(Mark(style=name, label=_REFERENCES[name]) for name in shown)],
        style="half",
    )
    width = min(60 / report.timesteps, 12)
    for step, (place, cost) in enumerate(zip(_step_places(chart, report.timesteps), spent, strict=True)):
        bar = chart.bar(place - width / 2, width, 0, factor * cost, "snn")
        chart.marks.append(titled(f"T = {step + 1}: {factor * cost:.4g} {unit}", bar))
    for name, cost in shown.items():
        chart.level(factor * cost, f"reference {name}")
    return chart.html()


def spikes_chart(report: EnergyReport) -> str:
    """Spikes per neuron of every layer, in the order of the network."""
    totals = [sum(site.spikes_per_neuron) for site in report.sites]
    later = report.timesteps > 1
    measured = all(site.spikes_per_neuron_deviation for site in report.sites) and not later
    deviations = [(site.spikes_per_neuron_deviation or (0.0,))[0] for site in report.sites]
    tops = [total + deviation * measured for total, deviation in zip(totals, deviations, strict=True)]
    key = [Mark(style="snn", label="first timestep"), Mark(style="snn_int8", label="later ones")] if later else []
    spread = " The whisker is the standard deviation over the images." if measured else ""
    chart = _depth_chart(
        report,
        title="Spikes per layer",
        about=f"Spikes of an image per neuron, by their size, whatever their sign.{spread}",
        unit="spikes per neuron",
        high=max(tops) or 1,
        key=key,
    )

    def draw(index: int, left: float, width: float) -> str:
        site, total, deviation = report.sites[index], totals[index], deviations[index]
        parts = chart.bar(left, width, 0, site.spikes_per_neuron[0], "snn")
        if later:
            parts += chart.bar(left, width, site.spikes_per_neuron[0], total, "snn_int8")
        if measured:
            low, middle = max(0.0, total - deviation), left + width / 2
            parts += chart.line(middle, middle, low, total + deviation, "whisker")
        return parts

    def tell(index: int) -> str:
        site = report.sites[index]
        return f"{totals[index]:.2f} spikes per neuron, {percent(site.firing_rate[0])} fire"

    _draw_sites(chart, report.sites, draw, tell)
    return chart.html()


def layers_chart(report: EnergyReport) -> str:
    """What each layer costs, the source beside the spiking network."""
    costs = [(site.columns["ann"], site.columns["snn"]) for site in report.sites]
    highest = max((cost.total for pair in costs for cost in pair), default=0.0)
    factor, unit = energy_unit(highest)
    memory = "; solid: compute, pale: memory" if report.memory_billed else ""
    chart = _depth_chart(
        report,
        title="Energy per layer",
        about=f"What reading each tensor costs: all products of the source, all spikes of the spiking network{memory}.",
        unit=unit,
        high=factor * highest or 1,
        key=[Mark(style="ann", label="source, fp32"), Mark(style="snn", label="spiking, fp32 weights")],
    )

    def stacked(cost: ColumnCost, left: float, width: float, name: str) -> str:
        compute = factor * cost.compute
        below = chart.bar(left, width, 0, compute, f"{name} compute")
        return below + (chart.bar(left, width, compute, factor * cost.total, f"{name} memory") if cost.memory else "")

    def draw(index: int, left: float, width: float) -> str:
        source, spiking = costs[index]
        return stacked(source, left, width / 2, "ann") + stacked(spiking, left + width / 2, width / 2, "snn")

    def tell(index: int) -> str:
        source, spiking = costs[index]
        return f"source {factor * source.total:.3g} {unit}, spiking {factor * spiking.total:.3g} {unit}"

    _draw_sites(chart, report.sites, draw, tell)
    return chart.html()


def entropy_chart(report: EnergyReport) -> str:
    """What the spikes of each layer say about its activations; empty for checkpoints that do not know."""
    known = [site for site in report.sites if None not in (site.information_bits, site.spike_entropy_bits)]
    if len(known) < len(report.sites):
        return ""
    chart = _depth_chart(
        report,
        title="Entropy kept",
        about="Bits per value on the calibration images: what spikes carry, and how much of it tells the value.",
        unit="bits per value",
        high=max(
            [site.spike_entropy_bits or 0 for site in known] + [site.activation_entropy_bits or 0 for site in known]
        ),
        key=[
            Mark(style="snn", label="tells the value (R)"),
            Mark(style="snn_int8", label="idle, H(s) − R"),
            Mark(style="tick", label="the activations hold, H(X)"),
        ],
    )

    def draw(index: int, left: float, width: float) -> str:
        site = report.sites[index]
        told, carried = site.information_bits or 0.0, site.spike_entropy_bits or 0.0
        parts = chart.bar(left, width, 0, told, "snn") + chart.bar(left, width, told, carried, "snn_int8")
        if site.activation_entropy_bits is not None:
            held = site.activation_entropy_bits
            parts += chart.line(left, left + width, held, held, "tick")
        return parts

    def tell(index: int) -> str:
        site = report.sites[index]
        told, carried, held = site.information_bits, site.spike_entropy_bits, site.activation_entropy_bits
        return f"R {told:.2f}, H(s) {carried:.2f}, H(X) {held:.2f} bit"

    _draw_sites(chart, report.sites, draw, tell)
    return chart.html()


def level_histogram(site: SiteReport) -> str:
    """How often each spike count occurs, the root of it as height; empty where it was not measured."""
    if site.histogram is None or not sum(site.histogram.counts):
        return ""
    merged = -(-len(site.histogram.counts) // _MOST_BARS)
    counts = site.histogram.counts
    bars = [sum(counts[start : start + merged]) for start in range(0, len(counts), merged)]
    level = site.histogram.width * merged
    names = [site.histogram.lowest + level * place for place in range(len(bars))]
    last = site.histogram.lowest + site.histogram.width * len(counts) - 1
    shown = [f"{name}" if level == 1 else f"{name} to {min(name + level - 1, last)}" for name in names]
    styles = ["silent" if name <= 0 < name + level else "snn" if name > 0 else "negative" for name in names]
    centre = 50 / len(bars)
    zero = centre - 100 * site.histogram.lowest / level / len(bars)
    labels = {centre: f"{site.histogram.lowest}", 100 - centre: f"{last}"}
    if 12 < zero < 88:
        labels[zero] = "0"
    return _small_bars(bars, shown, styles, labels, "spikes")


def threshold_histogram(site: SiteReport) -> str:
    """How the thresholds of a site's channels spread, on a logarithmic axis; a sentence where there is but one."""
    low, high = site.lowest_threshold, site.highest_threshold
    bars = site.thresholds
    if len(bars) < 2:
        return element("p", f"one threshold, {low:.3g}", class_="single")
    edges = [low * (high / low) ** (place / len(bars)) for place in range(len(bars) + 1)]
    shown = [f"{first:.3g} to {last:.3g}" for first, last in itertools.pairwise(edges)]
    labels = {0.0: f"{low:.3g}", 100.0: f"{high:.3g}"}
    return _small_bars(bars, shown, ["quantised"] * len(bars), labels, "threshold")


def _small_bars(
    bars: Sequence[int], names: Sequence[str], styles: Sequence[str], labels: dict[float, str], what: str
) -> str:
    total, highest, slot = sum(bars), max(bars), 100 / len(bars)
    parts = []
    for place, (count, name, style) in enumerate(zip(bars, names, styles, strict=True)):
        height = 100 * math.sqrt(count / highest)
        mark = element(
            "rect",
            x=share(slot * (place + 0.08)),
            width=share(slot * 0.84),
            y=share(100 - height),
            height=share(height),
            class_=style,
        )
        parts.append(titled(f"{what} {name}: {percent(100 * count / total)}", mark) if count else "")
    axis = "".join(
        element("span", text, style=f"left:{share(place)}", class_=_side(place))
        for place, text in sorted(labels.items())
    )
    return element("svg", "".join(parts), class_="small", aria_hidden="true") + element("div", axis, class_="ends")


def _side(place: float) -> str:
    """How a label hangs, so that none leaves its panel."""
    return "left" if place < 6 else "right" if place > 94 else "centre"


def _depth_chart(report: EnergyReport, *, title: str, about: str, unit: str, high: float, key: Sequence[Mark]) -> Chart:
    chart = Chart(
        title=title,
        about=about,
        unit=unit,
        below="layer, in the network's order (numbers as in the table)",
        high=high,
        key=key,
    )
    number = len(report.sites)
    every = -(-number // _MOST_LABELS)
    chart.labels = [(100 * (index + 0.5) / number, f"{index + 1}") for index in range(0, number, every)]
    return chart


def _draw_sites(
    chart: Chart,
    sites: Sequence[SiteReport],
    draw: Callable[[int, float, float], str],
    tell: Callable[[int], str],
) -> None:
    slot = 100 / len(sites)
    width = min(0.74 * slot, 5)
    for index, site in enumerate(sites):
        hit = element("rect", x=share(slot * index), width=share(slot), y="0", height="100%", class_="hit")
        marks = hit + draw(index, slot * (index + 0.5) - width / 2, width)
        chart.marks.append(titled(f"{index + 1}  {site.name}: {tell(index)}", marks, f"layer-{index + 1}"))


def _step_places(chart: Chart, timesteps: int) -> list[float]:
    places = [100 * (step + 0.5) / timesteps for step in range(timesteps)]
    every = -(-timesteps // _MOST_LABELS)
    chart.labels = [(place, f"{step + 1}") for step, place in enumerate(places) if step % every == 0]
    return places

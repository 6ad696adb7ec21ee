"""The energy report for the terminal: the most expensive layers, the networks side by side, and what it rests on."""

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pmsm_cli.energy.findings import times
from pmsm_cli.energy.records import AnalogReport, EnergyReport, RestReport, SiteReport
from pmsm_cli.report.numbers import count, energy, percent, steps
from pmsm_cli.report.tables import titled_table

MOST_SITES = 10
_ROOM_FOR_ALL = 104  # columns of a terminal, with some 30 left for the names of tensors
_ALL = {"ann": "source\nfp32", "ann_int8": "source\nint8", "quantised": "quantised", "snn": "spiking"}
_FEW = {"ann": "source", "snn": "spiking"}


class EnergyTable:
    """An energy report, laid out for the width there is."""

    def __init__(self, report: EnergyReport, *, all_sites: bool = False) -> None:
        """The table of a report, of the most expensive sites or of all."""
        self._report, self._all_sites = report, all_sites

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Layers, networks, findings and assumptions below each other."""
        wide = options.max_width >= _ROOM_FOR_ALL
        parts: list[RenderableType] = [
            _layers(self._report, all_sites=self._all_sites, wide=wide),
            _networks(self._report, wide=wide),
            *map(Text, verdict(self._report)),
        ]
        yield Group(*parts)


def verdict(report: EnergyReport) -> list[str]:
    """The comparison in words, the unflattering part as plainly, and where the constants come from."""
    lines = []
    if report.better:
        lines.append(f"Better: {report.better}")
    if report.worse:
        lines.append(f"Worse: {report.worse}")
    if report.rest and not report.rest_billed:
        operations = sum(each.spiking_operations for each in report.rest)
        kinds = ", ".join(each.kind for each in report.rest)
        lines.append(f"Counted and not billed by this profile: {count(operations)} operations of {kinds}")
    silent, saturated = (
        sum(getattr(site, field) or 0 for site in report.sites) for field in ("silent_channels", "saturated_channels")
    )
    channels = sum(site.channels or 0 for site in report.sites)
    if channels:
        lines.append(f"Of {channels} channels {silent} are silent and {saturated} saturated")
    lines.append(f"Profile {report.profile}: {report.source}")
    return lines + [f"- {assumption}" for assumption in report.assumptions]


def said(ratio: float | None) -> str:
    """A ratio, or a dash where there is none."""
    return "-" if ratio is None else times(ratio)


def title_of(report: EnergyReport) -> str:
    """What was counted, on what."""
    measured = f"measured on {report.images} images" if report.images else "estimated from the calibration"
    return f"Spikes and energy per image, {measured}, T = {report.timesteps}, profile {report.profile}"


def _layers(report: EnergyReport, *, all_sites: bool, wide: bool) -> Table:
    names = _ALL if wide else _FEW
    table = titled_table(title_of(report))
    table.add_column("tensor", overflow="fold", min_width=16)
    measured = ("firing", "spikes/\nneuron", "synaptic\nops") if wide else ("spikes/\nneuron",)
    for name in (*measured, *names.values(), "fp32/\nspiking" if wide else "ratio"):
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, cells: Sequence[str], costs: Sequence[str], ratio: str = "", style: str | None = None) -> None:
        table.add_row(name, *(cells if wide else cells[1:2]), *costs, ratio, style=style)

    ranked = sorted(report.sites, key=lambda site: -site.snn_mj)
    shown = ranked if all_sites else ranked[:MOST_SITES]
    for site in shown:
        add(site.name, _spikes(site), _sums([site], names), _ratio(site.ann_mj / site.snn_mj if site.snn_mj else None))
    hidden = ranked[len(shown) :]
    if hidden:
        operations = count(sum(sum(site.synaptic_ops) for site in hidden))
        add(f"{len(hidden)} more (--all)", ("", "", operations), _sums(hidden, names))
    if report.analog_layers:
        macs = f"{count(sum(layer.macs or 0 for layer in report.analog_layers))} MAC"
        add(f"{len(report.analog_layers)} analog layer(s)", ("", "", macs), _sums(report.analog_layers, names))
    if report.rest and report.rest_billed:
        operations = count(sum(each.spiking_operations for each in report.rest))
        add("beside synapses", ("", "", operations), _sums(report.rest, names))
    table.add_section()
    totals = {column.name: column.total_mj for column in report.columns}
    spikes = (
        _rates(report.firing_rate),
        steps([f"{value:.2f}" for value in report.spikes_per_neuron]),
        count(sum(report.synaptic_ops)),
    )
    add("total", spikes, [energy(totals[name]) for name in names], _ratio(report.ratio), "bold")
    return table


def _networks(report: EnergyReport, *, wide: bool) -> Table:
    table = titled_table("The networks side by side, per image")
    table.add_column("network", overflow="fold", min_width=16)
    costs = {"compute": "compute_mj", "memory": "memory_mj", "total": "total_mj"}
    if not wide or not report.memory_billed:
        costs = {"total": "total_mj"}
    last = ["break-even spikes\nfp32 / int8 weights"] * wide
    for name in (*costs, "over spiking,\nfp32 weights", "over spiking,\nint8 weights", *last):
        table.add_column(name, justify="right", no_wrap=True)
    spikes = sum(report.spikes_per_neuron)
    for column in report.columns:
        even = f"{_break_even(column.break_even)} / {_break_even(column.break_even_int8)}"
        even = f"here {spikes:.2f}" if column.name.startswith("snn") else even
        table.add_row(
            column.label,
            *(energy(getattr(column, field)) for field in costs.values()),
            said(column.over_snn),
            said(column.over_snn_int8),
            *[even] * wide,
            style="bold" if column.name == "snn" else None,
        )
    return table


def _spikes(site: SiteReport) -> tuple[str, str, str]:
    deviation = site.spikes_per_neuron_deviation
    spread = f" ±{deviation[0]:.2f}" if deviation and len(deviation) == 1 else ""
    return (
        _rates(site.firing_rate),
        steps([f"{value:.2f}" for value in site.spikes_per_neuron]) + spread,
        count(sum(site.synaptic_ops)),
    )


def _rates(rates: Sequence[float]) -> str:
    return percent(rates[0]) if len(rates) == 1 else f"{rates[0]:.0f} ... {percent(rates[-1], 0)}"


def _sums(parts: Sequence[SiteReport | AnalogReport | RestReport], names: Iterable[str]) -> list[str]:
    return [energy(sum(part.columns[name].total for part in parts)) for name in names]


def _break_even(spikes: float | None) -> str:
    return "none" if spikes is None else f"{spikes:.2f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

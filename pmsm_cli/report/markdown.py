"""The energy report as Markdown."""

from collections.abc import Mapping

from pmsm_cli.energy.records import ColumnCost, EnergyReport
from pmsm_cli.report.energy_table import said, title_of, verdict
from pmsm_cli.report.numbers import count, energy, percent, steps

_COLUMNS = ("ann", "ann_int8", "quantised", "snn", "snn_int8")
_HEADINGS = "source, fp32 | source, int8 | quantised | spiking | spiking, int8 weights"


def energy_markdown(report: EnergyReport) -> str:
    """All sites, the networks side by side, and what the numbers rest on."""
    lines = [
        f"## {title_of(report)}",
        "",
        f"| tensor | neurons | firing | spikes per neuron | silent | saturated | synaptic ops | {_HEADINGS} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for site in report.sites:
        lines.append(
            f"| `{site.name}` | {count(site.neurons)} | {steps([percent(rate) for rate in site.firing_rate])} "
            f"| {steps([f'{value:.2f}' for value in site.spikes_per_neuron])} | {_of(site.silent_channels)} "
            f"| {_of(site.saturated_channels)} | {count(sum(site.synaptic_ops))} | {_costs(site.columns)} |"
        )
    for layer in report.analog_layers:
        lines.append(
            f"| `{layer.node}` ({layer.reason}) | | | | | | {count(layer.macs)} MAC | {_costs(layer.columns)} |"
        )
    for rest in report.rest:
        costs = _costs(rest.columns) if report.rest_billed else "not billed | | | | "
        lines.append(f"| {rest.kind} ({rest.operators}) | | | | | | {count(rest.spiking_operations)} | {costs} |")
    totals = " | ".join(energy(column.total_mj) for column in report.columns)
    lines.append(f"| **total** | | | | | | {count(sum(report.synaptic_ops))} | {totals} |")
    lines += [
        "",
        "| network | compute | memory | total | over spiking | over spiking, int8 weights | break-even spikes |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for column in report.columns:
        memory = energy(column.memory_mj) if report.memory_billed else "not billed"
        even = "" if column.name.startswith("snn") else f"{_of(column.break_even)} / {_of(column.break_even_int8)}"
        lines.append(
            f"| {column.label} | {energy(column.compute_mj)} | {memory} | {energy(column.total_mj)} "
            f"| {said(column.over_snn)} | {said(column.over_snn_int8)} | {even} |"
        )
    if accuracy := report.accuracy:
        lines += ["", "| timestep | top-1 | agreement | energy up to there |", "|--:|--:|--:|--:|"]
        for step in range(report.timesteps):
            spent = energy(sum(report.energy_mj.snn_per_step[: step + 1]))
            top1, same = accuracy.top1_per_step, accuracy.agreement_per_step
            lines.append(
                f"| {step + 1} | {percent(top1[step] if top1 else None, 2)} "
                f"| {percent(same[step] if same else None, 2)} | {spent} |"
            )
        if accuracy.source_top1 is not None:
            lines += ["", f"Source: {percent(accuracy.source_top1, 2)}"]
    return "\n".join([*lines, "", *(line if line.startswith("- ") else f"{line}  " for line in verdict(report)), ""])


def _costs(columns: Mapping[str, ColumnCost]) -> str:
    return " | ".join(energy(columns[name].total) for name in _COLUMNS)


def _of(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"

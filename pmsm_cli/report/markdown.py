"""The energy report as Markdown."""

from pmsm_cli.energy.records import EnergyReport
from pmsm_cli.report.numbers import count, energy, percent, steps
from pmsm_cli.report.tables import verdict


def energy_markdown(report: EnergyReport) -> str:
    """All sites, the total, and what the numbers rest on."""
    measured = f"measured on {report.images} images" if report.images else "estimated from the calibration"
    lines = [
        f"## Spikes and energy per image, {measured}, T = {report.timesteps}",
        "",
        "| tensor | neurons | firing | spikes per neuron | synaptic ops | source | spiking |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for site in report.sites:
        lines.append(
            f"| `{site.name}` | {count(site.neurons)} | {steps([percent(rate) for rate in site.firing_rate])} "
            f"| {steps([f'{value:.2f}' for value in site.spikes_per_neuron])} | {count(sum(site.synaptic_ops))} "
            f"| {energy(site.ann_mj)} | {energy(site.snn_mj)} |"
        )
    cost = report.energy_mj
    for layer in report.analog_layers:
        price = energy(cost.snn_analog) if len(report.analog_layers) == 1 else ""
        lines.append(f"| `{layer.node}` ({layer.reason}) | | | | {count(layer.macs)} MAC | {price} | {price} |")
    lines.append(f"| **total** | | | | {count(sum(report.synaptic_ops))} | {energy(cost.ann)} | {energy(cost.snn)} |")
    return "\n".join([*lines, "", *(line if line.startswith("- ") else f"{line}  " for line in verdict(report)), ""])

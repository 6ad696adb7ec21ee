"""The energy report as one self-contained HTML page: nothing is fetched, and nothing but sorting needs its script."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

from pmsm_cli import __version__
from pmsm_cli.energy.records import ColumnCost, EnergyReport, RestReport, SiteReport
from pmsm_cli.report import charts
from pmsm_cli.report.numbers import count, energy, percent
from pmsm_cli.report.svg import element

_SHOWN_AT_ONCE = 24  # small histograms; more are a click away
_COLUMNS = {"ann": "fp32", "ann_int8": "int8", "quantised": "quantised", "snn": "spiking", "snn_int8": "spiking, int8"}


def energy_page(report: EnergyReport) -> str:
    """The whole page."""
    assets = resources.files("pmsm_cli.report").joinpath("assets")
    style, script = (assets.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    head = "".join(
        [
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">',
            element("title", f"{escape(report.network)} — spikes and energy"),
            element("style", style),
        ]
    )
    main = "".join(
        [
            _header(report),
            _tiles(report),
            charts.networks_chart(report),
            element("div", charts.accuracy_chart(report) + charts.energy_chart(report), class_="pair"),
            charts.spikes_chart(report),
            charts.layers_chart(report),
            charts.entropy_chart(report),
            _levels(report),
            _layer_table(report),
            _network_table(report),
            _rest_table(report),
            _grounds(report),
        ]
    )
    footer = element("footer", f"Written by pmsm {escape(__version__)}. Energies are estimates per image.")
    body = element("main", main) + footer + element("script", script)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _header(report: EnergyReport) -> str:
    measured = f"measured on {report.images} images" if report.images else "estimated from the calibration"
    steps = "one timestep" if report.timesteps == 1 else f"{report.timesteps} timesteps, {report.coding}"
    facts = f"{steps} · at most {report.levels} spikes of one sign · {measured} · energy profile {report.profile}"
    found = [("better", "Better", report.better), ("worse", "Worse", report.worse)]
    findings = "".join(
        element("p", element("b", name) + escape(f" {text}"), class_=style) for style, name, text in found if text
    )
    return element(
        "header",
        element("p", "Spikes and energy", class_="eyebrow")
        + element("h1", escape(report.network))
        + element("p", escape(facts), class_="facts")
        + element("div", findings, class_="findings"),
    )


def _tiles(report: EnergyReport) -> str:
    tiles = []
    if (accuracy := report.accuracy) and accuracy.top1_per_step:
        source = f"source {percent(accuracy.source_top1, 2)}" if accuracy.source_top1 is not None else "top-1"
        tiles.append(("Accuracy", percent(accuracy.top1_per_step[-1], 2), source))
    elif accuracy and accuracy.agreement_per_step:
        tiles.append(("Agreement", percent(accuracy.agreement_per_step[-1], 2), "the source's class"))
    deviation = report.spikes_per_neuron_deviation
    spread = f"± {deviation[0]:.2f} over the images" if deviation and len(deviation) == 1 else "all timesteps together"
    tiles.append(("Spikes per neuron", f"{sum(report.spikes_per_neuron):.2f}", spread))
    tiles.append(("Neurons that fire", percent(report.firing_rate[0]), "at the first timestep"))
    macs = f"for {count(report.macs)} multiply-accumulates"
    tiles.append(("Synaptic operations", count(sum(report.synaptic_ops)), macs))
    tiles.append(("Energy per image", _energy(report.energy_mj.snn), f"source, fp32: {_energy(report.energy_mj.ann)}"))
    cells = (element("p", name) + element("b", value) + element("small", escape(more)) for name, value, more in tiles)
    return element("section", "".join(element("div", cell) for cell in cells), class_="tiles")


def _levels(report: EnergyReport) -> str:
    """Spike counts and thresholds of every site, drawn small."""
    panels = []
    for index, site in enumerate(report.sites):
        name = element("a", f"{index + 1}", href=f"#layer-{index + 1}") + f" {_name(site.name)}"
        silent = [f"{site.silent_channels} silent"] if site.silent_channels else []
        full = [f"{site.saturated_channels} saturated"] if site.saturated_channels else []
        of = f" of {site.channels} channels" if silent or full else ""
        remark = element("p", f"{', '.join(silent + full)}{of}", class_="warn") if of else ""
        spikes, thresholds = charts.level_histogram(site), charts.threshold_histogram(site)
        parts = [
            element("h4", name),
            element("div", (element("p", "spikes", class_="what") + spikes) if spikes else ""),
            element("div", element("p", "thresholds", class_="what") + thresholds, class_="thresholds"),
            element("div", remark),
        ]
        panels.append(element("li", "".join(parts)))
    first = element("ul", "".join(panels[:_SHOWN_AT_ONCE]), class_="panels")
    rest = panels[_SHOWN_AT_ONCE:]
    more = element("summary", f"{len(rest)} more layers") + element("ul", "".join(rest), class_="panels")
    images = f" Spike counts of the first {report.histogram_images} images." if report.histogram_images else ""
    about = f"How often each spike count occurs at the first timestep, and the thresholds of the channels.{images}"
    caption = element("h3", "Levels and thresholds") + element(
        "p", f"{about} Heights are square roots of the shares; thresholds stand on a logarithmic axis."
    )
    folded = element("details", more) if rest else ""
    marks = {"negative": "negative spikes", "silent": "silence", "snn": "positive spikes", "quantised": "thresholds"}
    key = element(
        "ul", "".join(element("li", f'<i class="{style}"></i>{text}') for style, text in marks.items()), class_="key"
    )
    return element("figure", element("figcaption", caption) + key + first + folded)


def _layer_table(report: EnergyReport) -> str:
    billed = {name: label for name, label in _COLUMNS.items() if name != "snn_int8"}
    headings = ["#", "tensor", "neurons", "firing", "spikes / neuron", "silent", "saturated", "synaptic ops"]
    headings += [*billed.values(), "fp32 / spiking"]
    rows = [_site_row(index, site, headings, billed) for index, site in enumerate(report.sites)]
    about = "Every tensor that becomes spikes; energies in one image. Click a heading to sort."
    return _table("Layer by layer", about, headings, rows, sortable=True)


def _site_row(index: int, site: SiteReport, headings: Sequence[str], billed: Iterable[str]) -> str:
    spikes, deviation = sum(site.spikes_per_neuron), site.spikes_per_neuron_deviation
    spread = f" ± {deviation[0]:.2f}" if deviation and len(deviation) == 1 else ""
    ratio = site.ann_mj / site.snn_mj if site.snn_mj else None
    cells: list[tuple[object, str]] = [
        (index + 1, f"{index + 1}"),
        (site.name, element("span", f"{index + 1}", class_="number") + _name(site.name)),
        (site.neurons, count(site.neurons)),
        (site.firing_rate[0], percent(site.firing_rate[0])),
        (spikes, f"{spikes:.2f}{spread}"),
        (site.silent_channels or 0, _of(site.silent_channels)),
        (site.saturated_channels or 0, _of(site.saturated_channels)),
        (sum(site.synaptic_ops), count(sum(site.synaptic_ops))),
        *((site.columns[name].total, _energy(site.columns[name].total)) for name in billed),
        (ratio or 0, "–" if ratio is None else f"{ratio:.2f}"),
    ]
    return _row(cells, headings, identity=f"layer-{index + 1}")


def _network_table(report: EnergyReport) -> str:
    headings = [
        "network",
        "compute",
        "memory",
        "total",
        "over spiking, fp32",
        "over spiking, int8",
        "break-even, fp32",
        "break-even, int8",
    ]
    rows = []
    for column in report.columns:
        spiking = column.name.startswith("snn")
        evens = [(even, _spikes(even)) for even in (column.break_even, column.break_even_int8)]
        cells: list[tuple[object, str]] = [
            (column.label, escape(column.label)),
            (column.compute_mj, _energy(column.compute_mj)),
            (column.memory_mj, _energy(column.memory_mj) if report.memory_billed else "not billed"),
            (column.total_mj, _energy(column.total_mj)),
            *((ratio, _ratio(ratio)) for ratio in (column.over_snn, column.over_snn_int8)),
            *((even, "" if spiking else text) for even, text in evens),
        ]
        rows.append(_row(cells, headings))
    here = sum(report.spikes_per_neuron)
    about = (
        "Over spiking: how many times the spiking network's energy, with weights in fp32 and in int8. Break-even: the "
        f"spikes per neuron at which the spiking network would cost as much; here it takes {here:.2f}."
    )
    return _table("The networks side by side", about, headings, rows)


def _rest_table(report: EnergyReport) -> str:
    billed = ("ann", "ann_int8", "quantised", "snn", "snn_int8")
    headings = ["what", "operators", "source", "spiking", *_COLUMNS.values()]
    rows = []
    for layer in report.analog_layers:
        macs = f"{count(layer.macs)} MAC"
        name = element("span", f"{_name(layer.node)}, {escape(layer.op_type)}: {escape(layer.reason)}")
        cells: list[tuple[object, str]] = [(layer.node, name), (1, "1"), (layer.macs, macs), (layer.macs, macs)]
        rows.append(_row([*cells, *_costs(layer.columns, billed)], headings))
    for rest in report.rest:
        costs = _costs(rest.columns, billed) if report.rest_billed else [(0, "–")] * len(billed)
        rows.append(_row([*_rest_cells(rest), *costs], headings))
    if not rows:
        return ""
    note = "" if report.rest_billed else " This profile bills the analog layers, and nothing else of this."
    about = f"What no spikes drive: counted in operations per image, all timesteps together.{note}"
    return _table("Beside the spikes", about, headings, rows)


def _rest_cells(rest: RestReport) -> list[tuple[object, str]]:
    name = escape(rest.kind) + (element("small", " added by the conversion") if rest.added else "")
    operations = (rest.source_operations, rest.spiking_operations)
    return [(rest.kind, name), (rest.operators, f"{rest.operators}"), *((each, count(each)) for each in operations)]


def _grounds(report: EnergyReport) -> str:
    """What the numbers rest on."""
    assumptions = "".join(element("li", escape(line)) for line in report.assumptions)
    headings = ["constant", "pJ", "source"]
    constants = [
        _row(
            [(each.name, _name(each.name)), (each.picojoule, f"{each.picojoule:g}"), ("", escape(each.source))],
            headings,
        )
        for each in report.constants
    ]
    about = f"Profile {report.profile}: {report.profile_description}".rstrip(": ")
    caption = element("h3", "What this rests on") + element("p", escape(about))
    prose = element("figure", element("figcaption", caption) + element("ul", assumptions, class_="prose"))
    return prose + _table("Constants", "Energy of one operation; memories for 64 bits.", headings, constants)


def _table(title: str, about: str, headings: Sequence[str], rows: Sequence[str], *, sortable: bool = False) -> str:
    labels = [element("button", escape(name), type="button") if sortable else escape(name) for name in headings]
    head = element("thead", element("tr", "".join(element("th", label, scope="col") for label in labels)))
    table = element("table", head + element("tbody", "".join(rows)), class_="sortable" if sortable else None)
    caption = element("h3", escape(title)) + element("p", escape(about))
    return element("figure", element("figcaption", caption) + table)


def _row(cells: Sequence[tuple[object, str]], headings: Sequence[str], *, identity: str | None = None) -> str:
    """A row; each cell knows its heading, which narrow screens show beside it, and what it is sorted by."""
    parts = "".join(
        element("td", text, data_label=heading, class_=None if text.strip("–") else "empty", data_value=_sorting(value))
        for (value, text), heading in zip(cells, headings, strict=True)
    )
    return element("tr", parts, id=identity)


def _sorting(value: object) -> object:
    return "" if value is None else value


def _costs(columns: Mapping[str, ColumnCost], names: Iterable[str]) -> list[tuple[object, str]]:
    return [(columns[name].total, _energy(columns[name].total)) for name in names]


def _name(name: str) -> str:
    """A tensor's name, which may break behind its separators."""
    return element("code", escape(name).replace("/", "/<wbr>").replace("_", "_<wbr>").replace(".", ".<wbr>"))


def _energy(millijoule: float) -> str:
    return _upper_units(energy(millijoule))


def _upper_units(text: str) -> str:
    return text.replace(" uJ", " µJ")


def _of(number: int | None) -> str:
    return "–" if number is None else f"{number}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _spikes(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"

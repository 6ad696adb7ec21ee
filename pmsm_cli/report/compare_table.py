"""A comparison of methods as a table for the terminal, and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pmsm_cli.report.comparison import Comparison, MethodPoint, MethodResult
from pmsm_cli.report.numbers import count, energy, percent

_COLUMNS = ("T", "top-1", "agreement", "spikes/neuron", "synaptic ops", "energy", "of fp32")

_NOT = "not applicable"


def comparison_table(comparison: Comparison) -> RenderableType:
    """All methods at all numbers of timesteps, then where each first keeps the accuracy, then what this rests on."""
    every = _table(f"{comparison.source} on {comparison.images} images, by method and timesteps", _COLUMNS)
    for method in comparison.methods:
        every.add_section()
        if method.reason:
            every.add_row(f"{method.title}: {_NOT}")
        for index, cells in enumerate(_rows(comparison, method)):
            first = method.points[index] == method.first_within
            every.add_row("" if index else method.title, *cells, style="bold" if first else None)
    parts: list[RenderableType] = [every]
    if comparison.measure:
        firsts = _table(f"The fewest timesteps that lose no more than {_loss(comparison)}", _first_columns(comparison))
        for title, cells in _first_rows(comparison):
            firsts.add_row(title, *cells)
        parts.append(firsts)
    return Group(*parts, *(Text(line) for line in _notes(comparison)))


def comparison_markdown(comparison: Comparison) -> str:
    """The same as Markdown."""
    lines = [f"## {comparison.source} on {comparison.images} images, by method and timesteps", ""]
    lines += _header(_COLUMNS)
    for method in comparison.methods:
        if method.reason:
            lines.append(_line([f"{method.title}: {_NOT}", *[""] * len(_COLUMNS)]))
        for index, cells in enumerate(_rows(comparison, method)):
            bold = "**" if method.points[index] == method.first_within else ""
            lines.append(_line(["" if index else method.title, *(f"{bold}{cell}{bold}" for cell in cells)]))
    if comparison.measure:
        limit = f"The fewest timesteps that lose no more than {_loss(comparison)}:"
        lines += ["", limit, "", *_header(_first_columns(comparison))]
        lines += [_line([title, *cells]) for title, cells in _first_rows(comparison)]
    notes = (line if line.startswith("- ") else f"{line}  " for line in _notes(comparison))
    return "\n".join([*lines, "", *notes, ""])


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold cyan")
    table.add_column("method", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _header(columns: Sequence[str]) -> list[str]:
    return [_line(["method", *columns]), _line(["---", *["--:"] * len(columns)])]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rows(comparison: Comparison, method: MethodResult) -> Iterator[list[str]]:
    for point in method.points:
        share = percent(100 * point.energy_mj / comparison.ann.energy_mj, 0) if comparison.ann.energy_mj else "-"
        accuracy, spikes = _accuracy(point), f"{point.spikes_per_neuron:.2f}"
        yield [str(point.timesteps), *accuracy, spikes, count(point.synaptic_ops), energy(point.energy_mj), share]


def _accuracy(point: MethodPoint) -> list[str]:
    return [percent(point.top1, 2), percent(point.agreement, 2)]


def _loss(comparison: Comparison) -> str:
    return f"{comparison.within:g} point{'' if comparison.within == 1 else 's'} of {comparison.measure}"


def _reference(comparison: Comparison) -> MethodResult | None:
    """The first method that keeps the accuracy: what the others' energy is held against."""
    return next((method for method in comparison.methods if method.first_within), None)


def _first_columns(comparison: Comparison) -> list[str]:
    """What is said of each method there: what it keeps, and its energy by every profile."""
    energies = (name for profile in comparison.profiles for name in (f"energy, {profile}", "relative"))
    return ["T", comparison.measure or "", *energies]


def _first_rows(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """The source, and each method at its first sufficient number of timesteps."""
    first, ann = _reference(comparison), comparison.ann
    reference = first.first_within.energy_by_profile if first and first.first_within else {}

    def energies(by_profile: Mapping[str, float]) -> Iterator[str]:
        for profile in comparison.profiles:
            yield energy(by_profile[profile])
            yield f"{by_profile[profile] / reference[profile]:.2f}x" if reference.get(profile) else "-"

    yield "source, fp32", ["", "" if ann.top1 is None else percent(ann.top1, 2), *energies(ann.energy_by_profile)]
    yield "source, int8", ["", "", *energies(ann.energy_int8_by_profile)]
    for method in comparison.methods:
        point = method.first_within
        if point:
            kept = point.agreement if ann.top1 is None else point.top1
            yield method.title, [str(point.timesteps), percent(kept, 2), *energies(point.energy_by_profile)]
        elif method.points:
            yield method.title, [f"> {method.points[-1].timesteps}", *[""] * (len(_first_columns(comparison)) - 1)]


def _notes(comparison: Comparison) -> Iterator[str]:
    """What became of each method, how it was set, and what all of this rests on."""
    kept = _reference(comparison)
    if kept:
        yield f"relative: over the energy of {kept.title}"
    elif comparison.measure:
        most = max((point.timesteps for method in comparison.methods for point in method.points), default=0)
        yield f"every method loses more than {_loss(comparison)}, also in {most} timesteps"
    for method in comparison.methods:
        if method.reason:
            yield f"{method.title} does not apply: {method.reason}"
    for method in comparison.methods:
        if method.points:
            best = f", at each T the best of {method.tried} settings by calibration images" if method.tried > 1 else ""
            yield f"{method.title} ({method.neurons} neurons{best}): {_settings(method)}"
    for paper, titles in _papers(comparison).items():
        yield f"{' and '.join(titles)}: {paper}"
    calibrated = f"calibrated on {comparison.calibration_images} images of {comparison.calibration_origin}"
    yield f"{calibrated}; measured on {comparison.images} of {comparison.origin}; seed {comparison.seed}"
    beside = f"; {', '.join(comparison.profiles[1:])} bills the same counts" if comparison.profiles[1:] else ""
    yield f"energy by profile {comparison.profile}, per image, of all steps together{beside}:"
    yield from (f"- {assumption}" for assumption in comparison.assumptions)


def _settings(method: MethodResult) -> str:
    """How thresholds were set, by numbers of timesteps where these differ."""
    steps: dict[str, list[str]] = {}
    for point in method.points:
        steps.setdefault(point.setting, []).append(str(point.timesteps))
    if len(steps) == 1:
        return next(iter(steps))
    return "; ".join(f"T = {', '.join(counts)}: {setting}" for setting, counts in steps.items())


def _papers(comparison: Comparison) -> dict[str, list[str]]:
    papers: dict[str, list[str]] = {}
    for method in comparison.methods:
        papers.setdefault(method.paper, []).append(method.title)
    return papers

"""Where accuracy goes, as a table for the terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pmsm_cli.report.difference import Bisection, Difference, SiteFigures
from pmsm_cli.report.numbers import percent

MOST_SITES = 20


def difference_table(difference: Difference, *, all_sites: bool = False) -> RenderableType:
    """The sites that do most damage, what to try at each, and which of them to give more levels."""
    steps = f"T = {difference.timesteps}"
    table = Table(
        title=f"Where {difference.checkpoint} differs from {difference.source}, {difference.images} images, {steps}",
        title_justify="left",
        title_style="bold",
        header_style="bold cyan",
    )
    table.add_column("tensor", overflow="fold")
    for name in ("damage", "SNR (dB)", "cosine", "clipped", "levels"):
        table.add_column(name, justify="right")
    table.add_column("what to try", overflow="fold", min_width=12)
    finer = difference.bisection.sites if difference.bisection else ()
    shown = difference.sites if all_sites else difference.sites[:MOST_SITES]
    for site in shown:
        table.add_row(*_cells(site), style="bold" if site.name in finer else None)
    hidden = len(difference.sites) - len(shown)
    parts: list[RenderableType] = [table]
    if hidden:
        parts.append(Text(f"{hidden} more with less damage (--all)"))
    parts += [Text(line) for line in _notes(difference)]
    if difference.bisection:
        parts += [
            Text(line, style="bold" if index == 0 else "") for index, line in enumerate(_bisected(difference.bisection))
        ]
    return Group(*parts)


def _cells(site: SiteFigures) -> list[str]:
    return [
        site.name,
        percent(site.damage, 2),
        f"{_decibel(site.alone_db)} / {_decibel(site.accumulated_db)}",
        f"{_cosine(site.alone_cosine)} / {_cosine(site.accumulated_cosine)}",
        f"{percent(site.clipped, 2)}, {percent(site.clipped_error, 0)}",
        f"{-site.negative_levels} to {site.positive_levels}",
        site.advice,
    ]


def _decibel(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f}"


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _notes(difference: Difference) -> Iterator[str]:
    accuracy = []
    if difference.source_top1 is not None and difference.top1 is not None:
        accuracy.append(f"top-1 {difference.top1:.2f} % (source {difference.source_top1:.2f} %)")
    if difference.agreement is not None:
        accuracy.append(f"agreement {difference.agreement:.2f} %")
    if difference.output_error is not None:
        accuracy.append(f"output error {difference.output_error:.2f} %")
    yield ", ".join(accuracy)
    yield (
        "damage: error of the outputs with this tensor's neurons in the source and no others, on "
        f"{difference.probed_images} images"
    )
    yield "SNR, cosine: what spikes carry against the source's tensor, alone / with all that is before it"
    yield "clipped: share of the values that the neurons cannot reach, and of the squared error alone that these make"


def _bisected(found: Bisection) -> Iterator[str]:
    unit = f"points of {found.measure}"
    finer = f"{found.factor} times the levels"
    if found.drop_before <= found.target_drop:
        yield f"{found.drop_before:.2f} {unit} are lost, {found.target_drop:g} are allowed: no tensor needs more levels"
        return
    if not found.kept:
        yield (
            f"{finer} at all tensors still lose {found.drop_everywhere:.2f} {unit}, {found.target_drop:g} were allowed "
            f"({found.drop_before:.2f} as it is)"
        )
        return
    instead = f"{max(found.drop, 0.0):.2f} {unit} are lost instead of {found.drop_before:.2f}"
    yield f"with {finer} at {len(found.sites)} tensor(s), {instead}:"
    yield from (f"  {name}" for name in found.sites)
    everywhere = max(found.drop_everywhere, 0.0)  # by luck the spiking network is right where the source is not
    yield f"{found.tried} networks were measured; {everywhere:.2f} are lost with more levels at all tensors"

"""Timings as a table."""

from rich.console import Group, RenderableType
from rich.text import Text

from pmsm_cli.report.tables import titled_table
from pmsm_cli.runtime.race import Timing


def bench_table(
    contenders: tuple[Timing, ...], *, ann: Timing | None, snn: Timing, title: str, remark: str
) -> RenderableType:
    """One row a contender; the form that `pmsm run` takes in bold, and how much faster than the source each is."""
    table = titled_table(title)
    table.add_column("", overflow="fold")
    for name in ("median", "95 %", "images/s", "peak memory", "file", *(("source / this",) if ann else ())):
        table.add_column(name, justify="right")
    for each in contenders:
        row = [
            each.name,
            f"{each.median_ms:.2f} ms",
            f"{each.p95_ms:.2f} ms",
            f"{each.images_per_second:,.1f}" if each.images_per_second < 100 else f"{each.images_per_second:,.0f}",
            f"{each.peak_memory_mb:.0f} MB",
            f"{each.model_mb:.2f} MB",
        ]
        if ann:
            row.append(f"{ann.median_ms / each.median_ms:.2f}x")
        table.add_row(*row, style="bold" if each == snn else None)
    return Group(table, Text(remark))

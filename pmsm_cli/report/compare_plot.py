"""A comparison of methods as a picture: accuracy against timesteps and against energy; needs matplotlib."""

import io
from typing import Any

from pmsm_cli.report.comparison import Comparison, MethodPoint
from pmsm_cli.report.plot import check_plotting

# Distinct also without colour: each method has its own marker.
_STYLES = (
    ("#1b6ca8", "o"),
    ("#5fa8d3", "s"),
    ("#d1495b", "^"),
    ("#edae49", "D"),
    ("#7a5195", "v"),
    ("#4c956c", "P"),
    ("#6c757d", "X"),
    ("#a44a3f", "*"),
)


def comparison_plot(comparison: Comparison, *, form: str) -> bytes:
    """The picture as a file of the given form (png, svg or pdf).

    Left accuracy (agreement with the source, where there are no labels) against timesteps, right against the energy of
    an image; the source is a dashed line, what may be lost against it a band.

    Raises:
        SetupError: matplotlib is missing.
    """
    check_plotting()
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    labelled = comparison.ann.top1 is not None
    top = comparison.ann.top1 if comparison.ann.top1 is not None else 100.0
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for method, (colour, marker) in zip(comparison.methods, _STYLES, strict=False):
        values = [_accuracy(point, labelled=labelled) for point in method.points]
        if not method.points or None in values:
            continue
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.4}
        panels[0].plot([point.timesteps for point in method.points], values, label=method.title, **style)
        panels[1].plot([1e3 * point.energy_mj for point in method.points], values, **style)
    for panel in panels:
        panel.axhline(top, color="#222222", linestyle="--", linewidth=1)
        panel.axhspan(top - comparison.within, top, color="#222222", alpha=0.08, linewidth=0)
        panel.set_xscale("log", base=2 if panel is panels[0] else 10)
        panel.grid(alpha=0.25)
    panels[0].xaxis.set_major_formatter(ScalarFormatter())
    panels[0].set_xticks(sorted({point.timesteps for method in comparison.methods for point in method.points}))
    panels[0].set_xlabel("timesteps")
    panels[0].set_ylabel(f"{'top-1' if labelled else 'agreement with the source'} (%)")
    for value, name in ((comparison.ann.energy_mj, "fp32"), (comparison.ann.energy_int8_mj, "int8")):
        if value > 0:
            panels[1].axvline(1e3 * value, color="#222222", linestyle=":", linewidth=1)
            place = {"xy": (1e3 * value, 0.02), "xycoords": ("data", "axes fraction")}
            panels[1].annotate(f" source, {name}", fontsize=8, rotation=90, va="bottom", ha="right", **place)
    panels[1].set_xlabel(f"energy per image (\N{MICRO SIGN}J), profile {comparison.profile}")
    figure.suptitle(f"{comparison.source}, {comparison.images} images; dashed: the source", fontsize=11)
    if panels[0].get_legend_handles_labels()[1]:
        panels[0].legend(fontsize=8, loc="lower right")
    data = io.BytesIO()
    # Without a date and with fixed ids the same comparison gives the same file.
    metadata: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
    with matplotlib.rc_context({"svg.hashsalt": "pmsm"}):
        figure.savefig(data, format=form, dpi=110, metadata=metadata)
    return data.getvalue()


def _accuracy(point: MethodPoint, *, labelled: bool) -> float | None:
    return point.top1 if labelled else point.agreement

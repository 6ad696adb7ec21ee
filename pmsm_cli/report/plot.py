"""Histograms of activations with the levels of their neurons drawn in; needs matplotlib."""

import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pmsm_cli.calibration.calibrate import Calibration, SiteCalibration
from pmsm_cli.calibration.information import Doubles
from pmsm_cli.calibration.statistics import SiteStatistics
from pmsm_cli.errors import SetupError, UsageError, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_FORMATS = ("png", "svg", "pdf")
MOST_PANELS = 12
_COLUMNS = 3
_BINS = 480
_MOST_LINES = 70  # levels closer than this are no lines but a surface
_SHARE_BEYOND = 1e-5  # what lies beyond the axis may be no more than this
_WIDEST = 8  # times the outermost level: no outlier squeezes the levels together more than that
_LONGEST_NAME = 46


def check_plotting() -> None:
    """Fail now rather than after minutes of work, where nothing could be drawn in the end.

    Raises:
        SetupError: matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise SetupError("--plot needs matplotlib", hint="pip install 'pmsm-cli[plot]'")


def sites_to_plot(calibration: Calibration, names: Sequence[str] = ()) -> list[SiteCalibration]:
    """The named sites, or the dozen with the lowest signal-to-distortion ratio; in the network's order.

    Raises:
        UsageError: a name is none of the calibration's.
    """
    unknown = set(names) - {site.name for site in calibration.sites}
    if unknown:
        raise UsageError(
            f"--plot-sites: no tensor is called {', '.join(sorted(unknown))}",
            details=shorten([site.name for site in calibration.sites]),
            hint="pmsm inspect names them all",
        )
    if names:
        return [site for site in calibration.sites if site.name in names]
    ratios = {site.name: site.quality.signal_to_distortion_db for site in calibration.sites}
    lossy = sorted(ratios, key=lambda name: np.inf if ratios[name] is None else float(ratios[name] or 0))
    return [site for site in calibration.sites if site.name in lossy[:MOST_PANELS]]


def calibration_plot(
    calibration: Calibration, statistics: Mapping[str, SiteStatistics], *, form: str, names: Sequence[str] = ()
) -> bytes:
    """The picture of a calibration as a file of the given form (png, svg or pdf).

    A panel a site: all its channels' activations, each in units of its own threshold and counted from where the channel
    rests, so that the levels are whole numbers from -N to P; log counts; the levels as lines; what is clipped shaded.

    Raises:
        SetupError: matplotlib is missing.
        UsageError: a name is none of the calibration's.
    """
    check_plotting()
    import matplotlib
    from matplotlib.figure import Figure

    shown = sites_to_plot(calibration, names)
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(5.2 * columns, 2.9 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, site in zip(panels, shown, strict=False):
        _draw(panel, site, statistics[site.name])
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    few = len(shown) < len(calibration.sites) and not names
    which = f"the {len(shown)} of {len(calibration.sites)} tensors with the lowest SDR; " if few else ""
    figure.suptitle(
        f"Calibration by {calibration.method} on {calibration.images.images} images\n"
        f"{which}lines: the levels that spikes can carry; shaded: clipped",
        fontsize=11,
    )
    figure.supxlabel("activation above its channel's resting value, in thresholds", fontsize=10)
    figure.supylabel("density", fontsize=10)
    data = io.BytesIO()
    # Without a date and with fixed ids the same calibration gives the same file.
    metadata: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
    with matplotlib.rc_context({"svg.hashsalt": "pmsm"}):
        figure.savefig(data, format=form, dpi=110, metadata=metadata)
    return data.getvalue()


def normalised_histogram(
    statistics: SiteStatistics,
    threshold: "np.typing.NDArray[np.float32]",
    edges: Doubles,
    rest: "np.typing.NDArray[np.float32] | float" = 0.0,
) -> Doubles:
    """The share of all values between the edges, [edges - 1].

    Edges are in units of each channel's threshold, and 0 is where it rests (`rest`, in thresholds).

    Within a bin of the statistics values are taken as evenly spread; a constant channel is one value.
    """
    held: Doubles = np.zeros(len(edges) - 1)
    lowest, highest = _extremes(statistics, threshold, rest)
    for low, high, counts in zip(lowest, highest, statistics.counts, strict=True):
        if high > low:
            below = np.concatenate([[0], np.cumsum(counts)])
            held += np.diff(np.interp(edges, np.linspace(low, high, len(below)), below))
        else:
            held += np.histogram([low], edges, weights=[counts.sum()])[0]
    return held / max(statistics.values, 1)


def _draw(panel: "Axes", site: SiteCalibration, statistics: SiteStatistics) -> None:
    from matplotlib.ticker import MaxNLocator

    parameters = site.parameters
    negative, positive = parameters.negative_levels, parameters.positive_levels
    low, high = _limits(statistics, site)
    edges = np.linspace(low, high, _BINS + 1)
    share = normalised_histogram(statistics, parameters.threshold, edges, parameters.rest) / (edges[1] - edges[0])
    panel.fill_between(edges[:-1], share, step="post", color="#8fb8de", linewidth=0, zorder=2)
    panel.axvspan(positive + 0.5, high, color="#d1495b", alpha=0.18, linewidth=0, zorder=1)
    if low < -negative - 0.5:
        panel.axvspan(low, -negative - 0.5, color="#d1495b", alpha=0.18, linewidth=0, zorder=1)
    levels = np.arange(-negative, positive + 1)
    if len(levels) > _MOST_LINES:
        levels = levels[[0, -1]]
    for level in levels:
        panel.axvline(float(level), color="#222222", linewidth=0.5, alpha=0.7, zorder=3)
    panel.set_yscale("log")
    seen = share[share > 0]
    if len(seen):
        panel.set_ylim(max(float(seen.min()), 1e-7) / 2, float(seen.max()) * 2)
    panel.set_xlim(low, high)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.tick_params(labelsize=8)
    panel.set_title("\n".join(_title(site)), fontsize=8.5, loc="left")


def _extremes(statistics: SiteStatistics, threshold: Any, rest: Any) -> tuple[Doubles, Doubles]:
    """Each channel's smallest and largest value, in thresholds above its rest."""
    theta = np.broadcast_to(threshold, statistics.lowest.shape).astype(np.float64)
    return statistics.lowest / theta - rest, statistics.highest / theta - rest


def _limits(statistics: SiteStatistics, site: SiteCalibration) -> tuple[float, float]:
    """Where the axis ends: at the outermost values, unless hardly any lie that far out."""
    neurons = site.parameters
    lowest, highest = _extremes(statistics, neurons.threshold, neurons.rest)
    inner = (-neurons.negative_levels - (1.0 if (lowest < 0).any() else 0.5), neurons.positive_levels + 1.0)
    outer = (min(float(lowest.min()), inner[0]), max(float(highest.max()), inner[1]))
    widest = (max(outer[0], inner[0] * _WIDEST), min(outer[1], inner[1] * _WIDEST))
    edges = np.linspace(*widest, 4 * _BINS)
    below = np.cumsum(normalised_histogram(statistics, neurons.threshold, edges, neurons.rest))
    low = float(edges[np.searchsorted(below, _SHARE_BEYOND)])
    high = float(edges[min(np.searchsorted(below, below[-1] - _SHARE_BEYOND) + 1, len(edges) - 1)])
    return min(low, inner[0]), max(high, inner[1])


def _title(site: SiteCalibration) -> list[str]:
    parameters, quality = site.parameters, site.quality
    low, high = float(np.min(parameters.threshold)), float(np.max(parameters.threshold))
    theta = f"{low:.3g}" if low == high else f"{low:.2g} to {high:.2g}"
    name = site.name if len(site.name) <= _LONGEST_NAME else f"...{site.name[-_LONGEST_NAME:]}"
    ratio = quality.signal_to_distortion_db
    bits = [quality.activation_entropy_bits, quality.channel_entropy_bits, quality.information_bits]
    held, sent, told = ("-" if each is None else f"{each:.2f}" for each in bits)
    resting = f"   {parameters.resting_share:.0f} % of channels rest off 0" if not parameters.rests_at_zero else ""
    return [
        name,
        f"\N{GREEK SMALL LETTER THETA} {theta}   N {parameters.negative_levels}   P {parameters.positive_levels}   "
        f"SDR {'-' if ratio is None else f'{ratio:.1f}'} dB{resting}",
        f"H(X) {held}   H(s) {sent}   R {told} bit   clipped {quality.clipped_low + quality.clipped_high:.2f} %",
    ]

"""A calibration as a table: wide where there is room, else in two parts, and the columns explained."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pmsm_cli.calibration.adequacy import STEADY, Adequacy
from pmsm_cli.calibration.calibrate import Calibration, SiteCalibration
from pmsm_cli.report.numbers import percent

_ROOM_FOR_ALL = 110  # columns of a terminal, with some 30 left for the names of tensors
_NEURONS = ("ch", "threshold", "rest\n%", "N", "P", "mean\nspikes", "clip\nlow %", "clip\nhigh %")
_KEPT = ("SDR\ndB", "H(X)\nbit", "H(s)\nbit", "R\nbit", "idle\nbit", "used\n%")
_ABOUT_NEURONS = (
    "ch: channels, each with a threshold of its own (1: one for all). A neuron sends -N to P spikes, each worth one "
    "threshold. rest: share of the channels whose silence stands for their median rather than 0; spikes count from "
    "there, and so do N and P. clip low, high: share of the values beyond -N and P thresholds, where they are cut off."
)
_ABOUT_KEPT = (
    "SDR: signal to distortion ratio, higher is better. Bits per value: H(X) entropy of the activations, in steps of a "
    "histogram bin; H(s) entropy of their spikes; R the part of H(s) that tells the value, idle the rest of it. "
    "used: share of the N + P + 1 levels that occur."
)


class CalibrationTable:
    """Thresholds, levels and what they keep of the activations, laid out for the width there is."""

    def __init__(self, calibration: Calibration) -> None:
        """The table of a calibration."""
        self._calibration = calibration

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One table, or two below each other where a terminal is narrow."""
        calibration = self._calibration
        title = f"Calibration by {calibration.method} on {calibration.images.images} images"
        parts: list[RenderableType] = []
        if options.max_width >= _ROOM_FOR_ALL:
            rows = [[site.name, *_neurons(site), *_kept(site)] for site in calibration.sites]
            parts += [_table(title, (*_NEURONS, *_KEPT), rows)]
            parts += [_remark(_ABOUT_NEURONS), _remark(_ABOUT_KEPT)]
        else:
            parts += [_table(title, _NEURONS, [[site.name, *_neurons(site)] for site in calibration.sites])]
            parts += [_remark(_ABOUT_NEURONS), Text()]
            kept = [[site.name, *_kept(site)] for site in calibration.sites]
            parts += [_table("What the spikes keep of the activations", _KEPT, kept), _remark(_ABOUT_KEPT)]
        constant = sum(site.quality.constant_channels or 0 for site in calibration.sites)
        if constant:
            places = sum(bool(site.quality.constant_channels) for site in calibration.sites)
            parts.append(
                Text(f"{constant} channel(s) at {places} tensor(s) held one value in all images (dead, mostly)")
            )
        if calibration.adequacy:
            parts.append(Text(adequacy_line(calibration.adequacy)))
        yield Group(*parts)


def adequacy_line(adequacy: Adequacy) -> str:
    """How far thresholds from two halves of the images differ, in a sentence."""
    worst = max(adequacy.sites, key=lambda site: site.median)
    verdict = "steady" if adequacy.steady else f"not steady, {STEADY:g} % would be"
    where = f"; most at {worst.name}: {worst.median:.1f} %" if len(adequacy.sites) > 1 else ""
    return f"Thresholds from two halves of the images differ by {adequacy.median:.1f} % ({verdict}{where})"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold cyan",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("tensor", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _remark(text: str) -> Text:
    return Text(text, style="dim")


def _neurons(site: SiteCalibration) -> list[str]:
    parameters, quality = site.parameters, site.quality
    low, high = float(np.min(parameters.threshold)), float(np.max(parameters.threshold))
    return [
        str(parameters.threshold.size),
        f"{low:.3g}" if low == high else f"{low:.2g}-{high:.2g}",
        f"{parameters.resting_share:.0f}",
        str(parameters.negative_levels),
        str(parameters.positive_levels),
        f"{quality.mean_spikes:.2f}",
        f"{quality.clipped_low:.2f}",
        f"{quality.clipped_high:.2f}",
    ]


def _kept(site: SiteCalibration) -> list[str]:
    quality = site.quality
    return [
        _number(quality.signal_to_distortion_db, 1),
        _number(quality.activation_entropy_bits),
        _number(quality.channel_entropy_bits),
        _number(quality.information_bits),
        _number(quality.idle_bits),
        percent(quality.level_use, 0).removesuffix(" %"),
    ]


def _number(value: Any, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

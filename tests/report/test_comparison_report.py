"""A comparison as a table, as Markdown and as a picture."""

import functools
import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pmsm_cli.report.compare_plot import comparison_plot
from pmsm_cli.report.compare_table import comparison_markdown, comparison_table
from pmsm_cli.report.comparison import Comparison, MethodPoint, MethodResult, SourceFigures, points_lost


def point(timesteps: int, top1: float | None, energy: float, agreement: float | None = 90.0) -> MethodPoint:
    return MethodPoint(
        timesteps=timesteps,
        top1=top1,
        agreement=agreement,
        output_error=10.0,
        spikes_per_neuron=0.5 * timesteps,
        synaptic_ops=1e6 * timesteps,
        energy_mj=energy,
        energy_by_profile={"45nm": energy, "45nm-memory": 4 * energy + 0.1 * timesteps},
        setting=f"largest activation, one a layer, start {'empty' if timesteps < 4 else 'at half'}",
    )


def method(title: str, points: list[MethodPoint], first: int | None, reason: str | None = None) -> MethodResult:
    return MethodResult(
        name=title,
        title=title,
        paper=f"the paper of {title}",
        tried=4,
        neurons=1000 if points else 0,
        reason=reason,
        points=tuple(points),
        first_within=None if first is None else points[first],
    )


def source(top1: float | None) -> SourceFigures:
    return SourceFigures(
        top1=top1,
        energy_mj=0.2,
        energy_int8_mj=0.01,
        energy_by_profile={"45nm": 0.2, "45nm-memory": 3.0},
        energy_int8_by_profile={"45nm": 0.01, "45nm-memory": 0.6},
    )


def comparison(**changes: object) -> Comparison:
    fields = {
        "version": 2,
        "source": "net",
        "images": 100,
        "origin": "test",
        "calibration_images": 50,
        "calibration_origin": "train",
        "within": 1.0,
        "measure": "top-1",
        "profile": "45nm",
        "profiles": ("45nm",),
        "ann": source(88.0),
        "methods": (
            method("ours", [point(1, 87.5, 0.05), point(4, 88.0, 0.1)], 0),
            method("theirs", [point(1, 20.0, 0.01), point(4, 87.0, 0.075)], 1),
            method("slow", [point(1, 10.0, 0.01), point(4, 30.0, 0.02)], None),
            method("other", [], None, reason="of 9 tensors that synapses read 5 need negative values"),
        ),
        "assumptions": ("compute only",),
        "seed": 3,
        "skipped": (),
        "warnings": (),
    }
    return Comparison(**(fields | changes))


def shown(record: Comparison, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(comparison_table(record))
    return console.file.getvalue()


def cells(text: str, title: str) -> list[list[str]]:
    """The rows that begin with a title."""
    rows = [[cell.strip(" *") for cell in line.strip("│|").replace("│", "|").split("|")] for line in text.splitlines()]
    return [row for row in rows if row[0] == title]


@pytest.mark.parametrize("render", [shown, comparison_markdown])
def test_every_method_is_shown_with_what_it_costs_where_it_keeps_the_accuracy(render):
    text = render(comparison())
    assert cells(text, "theirs") == [
        ["theirs", "1", "20.00 %", "90.00 %", "0.50", "1.00 M", "10 uJ", "5 %"],
        ["theirs", "4", "87.00 %", "75 uJ", "1.50x"],
    ]
    assert cells(text, "ours")[1] == ["ours", "1", "87.50 %", "50 uJ", "1.00x"]
    assert cells(text, "slow")[1][:2] == ["slow", "> 4"]
    assert cells(text, "source, fp32") == [["source, fp32", "", "88.00 %", "200 uJ", "4.00x"]]
    assert cells(text, "source, int8") == [["source, int8", "", "", "10 uJ", "0.20x"]]
    assert len(cells(text, "other: not applicable")) == 1
    for line in (
        "relative: over the energy of ours",
        "other does not apply: of 9 tensors that synapses read 5 need negative values",
        "theirs (1000 neurons, at each T the best of 4 settings by calibration images): T = 1: largest activation",
        "start empty; T = 4: largest activation, one a layer, start at half",
        "slow: the paper of slow",
        "calibrated on 50 images of train; measured on 100 of test; seed 3",
        "- compute only",
    ):
        assert line in " ".join(text.split())


@pytest.mark.parametrize("render", [functools.partial(shown, width=160), comparison_markdown])
def test_a_second_profile_has_its_own_energies_and_ratios_beside_the_first(render):
    text = render(comparison(profiles=("45nm", "45nm-memory")))
    header = next(line for line in text.splitlines() if "relative" in line).replace("┃", "|")
    titles = [cell.strip() for cell in header.strip("|").split("|")]
    assert titles == ["method", "T", "top-1", "energy, 45nm", "relative", "energy, 45nm-memory", "relative"]
    # 4 x 0.05 + 0.1 mJ at one step against 4 x 0.075 + 0.4 mJ at four.
    assert cells(text, "ours")[1] == ["ours", "1", "87.50 %", "50 uJ", "1.00x", "300 uJ", "1.00x"]
    assert cells(text, "theirs")[1][3:] == ["75 uJ", "1.50x", "700 uJ", "2.33x"]
    assert cells(text, "source, fp32")[0][3:] == ["200 uJ", "4.00x", "3 mJ", "10.00x"]
    assert cells(text, "source, int8")[0][3:] == ["10 uJ", "0.20x", "600 uJ", "2.00x"]
    assert cells(text, "slow")[1] == ["slow", "> 4", *[""] * 5]


def test_a_comparison_in_which_nothing_keeps_the_accuracy_says_so():
    lossy = tuple(method(title, [point(1, 5.0, 0.01)], None) for title in ("ours", "theirs"))
    text = shown(comparison(methods=lossy))
    assert "every method loses more than 1 point of top-1, also in 1 timesteps" in text
    assert cells(text, "source, int8")[0][-1] == "-"


def test_a_comparison_without_classes_has_no_table_of_what_is_kept():
    points = [point(1, None, 0.01, None)]
    record = comparison(measure=None, ann=source(None), methods=(method("ours", points, None),))
    for text in (shown(record), comparison_markdown(record)):
        assert cells(text, "ours") == [["ours", "1", "-", "-", "0.50", "1.00 M", "10 uJ", "5 %"]]
        assert "lose" not in text


def test_without_labels_what_is_kept_is_agreement():
    unlabelled = (method("ours", [point(1, None, 0.05, 99.5)], 0),)
    text = comparison_markdown(comparison(measure="agreement", ann=source(None), methods=unlabelled))
    assert cells(text, "method")[1] == ["method", "T", "agreement", "energy, 45nm", "relative"]
    assert cells(text, "ours")[1] == ["ours", "1", "99.50 %", "50 uJ", "1.00x"]
    assert cells(text, "source, fp32") == [["source, fp32", "", "", "200 uJ", "4.00x"]]


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_keeps_within_the_terminal(width: int):
    text = shown(comparison(profiles=("45nm", "45nm-memory")), width)
    assert max(map(len, text.splitlines())) <= width


def test_points_are_lost_by_labels_or_else_by_agreement():
    labelled, unlabelled = source(88.0), source(None)
    assert points_lost(labelled, point(1, 87.0, 1)) == 1.0
    assert points_lost(unlabelled, point(1, None, 1, 93.0)) == 7.0
    assert points_lost(unlabelled, point(1, None, 1, None)) is None


@pytest.mark.parametrize(("form", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_plot_is_written_in_the_form_asked_for_and_the_same_each_time(form: str, begin: bytes):
    data = comparison_plot(comparison(), form=form)
    assert data.startswith(begin)
    assert data == comparison_plot(comparison(), form=form)


def test_a_plot_shows_something_in_both_panels():
    pixels = np.asarray(Image.open(io.BytesIO(comparison_plot(comparison(), form="png"))).convert("RGB")).astype(int)
    coloured = pixels.max(axis=2) - pixels.min(axis=2) > 60
    left, right = np.array_split(coloured, 2, axis=1)
    assert left.sum() > 500
    assert right.sum() > 500


def test_a_comparison_without_any_accuracy_is_drawn_empty():
    record = comparison(methods=(method("ours", [point(1, None, 0.01, None)], None),))
    assert comparison_plot(record, form="png")

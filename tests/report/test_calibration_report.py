"""A calibration as a table and as a picture."""

import io

import numpy as np
import pytest
from observing import observe
from PIL import Image
from rich.console import Console

from pmsm_cli.calibration.calibrate import Calibration, Images, calibrate
from pmsm_cli.calibration.method import Method
from pmsm_cli.errors import UsageError
from pmsm_cli.report.calibration_table import CalibrationTable
from pmsm_cli.report.plot import MOST_PANELS, calibration_plot, normalised_histogram, sites_to_plot

LONG = "/backbone/stages.3/blocks/blocks.11/attn/proj/Transpose_output_0"


def statistics(sites: int = 3):
    random = np.random.default_rng(0)
    made = {
        f"/site.{index}/Relu": observe(np.maximum(random.normal(size=(4, 2000)), 0), images=20)
        for index in range(sites)
    }
    made[LONG] = observe(random.normal(size=(1, 2000)) * np.linspace(0.1, 3, 2000), images=20)
    return made


def calibration(made) -> Calibration:
    images = Images(origin="images", images=20, skipped=0, digest="", seed=0)
    return calibrate(made, levels=7, method=Method.MSE, source_sha256="", images=images)


def shown(width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(CalibrationTable(calibration(statistics())))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_keeps_within_the_terminal_and_every_name_is_whole(width: int):
    lines = shown(width)
    assert max(map(len, lines)) <= width
    assert LONG in "".join(line.split("  ")[0].strip() for line in lines if not line.startswith(("ch:", "SDR:")))


@pytest.mark.parametrize(("width", "tables"), [(80, 2), (120, 1)])
def test_a_narrow_terminal_gets_two_tables(width: int, tables: int):
    assert sum(line.startswith("tensor ") for line in shown(width)) == tables


@pytest.mark.parametrize("width", [80, 120])
def test_every_column_is_there_and_explained(width: int):
    text = " ".join(" ".join(shown(width)).split())
    for word in (
        "H(X)",
        "H(s)",
        "SDR",
        "R the part",
        "idle the rest",
        "used: share",
        "clip low, high",
        "ch: channels",
        "rest: share",
    ):
        assert word in text
    assert "Thresholds from two halves of the images differ by" in text


@pytest.mark.parametrize(("form", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_plot_is_written_in_the_form_asked_for_and_the_same_each_time(form: str, begin: bytes):
    made = statistics(1)
    data = calibration_plot(calibration(made), made, form=form)
    assert data.startswith(begin)
    assert data == calibration_plot(calibration(made), made, form=form)


def test_a_plot_shows_something_in_every_panel():
    made = statistics()
    pixels = np.asarray(Image.open(io.BytesIO(calibration_plot(calibration(made), made, form="png"))).convert("L"))
    middle = pixels[:, pixels.shape[1] // 8 : pixels.shape[1] // 4]
    for half in np.array_split(middle, 2):
        assert (half < 200).mean() > 0.05


def test_a_plot_of_a_dead_site_is_drawn():
    made = {"dead": observe(np.zeros((3, 100)), images=10)}
    assert calibration_plot(calibration(made), made, form="png")


def test_the_dozen_with_the_lowest_ratio_are_drawn_in_the_network_s_order():
    every = calibration(statistics(20))
    drawn = sites_to_plot(every)
    assert len(drawn) == MOST_PANELS
    assert [site for site in every.sites if site in drawn] == drawn
    left = [site.quality.signal_to_distortion_db for site in every.sites if site not in drawn]
    assert max(site.quality.signal_to_distortion_db for site in drawn) <= min(left)
    assert [site.name for site in sites_to_plot(every, [LONG])] == [LONG]


def test_the_histogram_of_resting_channels_counts_from_where_they_rest():
    values = np.random.default_rng(0).uniform(3.5, 6.5, size=(1, 5000))
    made = observe(np.vstack([values, 10 * values]))
    neurons = np.array([1, 10], np.float32), np.array([5, 4], np.float32)
    share = normalised_histogram(made, neurons[0], np.linspace(-1.5, 2.5, 5), neurons[1])
    np.testing.assert_allclose(share, [1 / 6, 1 / 3, 1 / 3, 1 / 6], atol=0.02)


def test_a_plot_of_resting_channels_says_how_many_rest():
    made = {"busy": observe(np.random.default_rng(0).normal([[5], [0], [6], [7]], 1, size=(4, 5000)), images=20)}
    images = Images(origin="images", images=20, skipped=0, digest="", seed=0)
    settings = {"levels": 7, "method": Method.ENTROPY, "source_sha256": "", "images": images}
    resting = calibrate(made, resting_sites=["busy"], **settings)
    assert b"75 % of channels rest off 0" in glyphless(calibration_plot(resting, made, form="svg"))
    assert b"rest off 0" not in glyphless(calibration_plot(calibrate(made, **settings), made, form="svg"))


def glyphless(svg: bytes) -> bytes:
    """What an SVG says in the comments that matplotlib puts beside the outlines of letters."""
    return b" ".join(line for line in svg.splitlines() if line.strip().startswith(b"<!--"))


def test_a_tensor_that_is_not_there_is_refused_by_its_name():
    with pytest.raises(UsageError, match=r"no tensor is called nonsense(.|\n)*/site\.0/Relu"):
        sites_to_plot(calibration(statistics()), ["nonsense"])


def test_the_histogram_drawn_holds_every_value_in_units_of_its_own_channel():
    values = np.random.default_rng(0).uniform(0, 1, size=(1, 5000))
    made = observe(np.vstack([values, 10 * values, 0 * values + 3]))
    share = normalised_histogram(made, np.array([0.1, 1, 3], np.float32), np.linspace(-0.5, 10.5, 12))
    assert share.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(share, [1 / 30, 1 / 15 + 1 / 3, *[1 / 15] * 8, 1 / 30], atol=0.008)

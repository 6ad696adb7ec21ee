"""The HTML page: whole, safe, small, and as it should be in a real browser, on a desk and on a phone."""

import html.parser
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import spiking
import tiny
from browser import CHROMIUM, Browser

from pmsm_cli.energy.account import account
from pmsm_cli.energy.profile import open_profile
from pmsm_cli.energy.records import EnergyReport
from pmsm_cli.report.page import energy_page
from pmsm_cli.runtime.count import count_spikes

WIDTHS = (390, 1440)
VOID = {"meta", "link", "rect", "line", "circle", "wbr"}


def report_of(timesteps: int = 1, profile: str = "45nm-memory", *, labelled: bool = True) -> EnergyReport:
    """A residual network on twelve images."""
    images = tiny.images(12)
    checkpoint = spiking.checkpoint_of(tiny.residual(), images, timesteps=timesteps)
    labels = np.arange(12) % 5 if labelled else None
    count = count_spikes(checkpoint, spiking.batches_of(images, 12, labels=labels))
    return account(checkpoint.manifest, count, open_profile(profile))


def large(report: EnergyReport) -> EnergyReport:
    """As many layers as a ViT-S has (12 blocks of 8), with names as exporters make them."""
    sites = [
        replace(site, name=f"/blocks/blocks.{index // 8}/attn/LayerNormalization_with_a_long_name_output_{index}")
        for index, site in enumerate(itertools.islice(itertools.cycle(report.sites), 97))
    ]
    return replace(report, sites=tuple(sites))


def hostile(report: EnergyReport) -> EnergyReport:
    """Names that are markup, quotes and very long words."""
    names = ['</script><script>alert("x")</script>', "a" * 300, "'\"&<b>"]
    sites = [replace(site, name=name) for site, name in zip(report.sites, itertools.cycle(names), strict=False)]
    return replace(report, network="<b>&" + "w" * 120, sites=tuple(sites), profile="</style>")


REPORTS = {
    "one timestep": report_of,
    "three timesteps": lambda: report_of(3),
    "papers' convention": lambda: report_of(1, "45nm", labelled=False),
    "graded spikes": lambda: report_of(3, "loihi2"),
    "many layers": lambda: large(report_of(2)),
    "hostile names": lambda: hostile(report_of()),
}


class Outline(html.parser.HTMLParser):
    """The tags of a page, checked to close in order, and what its attributes refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.identities: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attributes) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("href", "src", "action", "data", "srcset"):
                self.references.append(value or "")
            if name == "id":
                self.identities.append(value or "")

    def handle_startendtag(self, tag: str, attributes) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_a_page_is_whole_and_refers_to_nothing_but_itself(make):
    page = energy_page(make())
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert {"main", "header", "figure", "svg", "table", "footer"} <= set(outline.seen)
    assert outline.seen.count("script") == outline.seen.count("style") == 1
    inside = [reference.removeprefix("#") for reference in outline.references if reference.startswith("#")]
    assert set(outline.references) - {f"#{each}" for each in inside} == {"data:,"}
    assert set(inside) <= set(outline.identities)
    assert len(set(outline.identities)) == len(outline.identities)
    assert not re.search(r"@import|url\(|https?://", page)


def test_a_page_is_the_same_on_repeat_and_small_for_a_large_network():
    report = large(report_of(4))
    page = energy_page(report)
    assert page == energy_page(report)
    assert len(page.encode()) < 1_000_000


def test_a_page_says_what_is_better_what_is_worse_and_what_it_rests_on():
    report = report_of()
    text = html.unescape(re.sub("<[^>]+>", "", energy_page(report)))
    assert report.worse in text
    for line in (*report.assumptions, *(constant.source for constant in report.constants)):
        assert line in text
    for title in ("What one image costs", "Accuracy", "Spikes per layer", "Entropy kept", "Levels and thresholds"):
        assert title in text
    assert "12 images" in text


def test_a_page_without_images_labels_or_entropies_leaves_their_charts_out():
    report = report_of(1, "45nm", labelled=False)
    bare = replace(
        report,
        images=0,
        accuracy=None,
        sites=tuple(replace(site, histogram=None, spike_entropy_bits=None) for site in report.sites),
    )
    text = re.sub("<[^>]+>", "", energy_page(bare))
    assert "estimated from the calibration" in text
    assert "Accuracy" not in text
    assert "Entropy kept" not in text


# In a browser


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

# What sticks out of the window, or of a box that hides what does not fit.
CUT_OFF = """
(() => {
  const width = innerWidth, found = [];
  for (const element of document.querySelectorAll("body *")) {
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    if (!box.width || !box.height || element.closest("details:not([open])")) continue;
    if (box.left < -0.5 || box.right > width + 0.5) found.push("out of the window: " + element.outerHTML.slice(0, 120));
    if (style.overflowX === "hidden" && element.scrollWidth > element.clientWidth + 1)
      found.push("hidden: " + element.outerHTML.slice(0, 120));
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def shown(browser: Browser, folder: Path, report: EnergyReport, **window) -> Browser:
    """The report's page in a window; complaints begin anew."""
    path = folder / "page.html"
    path.write_text(energy_page(report), encoding="utf-8")
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(path, **window)
    return browser


@needs_browser
@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_and_nothing_complained_of(browser, tmp_path: Path, make, width: int):
    shown(browser, tmp_path, make(), width=width)
    assert browser.run("document.documentElement.scrollWidth") <= browser.run("innerWidth") == width
    assert browser.run(CUT_OFF) == []
    browser.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_every_mark_lies_within_its_chart(browser, tmp_path: Path, width: int):
    shown(browser, tmp_path, report_of(3), width=width)
    outside = """
    [...document.querySelectorAll("svg")].filter(svg => {
      const box = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("rect, line")].some(mark => {
        const own = mark.getBoundingClientRect();
        return own.left < box.left - 2 || own.right > box.right + 2 || own.top < box.top - 2 || own.bottom > box.bottom + 2;
      });
    }).length
    """
    assert browser.run("document.querySelectorAll('svg').length") > 10
    assert browser.run(outside) == 0


@needs_browser
def test_a_page_follows_the_desktop_into_the_dark(browser, tmp_path: Path):
    def brightness(dark: bool) -> tuple[float, float]:
        shown(browser, tmp_path, report_of(), width=1440, dark=dark)
        colours = browser.run(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            ".map(colour => colour.match(/[0-9]+/g).slice(0, 3).map(Number))"
        )
        return tuple(sum(colour) / 3 for colour in colours)

    (light_paper, light_ink), (dark_paper, dark_ink) = brightness(False), brightness(True)
    assert light_paper > 200 > 100 > light_ink
    assert dark_ink > 200 > 100 > dark_paper


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_is_sorted_by_a_click_on_a_heading(browser, tmp_path: Path, width: int):
    report = report_of()
    shown(browser, tmp_path, report, width=width)

    def sorted_by(heading: str) -> list[str]:
        return browser.run(
            f"""(() => {{
              const button = [...document.querySelectorAll(".sortable button")].find(each => each.textContent === "{heading}");
              button.click();
              return [...document.querySelectorAll(".sortable tbody tr")].map(row => row.id);
            }})()"""
        )

    def order(key, reverse: bool) -> list[str]:
        ranked = sorted(range(len(report.sites)), key=lambda index: key(report.sites[index]), reverse=reverse)
        return [f"layer-{index + 1}" for index in ranked]

    assert sorted_by("spiking") == order(lambda site: site.snn_mj, True)
    assert sorted_by("spiking") == order(lambda site: site.snn_mj, False)
    assert sorted_by("tensor") == order(lambda site: site.name, False)
    assert sorted_by("tensor") == order(lambda site: site.name, True)
    assert browser.run("document.querySelectorAll('[aria-sort]').length") == 1
    assert browser.complaints == []


@needs_browser
def test_a_layer_in_a_chart_leads_to_its_row(browser, tmp_path: Path):
    shown(browser, tmp_path, report_of(), width=1440)
    browser.run(
        "document.querySelector('svg a').dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))"
    )
    assert browser.run("document.querySelector('tr:target').id") == "layer-1"

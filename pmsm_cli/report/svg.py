"""Drawing by hand: inline SVG whose positions are percentages, so that charts fit any width and text keeps its size."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape


def element(tag: str, content: str = "", /, **attributes: object) -> str:
    """An element, its attributes escaped and its content as it is; a trailing `_` of a name and None are left out.

    >>> element("rect", x="1%", class_="bar", y=None)
    '<rect x="1%" class="bar"/>'
    >>> element("b", "x < y".replace("<", "&lt;"), title='"')
    '<b title="&quot;">x &lt; y</b>'
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return (
        f"<{tag}{named}>{content}</{tag}>" if content or tag not in ("rect", "line", "circle") else f"<{tag}{named}/>"
    )


def share(value: float) -> str:
    """A position or a length in percent, short.

    >>> share(33.33333), share(50.0), share(0.0)
    ('33.33%', '50%', '0%')
    """
    return f"{value:.2f}".rstrip("0").rstrip(".") + "%"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that enclose `low` and `high`, with at most `most` steps from the one to the other.

    >>> ticks(0, 17.3)
    [0.0, 5.0, 10.0, 15.0, 20.0]
    >>> ticks(78.2, 88.1)
    [78.0, 80.0, 82.0, 84.0, 86.0, 88.0, 90.0]
    """
    span = high - low
    if not span > 0:
        return [low, low + 1]
    rough = 10 ** math.floor(math.log10(span / most))
    step = next(rough * factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (rough * factor) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(round(step * place, 12)) for place in range(first, last + 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One entry of a chart's key."""

    style: str
    label: str


@dataclass(kw_only=True)
class Chart:
    """A chart in the making: marks in percent of its plot, with axes, a title, what it shows, and a key."""

    title: str
    about: str
    unit: str  # of the vertical axis
    below: str  # what the horizontal axis is
    low: float = 0.0
    high: float
    key: Sequence[Mark] = ()
    style: str = ""
    marks: list[str] = field(default_factory=list)
    labels: list[tuple[float, str]] = field(default_factory=list)  # of the horizontal axis, by their place in percent

    def __post_init__(self) -> None:
        """Round the axis up to its ticks."""
        self.ticks = ticks(self.low, self.high)
        self.low, self.high = self.ticks[0], self.ticks[-1]

    def height(self, value: float) -> float:
        """The place of a value, in percent from the top."""
        return 100 - 100 * (value - self.low) / (self.high - self.low)

    def bar(self, left: float, width: float, bottom: float, top: float, style: str) -> str:
        """A bar between two values."""
        upper, lower = self.height(top), self.height(bottom)
        return element(
            "rect", x=share(left), width=share(width), y=share(upper), height=share(max(lower - upper, 0)), class_=style
        )

    def line(self, left: float, right: float, first: float, last: float, style: str) -> str:
        """A line from one value to another."""
        y1, y2 = share(self.height(first)), share(self.height(last))
        return element("line", x1=share(left), x2=share(right), y1=y1, y2=y2, class_=style)

    def dot(self, place: float, value: float, style: str) -> str:
        """A point."""
        return element("circle", cx=share(place), cy=share(self.height(value)), r="4", class_=style)

    def level(self, value: float, style: str) -> None:
        """A line across the whole chart."""
        self.marks.append(self.line(0, 100, value, value, style))

    def html(self) -> str:
        """The figure."""
        decimals = max((len(f"{tick:.10g}".partition(".")[2]) for tick in self.ticks), default=0)
        rules = "".join(self.line(0, 100, tick, tick, "rule") for tick in self.ticks)
        across = "".join(
            element("span", f"{tick:.{decimals}f}", style=f"top:{share(self.height(tick))}") for tick in self.ticks
        )
        along = "".join(element("span", escape(text), style=f"left:{share(place)}") for place, text in self.labels)
        plot = element("svg", rules + "".join(self.marks), role="img", aria_label=f"{self.title}: {self.about}")
        body = "".join(
            [
                element("div", escape(self.unit), class_="unit"),
                element("div", across, class_="across"),
                element("div", plot, class_="plot"),
                element("div", along, class_="along"),
                element("div", escape(self.below), class_="below"),
            ]
        )
        return figure(self.title, self.about, element("div", body, class_=f"chart {self.style}".strip()), self.key)


def figure(title: str, about: str, body: str, key: Iterable[Mark] = ()) -> str:
    """Something to look at, with a title, a line on what it shows, and a key."""
    entries = "".join(element("li", f'<i class="{mark.style}"></i>{escape(mark.label)}') for mark in key)
    caption = element("h3", escape(title)) + element("p", escape(about))
    return element(
        "figure",
        element("figcaption", caption) + (element("ul", entries, class_="key") if entries else "") + body,
    )


def titled(title: str, content: str, target: str = "") -> str:
    """Marks that tell what they are when pointed at, and lead to a place on the page."""
    group = element("title", escape(title)) + content
    return element("a", group, href=f"#{target}") if target else element("g", group)

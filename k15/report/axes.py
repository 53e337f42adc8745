"""The frame of a chart: thin rules, few numbers, the unit above the axis, labels at the ends of lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from k15.report.markup import Content, Markup, element, join
from k15.report.scales import Axis, Scale, Unit, format_decade, format_tick

WIDTH, HEIGHT = 480.0, 272.0
"""Size of a chart in its own units; the page scales it to its column."""
LEFT, TOP, BOTTOM = 52.0, 30.0, 42.0
"""Room for the numbers, for the unit above the plot, and for numbers and name of the axis below it."""
FLOOR = HEIGHT - BOTTOM
PHASE_TOP = 48.0
"""Where a plot begins that has the names of phases above it."""
LETTER = 8.2
"""Room for one letter of a label, in chart units: measured for the larger type of a narrow screen."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where a phase begins, and its name. At a break another run begins, so curves are lifted there."""

    place: float
    name: str
    is_break: bool


@dataclass(frozen=True)
class Frame:
    """Where a chart draws: its plot area between two scales."""

    x: Scale
    y: Axis
    x_ticks: Sequence[float]
    y_unit: Unit
    y_label: str
    x_label: str
    boundaries: Sequence[Boundary] = ()

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point in chart units, kept within the plot vertically."""
        return self.x(x), min(max(self.y.scale(y), self.y.scale.end - 2), self.y.scale.start)

    def grid(self) -> Markup:
        """Grid lines, numbers, the two axis labels and the phase boundaries."""
        right, bottom = self.x.end, self.y.scale.start
        parts = [words(self.y_label, 0, 13, class_="unit"), *map(self._rule, self.y.ticks)]
        step = abs(self.x_ticks[1] - self.x_ticks[0]) if len(self.x_ticks) > 1 else 1.0
        for tick in self.x_ticks:
            anchor = "end" if right - self.x(tick) < 8 else "middle"
            label = format_tick(tick, step, "plain")
            parts.append(words(label, self.x(tick), bottom + 17, text_anchor=anchor, class_="tick"))
        parts.append(words(self.x_label, right, bottom + 34, text_anchor="end", class_="unit"))
        parts.append(phase_marks([(self.x(b.place), b.name) for b in self.boundaries]))
        return join(parts)

    def _rule(self, tick: float) -> Markup:
        y = self.y.scale(tick)
        style = "axis" if abs(y - self.y.scale.start) < 0.01 else "grid"
        label = format_decade(tick) if self.y.scale.log else format_tick(tick, self.y.step, self.y_unit)
        line = element("line", class_=style, x1=self.x.start, x2=self.x.end, y1=y, y2=y)
        return join([line, words(label, self.x.start - 7, y + 4.5, text_anchor="end", class_="tick")])


def phase_marks(marks: Sequence[tuple[float, str]]) -> Markup:
    """Where each phase begins, as (place in chart units, name): a dotted line, and its name above the plot.

    The first one needs no line.
    """
    parts = []
    for i, (x, name) in enumerate(marks):
        if i > 0:
            parts.append(element("line", class_="phase", x1=x, x2=x, y1=PHASE_TOP - 14, y2=FLOOR))
        room = (marks[i + 1][0] if i + 1 < len(marks) else WIDTH) - x - 6
        letters = int(room / LETTER)
        shown = name if len(name) <= letters else name[: max(letters - 1, 0)] + "…"
        if letters >= 3:
            parts.append(words(shown, x + 5 * (i > 0), PHASE_TOP - 8, class_="phase-name"))
    return join(parts)


def plot_top(boundaries: Sequence[Boundary]) -> float:
    """Where the plot begins: lower if names of phases stand above it."""
    return PHASE_TOP if boundaries else TOP


def words(content: Content, x: float, y: float, **attributes: str | float | None) -> Markup:
    """Text in a chart."""
    return element("text", content, x=x, y=y, **attributes)


def drawing(
    *content: Content, label: str, height: float = HEIGHT, data_chart: str | None = None
) -> Markup:
    """The SVG element around a chart's content; `label` says in words what it shows."""
    view = f"0 0 {WIDTH:g} {height:g}"
    return element("svg", *content, viewBox=view, role="img", aria_label=label, data_chart=data_chart)


def path_of(points: Sequence[tuple[float, float]]) -> str:
    """The path data of a line through the points, in chart units, as short as it can be written."""
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def cursor(top: float = TOP, bottom: float = FLOOR) -> Markup:
    """A vertical line that the page's script moves under the pointer; hidden without it."""
    return element("line", class_="cursor", x1=0, x2=0, y1=top, y2=bottom)


def text_room(labels: Sequence[str]) -> float:
    """The width that the longest of the labels needs, in chart units."""
    return max((len(label) for label in labels), default=0) * LETTER


def end_labels(named: Sequence[tuple[str, str]], ends: Sequence[float], frame: Frame) -> Markup:
    """Labels as (text, colour) right of the plot, near `ends` but not on top of each other."""
    places = separate(ends, 17.0, frame.y.scale.end + 4, FLOOR - 4)
    return join(
        words(label, frame.x.end + 9, place + 4.5, class_=f"label f-{colour}")
        for (label, colour), place in zip(named, places, strict=True)
    )


def separate(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places, moved as little as needed to stand at least `gap` apart between low and high.

    If they do not all fit, they stand evenly spread and closer than `gap`.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    if len(places) > 1:
        gap = min(gap, (high - low) / (len(places) - 1))
    moved = list(places)
    for _ in range(200):  # neighbours push each other apart; the ends push back
        for first, second in pairwise(order):
            overlap = gap - (moved[second] - moved[first])
            if overlap > 0:
                moved[first] -= overlap / 2
                moved[second] += overlap / 2
        moved = [min(max(place, low), high) for place in moved]
    return moved

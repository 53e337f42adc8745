"""What all sections draw from: the stages, their common axis, the scan, and charts on that axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from k15.report.charts import ChartStyle, Figure, Guide, Interval, Line, line_chart
from k15.report.markup import Content
from k15.report.palette import level_colours
from k15.report.runs import Stage, number
from k15.report.scales import Unit
from k15.report.scan import Scan
from k15.report.statistics import Point, running_band, running_mean
from k15.report.timeline import Timeline

SMOOTH_FROM = 30
"""Curves with fewer points are drawn as they are."""


@dataclass(frozen=True)
class Section:
    """One part of the page: a question, a few words, figures, and whatever else it shows.

    `name` is what the links at the top say.
    """

    anchor: str
    name: str
    heading: str
    intro: Content
    figures: tuple[Figure, ...] = ()
    body: Content = None


@dataclass(frozen=True)
class Material:
    """Everything a report is made of. `stages` holds all run folders, `timeline` those of RL."""

    stages: tuple[Stage, ...]
    timeline: Timeline
    scan: Scan

    def chart(
        self,
        title: str,
        lines: Sequence[Line],
        y_label: str,
        caption: str,
        *,
        unit: Unit = "plain",
        y_range: tuple[float, float] | None = None,
        log: bool = False,
        from_zero: bool = True,
        guide: Guide | None = None,
    ) -> Figure | None:
        """A chart over the iterations of all RL stages; None if there is nothing to draw."""
        style = ChartStyle(
            y_label,
            unit,
            y_range=y_range,
            log=log,
            from_zero=from_zero,
            guide=guide,
            boundaries=self.timeline.boundaries,
        )
        return line_chart(title, lines, style, caption)

    def shares(self, title: str, lines: Sequence[Line], y_label: str, caption: str) -> Figure | None:
        """A chart of shares, from 0 to 100 %."""
        return self.chart(title, lines, y_label, caption, unit="percent", y_range=(0.0, 1.0))

    def smooth(self, key: str, label: str, colour: str, *, dash: str | None = None) -> Line:
        """The running mean of a metric, each stage by itself, with the measured values behind it."""
        raw: list[Point] = []
        points: list[Point] = []
        is_smooth = False
        for own in self._by_stage(key):
            raw += own
            points += running_mean(own, window_of(len(own)))
            is_smooth |= window_of(len(own)) > 1
        return Line(label, colour, points, raw=raw if is_smooth else (), dash=dash)

    def plain(self, key: str, label: str, colour: str, *, has_markers: bool = False) -> Line:
        """A metric as it is."""
        return Line(label, colour, self.timeline.points(key), has_markers=has_markers)

    def by_level(self, prefix: str, *, is_evaluated: bool = False) -> list[Line]:
        """One line per difficulty level, easy to hard; dots where the metric is an evaluation's."""
        levels = self.timeline.suffixes(prefix)
        lines = []
        for level, colour in zip(levels, level_colours(len(levels)), strict=True):
            name = f"level {level[:12]}"
            if is_evaluated:
                lines.append(self.plain(prefix + level, name, colour, has_markers=True))
            else:
                lines.append(Line(name, colour, self.smooth(prefix + level, name, colour).points))
        return lines

    def accuracy_band(self) -> list[Interval]:
        """95 % interval of the running mean of training accuracy, groups being the independent units."""
        band: list[Interval] = []
        for index in range(len(self.timeline.stages)):
            own = [t for t in self.scan.tallies if t.stage == index]
            means = [(float(t.x), t.accuracy) for t in own if t.accuracy is not None]
            band += running_band(means, window_of(len(means)))
        return band

    def smooth_note(self) -> str:
        """How the curves of the page are to be read; "" if none is smoothed."""
        window = window_of(max((len(stage.rows) for stage in self.timeline.stages), default=0))
        if window == 1:
            return ""
        return f"Thin lines are single iterations, thick ones means over {window} of them."

    def mean_note(self) -> str:
        """Stands before captions of curves that are drawn smoothed only; "" if they are not."""
        return "Running means. " if self.smooth_note() else ""

    def _by_stage(self, key: str) -> Iterator[list[Point]]:
        for stage in self.timeline.stages:
            own = [(number(row, "iteration"), number(row, key)) for row in stage.rows]
            points = [(stage.offset + x, y) for x, y in own if x is not None and y is not None]
            if points:
                yield points


def window_of(count: int) -> int:
    """Width of the running mean for so many points; 1 means none."""
    return 1 if count < SMOOTH_FROM else max(5, count // 15) | 1


def present(*figures: Figure | None) -> tuple[Figure, ...]:
    """The figures that had something to show."""
    return tuple(figure for figure in figures if figure is not None)

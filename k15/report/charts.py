"""Curves over iterations: lines with bands, error bars, guides, phase boundaries and labels at their ends."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace

from k15.report.axes import (
    FLOOR,
    LEFT,
    WIDTH,
    Boundary,
    Frame,
    cursor,
    drawing,
    end_labels,
    path_of,
    plot_top,
    text_room,
    words,
)
from k15.report.markup import Content, Markup, element, join
from k15.report.scales import Axis, Scale, Unit, axis_of, format_value, log_axis_of, whole_ticks
from k15.report.statistics import Point, spread, thin

Interval = tuple[float, float, float]
"""(x, low, high)"""

MOST_POINTS, MOST_ROWS = 600, 200
"""Of longer curves the extremes of each stretch are drawn, and evenly spread rows are listed."""


@dataclass(frozen=True)
class Table:
    """The numbers behind a figure. `places` says where each row stands in the drawing, in chart units."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Content, ...], ...]
    places: tuple[float, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, a caption that says how to read it, and its numbers.

    A dense one does not shrink below its own size: it scrolls sideways on a narrow screen.
    """

    title: str
    drawing: Markup
    caption: str
    table: Table
    is_dense: bool = False


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: stands at its end, if there is another one.
        colour: a name of the palette.
        points: (x, value), in order of x.
        raw: the measured values behind a smoothed curve, drawn thin; listed in the table instead of it.
        band: intervals drawn as an area.
        bars: intervals drawn as error bars, at the points.
        has_markers: a dot at every point.
        is_reference: a level to compare with, drawn through all phases.
        dash: an SVG dash pattern.
    """

    label: str
    colour: str
    points: Sequence[Point]
    raw: Sequence[Point] = ()
    band: Sequence[Interval] = ()
    bars: Sequence[Interval] = ()
    has_markers: bool = False
    is_reference: bool = False
    dash: str | None = None


@dataclass(frozen=True)
class Guide:
    """A horizontal zone that tells good values from others."""

    low: float
    high: float
    label: str


@dataclass(frozen=True)
class ChartStyle:
    """How a line chart is laid out.

    Attributes:
        y_label: what is measured, with its unit.
        y_range: fixed ends of the axis; None fits the values.
        log: decades instead of equal steps; values that are not above zero are left out.
    """

    y_label: str
    unit: Unit = "plain"
    x_label: str = "iteration"
    y_range: tuple[float, float] | None = None
    from_zero: bool = True
    log: bool = False
    guide: Guide | None = None
    boundaries: Sequence[Boundary] = ()


def line_chart(title: str, lines: Sequence[Line], style: ChartStyle, caption: str) -> Figure | None:
    """A figure of the lines that have points; None if none has."""
    if style.log:
        lines = [_above_zero(line) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    frame = _frame(lines, style)
    content = [
        frame.grid(),
        _draw_guide(style.guide, frame) if style.guide else None,
        *(_draw_line(line, frame) for line in lines),
        _draw_labels(lines, frame) if len(lines) > 1 else None,
        cursor(),
    ]
    label = f"{title}, {style.y_label}. {'; '.join(_describe(line, style) for line in lines)}"
    svg = drawing(*content, label=label, data_chart="lines")
    return Figure(title, svg, caption, _table(lines, style, frame.x))


def _frame(lines: Sequence[Line], style: ChartStyle) -> Frame:
    xs = [x for line in lines for x, _ in (*line.points, *line.raw)] + [
        b.place for b in style.boundaries
    ]
    low, high = min(xs), max(xs)
    right = WIDTH - (text_room([line.label for line in lines]) + 12 if len(lines) > 1 else 8)
    return Frame(
        x=Scale(low, high if high > low else low + 1.0, LEFT, right),
        y=_y_axis(lines, style),
        x_ticks=whole_ticks(low, high),
        y_unit=style.unit,
        y_label=style.y_label,
        x_label=style.x_label,
        boundaries=style.boundaries,
    )


def _y_axis(lines: Sequence[Line], style: ChartStyle) -> Axis:
    top = plot_top(style.boundaries)
    if style.y_range is not None:
        return axis_of(style.y_range, FLOOR, top)
    values = [y for line in lines for _, y in (*line.points, *line.raw)]
    if style.log:
        return log_axis_of(values, FLOOR, top)
    values += [y for line in lines for _, *ends in (*line.band, *line.bars) for y in ends]
    if style.guide is not None:
        values.append(style.guide.high * 1.1)
    return axis_of(values, FLOOR, top, from_zero=style.from_zero)


def _draw_guide(guide: Guide, frame: Frame) -> Markup:
    (left, top), (right, bottom) = (
        frame.place(frame.x.low, guide.high),
        frame.place(frame.x.high, guide.low),
    )
    zone = element("rect", class_="guide", x=left, y=top, width=right - left, height=bottom - top)
    return join([zone, words(guide.label, right - 4, top - 6, text_anchor="end", class_="unit halo")])


def _draw_line(line: Line, frame: Frame) -> Markup:
    colour = line.colour
    places = [frame.place(*point) for point in thin(line.points, MOST_POINTS)]
    parts = [_draw_band(line, frame)] if line.band else []
    if len(line.raw) > 1:
        parts.append(element("path", d=_phases(line.raw, frame), fill="none", class_=f"raw s-{colour}"))
    for at, low, high in line.bars:
        (x, y_low), (_, y_high) = frame.place(at, low), frame.place(at, high)
        parts.append(element("line", class_=f"bar s-{colour}", x1=x, x2=x, y1=y_low, y2=y_high))
    if len(places) > 1:
        curve = path_of(places) if line.is_reference else _phases(line.points, frame)
        dash = line.dash
        parts.append(
            element("path", d=curve, fill="none", class_=f"curve s-{colour}", stroke_dasharray=dash)
        )
    if line.has_markers or len(places) == 1:
        parts += [element("circle", class_=f"f-{colour}", cx=x, cy=y, r=3.2) for x, y in places]
    return join(parts)


def _phases(points: Sequence[Point], frame: Frame) -> str:
    """The path of a curve, lifted where another run begins: what one ended with says nothing of the next."""
    starts = [b.place for b in frame.boundaries if b.is_break]
    phases = [[p for p in points if bisect(starts, p[0]) == i] for i in range(len(starts) + 1)]
    return "".join(
        path_of([frame.place(*p) for p in thin(phase, MOST_POINTS)]) for phase in phases if phase
    )


def _draw_band(line: Line, frame: Frame) -> Markup:
    starts = [b.place for b in frame.boundaries if b.is_break]
    paths = []
    for i in range(len(starts) + 1):
        band = [interval for interval in line.band if bisect(starts, interval[0]) == i]
        kept = [band[j] for j in spread(range(len(band)), MOST_POINTS)]
        upper = [frame.place(x, high) for x, _, high in kept]
        lower = [frame.place(x, low) for x, low, _ in reversed(kept)]
        if kept:
            paths.append(path_of(upper + lower) + "Z")
    return element("path", d="".join(paths), class_=f"band f-{line.colour}")


def _draw_labels(lines: Sequence[Line], frame: Frame) -> Markup:
    """Names at the right end; a thin line leads to curves that end earlier."""
    ends = [frame.place(*line.points[-1]) for line in lines]
    leaders = [
        element("line", class_=f"leader s-{line.colour}", x1=x + 3, x2=frame.x.end + 5, y1=y, y2=y)
        for line, (x, y) in zip(lines, ends, strict=True)
        if frame.x.end - x > 12
    ]
    named = [(line.label, line.colour) for line in lines]
    return join([*leaders, end_labels(named, [y for _, y in ends], frame)])


def _above_zero(line: Line) -> Line:
    points, raw = ([p for p in ps if p[1] > 0] for ps in (line.points, line.raw))
    return replace(line, points=points, raw=raw, band=(), bars=())


def _describe(line: Line, style: ChartStyle) -> str:
    (x0, y0), (x1, y1) = line.points[0], line.points[-1]
    first, last = format_value(y0, style.unit), format_value(y1, style.unit)
    return f"{line.label}: {first} at {style.x_label} {x0:g}, {last} at {style.x_label} {x1:g}"


def _table(lines: Sequence[Line], style: ChartStyle, scale: Scale) -> Table:
    """The measured values (not the running means), one row for each x; all that have an interval among them."""
    columns = [dict(line.raw or line.points) for line in lines]
    intervals = [{x: (low, high) for x, low, high in line.bars} for line in lines]
    xs = sorted({x for column in columns for x in column})
    kept = {xs[i] for i in spread(range(len(xs)), MOST_ROWS)}
    kept |= {
        xs[i] for i in spread([i for i, x in enumerate(xs) if any(x in c for c in intervals)], MOST_ROWS)
    }

    def cell(i: int, x: float) -> str:
        if x not in columns[i]:
            return ""
        value = format_value(columns[i][x], style.unit)
        if x in intervals[i]:
            low, high = (format_value(end, style.unit) for end in intervals[i][x])
            return f"{value} ({low} to {high})"
        return value

    rows = tuple((f"{x:g}", *(cell(i, x) for i in range(len(lines)))) for x in sorted(kept))
    note = f"{len(kept)} of {len(xs)} {style.x_label}s, evenly spread." if len(kept) < len(xs) else ""
    headers = (style.x_label, *(line.label for line in lines))
    return Table(headers, rows, tuple(scale(x) for x in sorted(kept)), note)

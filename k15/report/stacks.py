"""Shares and times as layers, one on top of the other, in columns over iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
)
from k15.report.charts import MOST_ROWS, Figure, Table
from k15.report.markup import Markup, element
from k15.report.scales import Scale, Unit, axis_of, format_value, whole_ticks
from k15.report.statistics import Point, spread

MOST_COLUMNS = 48
"""Longer runs are averaged over neighbouring iterations."""


@dataclass(frozen=True)
class Layer:
    """One layer of a stack, bottom first: a value for each iteration."""

    label: str
    colour: str
    values: Mapping[float, float]


def stacked_chart(
    title: str,
    layers: Sequence[Layer],
    *,
    y_label: str,
    unit: Unit,
    caption: str,
    boundaries: Sequence[Boundary] = (),
) -> Figure | None:
    """Layers over iterations; None if all are zero everywhere. Layers that are zero everywhere are left out."""
    layers = [layer for layer in layers if any(layer.values.values())]
    xs = sorted({x for layer in layers for x in layer.values})
    if not xs:
        return None
    edges, columns = _mean_columns([layer.values for layer in layers], xs)
    top = 1.0 if unit == "percent" else max(map(sum, zip(*columns, strict=True)))
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - text_room([layer.label for layer in layers]) - 12)
    y = axis_of([0.0, top], FLOOR, plot_top(boundaries))
    frame = Frame(x, y, whole_ticks(xs[0], xs[-1]), unit, y_label, "iteration", boundaries)
    areas, middles = _areas(layers, columns, edges, frame)
    labels = end_labels([(layer.label, layer.colour) for layer in layers], middles, frame)
    last = ", ".join(
        f"{layer.label} {format_value(c[-1], unit)}" for layer, c in zip(layers, columns, strict=True)
    )
    label = f"{title}, {y_label}. At the end: {last}."
    svg = drawing(*areas, frame.grid(), labels, cursor(), label=label, data_chart="stack")
    return Figure(title, svg, caption, _table(layers, xs, x, unit))


def _areas(
    layers: Sequence[Layer], columns: Sequence[Sequence[float]], edges: Sequence[float], frame: Frame
) -> tuple[list[Markup], list[float]]:
    """One path for each layer, and where the layers' middles are at the right end."""
    base = [0.0] * len(columns[0])
    areas, middles = [], []
    for layer, column in zip(layers, columns, strict=True):
        heights = [low + value for low, value in zip(base, column, strict=True)]
        outline = _steps(edges, heights) + _steps(edges, base)[::-1]
        places = [frame.place(p, h) for p, h in outline]
        areas.append(element("path", class_=f"area f-{layer.colour}", d=path_of(places) + "Z"))
        middles.append(frame.y.scale((heights[-1] + base[-1]) / 2))
        base = heights
    return areas, middles


def _mean_columns(
    layers: Sequence[Mapping[float, float]], xs: Sequence[float]
) -> tuple[list[float], list[list[float]]]:
    """Edges of at most MOST_COLUMNS columns, and each layer's mean in each column."""
    count = min(len(xs), MOST_COLUMNS)
    cuts = [i * len(xs) // count for i in range(count + 1)]
    stretches = [xs[low:high] for low, high in pairwise(cuts)]
    edges = [stretch[0] - 0.5 for stretch in stretches] + [xs[-1] + 0.5]
    columns = [
        [sum(values.get(x, 0.0) for x in near) / len(near) for near in stretches] for values in layers
    ]
    return edges, columns


def _steps(edges: Sequence[float], heights: Sequence[float]) -> list[Point]:
    """The outline of columns: two points for each."""
    columns = zip(pairwise(edges), heights, strict=True)
    return [point for (low, high), h in columns for point in ((low, h), (high, h))]


def _table(layers: Sequence[Layer], xs: Sequence[float], x: Scale, unit: Unit) -> Table:
    kept = [xs[i] for i in spread(range(len(xs)), MOST_ROWS)]
    rows = tuple(
        (f"{p:g}", *(format_value(layer.values.get(p, 0.0), unit) for layer in layers)) for p in kept
    )
    return Table(("iteration", *(layer.label for layer in layers)), rows, tuple(x(p) for p in kept))

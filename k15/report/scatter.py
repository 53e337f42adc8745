"""Points joined in order of time, with each phase's fitted line (Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from k15.report.axes import (
    FLOOR,
    LEFT,
    TOP,
    WIDTH,
    Frame,
    drawing,
    end_labels,
    path_of,
    text_room,
    words,
)
from k15.report.charts import MOST_ROWS, Figure, Table
from k15.report.markup import Markup, element, join
from k15.report.scales import axis_of, format_value
from k15.report.statistics import Fit, spread


@dataclass(frozen=True)
class Cloud:
    """Points of one phase, each (iteration, x, y), in order of time."""

    label: str
    colour: str
    points: Sequence[tuple[float, float, float]]
    fit: Fit | None


def scatter_chart(
    title: str, clouds: Sequence[Cloud], *, x_label: str, y_label: str, caption: str
) -> Figure | None:
    """Shares against tokens, early points pale, fitted lines dashed; None if there are no points."""
    clouds = [cloud for cloud in clouds if cloud.points]
    if not clouds:
        return None
    several = len(clouds) > 1
    right = WIDTH - (text_room([cloud.label for cloud in clouds]) if several else 0) - 12
    points = [point for cloud in clouds for point in cloud.points]
    y = axis_of([p[2] for p in points], FLOOR, TOP, from_zero=False)
    x = axis_of([p[1] for p in points], LEFT, right, from_zero=False, count=5)
    frame = Frame(x.scale, y, x.ticks, "percent", y_label, x_label)
    parts = [frame.grid(), *(_draw_cloud(cloud, frame) for cloud in clouds)]
    if several:
        ends = [y.scale(cloud.points[-1][2]) for cloud in clouds]
        parts.append(end_labels([(cloud.label, cloud.colour) for cloud in clouds], ends, frame))
    else:
        parts.append(_first_and_last(clouds[0], frame))
    rows = [
        (cloud.label, f"{i:g}", format_value(a, "tokens"), format_value(b, "percent"))
        for cloud in clouds
        for i, a, b in cloud.points
    ]
    table = Table(
        ("phase", "iteration", x_label, y_label),
        tuple(rows[i] for i in spread(range(len(rows)), MOST_ROWS)),
    )
    label = f"{title}: {y_label} against {x_label}, {len(points)} points."
    return Figure(title, drawing(*parts, label=label), caption, table)


def _draw_cloud(cloud: Cloud, frame: Frame) -> Markup:
    places = [frame.place(a, b) for _, a, b in cloud.points]
    parts = [element("path", class_=f"raw s-{cloud.colour}", fill="none", d=path_of(places))]
    if cloud.fit is not None:
        ends = [pick(a for _, a, _ in cloud.points) for pick in (min, max)]
        fitted = [frame.place(a, cloud.fit.intercept + cloud.fit.slope * a) for a in ends]
        dashed = element(
            "path",
            class_=f"curve s-{cloud.colour}",
            fill="none",
            d=path_of(fitted),
            stroke_dasharray="5 4",
        )
        parts.append(dashed)
    for i, (a, b) in enumerate(places):
        opacity = f"{0.25 + 0.75 * (i + 1) / len(places):.2f}"
        parts.append(
            element("circle", class_=f"f-{cloud.colour}", cx=a, cy=b, r=3.6, fill_opacity=opacity)
        )
    return join(parts)


def _first_and_last(cloud: Cloud, frame: Frame) -> Markup:
    ends = (cloud.points[0], cloud.points[-1]) if len(cloud.points) > 1 else (cloud.points[0],)
    return join(
        words(f"{i:g}", frame.x(a), frame.y.scale(b) - 9, text_anchor="middle", class_="unit halo")
        for i, a, b in ends
    )

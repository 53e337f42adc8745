"""How lengths are spread: right completions upwards, wrong ones downwards, one panel for each part of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from k15.report.axes import WIDTH, drawing, words
from k15.report.charts import Figure, Table
from k15.report.markup import Content, Markup, element, join
from k15.report.scales import Axis, Scale, axis_of, format_tick
from k15.report.statistics import histogram, quantile

LEFT, RIGHT = 10.0, WIDTH - 10
HALF, GAP, HEAD = 42.0, 36.0, 26.0
"""Height of half a panel, space between panels, height above the first."""
BINS = 36
COUNTS = 84.0
"""Room for the counts beside the bars."""


@dataclass(frozen=True)
class LengthPanel:
    """Lengths of right and wrong completions in one stretch of a run, in tokens."""

    label: str
    right: Sequence[int]
    wrong: Sequence[int]


def mirrored_histograms(title: str, panels: Sequence[LengthPanel], caption: str) -> Figure | None:
    """One panel below the other on one axis of tokens; None if there are no lengths."""
    panels = [panel for panel in panels if panel.right or panel.wrong]
    if not panels:
        return None
    longest = max(max(*panel.right, *panel.wrong, 0, 0) for panel in panels)
    axis = axis_of([0.0, float(max(longest, 10))], LEFT, RIGHT - COUNTS, count=5)
    x = axis.scale
    edges = [x.low + i * (x.high - x.low) / BINS for i in range(BINS + 1)]
    parts: list[Markup] = []
    rows: list[tuple[Content, ...]] = []
    for i, panel in enumerate(panels):
        up, down = histogram(panel.right, edges), histogram(panel.wrong, edges)
        parts.append(_draw_panel(panel, up, down, edges, x, HEAD + HALF + i * (2 * HALF + GAP)))
        for edge, n_up, n_down in zip(edges, up, down, strict=False):
            if n_up or n_down:
                rows.append((panel.label, f"{edge:.0f}", n_up, n_down))
    bottom = HEAD + len(panels) * (2 * HALF + GAP) - GAP
    parts.append(_axis(axis, bottom))
    svg = drawing(*parts, label=f"{title}. {'; '.join(map(_describe, panels))}", height=bottom + 40)
    return Figure(
        title, svg, caption, Table(("part of the run", "tokens from", "right", "wrong"), tuple(rows))
    )


def _draw_panel(
    panel: LengthPanel,
    up: Sequence[int],
    down: Sequence[int],
    edges: Sequence[float],
    x: Scale,
    middle: float,
) -> Markup:
    most = max(*up, *down)
    right, wrong = f"{len(panel.right):,} right", f"{len(panel.wrong):,} wrong"
    return join(
        [
            words(panel.label, LEFT, middle - HALF - 8, class_="panel"),
            _bars(up, edges, x, middle - 1, -HALF / most, "teal"),
            _bars(down, edges, x, middle + 1, HALF / most, "orange"),
            element("line", class_="axis", x1=LEFT, x2=RIGHT, y1=middle, y2=middle),
            words(right, RIGHT, middle - 6, text_anchor="end", class_="label f-teal"),
            words(wrong, RIGHT, middle + 16, text_anchor="end", class_="label f-orange"),
        ]
    )


def _bars(
    counts: Sequence[int], edges: Sequence[float], x: Scale, base: float, scale: float, colour: str
) -> Markup:
    """Bars from `base` upwards where `scale` is negative, else downwards."""
    bars = []
    for count, (low, high) in zip(counts, pairwise(edges), strict=True):
        if count:
            height = max(abs(count * scale), 0.8)
            y = base - height if scale < 0 else base
            width = x(high) - x(low) - 1
            bars.append(
                element("rect", class_=f"f-{colour}", x=x(low) + 0.5, y=y, width=width, height=height)
            )
    return join(bars)


def _axis(axis: Axis, bottom: float) -> Markup:
    parts = []
    for tick in axis.ticks:
        anchor = {axis.ticks[0]: "start", axis.ticks[-1]: "end"}.get(tick, "middle")
        label = format_tick(tick, axis.step, "count")
        parts.append(words(label, axis.scale(tick), bottom + 18, text_anchor=anchor, class_="tick"))
    parts.append(
        words("tokens in the completion", RIGHT - COUNTS, bottom + 36, text_anchor="end", class_="unit")
    )
    return join(parts)


def _describe(panel: LengthPanel) -> str:
    sides = (("right", panel.right), ("wrong", panel.wrong))
    medians = [
        f"{name} median {quantile(lengths, 0.5):.0f} tokens" for name, lengths in sides if lengths
    ]
    return f"{panel.label}: {', '.join(medians)}"

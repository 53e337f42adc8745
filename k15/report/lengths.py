"""Is it thinking or padding: length over iterations, right against wrong, and accuracy against length."""

from __future__ import annotations

from collections.abc import Sequence

from k15.report.charts import Figure, Line
from k15.report.histograms import LengthPanel, mirrored_histograms
from k15.report.learning import fewest_evaluations
from k15.report.material import Material, Section, present, window_of
from k15.report.runs import Stage, number
from k15.report.scales import format_value
from k15.report.scan import IterationTally
from k15.report.scatter import Cloud, scatter_chart
from k15.report.statistics import linear_fit

TOKENS = "tokens in a completion"
PHASE_COLOURS = ("blue", "orange", "plum", "teal")
Measured = tuple[float, float, float]
"""(iteration, mean tokens, accuracy)"""


def length_section(material: Material) -> Section:
    """Length over iterations, right against wrong, its distribution, and accuracy against length."""
    figures = present(
        _length(material),
        material.chart(
            "Length of right and wrong completions",
            [
                material.smooth("train/length_right", "right", "teal"),
                material.smooth("train/length_wrong", "wrong", "orange"),
            ],
            TOKENS,
            "Right ones that grow are thinking. Wrong ones that grow far longer are padding or looping.",
            unit="tokens",
        ),
        material.chart(
            "Length by difficulty",
            material.by_level("train/length_level/"),
            TOKENS,
            f"{material.mean_note()}Harder problems should cost more tokens. If all levels grow alike, it is style.",
            unit="tokens",
        ),
        _distributions(material),
        _accuracy_against_length(material),
    )
    intro = "Longer is only better where it makes more answers right; shorter only where it makes none wrong."
    return Section("length", "Length", "Is it thinking, or padding?", intro, figures)


def _length(material: Material) -> Figure | None:
    points = material.timeline.points
    caption = "Mean, median and 95th percentile of the trained completions; dots, the mean of the held-out ones."
    low, high = dict(points("eval/length_low")), dict(points("eval/length_high"))
    heldout = points("eval/length_mean")
    bars = [(x, low[x], high[x]) for x, _ in heldout if x in low and x in high]
    lines = [
        material.smooth("train/length_p95", "95th pct.", "grey"),
        material.smooth("train/length_mean", "mean", "blue"),
        material.smooth("train/length_p50", "median", "teal", dash="6 4"),
        Line("held-out", "orange", heldout, bars=bars, has_markers=True),
    ]
    return material.chart("Length", lines, TOKENS, caption, unit="tokens")


def _distributions(material: Material) -> Figure | None:
    """Early and late lengths; with several phases, the start of the first and the end of each."""
    phases = material.timeline.phases
    panels = []
    for i, phase in enumerate(phases):
        tallies = [
            t
            for t in material.scan.tallies
            if t.stage == phase.stage and phase.first <= t.x <= phase.last
        ]
        width = max(1, len(tallies) // 6)
        if i == 0 and len(tallies) > 1:
            panels.append(_panel(material, tallies[:width], "start"))
        if tallies:
            name = f"{phase.name}, end" if len(phases) > 1 else "end"
            panels.append(_panel(material, tallies[-width:], name))
    caption = "Upwards, right completions; downwards, wrong ones. Each panel shows shares of its own completions."
    return mirrored_histograms("How lengths are spread", panels, caption)


def _panel(material: Material, stretch: Sequence[IterationTally], name: str) -> LengthPanel:
    first, last = stretch[0].x, stretch[-1].x
    inside = [g for g in material.scan.groups if g.stage == stretch[0].stage and first <= g.x <= last]
    right = [m.length for g in inside for m in g.members if m.is_right]
    wrong = [m.length for g in inside for m in g.members if not m.is_right and m.outcome != "fault"]
    where = f"iteration {first}" if first == last else f"iterations {first} to {last}"
    return LengthPanel(f"{name}: {where}", right, wrong)


def _accuracy_against_length(material: Material) -> Figure | None:
    """Accuracy against mean length over the run (Fig. 6), with the fitted slope of each phase."""
    phases = material.timeline.phases
    is_heldout = fewest_evaluations(material) >= 4
    clouds = []
    for i, phase in enumerate(phases):
        stage = material.timeline.stages[phase.stage]
        measured = _measured(stage, "eval" if is_heldout else "train")
        inside = [point for point in measured if phase.first <= point[0] <= phase.last]
        points = inside if is_heldout else _blocks(inside)
        fit = linear_fit([(length, accuracy) for _, length, accuracy in points])
        clouds.append(Cloud(phase.name, PHASE_COLOURS[i % len(PHASE_COLOURS)], points, fit))
    what = "a held-out evaluation" if is_heldout else "the mean of a few training iterations"
    slopes = "; ".join(_slope(cloud, len(clouds) > 1) for cloud in clouds if cloud.fit is not None)
    caption = f"Each dot is {what}, later ones darker, as in the paper's Fig. 6."
    if slopes:
        caption += f" Dashed, the fitted line: {slopes}."
    y_label = "held-out accuracy" if is_heldout else "training accuracy"
    return scatter_chart(
        "Accuracy against length", clouds, x_label="mean tokens", y_label=y_label, caption=caption
    )


def _slope(cloud: Cloud, named: bool) -> str:
    if cloud.fit is None:
        return ""
    points = format_value(100 * 100 * cloud.fit.slope, "plain")
    return (
        f"{cloud.label}: " * named
        + f"{points} points of accuracy per 100 tokens (r = {cloud.fit.r:.2f})"
    )


def _measured(stage: Stage, prefix: str) -> list[Measured]:
    found = []
    for row in stage.rows:
        place, length = number(row, "iteration"), number(row, f"{prefix}/length_mean")
        accuracy = number(row, f"{prefix}/accuracy")
        if place is not None and length is not None and accuracy is not None:
            found.append((stage.offset + place, length, accuracy))
    return found


def _blocks(points: Sequence[Measured]) -> list[Measured]:
    """Means of neighbouring iterations, because one iteration alone is mostly noise."""
    size = window_of(len(points))
    blocks = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (block[-1][0], sum(p[1] for p in block) / len(block), sum(p[2] for p in block) / len(block))
        for block in blocks
    ]

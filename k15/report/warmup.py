"""How did the warm-up go: loss and learning rate of supervised stages over steps."""

from __future__ import annotations

from collections.abc import Sequence

from k15.report.charts import ChartStyle, Figure, Line, line_chart
from k15.report.material import Section, present, window_of
from k15.report.runs import Stage, number
from k15.report.statistics import Point, running_mean


def warmup_section(stages: Sequence[Stage]) -> Section | None:
    """Curves of the supervised stages, or None if there are none."""
    if not stages:
        return None
    figures: list[Figure] = []
    for stage in stages:
        named = len(stages) > 1
        figures += present(_loss(stage, named), _entropy(stage, named), _learning_rate(stage, named))
    intro = "Supervised training on demonstrations with long thoughts, before any reward."
    return Section("warmup", "Warm-up", "How did the warm-up go?", intro, tuple(figures))


def _loss(stage: Stage, named: bool) -> Figure | None:
    points = _points(stage, "loss")
    window = window_of(len(points))
    line = Line("loss", "blue", running_mean(points, window), raw=points if window > 1 else ())
    caption = "Loss on the completions only. Warm-up stops early on purpose: it teaches the form, RL the skill."
    if window > 1:
        caption += f" Thin, each step; thick, the mean over {window} steps."
    title = f"Loss, {stage.name}" if named else "Loss"
    return line_chart(title, [line], ChartStyle("nats per token", x_label="step"), caption)


def _entropy(stage: Stage, named: bool) -> Figure | None:
    line = Line("entropy", "teal", _points(stage, "entropy"))
    title = f"Entropy, {stage.name}" if named else "Entropy"
    caption = "Mean entropy of the next token. What is left of it at the end is what RL can explore."
    return line_chart(title, [line], ChartStyle("nats per token", x_label="step"), caption)


def _learning_rate(stage: Stage, named: bool) -> Figure | None:
    line = Line("learning rate", "grey", _points(stage, "learning_rate"))
    title = f"Learning rate, {stage.name}" if named else "Learning rate"
    return line_chart(
        title, [line], ChartStyle("learning rate", x_label="step"), "The schedule as it was followed."
    )


def _points(stage: Stage, key: str) -> list[Point]:
    found = []
    for row in stage.rows:
        place, value = number(row, "step"), number(row, key)
        place = number(row, "iteration") if place is None else place
        if place is not None and value is not None:
            found.append((place, value))
    return found

"""Is it learning: accuracy over iterations, by difficulty, and the reward."""

from __future__ import annotations

from k15.report.charts import Figure, Interval, Line
from k15.report.material import Material, Section, present

RIGHT = "share of completions that are right"


def learning_section(material: Material) -> Section:
    """Accuracy over iterations, by difficulty, and the reward."""
    figures = present(
        _accuracy(material),
        material.shares(
            "Held-out accuracy by difficulty",
            material.by_level("eval/accuracy_level/", is_evaluated=True),
            RIGHT,
            "Where the gain comes from: easy problems first, hard ones later.",
        ),
        material.shares(
            "Training accuracy by difficulty",
            material.by_level("train/accuracy_level/"),
            RIGHT,
            f"{material.mean_note()}Of the prompts that were drawn. Prioritized sampling draws what fails, so this can "
            "fall while the policy improves.",
        ),
        material.chart(
            "Reward",
            [material.smooth("train/reward_mean", "reward", "blue")],
            "mean reward",
            "Right is 1 and wrong is 0. With the length penalty on, the length reward is added: levels before and "
            "after it starts do not compare.",
        ),
    )
    intro = f"Held-out problems are never trained on; they are the measure. {material.smooth_note()}"
    return Section("learning", "Learning", "Is it learning?", intro, figures)


def _accuracy(material: Material) -> Figure | None:
    smooth = material.smooth("train/accuracy", "train", "blue")
    train = Line("train", "blue", smooth.points, raw=smooth.raw, band=material.accuracy_band())
    points = material.timeline.points("eval/accuracy")
    heldout = Line("held-out", "orange", points, bars=_intervals(material), has_markers=True)
    lines, parts = [train, heldout], []
    if train.points:
        parts.append("Train: completions of the drawn prompts.")
        if len(points) > 1:
            ends = (min(train.points[0][0], points[0][0]), max(train.points[-1][0], points[-1][0]))
            lines.append(
                Line("start", "grey", [(x, points[0][1]) for x in ends], is_reference=True, dash="2 5")
            )
    if train.band:
        parts.append("Band: 95 % interval of the mean, groups being the units.")
    if heldout.points:
        parts.append("Held-out: dots with 95 % intervals; dotted, where it started.")
    else:
        parts.append("No held-out evaluation is recorded.")
    return material.shares("Accuracy", lines, RIGHT, " ".join(parts))


def _intervals(material: Material) -> list[Interval]:
    """(iteration, low, high) of every evaluation that has them."""
    low, high = (dict(material.timeline.points(f"eval/accuracy_{end}")) for end in ("low", "high"))
    evaluated = material.timeline.points("eval/accuracy")
    return [(x, low[x], high[x]) for x, _ in evaluated if x in low and x in high]


def fewest_evaluations(material: Material) -> int:
    """Evaluations in the phase that has fewest; 0 if there is no phase."""
    evaluated = [x for x, _ in material.timeline.points("eval/accuracy")]
    phases = material.timeline.phases
    return min((sum(p.first <= x <= p.last for x in evaluated) for p in phases), default=0)

"""What a reader should look at first: rules over the metrics, each with what it saw and where to look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from k15.report.health import FORCE_GUIDE
from k15.report.material import Material
from k15.report.statistics import Point


@dataclass(frozen=True)
class Finding:
    """One remark. `anchor` is the section that shows more."""

    message: str
    anchor: str
    is_warning: bool = True


def find_problems(material: Material) -> list[Finding]:
    """All remarks on the RL stages, in the order of the page."""
    points = material.timeline.points
    found = [rule(points) for rule in RULES]
    return [finding for finding in found if finding is not None]


Points = Callable[[str], list[Point]]


def _late(values: Sequence[Point]) -> float | None:
    """Mean of the last fifth (at least three values, if there are so many)."""
    if not values:
        return None
    last = values[-max(3, len(values) // 5) :]
    return sum(y for _, y in last) / len(last)


def _early(values: Sequence[Point]) -> float | None:
    """Mean of the first tenth (at least three values, if there are so many)."""
    if not values:
        return None
    first = values[: max(3, len(values) // 10)]
    return sum(y for _, y in first) / len(first)


def _no_evaluation(points: Points) -> Finding | None:
    if points("eval/accuracy"):
        return None
    return Finding(
        "No held-out evaluation is recorded: training accuracy depends on which prompts were drawn.",
        "learning",
    )


def _accuracy_fell(points: Points) -> Finding | None:
    accuracy, low = points("eval/accuracy"), dict(points("eval/accuracy_low"))
    if len(accuracy) < 2:
        return None
    best_x, best = max(accuracy, key=lambda p: p[1])
    last = accuracy[-1][1]
    if last >= low.get(best_x, best - 0.05):
        return None
    return Finding(
        f"Held-out accuracy ended at {100 * last:.1f} %, below the interval of its best, {100 * best:.1f} % in "
        f"iteration {best_x:g}.",
        "learning",
    )


def _truncated(points: Points) -> Finding | None:
    late = _late(points("train/share_length"))
    if late is None or late < 0.1:
        return None
    return Finding(
        f"{100 * late:.0f} % of the late completions reached the cap on tokens; they cannot be right.",
        "rollouts",
    )


def _repeating(points: Points) -> Finding | None:
    late = _late(points("train/share_repeat"))
    if late is None or late < 0.05:
        return None
    return Finding(
        f"{100 * late:.0f} % of the late completions were stopped for repetition.", "rollouts"
    )


def _force(points: Points) -> Finding | None:
    late = _late(points("update/force_ratio"))
    if late is None or FORCE_GUIDE[0] <= late <= FORCE_GUIDE[1]:
        return None
    cure = (
        "tau does little; raise it or take more steps"
        if late < FORCE_GUIDE[0]
        else "the policy hardly moves; lower tau"
    )
    return Finding(
        f"The force ratio ended at {late:.2f}, outside {FORCE_GUIDE[0]} to {FORCE_GUIDE[1]}: {cure}.",
        "health",
        False,
    )


def _entropy(points: Points) -> Finding | None:
    entropy = points("update/entropy")
    early, late = _early(entropy), _late(entropy)
    if early is None or late is None or len(entropy) < 10 or early <= 0 or late > 0.1 * early:
        return None
    return Finding(
        f"Entropy fell from {early:.3g} to {late:.3g} nats per token: exploration is nearly over.",
        "health",
    )


def _zero_advantage(points: Points) -> Finding | None:
    late = _late(points("train/zero_advantage_share"))
    if late is None or late < 0.7:
        return None
    return Finding(
        f"{100 * late:.0f} % of the late completions have no advantage: they teach nothing.", "health"
    )


def _skipped(points: Points) -> Finding | None:
    skipped = sum(y for _, y in points("update/num_skipped_steps"))
    if not skipped:
        return None
    return Finding(
        f"{skipped:.0f} optimizer steps had NaN or infinity in the gradient and were skipped.", "health"
    )


def _engine_gap(points: Points) -> Finding | None:
    worst = max(points("update/engine_gap_mean"), key=lambda p: p[1], default=None)
    if worst is None or worst[1] < 0.02:
        return None
    return Finding(
        f"Engine and trainer disagree by {worst[1]:.3g} nats on average in iteration {worst[0]:g}.",
        "health",
    )


def _masked(points: Points) -> Finding | None:
    late = _late(points("rollout/masked_token_share"))
    if late is None or late < 0.3:
        return None
    return Finding(
        f"{100 * late:.0f} % of the late tokens carry no loss: they were sampled for nothing.",
        "rollouts",
    )


def _faults(points: Points) -> Finding | None:
    faults = sum(y for _, y in points("train/num_faults"))
    if not faults:
        return None
    total = sum(y for _, y in points("train/num_completions"))
    return Finding(
        f"{faults:,.0f} of {total:,.0f} verdicts were our own faults; they carry no reward.", "examples"
    )


def _failed_saves(points: Points) -> Finding | None:
    failed = sum(y for _, y in points("save/failed"))
    if not failed:
        return None
    return Finding(f"{failed:.0f} checkpoints could not be written.", "events")


RULES: tuple[Callable[[Points], Finding | None], ...] = (
    _no_evaluation,
    _accuracy_fell,
    _truncated,
    _repeating,
    _force,
    _entropy,
    _zero_advantage,
    _skipped,
    _engine_gap,
    _masked,
    _faults,
    _failed_saves,
)

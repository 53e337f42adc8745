"""Metrics of an iteration, computed from the rows that are stored of it (docs/metrics.md)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Interval(NamedTuple):
    """An interval of a share, both ends in [0, 1]."""

    low: float
    high: float


def wilson_interval(successes: float, total: float, *, z: float = 1.959963984540054) -> Interval:
    """Wilson's score interval of a share; with the default z it covers the true share 95 % of the time.

    center = (p + z^2 / 2n) / (1 + z^2 / n), half width = z sqrt(p (1-p) / n + z^2 / 4n^2) / (1 + z^2 / n).
    Unlike p +- z sqrt(p (1-p) / n) it stays inside [0, 1] and is not empty at p = 0 or 1. It takes the
    trials as independent: several completions of one prompt are not, and make it too narrow.

    Args:
        successes: how many trials succeeded.
        total: trials, or the number of independent ones they are worth; 0 gives the whole range.
        z: quantile of the normal distribution.
    """
    if total == 0:
        return Interval(0.0, 1.0)
    share = successes / total
    center = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return Interval(max(0.0, (center - half) / scale), min(1.0, (center + half) / scale))


def quantile(values: Iterable[float], level: float) -> float:
    """The value that a share `level` of `values` does not exceed, interpolated linearly (numpy's default)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a quantile needs at least one value")
    position = level * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def completion_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """All train/* metrics, and the rollout/* metrics of staleness, of one iteration's completion rows.

    A completion whose verdict is our fault counts as a completion with its length, but not in accuracy
    or reward. A metric without anything to average (no right answer: train/length_right) is left out.

    Args:
        rows: `schema.CompletionRow` of one iteration.
    """
    if not rows:
        return {"train/num_groups": 0, "train/num_completions": 0, "train/num_faults": 0}
    return (
        _counts(rows)
        | _lengths(rows)
        | _by_level(rows)
        | _rewards(rows)
        | _staleness(rows)
        | _audit(rows)
    )


def _counts(rows: Sequence[Row]) -> dict[str, float]:
    return {
        "train/num_groups": len({row["ordinal"] for row in rows}),
        "train/num_completions": len(rows),
        "train/num_faults": len(rows) - len(_valid(rows)),
        **{
            f"train/share_{stop}": _share(row["stop"] == stop for row in rows)
            for stop in ("end", "repeat", "length")
        },
    }


def _lengths(rows: Sequence[Row]) -> dict[str, float]:
    lengths = [row["length"] for row in rows]
    metrics = {
        "train/length_mean": _mean(lengths),
        "train/length_p50": quantile(lengths, 0.5),
        "train/length_p95": quantile(lengths, 0.95),
        "train/length_max": max(lengths),
    }
    right = [row["length"] for row in _valid(rows) if row["correct"] == 1.0]
    wrong = [row["length"] for row in _valid(rows) if row["correct"] != 1.0]
    if right:
        metrics["train/length_right"] = _mean(right)
    if wrong:
        metrics["train/length_wrong"] = _mean(wrong)
    return metrics


def _rewards(rows: Sequence[Row]) -> dict[str, float]:
    valid = _valid(rows)
    if not valid:
        return {}
    return {
        "train/accuracy": _mean([row["correct"] for row in valid]),
        "train/reward_mean": _mean([row["reward"] for row in valid]),
        "train/zero_advantage_share": _share(row["advantage"] == 0 for row in valid),
    }


def _by_level(rows: Sequence[Row]) -> dict[str, float]:
    levels: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        if row["difficulty"] is not None:
            levels[row["difficulty"]].append(row)
    metrics: dict[str, float] = {}
    for level, members in sorted(levels.items()):
        metrics[f"train/length_level/{level:g}"] = _mean([row["length"] for row in members])
        if valid := _valid(members):
            metrics[f"train/accuracy_level/{level:g}"] = _mean([row["correct"] for row in valid])
    return metrics


def _staleness(rows: Sequence[Row]) -> dict[str, float]:
    ages = [
        (row["iteration"] - s["policy_version"], s["num_tokens"])
        for row in rows
        for s in row["segments"]
    ]
    num_tokens = sum(count for _, count in ages)
    if num_tokens == 0:
        return {}
    return {
        "rollout/segments_per_completion": len(ages) / len(rows),
        "rollout/stale_token_share": sum(count for age, count in ages if age > 0) / num_tokens,
        "rollout/mean_staleness": sum(age * count for age, count in ages) / num_tokens,
        "rollout/max_staleness": max(age for age, _ in ages),
        "rollout/masked_token_share": 1 - sum(row["trained_tokens"] for row in rows) / num_tokens,
    }


def is_disputed(row: Row) -> bool:
    """Whether the second grader is sure of the opposite of a row's verdict."""
    opposite = "wrong" if row["outcome"] == "right" else "right"
    return row["outcome"] != "fault" and row.get("audit") == opposite


def _audit(rows: Sequence[Row]) -> dict[str, float]:
    asked = [row for row in rows if row.get("audit") is not None]
    if not asked:
        return {}
    sure = [row for row in asked if row["audit"] != "unsure"]
    metrics: dict[str, float] = {
        "audit/num_asked": len(asked),
        "audit/num_sure": len(sure),
        "audit/num_disputed": sum(map(is_disputed, sure)),
    }
    if sure:
        metrics["audit/disputed_share"] = _share(map(is_disputed, sure))
    return metrics


def _valid(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["outcome"] != "fault"]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _share(flags: Iterable[bool]) -> float:
    return _mean([float(flag) for flag in flags])

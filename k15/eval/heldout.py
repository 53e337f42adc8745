"""Accuracy and length of a policy on prompts that it never trains on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from k15.engine.base import Engine
from k15.record.metrics import quantile, wilson_interval
from k15.rewards.grader import Grader
from k15.types import Group, Prompt, SamplingParams, Segment, StopReason, Trajectory, Verdict, Work


@dataclass(frozen=True)
class Evaluation:
    """Completions of held-out prompts with their verdicts, in the order of the prompts."""

    groups: tuple[Group, ...]
    verdicts: tuple[tuple[Verdict, ...], ...]

    def metrics(self) -> dict[str, float]:
        """Accuracy with its 95 % Wilson interval, tokens, and both by difficulty. Keys begin with "eval/".

        Completions whose verdict was our fault are left out and counted."""
        pairs = [
            (group.prompt.difficulty, trajectory, verdict)
            for group, row in zip(self.groups, self.verdicts, strict=True)
            for trajectory, verdict in zip(group.trajectories, row, strict=True)
            if verdict.is_valid
        ]
        num_faults = sum(not v.is_valid for row in self.verdicts for v in row)
        result = {"eval/num_samples": float(len(pairs)), "eval/num_faults": float(num_faults)}
        if not pairs:
            return result
        right = sum(v.correct for _, _, v in pairs)
        low, high = wilson_interval(int(right), len(pairs))
        lengths = [t.length for _, t, _ in pairs]
        middle = fmean(lengths)
        spread = 1.96 * (stdev(lengths) / math.sqrt(len(lengths)) if len(lengths) > 1 else 0.0)
        result |= {
            "eval/accuracy": right / len(pairs),
            "eval/accuracy_low": low,
            "eval/accuracy_high": high,
            "eval/length_mean": middle,
            "eval/length_low": middle - spread,
            "eval/length_high": middle + spread,
            "eval/length_p95": quantile(lengths, 0.95),
            "eval/share_length": sum(t.stop is StopReason.LENGTH for _, t, _ in pairs) / len(pairs),
        }
        by_level = defaultdict(list)
        for level, trajectory, verdict in pairs:
            if level is not None:
                by_level[f"{level:g}"].append((verdict.correct, trajectory.length))
        for level, members in sorted(by_level.items()):
            result[f"eval/accuracy_level/{level}"] = sum(c for c, _ in members) / len(members)
            result[f"eval/length_level/{level}"] = sum(n for _, n in members) / len(members)
        return result


def evaluate(
    engine: Engine,
    prompts: Sequence[Prompt],
    grader: Grader,
    sampling: SamplingParams,
    *,
    num_samples: int = 1,
    watch: Callable[[Iterable[Segment]], Iterable[Segment]] = iter,
) -> Evaluation:
    """Sample each prompt to its end with the weights that the engine holds, and judge.

    Args:
        sampling: `segment_tokens` is ignored; its seed makes the evaluation repeatable.
        num_samples: completions per prompt.
        watch: wraps the stream of segments, for a progress bar.
    """
    work = [
        Work(ordinal, index, prompt.token_ids)
        for ordinal, prompt in enumerate(prompts)
        for index in range(num_samples)
    ]
    done: dict[tuple[int, int], Segment] = {}
    for segment in watch(engine.extend(work, replace(sampling, segment_tokens=None))):
        done[segment.ordinal, segment.sample_index] = segment
    groups = tuple(
        Group(
            ordinal,
            prompt,
            0,
            tuple(Trajectory(ordinal, i, (done[ordinal, i],)) for i in range(num_samples)),
        )
        for ordinal, prompt in enumerate(prompts)
    )
    return Evaluation(groups, tuple(tuple(row) for row in grader.grade(groups)))

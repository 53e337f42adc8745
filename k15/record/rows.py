"""One row of `rollouts/` for every completion that was trained or graded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from k15.config.answers import rules_as_row
from k15.types import Group, Trajectory, Verdict


@dataclass(frozen=True)
class GradedGroup:
    """A finished group with what was made of it; the lists have one entry a completion."""

    group: Group
    verdicts: Sequence[Verdict]
    rewards: Sequence[float]
    length_rewards: Sequence[float]
    advantages: Sequence[float]
    trained_tokens: Sequence[int]


def rollout_rows(
    iteration: int, graded: Sequence[GradedGroup], decode: Callable[[Sequence[int]], str]
) -> Iterator[dict[str, Any]]:
    """The rows of an iteration (`record.schema` names their keys), groups and samples in order."""
    for entry in graded:
        for trajectory in entry.group.trajectories:
            yield _row(iteration, entry, trajectory, decode)


def _row(
    iteration: int, entry: GradedGroup, trajectory: Trajectory, decode: Callable[[Sequence[int]], str]
) -> dict[str, Any]:
    prompt, index = entry.group.prompt, trajectory.sample_index
    verdict = entry.verdicts[index]
    return {
        "iteration": iteration,
        "ordinal": trajectory.ordinal,
        "sample_index": index,
        "prompt_id": prompt.prompt_id,
        "family": prompt.family,
        "difficulty": prompt.difficulty,
        "question": prompt.question,
        "answer": prompt.answer,
        "system": prompt.system,
        "verifier": prompt.verifier,
        "rules": rules_as_row(prompt.rules),
        "completion": decode(trajectory.token_ids),
        "token_ids": list(trajectory.token_ids),
        "logprobs": [round(value, 4) for value in trajectory.logprobs],
        "segments": [
            {
                "start": segment.start,
                "num_tokens": len(segment.token_ids),
                "policy_version": segment.policy_version,
                "stop": segment.stop,
            }
            for segment in trajectory.segments
        ],
        "stop": trajectory.stop,
        "length": trajectory.length,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "extracted": verdict.extracted,
        "span": verdict.span,
        "audit": verdict.audit,
        "correct": verdict.correct,
        "reward": entry.rewards[index],
        "length_reward": entry.length_rewards[index],
        "advantage": entry.advantages[index],
        "trained_tokens": entry.trained_tokens[index],
    }

"""What one RL iteration leaves behind: metrics, rollout rows, warnings, and a line for people."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from k15.algo.diagnostics import synchronous_length, zero_advantage_share
from k15.prompts.sampler import PromptSampler
from k15.record.metrics import is_disputed
from k15.record.rows import GradedGroup, rollout_rows
from k15.rollout.buffer import RolloutBuffer
from k15.stages.scores import Scores
from k15.train.packing import Example
from k15.train.trainer import StepResult
from k15.types import EngineStats, Group, Verdict, Weights

_LARGE_ENGINE_GAP = 0.02  # nats, mean; numerics alone give 1e-6 in fp32 and some 1e-3 in bf16


@dataclass(frozen=True)
class Outcomes:
    """Finished groups and what was made of them; tensors are [groups, k]."""

    groups: Sequence[Group]
    verdicts: Sequence[Sequence[Verdict]]
    scores: Scores
    rewards: Tensor
    length_rewards: Tensor
    advantages: Tensor

    def by_group(self, examples: Sequence[Example]) -> list[GradedGroup]:
        """One record a group; the examples say how many tokens of each completion carried loss."""
        counts = {(e.group, e.sample_index): sum(e.loss_mask) for e in examples}
        return [
            GradedGroup(
                group=group,
                verdicts=verdicts,
                rewards=self.rewards[row].tolist(),
                length_rewards=self.length_rewards[row].tolist(),
                advantages=self.advantages[row].tolist(),
                trained_tokens=[
                    counts.get((group.ordinal, t.sample_index), 0) for t in group.trajectories
                ],
            )
            for row, (group, verdicts) in enumerate(zip(self.groups, self.verdicts, strict=True))
        ]


@dataclass
class IterationLog:
    """Collects what happens in one iteration; `finish` turns it into what is recorded."""

    iteration: int
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the wall time of the block to `seconds/NAME`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def rolled_out(self, stats: EngineStats, buffer: RolloutBuffer) -> None:
        """After the rollout phase, before finished groups leave the buffer."""
        segments = buffer.segments_of(self.iteration)
        starts = torch.tensor([s.start for s in segments], dtype=torch.long)
        sizes = torch.tensor([len(s.token_ids) for s in segments], dtype=torch.long)
        finished = torch.tensor([s.stop is not None for s in segments], dtype=torch.bool)
        if buffer.num_failed_writes:
            message = (
                f"the disk refused {buffer.num_failed_writes} segments of the journal; free some space"
            )
            self.warnings.append(("journal_failed", message))
        self.metrics |= {
            "rollout/num_tokens": stats.num_tokens,
            "rollout/prefill_tokens": stats.num_prefill_tokens,
            "rollout/tokens_per_second": stats.num_tokens / stats.seconds if stats.seconds else 0.0,
            "rollout/occupancy": stats.occupancy,
            "rollout/slot_steps": stats.slot_steps,
            "rollout/in_flight_groups": len(buffer),
            "rollout/unfinished_trajectories": buffer.num_unfinished,
            "rollout/num_segments": len(segments),
            "rollout/num_resumed": int((starts > 0).sum()),
            "rollout/length_synchronous": synchronous_length(starts, starts + sizes, finished),
            "rollout/num_recovered": buffer.num_recovered,
        }

    def trained(
        self,
        outcomes: Outcomes,
        examples: Sequence[Example],
        updates: Sequence[StepResult],
        gap: Tensor,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        """After the training phase: every completion becomes a row.

        The step metrics are means over the iteration's optimizer steps, but force ratio and Delta,
        which are the last step's, like the share of effective samples: all start in the first step.
        """
        self.rows = list(rollout_rows(self.iteration, outcomes.by_group(examples), decode))
        self.metrics |= {
            "train/zero_advantage_share": zero_advantage_share(
                outcomes.advantages, outcomes.scores.valid
            ),
            "update/num_steps": len(updates),
            "update/num_skipped_steps": sum(u.is_skipped for u in updates),
            "update/tokens": sum(u.num_tokens for u in updates),
        }
        if updates:
            self.metrics |= {
                "update/loss": mean([u.loss for u in updates]),
                "update/grad_norm": mean([u.grad_norm for u in updates]),
                "update/kl": mean([u.kl for u in updates]),
                "update/entropy": mean([u.entropy for u in updates]),
                "update/delta_rms": updates[-1].delta_rms,
                "update/effective_sample_share": updates[-1].effective_sample_share,
            }
            if (ratio := updates[-1].force_ratio) is not None:
                self.metrics["update/force_ratio"] = ratio
        if gap.numel():
            self.metrics["update/engine_gap_mean"] = float(gap.mean())
            self.metrics["update/engine_gap_max"] = float(gap.max())

    def finish(self, weights: Weights, sampler: PromptSampler, length_weight: float) -> dict[str, Any]:
        """The metrics line, with warnings about what is silently wrong elsewhere."""
        rates = np.array(list(sampler.success_rates.values()))
        total = time.monotonic() - self._started
        self._check()
        return {
            "iteration": self.iteration,
            "time": time.time(),
            **{f"seconds/{name}": round(value, 4) for name, value in self.seconds.items()},
            "seconds/total": round(total, 4),
            "length_weight": length_weight,
            **self.metrics,
            "sampler/mean_success_rate": float(rates.mean()),
            "sampler/histogram": np.histogram(rates, bins=10, range=(0.0, 1.0))[0].tolist(),
            "weights/version": weights.version,
            "weights/fingerprint": weights.fingerprint,
        }

    def _check(self) -> None:
        gap = self.metrics.get("update/engine_gap_mean", 0.0)
        if gap > _LARGE_ENGINE_GAP:
            self.warnings.append(
                (
                    "engine_gap",
                    f"engine and trainer disagree by {gap:.3g} nats a token under the same weights",
                )
            )
        if self.metrics.get("update/num_skipped_steps"):
            self.warnings.append(
                ("nonfinite_step", "a step with NaN or infinity in its gradient was skipped")
            )
        if self.rows and all(row["outcome"] == "no_answer" for row in self.rows):
            self.warnings.append(
                ("no_answers", "no completion of this iteration has an answer to judge")
            )
        if reasons := Counter(row["reason"] for row in self.rows if row["outcome"] == "fault"):
            self.warnings.append(
                ("faults", f"verdicts that are our fault: {dict(reasons.most_common(3))}")
            )
        if disputed := [row for row in self.rows if is_disputed(row)]:
            self.warnings.append(("disputed", describe_disputes(disputed)))


def describe_disputes(rows: Sequence[Mapping[str, Any]]) -> str:
    """The completions of an iteration that the two graders judge differently; each row says so as well."""
    shown = "; ".join(
        f"{row['prompt_id']} sample {row['sample_index']}: {row['extracted'][:60]!r} for the "
        f"gold {row['answer'][:60]!r} is {row['outcome']}, the audit says {row['audit']}"
        for row in rows[:3]
    )
    return f"the second grader disputes {len(rows)} verdicts, for instance {shown}"


def describe(m: Mapping[str, Any]) -> str:
    """An iteration's metrics line as one readable line."""
    parts = [f"iteration {m['iteration']:>4}"]
    if "train/accuracy" in m:
        parts.append(f"train {m['train/accuracy']:6.1%} {m['train/length_mean']:5.0f} tokens")
    if "eval/accuracy" in m:
        parts.append(f"held-out {m['eval/accuracy']:6.1%} {m['eval/length_mean']:5.0f} tokens")
    if "rollout/num_tokens" in m:
        parts.append(
            f"{m['rollout/unfinished_trajectories']:>4} unfinished {m['rollout/tokens_per_second']:6.0f} tok/s"
        )
    if "update/force_ratio" in m:
        parts.append(f"force {m['update/force_ratio']:.2f} entropy {m['update/entropy']:.2f}")
    if "seconds/total" in m:
        parts.append(f"{m['seconds/total']:4.1f} s")
    return " | ".join(parts)

"""Verdicts as tensors, one entry a completion."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from k15.types import Group, StopReason, Verdict


@dataclass(frozen=True)
class Scores:
    """What the grader and the buffer say of G groups of k completions.

    Attributes:
        correct: r of Eq. 1: 1.0 where the answer is right, else 0.0.
        valid: False where the verdict was our fault; such a completion is left out of everything.
        lengths: tokens.
        repeated: 1.0 where generation was stopped for repetition.
        ordinals: number of the draw of each group.
    """

    correct: Float[Tensor, "groups k"]
    valid: Bool[Tensor, "groups k"]
    lengths: Int[Tensor, "groups k"]
    repeated: Float[Tensor, "groups k"]
    ordinals: Int[Tensor, "groups"]

    @classmethod
    def of(cls, groups: Sequence[Group], verdicts: Sequence[Sequence[Verdict]]) -> "Scores":
        """The scores of finished groups, in their order."""
        return cls(
            torch.tensor([[v.correct for v in row] for row in verdicts], dtype=torch.float32),
            torch.tensor([[v.is_valid for v in row] for row in verdicts], dtype=torch.bool),
            torch.tensor([[t.length for t in group.trajectories] for group in groups], dtype=torch.long),
            torch.tensor(
                [[float(t.stop is StopReason.REPEAT) for t in group.trajectories] for group in groups],
                dtype=torch.float32,
            ),
            torch.tensor([group.ordinal for group in groups], dtype=torch.long),
        )

    def visits(self, groups: Sequence[Group]) -> tuple[list[str], list[float]]:
        """Prompt and share of right answers of each group with a valid verdict: what the sampler learns (2.3.4)."""
        counts = self.valid.sum(dim=-1).tolist()
        right = (self.correct * self.valid).sum(dim=-1).tolist()
        seen = [(g.prompt.prompt_id, r / n) for g, r, n in zip(groups, right, counts, strict=True) if n]
        return [prompt_id for prompt_id, _ in seen], [rate for _, rate in seen]

"""Toggle in the RL loop (Kimi K2.5, arXiv 2602.02276): whose budget is what, over a whole run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from k15.algo.toggle import has_budget, toggle_reward
from k15.config.rl import ToggleConfig
from k15.record.metrics import quantile
from k15.record.run import Saveable
from k15.stages.scores import Scores
from k15.types import Group

_FILE = "budgets.json"


class Toggle:
    """Knows each prompt's token budget, and applies it in every other phase.

    A prompt's budget is estimated once, from the right completions of the first group that has any, and
    stands from the next group on. Part of a checkpoint where Toggle is on.
    """

    def __init__(self, config: ToggleConfig) -> None:
        self._config = config
        self.budgets: dict[str, float] = {}

    @property
    def state(self) -> Mapping[str, Saveable]:
        """What a checkpoint has to hold; nothing where Toggle is off, as in every run before it."""
        return {"toggle": self} if self._config.every else {}

    def rewards(
        self, groups: Sequence[Group], scores: Scores, iteration: int
    ) -> Float[Tensor, "groups k"]:
        """r of every completion: `scores.correct` without Toggle and in its phases without a budget."""
        if not self._config.every:
            return scores.correct
        known = [self.budgets.get(group.prompt.prompt_id, math.inf) for group in groups]
        self._observe(groups, scores)
        if not has_budget(iteration, every=self._config.every):
            return scores.correct
        return toggle_reward(
            scores.correct,
            scores.lengths,
            scores.valid,
            torch.tensor(known, dtype=torch.float32),
            threshold=self._config.threshold,
        )

    def _observe(self, groups: Sequence[Group], scores: Scores) -> None:
        is_right = (scores.correct > 0) & scores.valid
        for group, lengths, right in zip(groups, scores.lengths, is_right, strict=True):
            if group.prompt.prompt_id not in self.budgets and bool(right.any()):
                self.budgets[group.prompt.prompt_id] = quantile(
                    lengths[right].tolist(), self._config.quantile
                )

    def save_to(self, directory: Path) -> None:
        """Write the budgets."""
        (directory / _FILE).write_text(json.dumps(self.budgets, sort_keys=True) + "\n", encoding="utf-8")

    def load_from(self, directory: Path) -> None:
        """Take over the budgets that `save_to` wrote."""
        self.budgets = json.loads((directory / _FILE).read_text(encoding="utf-8"))

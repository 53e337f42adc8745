"""Draws prompts: uniform, by curriculum, or by priority (Kimi k1.5, section 2.3.4)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from k15.algo.derive import derived_uniform
from k15.algo.sampling import (
    draw_without_replacement,
    hard_prompts,
    prioritized_weights,
    updated_success_rate,
)
from k15.config.rl import SamplerConfig
from k15.errors import ConfigDriftError, ConfigError, DataError
from k15.types import Prompt


class PromptSampler:
    """Draws prompts and keeps the table of success rates s_i.

    Every draw has an ordinal, unique and increasing in a run. What a draw picks depends on the seed,
    its ordinal, the table and the prompts it may not pick; so the table and the next ordinal are the
    whole state.

    s_i is the share of right answers at the first visit, and a moving average from the second on:
    s_i <- decay * s_i + (1 - decay) * share. A prompt never visited counts with the initial rate.
    """

    def __init__(self, config: SamplerConfig, prompts: Sequence[Prompt], seed: int) -> None:
        """Store the prompt set; s_i starts at `config.initial_success_rate`.

        Raises:
            DataError: there are no prompts, or two have the same id.
            ConfigError: no prompt is as difficult as the curriculum's hard ones.
        """
        self._config = config
        self._prompts = tuple(prompts)
        self._seed = seed
        self._index = {prompt.prompt_id: index for index, prompt in enumerate(self._prompts)}
        self._rates = np.full(len(self._prompts), config.initial_success_rate)
        self._visited_at: list[int | None] = [None] * len(self._prompts)
        self._next_ordinal = 0
        self._difficulties = np.array(
            [math.nan if p.difficulty is None else p.difficulty for p in self._prompts], dtype=np.float64
        )
        _check_prompts(self._prompts, len(self._index))
        _check_difficulties(config, self._difficulties)

    def draw(
        self, num_prompts: int, iteration: int, skip: Container[str] = frozenset()
    ) -> list[tuple[int, Prompt]]:
        """Up to `num_prompts` different prompts, each with its ordinal.

        Fewer come back when fewer may be drawn: the set is small, or after the switch few prompts
        have a weight. A prompt of weight zero is drawn only if *all* prompts have weight zero; then
        all have the same chance.

        Args:
            num_prompts: how many to draw; zero or less draws none.
            iteration: decides whether the strategy has been switched on.
            skip: ids that may not be drawn: those already in flight.
        """
        weights = self._weights(iteration)
        for index, prompt in enumerate(self._prompts):
            if prompt.prompt_id in skip:
                weights[index] = 0.0
        ordinals = range(self._next_ordinal, self._next_ordinal + max(num_prompts, 0))
        uniforms = [derived_uniform(self._seed, "draw", ordinal) for ordinal in ordinals]
        drawn = draw_without_replacement(weights, uniforms)
        self._next_ordinal += len(drawn)
        return [(ordinal, self._prompts[index]) for ordinal, index in zip(ordinals, drawn, strict=False)]

    def observe(self, prompt_ids: Sequence[str], success_rates: Sequence[float], iteration: int) -> None:
        """Update s_i of visited prompts with the share of right answers in their groups.

        Leave out a group without a valid verdict: it says nothing about its prompt.
        """
        for prompt_id, observed in zip(prompt_ids, success_rates, strict=True):
            assert 0.0 <= observed <= 1.0, f"a success rate lies in [0, 1]; {prompt_id} has {observed}"
            if prompt_id not in self._index:
                raise ConfigDriftError(
                    f"a graded group must be of the run's prompt set; prompt {prompt_id!r} is not. "
                    "Resume with the prompts the run was started with."
                )
            index = self._index[prompt_id]
            previous = None if self._visited_at[index] is None else float(self._rates[index])
            self._rates[index] = updated_success_rate(
                previous, float(observed), self._config.success_rate_decay
            )
            self._visited_at[index] = iteration

    @property
    def success_rates(self) -> Mapping[str, float]:
        """s_i of every prompt by id, in the order of the prompt set."""
        return dict(zip(self._index, self._rates.tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """The whole state as JSON values: the next ordinal, and s_i and last visit of every prompt."""
        return {
            "next_ordinal": self._next_ordinal,
            "content": self._content,
            "prompt_ids": list(self._index),
            "success_rates": self._rates.tolist(),
            "visited_at": list(self._visited_at),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state()` returned.

        Raises:
            ConfigDriftError: the state belongs to another prompt set; says which prompts differ.
        """
        saved_ids = state["prompt_ids"]
        difference = _difference(saved_ids, list(self._index), state["content"], self._content)
        if difference is not None:
            raise ConfigDriftError(
                f"a run resumes with the prompt set it was started with; the saved {len(saved_ids)} prompts "
                f"and the present {len(self._prompts)} differ: {difference}. "
                "Give the same prompts, or start a new run."
            )
        self._rates = np.array(state["success_rates"], dtype=np.float64)
        self._visited_at = list(state["visited_at"])
        self._next_ordinal = state["next_ordinal"]

    def save_to(self, directory: Path) -> None:
        """Write the state as `sampler.json`."""
        (directory / "sampler.json").write_text(json.dumps(self.state()))

    def load_from(self, directory: Path) -> None:
        """Go on from what `save_to` wrote."""
        self.restore(json.loads((directory / "sampler.json").read_text()))

    def _weights(self, iteration: int) -> np.ndarray:
        """Weight of each prompt under the strategy that holds in this iteration."""
        config = self._config
        if config.strategy == "uniform" or iteration < config.switch_iteration:
            return np.ones(len(self._prompts))
        if config.strategy == "prioritized":
            weights = prioritized_weights(self._rates, config.success_rate_floor)
        else:
            is_hard = hard_prompts(
                self._difficulties,
                self._rates,
                hard_difficulty=config.hard_difficulty,
                hard_success_rate=config.hard_success_rate,
            )
            weights = is_hard.astype(np.float64)
        return weights if weights.any() else np.ones(len(self._prompts))

    @cached_property
    def _content(self) -> str:
        """Digest of all that the prompts say, so that a changed question under an old id is noticed."""
        digest = hashlib.blake2b(digest_size=16)
        for p in self._prompts:
            digest.update(
                repr((p.prompt_id, p.question, p.answer, p.verifier, p.system, p.difficulty)).encode()
            )
        return digest.hexdigest()


def _difference(
    saved_ids: Sequence[str], own_ids: Sequence[str], saved_content: str, own_content: str
) -> str | None:
    """How two prompt sets differ, in words; None if they do not."""
    saved_set, own_set = set(saved_ids), set(own_ids)
    missing = _names([i for i in saved_ids if i not in own_set], "missing now")
    added = _names([i for i in own_ids if i not in saved_set], "new")
    if missing or added:
        return " and ".join(filter(None, (missing, added)))
    for position, (saved, own) in enumerate(zip(saved_ids, own_ids, strict=True)):
        if saved != own:
            return f"another order, from position {position} on: {saved!r} before, {own!r} now"
    if saved_content != own_content:
        return "the same ids, but another question, answer, verifier, system message or difficulty"
    return None


def _names(prompt_ids: Sequence[str], what: str) -> str:
    return f"{len(prompt_ids)} {what} (first: {prompt_ids[0]!r})" if prompt_ids else ""


def _check_prompts(prompts: Sequence[Prompt], num_ids: int) -> None:
    if not prompts:
        raise DataError(
            "a prompt set needs at least one prompt; got none. Check the prompts' file or families."
        )
    if num_ids < len(prompts):
        seen: set[str] = set()
        twice = next(p.prompt_id for p in prompts if p.prompt_id in seen or seen.add(p.prompt_id))
        raise DataError(f"prompt ids must be unique; {twice!r} stands twice. Remove or rename one.")


def _check_difficulties(config: SamplerConfig, difficulties: np.ndarray) -> None:
    threshold = config.hard_difficulty
    if config.strategy != "curriculum" or threshold is None or (difficulties >= threshold).any():
        return
    labels = difficulties[~np.isnan(difficulties)]
    found = f"the most difficult has {labels.max():g}" if labels.size else "none has a label"
    raise ConfigError(
        f"sampling.hard_difficulty must leave the curriculum some hard prompts; got {threshold:g}, "
        f"but {found}. Lower it, or unset it to go by success rates."
    )

"""Long-CoT demonstrations for the warm-up, and rejection sampling (sections 2.2 and 2.5.2).

The paper keeps only thoughts whose answer is verified. `keep` says what we keep:

- "all" (default for the warm-up): wrong ones too, as they come. The paper starts from a pretrained model,
  which brings failures of its own; a tiny one made from scratch knows only what it is shown. Honest
  failures in the thoughts are what reinforcement learning then has to remove. Their share is counted.
- "verified": only right ones (rejection sampling; what was drawn and dropped is counted).
- "long_cot": the paper's warm-up set: right, at least twice as many words as the terse solution, and
  showing planning, evaluation, reflection and exploration.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from k15.errors import ConfigError
from k15.tasks.base import Family, Problem, Split
from k15.tasks.behaviours import BEHAVIOURS, behaviours
from k15.tasks.reply import thought_of
from k15.tasks.style import DemonstrationStyle
from k15.types import Outcome, Verdict

Keep = Literal["all", "verified", "long_cot"]

LONG_RATIO = 2.0
"""A long thought has at least so many times the words of the terse one."""
DRAWS_PER_PROBLEM = 16
"""Demonstrations drawn of one problem before it is passed over."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A question with a worked completion, and what the verifier says of it."""

    question: str
    completion: str
    level: int
    key: str
    verdict: Verdict

    @property
    def is_right(self) -> bool:
        return self.verdict.outcome is Outcome.RIGHT


@dataclass(frozen=True, slots=True)
class DemonstrationSet:
    """Demonstrations that were kept, and the count of those that were not.

    Attributes:
        demonstrations: what was kept, in a fixed order.
        num_drawn: demonstrations written, kept or not.
        num_wrong: dropped because the verifier did not find them right.
        num_not_long_cot: right, but dropped as too short or without one of the four behaviours.
        num_passed_over: problems of which no demonstration was kept.
    """

    demonstrations: tuple[Demonstration, ...]
    num_drawn: int
    num_wrong: int = 0
    num_not_long_cot: int = 0
    num_passed_over: int = 0

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(question, completion) of each, for fine-tuning."""
        return [(d.question, d.completion) for d in self.demonstrations]

    @property
    def share_right(self) -> float:
        """Share of the kept ones that are right."""
        return sum(d.is_right for d in self.demonstrations) / len(self.demonstrations)


def build_demonstrations(
    family: Family,
    *,
    levels: Sequence[int],
    count: int,
    seed: int,
    style: Literal["long", "short"] = "long",
    split: Split = "train",
    keep: Keep = "all",
    habits: DemonstrationStyle | None = None,
) -> DemonstrationSet:
    """`count` demonstrations, the levels taking turns. Same arguments, same set.

    When the problems of a level run out, they come round again with other demonstrations.

    Args:
        family: whose problems, solver and verifier.
        levels: difficulty levels, in equal shares.
        count: demonstrations to keep.
        seed: decides the order of the problems and every choice of a demonstration.
        style: "long" demonstrations, or the "short" terse solutions, which are always right.
        split: the warm-up learns from "train".
        keep: which demonstrations are kept; see above. "long_cot" goes with "long" only.
        habits: how long demonstrations fail and ramble; None takes the family's.

    Raises:
        ConfigError: a level is unknown, or hardly any demonstration passes the filter.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1; got {count}")
    if keep == "long_cot" and style == "short":
        raise ConfigError('keep = "long_cot" needs style = "long": a terse solution shows no search')
    kept: list[Demonstration] = []
    drawn = wrong = not_long_cot = passed_over = turn = 0
    while len(kept) < count:
        problem = _problem_at(family, levels, seed, turn, split)
        for draw in range(DRAWS_PER_PROBLEM):
            rng = random.Random(f"{family.name}/{seed}/{split}/{turn}/{draw}")
            demonstration = _demonstrate(family, problem, rng, style, habits)
            drawn += 1
            if keep == "all" or demonstration.is_right:
                if keep != "long_cot" or _is_long_cot(demonstration, family.solve_briefly(problem)):
                    kept.append(demonstration)
                    break
                not_long_cot += 1
            else:
                wrong += 1
        else:
            passed_over += 1
        turn += 1
        if turn >= 100 + 20 * count:
            raise ConfigError(
                f'keep = "{keep}" kept {len(kept)} demonstrations of {family.name} out of {drawn} drawn; '
                f'{count} were asked for. Lower give_up and slip of the habits, or keep "all".'
            )
    return DemonstrationSet(tuple(kept), drawn, wrong, not_long_cot, passed_over)


def _problem_at(family: Family, levels: Sequence[int], seed: int, turn: int, split: Split) -> Problem:
    level = levels[turn % len(levels)]
    index = (turn // len(levels)) % family.size(level, split)
    return family.problem(seed, level, index, split)


def _demonstrate(
    family: Family,
    problem: Problem,
    rng: random.Random,
    style: Literal["long", "short"],
    habits: DemonstrationStyle | None,
) -> Demonstration:
    is_short = style == "short"
    completion = (
        family.solve_briefly(problem) if is_short else family.demonstrate(problem, rng, style=habits)
    )
    verdict = family.verify(problem.question, problem.answer, completion)
    return Demonstration(problem.question, completion, problem.level, problem.key, verdict)


def _is_long_cot(demonstration: Demonstration, brief: str) -> bool:
    """Long beside the terse solution, with all four behaviours (row 6 of the paper's checklist)."""
    thought = thought_of(demonstration.completion)
    is_long = len(_WORD.findall(thought)) >= LONG_RATIO * len(_WORD.findall(thought_of(brief)))
    return is_long and behaviours(thought) >= BEHAVIOURS

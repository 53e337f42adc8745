"""What a family of generated problems is: a finite set of problems, a split, a solver, a verifier.

A family describes each problem by a small tuple of integers, its spec. The specs of a level are
enumerated once; a seed only decides the order in which they are dealt out. So problems never repeat,
their number is known, and asking for more is an error. A hash of the spec's *core* (what the problem
comes down to) decides between train and held-out, whatever the seed: the two never share a core.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import ClassVar, Literal

from k15.errors import ConfigError
from k15.tasks.reply import extract_answer
from k15.tasks.style import DemonstrationStyle
from k15.types import Outcome, Verdict

Split = Literal["train", "heldout"]
Spec = tuple[int, ...]

HELDOUT_EVERY = 4
"""One core in so many is held out."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A generated problem.

    Attributes:
        question: what the user asks.
        answer: one right answer; a family's verifier may accept others.
        level: difficulty, from 1.
        key: names the problem's content; equal keys mean equal problems.
    """

    question: str
    answer: str
    level: int
    key: str


class Family(ABC):
    """Problems of one kind. An instance keeps only caches: everything follows from its arguments."""

    name: ClassVar[str]
    levels: ClassVar[tuple[int, ...]]
    style: ClassVar[DemonstrationStyle]
    """How demonstrations fail and ramble when no other style is given."""

    def __init__(self) -> None:
        self._pools: dict[tuple[int, Split], list[Spec]] = {}
        self._orders: dict[tuple[int, int, Split], list[Spec]] = {}

    @abstractmethod
    def specs(self, level: int) -> Sequence[Spec]:
        """All problems of a level, each once, in a fixed order."""

    @abstractmethod
    def core(self, spec: Spec) -> Spec:
        """What the problem comes down to; problems of one core fall into the same split."""

    @abstractmethod
    def build(self, spec: Spec, level: int) -> Problem:
        """The problem in words, with its answer."""

    @abstractmethod
    def demonstrate(
        self, problem: Problem, rng: random.Random, *, style: DemonstrationStyle | None = None
    ) -> str:
        """A long chain-of-thought completion, with honest failures; None takes the family's style."""

    @abstractmethod
    def solve_briefly(self, problem: Problem) -> str:
        """The terse right completion: no trial, no failure, no comment."""

    @abstractmethod
    def judge(self, question: str, answer: str, given: str) -> Verdict:
        """The verdict on an answer that was found in a reply."""

    def weight(self, spec: Spec, level: int) -> float:
        """How early a problem tends to be dealt out, relative to others of its level."""
        return 1.0

    def verify(self, problem_question: str, answer: str, reply: str) -> Verdict:
        """Right, wrong, no answer, or our fault when the question is not one of this family.

        Judges the last "Answer: X" after the last `</think>`; see `extract_answer`. Never raises.
        """
        found = extract_answer(reply)
        if not found.answer:
            return Verdict(Outcome.NO_ANSWER, found.reason)
        return replace(self.judge(problem_question, answer, found.answer), span=found.span)

    def size(self, level: int, split: Split) -> int:
        """How many distinct problems a level has."""
        return len(self._pool(level, split))

    def problem(self, seed: int, level: int, index: int, split: Split) -> Problem:
        """The problem dealt out at place `index`. Same arguments, same problem.

        Raises:
            ConfigError: no such level or split, or the level has no more problems.
        """
        order = self._order(seed, level, split)
        if not 0 <= index < len(order):
            raise ConfigError(
                f"{self.name}, level {level}, has {len(order)} distinct {split} problems; number {index + 1} "
                "was asked for. Ask for fewer, or spread them over more levels."
            )
        return self.build(order[index], level)

    def problems(self, seed: int, levels: Sequence[int], count: int, split: Split) -> list[Problem]:
        """`count` distinct problems, the levels taking turns. A shorter list is a prefix of a longer one.

        Raises:
            ConfigError: a level is unknown or given twice, or has too few problems.
        """
        if not levels or len(set(levels)) != len(levels):
            raise ConfigError(f"levels must name each level once, and at least one; got {tuple(levels)}")
        turns = len(levels)
        return [self.problem(seed, levels[i % turns], i // turns, split) for i in range(count)]

    def _pool(self, level: int, split: Split) -> list[Spec]:
        if level not in self.levels:
            raise ConfigError(f"{self.name} has the levels {self.levels}; got {level}")
        if split not in ("train", "heldout"):
            raise ConfigError(f'split must be "train" or "heldout"; got {split!r}')
        if (level, split) not in self._pools:
            self._pools[level, "train"], self._pools[level, "heldout"] = [], []
            for spec in self.specs(level):
                self._pools[level, self._split_of(spec)].append(spec)
        return self._pools[level, split]

    def _split_of(self, spec: Spec) -> Split:
        text = f"{self.name}/{','.join(map(str, self.core(spec)))}"
        digest = blake2b(text.encode(), digest_size=8).digest()
        return "heldout" if int.from_bytes(digest, "big") % HELDOUT_EVERY == 0 else "train"

    def _order(self, seed: int, level: int, split: Split) -> list[Spec]:
        """The pool in the order of a draw without replacement, in proportion to the weights."""
        if (seed, level, split) not in self._orders:
            pool = self._pool(level, split)
            rng = random.Random(f"{self.name}/{seed}/{level}/{split}")
            waits = [-math.log(1.0 - rng.random()) / self.weight(spec, level) for spec in pool]
            ranks = sorted(range(len(pool)), key=lambda i: (waits[i], i))
            self._orders[seed, level, split] = [pool[i] for i in ranks]
        return self._orders[seed, level, split]


def judge_integer(given: str) -> int | None:
    """The integer that an answer is, or None: ASCII digits only, at most nine of them."""
    return int(given) if given.isascii() and given.isdigit() and len(given) <= 9 else None

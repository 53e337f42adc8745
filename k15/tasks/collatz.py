"""A walk in the manner of Collatz, whose length nobody knows before walking it.

An even number is halved; to an odd one a constant is added, then it is halved. For the constants used
here the walk runs through all numbers below the constant and comes back, so every target is reached
after 1 to 81 steps. Few walks are long: lengths are heavy-tailed, which makes partial rollouts matter.
Each step is a look-up in a table with one row a number: 323 rows for all constants together.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from k15.errors import DataError
from k15.tasks.base import Family, Problem, Spec, judge_integer
from k15.tasks.reply import format_completion
from k15.tasks.style import DemonstrationStyle
from k15.types import Outcome, Verdict

CONSTANTS = (53, 59, 61, 67, 83)
"""Primes below 100 with 2 as a primitive root: halving modulo one of them is a single cycle."""
LENGTH_SCALES = {1: 3.0, 2: 8.0, 3: 20.0}
"""Scale of each level's Lomax (shifted Pareto) distribution of walk lengths, in steps."""
TAIL_EXPONENT = 2.5
LONGEST_RECOUNT = 30
"""Steps; nobody walks a longer way twice."""

_QUESTION = re.compile(
    r"Start at ([0-9]{1,2})\. Halve an even number; add ([0-9]{2}) to an odd one, then halve\. "
    r"How many steps to reach ([0-9]{1,2})\?"
)


@dataclass(frozen=True, slots=True)
class _Walk:
    start: int
    constant: int
    target: int

    def next(self, number: int) -> int:
        return (number if number % 2 == 0 else number + self.constant) // 2


class CollatzFamily(Family):
    """Count the steps to a target. A level is a scale of lengths; each level has a long tail."""

    name = "collatz"
    levels = (1, 2, 3)
    style = DemonstrationStyle(give_up=0.01, slip=0.004, wordy=0.3, notice=0.5)

    def specs(self, level: int) -> Sequence[Spec]:
        """(constant, start, number of steps); every third problem belongs to the level."""
        every = [
            (c, start, steps) for c in CONSTANTS for start in range(1, c) for steps in range(1, c - 1)
        ]
        return [spec for spec in every if sum(spec) % len(self.levels) == level - 1]

    def core(self, spec: Spec) -> Spec:
        return spec

    def weight(self, spec: Spec, level: int) -> float:
        return (1.0 + spec[2] / LENGTH_SCALES[level]) ** -TAIL_EXPONENT

    def build(self, spec: Spec, level: int) -> Problem:
        constant, start, steps = spec
        walk = _Walk(start, constant, 0)
        target = start
        for _ in range(steps):
            target = walk.next(target)
        question = (
            f"Start at {start}. Halve an even number; add {constant} to an odd one, then halve. "
            f"How many steps to reach {target}?"
        )
        return Problem(question, str(steps), level, f"collatz:{constant}:{start}:{target}")

    def demonstrate(
        self, problem: Problem, rng: random.Random, *, style: DemonstrationStyle | None = None
    ) -> str:
        style = self.style if style is None else style
        walk = _walk_of(problem)
        wordy = rng.random() < style.wordy
        lines = [f"Plan: apply the rule and count until {walk.target}"]
        steps = _write_walk(walk, lines, rng, style)
        if wordy and steps is not None and steps <= LONGEST_RECOUNT:
            lines.append(f"Wait, let me check, try again from {walk.start}")
            steps = _write_walk(walk, lines, rng, style)
        if steps is None:
            lines.append("I give up, guess")
            steps = rng.randrange(1, walk.constant - 1)
        return format_completion("\n".join(lines), str(steps))

    def solve_briefly(self, problem: Problem) -> str:
        """The numbers alone, from the start to the target."""
        walk = _walk_of(problem)
        numbers = [walk.start]
        while numbers[-1] != walk.target:
            numbers.append(walk.next(numbers[-1]))
        return format_completion("walk " + ", ".join(map(str, numbers)), str(len(numbers) - 1))

    def judge(self, question: str, answer: str, given: str) -> Verdict:
        """Walks itself: the reference answer is not needed."""
        walk = _parse(question)
        if walk is None:
            return Verdict(Outcome.FAULT, "the question is not one of the family collatz", given)
        steps = judge_integer(given)
        if steps is None:
            return Verdict(Outcome.WRONG, "the answer is not a whole number", given)
        if steps != _count(walk):
            return Verdict(Outcome.WRONG, f"it takes {_count(walk)} steps, not {steps}", given)
        return Verdict(Outcome.RIGHT, "", given)


def _write_walk(
    walk: _Walk, lines: list[str], rng: random.Random, style: DemonstrationStyle
) -> int | None:
    """Append one line a step. The steps it took to the target, or None after giving up."""
    number = walk.start
    for step in range(1, walk.constant):  # an honest walk is back at its start by then
        before, number = number, walk.next(number)
        if rng.random() < style.slip:
            slipped = rng.choice([n for n in range(1, walk.constant) if n != number])
            if rng.random() < style.notice:
                lines.append(f"step {step}: {before} -> {slipped}")
                lines.append(f"Wait, {slipped} is wrong, try again")
            else:
                number = slipped
        hit = number == walk.target
        lines.append(f"step {step}: {before} -> {number}{', yes' if hit else ''}")
        if hit:
            return step
        if rng.random() < style.give_up:
            return None
    return None


def _count(walk: _Walk) -> int:
    number, steps = walk.next(walk.start), 1
    while number != walk.target:
        number, steps = walk.next(number), steps + 1
    return steps


def _walk_of(problem: Problem) -> _Walk:
    walk = _parse(problem.question)
    if walk is None:
        raise DataError(f"the family collatz solves its own questions only; got {problem.question!r}")
    return walk


def _parse(question: str) -> _Walk | None:
    """The walk of a question, or None if it is not one of ours (its target might never be reached)."""
    found = _QUESTION.fullmatch(question)
    if found is None:
        return None
    start, constant, target = (int(group) for group in found.groups())
    if constant not in CONSTANTS or not (
        0 < start < constant and 0 < target < constant and start != target
    ):
        return None
    return _Walk(start, constant, target)

"""Search by trial: find a digit k for which b + k * a ends in c.

The plan takes the last digits of c and b: what b lacks to c. Each trial k = 1, 2, 3, ... takes away the
last digit of a from that; at 0, k is found, at the trial that the level says. Every step is a
subtraction of digits whose operands stand beside it (a table of 100 entries), and the verdict is a look
at one number: tiny models learn this in a minute, and did not when the operands stood further off. The
longer one searches the more often one is right, which is what reinforcement learning has to find out.
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

_QUESTION = re.compile(r"Find a digit k so that ([0-9]{2}) \+ k \* ([0-9]{2}) ends in ([0-9])\.")
_TRIALS = {1: range(1, 3), 2: range(3, 6), 3: range(6, 10)}


@dataclass(frozen=True, slots=True)
class _Search:
    start: int  # b
    step: int  # a
    target: int  # c

    def distance(self, k: int) -> int:
        """What the last digit of b + k * a still lacks to c, from 0 to 9."""
        return (self.target - self.start - k * self.step) % 10


class TrialFamily(Family):
    """Find k by trying. Level 1 needs 1 or 2 trials, level 2 needs 3 to 5, level 3 needs 6 to 9."""

    name = "trial"
    levels = (1, 2, 3)
    style = DemonstrationStyle(give_up=0.3, slip=0.02, wordy=0.7)

    def specs(self, level: int) -> Sequence[Spec]:
        """(b, a, c) with b and a from 10 to 99; the first trial that hits belongs to the level."""
        digits = range(10)
        hits = {(b, a, c): _first_hit(_Search(b, a, c)) for b in digits for a in digits for c in digits}
        return [
            (b, a, c)
            for b in range(10, 100)
            for a in range(10, 100)
            for c in digits
            if hits[b % 10, a % 10, c] in _TRIALS[level]
        ]

    def core(self, spec: Spec) -> Spec:
        """The last digits: who sees through them knows 47 + k * 23 and 87 + k * 53 as one problem."""
        b, a, c = spec
        return (b % 10, a % 10, c)

    def build(self, spec: Spec, level: int) -> Problem:
        b, a, c = spec
        question = f"Find a digit k so that {b} + k * {a} ends in {c}."
        return Problem(question, str(_first_hit(_Search(b, a, c))), level, f"trial:{b}:{a}:{c}")

    def demonstrate(
        self, problem: Problem, rng: random.Random, *, style: DemonstrationStyle | None = None
    ) -> str:
        style = self.style if style is None else style
        search = _search_of(problem)
        step, distance = search.step % 10, search.distance(0)
        wordy = rng.random() < style.wordy
        lines = [f"Plan: {search.target} - {search.start % 10} = {distance}, step {step}"]
        if wordy:
            lines.append("Let me check each step")
        for k in range(1, 10):
            before, distance = distance, (distance - step) % 10
            if rng.random() < style.slip:
                distance = (distance + rng.randrange(1, 10)) % 10
            lines.append(_trial_line(k, before, step, distance, wordy))
            if distance == 0:
                return format_completion("\n".join(lines), str(k))
            if rng.random() < style.give_up:
                lines.append("I give up, guess")
                break
        else:
            lines.append("None fits, guess")
        return format_completion("\n".join(lines), str(rng.randrange(1, 10)))

    def solve_briefly(self, problem: Problem) -> str:
        """The distances alone, down to 0."""
        search = _search_of(problem)
        distances = [str(search.distance(k)) for k in range(int(problem.answer) + 1)]
        return format_completion("down " + ", ".join(distances), problem.answer)

    def judge(self, question: str, answer: str, given: str) -> Verdict:
        """Right is every digit that fits, not only the first one."""
        search = _parse(question)
        if search is None:
            return Verdict(Outcome.FAULT, "the question is not one of the family trial", given)
        k = judge_integer(given)
        if k is None or k > 9:
            return Verdict(Outcome.WRONG, "the answer is not a digit", given)
        if search.distance(k) != 0:
            last = (search.start + k * search.step) % 10
            return Verdict(Outcome.WRONG, f"with k = {k} it ends in {last}, not {search.target}", given)
        return Verdict(Outcome.RIGHT, "", given)


def _trial_line(k: int, before: int, step: int, distance: int, wordy: bool) -> str:
    hit = distance == 0
    line = f"try {k}: {before} - {step} = {distance}"
    if wordy:
        return f"{line}, check {before} - {step} = {distance}, {'yes' if hit else 'no'}"
    return f"{line}, yes" if hit else line


def _search_of(problem: Problem) -> _Search:
    search = _parse(problem.question)
    if search is None:
        raise DataError(f"the family trial solves its own questions only; got {problem.question!r}")
    return search


def _parse(question: str) -> _Search | None:
    found = _QUESTION.fullmatch(question)
    return _Search(*(int(group) for group in found.groups())) if found else None


def _first_hit(search: _Search) -> int | None:
    """The first k from 1 to 9 that fits. None if there is none, or if k = 0 fits already."""
    if search.distance(0) == 0:
        return None
    return next((k for k in range(1, 10) if search.distance(k) == 0), None)

"""Countdown: combine a few numbers to reach a target.

One tries a combination, writes each step and how far the result is off, and tries another. Writing the
distance instead of a mere no tells where to look next. Three numbers from 1 to 12 on levels 1 and 2,
four from 1 to 9 on level 3.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

from k15.errors import DataError
from k15.tasks.base import Family, Problem, Spec
from k15.tasks.expressions import (
    LARGEST,
    ExpressionError,
    Term,
    combine,
    find_expression,
    join,
    parse_expression,
    reachable,
)
from k15.tasks.reply import format_completion
from k15.tasks.style import DemonstrationStyle
from k15.types import Outcome, Verdict

MAX_ATTEMPTS = 16
"""A demonstration that has tried so often gives up."""
_DRAWS = 8  # combinations thought of, of which the nearer ones are likelier to be written down
_DISTANCE_OFFSET = 1.0  # weight 1 / (distance + offset)
_SIGNS = "+-*/"

_QUESTION = re.compile(
    r"Make ([0-9]{1,2}) from ((?:[0-9]{1,2}, ){1,2}[0-9]{1,2} and [0-9]{1,2})\. Use each number once, with \+ - \* /\."
)


@dataclass(frozen=True, slots=True)
class _Task:
    numbers: tuple[int, ...]
    target: int


class CountdownFamily(Family):
    """Levels: 1 adding and subtracting will do, 2 it takes * or /, 3 four numbers."""

    name = "countdown"
    levels = (1, 2, 3)
    style = DemonstrationStyle(give_up=0.2, slip=0.01, wordy=0.3)

    def specs(self, level: int) -> Sequence[Spec]:
        """(target, numbers in ascending order), the target from 1 to 99."""
        largest, count = (9, 4) if level == 3 else (12, 3)
        return [
            (target, *numbers)
            for numbers in combinations_with_replacement(range(1, largest + 1), count)
            for target in sorted(reachable(numbers))
            if level == 3 or (target in reachable(numbers, "+-")) == (level == 1)
        ]

    def core(self, spec: Spec) -> Spec:
        return spec

    def build(self, spec: Spec, level: int) -> Problem:
        target, numbers = spec[0], spec[1:]
        listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
        question = f"Make {target} from {listed}. Use each number once, with + - * /."
        key = f"countdown:{target}:{'.'.join(map(str, numbers))}"
        return Problem(question, _solution(_Task(numbers, target)).text, level, key)

    def demonstrate(
        self, problem: Problem, rng: random.Random, *, style: DemonstrationStyle | None = None
    ) -> str:
        style = self.style if style is None else style
        task = _task_of(problem)
        wordy = rng.random() < style.wordy
        lines = [f"Plan: combine {', '.join(map(str, task.numbers))} until {task.target}"]
        if wordy:
            lines.append("Let me check each step")
        tried: set[str] = set()
        for number in itertools.count(1):
            attempt = _slip(_next_attempt(task, tried, rng), style.slip, rng)
            tried.add(attempt.text)
            distance = abs(attempt.value - task.target)
            lines.append(_attempt_line(attempt, distance, wordy))
            if distance == 0:
                return format_completion("\n".join(lines), attempt.text)
            if number == MAX_ATTEMPTS or rng.random() < style.give_up:
                lines.append("I give up, guess")
                return format_completion("\n".join(lines), attempt.text)
        raise AssertionError("counting never ends")

    def solve_briefly(self, problem: Problem) -> str:
        """The answer's steps, without trial or comment."""
        task = _task_of(problem)
        solution = _solution(task)
        return format_completion("use " + ", ".join(solution.steps), solution.text)

    def judge(self, question: str, answer: str, given: str) -> Verdict:
        """Right is every expression with the target's exact value that uses each number exactly once."""
        task = _parse(question)
        if task is None:
            return Verdict(Outcome.FAULT, "the question is not one of the family countdown", given)
        try:
            expression = parse_expression(given)
        except ExpressionError as error:
            return Verdict(Outcome.WRONG, f"not an expression: {error}", given)
        if sorted(expression.numbers) != sorted(task.numbers):
            return Verdict(Outcome.WRONG, "it does not use each number exactly once", given)
        if expression.value != task.target:
            return Verdict(Outcome.WRONG, f"its value is {expression.value}, not {task.target}", given)
        return Verdict(Outcome.RIGHT, "", given)


def _next_attempt(task: _Task, tried: set[str], rng: random.Random) -> Term:
    """One of a few random combinations, likelier the nearer it comes; an old one only if all are old."""
    drawn = [_random_combination(task.numbers, rng) for _ in range(_DRAWS)]
    fresh = [term for term in drawn if term.text not in tried] or drawn
    weights = [1.0 / (abs(term.value - task.target) + _DISTANCE_OFFSET) for term in fresh]
    return rng.choices(fresh, weights)[0]


def _random_combination(numbers: Sequence[int], rng: random.Random) -> Term:
    terms = [Term(number, str(number)) for number in numbers]
    while len(terms) > 1:
        left, right = rng.sample(terms, 2)
        sign = rng.choice(_SIGNS)
        value = combine(left.value, sign, right.value)
        if value is not None:  # one sign always fits: / for equal values, - or its reverse for others
            terms.remove(left)
            terms.remove(right)
            terms.append(join(left, sign, right, value))
    return terms[0]


def _slip(term: Term, probability: float, rng: random.Random) -> Term:
    """The same term, its last result wrong with that probability."""
    if rng.random() >= probability:
        return term
    wrong = rng.choice(
        [v for v in range(term.value - 3, term.value + 4) if v != term.value and 1 <= v <= LARGEST]
    )
    last = term.steps[-1].rpartition(" ")[0] + f" {wrong}"
    return Term(wrong, term.text, (*term.steps[:-1], last))


def _attempt_line(attempt: Term, distance: int, wordy: bool) -> str:
    steps = [f"{step}, check {step}" if wordy else step for step in attempt.steps]
    return f"try {', '.join(steps)}, {'yes' if distance == 0 else f'off by {distance}'}"


def _solution(task: _Task) -> Term:
    found = find_expression(task.numbers, task.target)
    assert found is not None, f"{task.target} cannot be made from {task.numbers}"
    return found


def _task_of(problem: Problem) -> _Task:
    task = _parse(problem.question)
    if task is None:
        raise DataError(f"the family countdown solves its own questions only; got {problem.question!r}")
    return task


def _parse(question: str) -> _Task | None:
    found = _QUESTION.fullmatch(question)
    if found is None:
        return None
    numbers = tuple(int(n) for n in re.findall("[0-9]+", found[2]))
    return _Task(numbers, int(found[1]))

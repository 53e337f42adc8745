"""The auditor for generated problems: reads question and reply anew and computes the answer in its own way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

from k15.rewards.strict_formula import UnreadableError, read_formula
from k15.types import Audit

_MAX_STEPS = 10_000
_NO_SUM = re.compile(  # two numbers side by side, a sign before a number, or a product without its sign
    r"[0-9] +[0-9]|[-+*/(] *[-+]|^ *[-+]|[0-9)] *\(|\) *[0-9]"
)


def audit_task(family: str, question: str, reply: str) -> Audit | None:
    """What the second grader says of a reply to a generated problem; None for a family it does not know."""
    check = _CHECKS.get(family)
    if check is None:
        return None
    numbers = [int(n) for n in re.findall(r"[0-9]+", question)]
    lines = reply[reply.rfind("</think>") + 8 :].strip().split("\n") if "</think>" in reply else []
    last = lines[-1] if lines else ""
    if "Answer:" not in last:
        return Audit.WRONG
    answer = last[last.rfind("Answer:") + 7 :].strip()
    try:
        return Audit.RIGHT if check(numbers, answer) else Audit.WRONG
    except (UnreadableError, IndexError, ZeroDivisionError):
        return Audit.UNSURE


def _is_trial_right(numbers: list[int], answer: str) -> bool:
    start, step, ending = numbers
    return bool(re.fullmatch("0{0,8}[0-9]", answer)) and str(start + int(answer) * step).endswith(
        str(ending)
    )


def _is_collatz_right(numbers: list[int], answer: str) -> bool:
    value, added, target = numbers
    for count in range(_MAX_STEPS):
        if count > 0 and value == target:
            return answer.isdigit() and answer.isascii() and answer.lstrip("0") == str(count)
        value = (value + added * (value % 2)) // 2
    raise UnreadableError


def _is_countdown_right(numbers: list[int], answer: str) -> bool:
    target, *given = numbers
    if _NO_SUM.search(answer) or not re.fullmatch(r"[-0-9+*/() ]{1,80}", answer):
        return False
    if Counter(map(int, re.findall("[0-9]+", answer))) != Counter(given):
        return False
    return read_formula(answer).at({}) == Fraction(target)


_CHECKS: dict[str, Callable[[list[int], str], bool]] = {
    "trial": _is_trial_right,
    "collatz": _is_collatz_right,
    "countdown": _is_countdown_right,
}

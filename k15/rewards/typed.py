r"""Judging by the rules that a row of data sets (`AnswerRules`): its type, its precision, what must also agree.

Without rules this is `compare`. Each type either brings gold and answer into a form that `compare` judges, or has
a reader of its own (`quantity`, `choice`, `intervals`). What a rule requires beyond the value is looked at first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from k15.rewards.choice import compare_choices
from k15.rewards.compare import RIGHT, WRONG, Equal, Match, bare_value, compare, has_base
from k15.rewards.intervals import read_set
from k15.rewards.notation import is_enclosed, key, normalise, split_top
from k15.rewards.quantity import compare_quantities, read_quantity
from k15.rewards.words import is_prose, word_key
from k15.types import DEFAULT_RULES, AnswerKind, AnswerRules, Outcome

_WORD = r"(?:\b(?:and|or)\b|\\text\{\s*(?:and|or)\s*\})"
_SEPARATOR = re.compile(rf"\s*(?:[,;]\s*{_WORD}?|{_WORD})\s*")
_BRACKETS = (("(", ")"), ("[", "]"), (r"\{", r"\}"), (r"\langle", r"\rangle"))
_AROUND = {AnswerKind.LIST: "{}", AnswerKind.SET: r"\{{{}\}}", AnswerKind.TUPLE: "({})"}
_FRACTION = re.compile(
    r"\\frac\{\s*(-?[0-9]+)\s*\}\{\s*(-?[0-9]+)\s*\}|(?<![0-9./])(-?[0-9]+)\s*/\s*([0-9]+)(?![0-9./])"
)
_LOG = re.compile(r"\\log(?![a-zA-Z])(?!\s*_)")


@dataclass(frozen=True, slots=True)
class Formulas:
    """What only Math-Verify can tell of formulas in LaTeX.

    Attributes:
        equal: whether two are equal.
        value: a real number's value to some forty digits; None if it is none.
    """

    equal: Equal
    value: Callable[[str], Fraction | None]


def compare_by_rules(gold: str, answer: str, rules: AnswerRules, formulas: Formulas) -> Match:
    """Judge an answer by the gold answer, or any other that the rules accept (as written, without the box)."""
    if rules == DEFAULT_RULES:
        return compare(gold, answer, formulas.equal)
    first = _compare_one(gold, answer, rules, formulas)
    for accepted in rules.accept:
        if first.outcome in (Outcome.RIGHT, Outcome.FAULT):
            break
        if _compare_one(accepted, answer, rules, formulas).outcome is Outcome.RIGHT:
            return Match(Outcome.RIGHT, "equal to an answer that the row accepts")
    return first


def _compare_one(gold: str, answer: str, rules: AnswerRules, formulas: Formulas) -> Match:
    if rules.log is not None:
        written = {"e": r"\\ln ", "10": r"\\log_{10} "}[rules.log]
        gold, answer = (_LOG.sub(written, normalise(side)) for side in (gold, answer))
    if rules.kind is AnswerKind.CHOICE:
        return compare_choices(gold, answer, rules.choices)
    if rules.kind is AnswerKind.TEXT:
        return _compare_texts(gold, answer, rules)
    if missing := _missing(gold, answer, rules):
        return Match(Outcome.WRONG, missing)
    if rules.kind is AnswerKind.NUMBER:
        return compare_quantities(gold, answer, rules, formulas.equal, formulas.value)
    if rules.kind in _AROUND:
        return _compare_elements(gold, answer, rules, formulas.equal)
    if rules.kind is AnswerKind.INTERVAL:
        left = read_set(gold, formulas.value)
        right = None if left is None else read_set(answer, formulas.value)
        if left is not None and right is not None:
            return RIGHT if left == right else Match(Outcome.WRONG, "not the same set of numbers")
    if "order" in rules.require and len(_elements(gold)) > 1:
        return _compare_elements(gold, answer, rules, formulas.equal)
    return compare(gold, answer, formulas.equal)


def _missing(gold: str, answer: str, rules: AnswerRules) -> str:
    """What the row requires and the answer lacks; "" if nothing."""
    plain_gold, plain = normalise(gold), normalise(answer)
    if "percent" in rules.require and ("%" in plain_gold) != ("%" in plain):
        return "the percent sign is on one side only"
    if "base" in rules.require and has_base(plain_gold) and not has_base(plain):
        return "the base of the numeral is missing"
    if "reduced" in rules.require and (fraction := _unreduced(plain)):
        return f"{fraction} is not in lowest terms"
    if "unit" in rules.require and rules.kind is not AnswerKind.NUMBER:
        unit = read_quantity(gold).unit
        if unit is not None and read_quantity(answer).unit != unit:
            return "not the unit of the gold answer"
    if "case" in rules.require and is_prose(plain_gold) and _cased(plain_gold) != _cased(plain):
        return "not the case of the gold answer"
    return ""


def _unreduced(text: str) -> str:
    for found in _FRACTION.finditer(text):
        top, bottom = (int(n) for n in (found[1] or found[3], found[2] or found[4]))
        if math.gcd(top, bottom) != 1 or bottom <= 1:
            return found[0]
    return ""


def _cased(text: str) -> str:
    return re.sub(r"\\text\s*\{([^{}]*)\}|[\s.,'\"*]", r"\1", text)


def _compare_elements(gold: str, answer: str, rules: AnswerRules, equal: Equal) -> Match:
    """Lists, sets and tuples: the brackets that are written do not count, the rule says what order means."""
    left, right = _elements(gold), _elements(answer)
    if not left:
        return Match(Outcome.FAULT, "the gold answer has no elements; correct the row or its type")
    is_ordered = rules.kind is AnswerKind.TUPLE or "order" in rules.require
    if not is_ordered or len(left) == len(right) == 1:
        around = _AROUND.get(rules.kind, "{}")
        return compare(around.format(", ".join(left)), around.format(", ".join(right)), equal)
    if len(left) != len(right):
        return Match(Outcome.WRONG, f"{len(right)} values against {len(left)}")
    match = all(compare(g, a, equal).outcome is Outcome.RIGHT for g, a in zip(left, right, strict=True))
    return RIGHT if match else Match(Outcome.WRONG, "not the same values in the same order")


def _elements(text: str) -> list[str]:
    """The elements between the outer brackets, or of a bare list with commas, "and" or "or"."""
    spaced = re.sub(
        r"(?<=[0-9]),(?=[0-9])", ", ", re.sub(r"\{,\}", ",", text)
    )  # in a list 1,234 is two numbers
    plain = bare_value(normalise(spaced))
    for opening, closing in _BRACKETS:
        if is_enclosed(plain, opening, closing):
            plain = plain[len(opening) : -len(closing)].strip()
            break
    return [element for element in split_top(plain, _SEPARATOR) if element]


def _compare_texts(gold: str, answer: str, rules: AnswerRules) -> Match:
    left, right = (_text_key(side, has_case="case" in rules.require) for side in (gold, answer))
    if not left:
        return Match(Outcome.FAULT, "the gold answer has no words; correct the row or its type")
    if not right:
        return Match(Outcome.NO_ANSWER, "no answer: it is empty")
    return RIGHT if left == right else WRONG


def _text_key(text: str, *, has_case: bool) -> str:
    text = re.sub(r"\\(?:text\w*|math\w+|mbox)\s*\{([^{}]*)\}", r"\1", text)
    text = " ".join(re.sub(r"\$|\\[()\[\] ]", " ", text).split()).strip(" .,;:!*\"'`")
    return text if has_case else word_key(text) or key(text)

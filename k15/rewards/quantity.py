r"""Numbers with a unit and a precision: `3.1 \text{ km}` for 3 km to the nearest kilometre, 5 m for 500 cm."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from k15.rewards.compare import RIGHT, WRONG, Equal, Match, bare_value, compare
from k15.rewards.notation import normalise
from k15.rewards.rational import rational
from k15.rewards.units import Unit, read_unit
from k15.rewards.words import has_telling_word
from k15.types import AnswerRules, Outcome

Value = Callable[[str], Fraction | None]

_TAIL = re.compile(
    r"(?P<number>.*?(?:[0-9)}%]|[0-9]\.|\\pi))\s*"
    r"(?P<unit>(?:\\text\{[a-zA-Z./ ^0-9]{1,60}\}|(?<![a-zA-Z\\])[a-zA-Z]{1,20}\.?)"
    r"(?:\s*(?:/|\\cdot|\*|\^\{?-?[1-9]\}?|\\text\{[a-zA-Z./ ^0-9]{1,60}\}|[a-zA-Z]{1,20}\.?))*)",
)
_DOLLARS = re.compile(r"\s*(?:\\\$|\$(?=[^$]*$))")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it is written: its text in LaTeX, its unit, and whether a percent sign follows it."""

    number: str
    unit: Unit | None
    is_percentage: bool


def read_quantity(text: str, *, gold: Quantity | None = None) -> Quantity:
    """The number and the unit that a text names; a name before "=" and an approximation behind are taken off.

    Args:
        gold: what an answer is compared with; None reads the ground truth itself. In an answer a word that
            is no known unit counts as one only inside `\\text{}`, or if it is the gold's: "7 is wrong" is no 7.
    """
    number = bare_value(normalise(text))
    found = _TAIL.fullmatch(number)
    unit = read_unit(found["unit"]) if found else None
    if found and unit and gold is not None and not unit.is_known and unit != gold.unit:
        is_written_as_unit = found["unit"].startswith(r"\text") and not has_telling_word(found["unit"])
        unit = unit if is_written_as_unit else None
    if found is not None and unit is not None:
        number = found["number"].strip()
    elif _DOLLARS.match(text):
        unit = read_unit("dollars")
    return Quantity(number, unit, is_percentage=number.endswith("%"))


def compare_quantities(gold: str, answer: str, rules: AnswerRules, equal: Equal, value: Value) -> Match:
    """Judge a number by the row's precision and units.

    Args:
        rules: `convert_units`, the tolerances, and "unit" and "percent" in `require` count here.
        equal: decides whether two formulas are equal.
        value: the value of a real number's formula, to some thirty digits.
    """
    left = read_quantity(gold)
    right = read_quantity(answer, gold=left)
    if (factor := _factor(left.unit, right.unit, rules)) is None:
        return Match(Outcome.WRONG, "not the unit of the gold answer")
    if left.is_percentage != right.is_percentage and "percent" in rules.require:
        return Match(Outcome.WRONG, "the percent sign is on one side only")
    gold_value = rational(left.number)
    if gold_value is None and (gold_value := value(left.number)) is None:
        return Match(Outcome.FAULT, "the gold answer is not a number; correct the row or its type")
    exact = compare(left.number, right.number, equal)
    if factor == 1 and exact is RIGHT:
        return RIGHT
    if exact.outcome is Outcome.NO_ANSWER:
        return exact
    number = rational(right.number)
    if number is None:
        number = value(right.number)
    if number is None:
        return WRONG if exact is RIGHT else exact
    number *= factor
    candidates = [number]
    if left.is_percentage and not right.is_percentage and "percent" not in rules.require:
        candidates.append(number / 100)
    if any(_is_close(gold_value, candidate, rules) for candidate in candidates):
        return RIGHT
    return Match(Outcome.WRONG, "not the number of the gold answer, within the row's precision")


def _factor(gold: Unit | None, answer: Unit | None, rules: AnswerRules) -> Fraction | None:
    """What the answer's number is multiplied with; None if its unit is another one."""
    if gold is None or answer is None:
        is_missing = gold is not None and answer is None
        return None if is_missing and "unit" in rules.require else Fraction(1)
    if gold == answer:
        return Fraction(1)
    if gold.quantity == answer.quantity and rules.convert_units:
        return answer.factor / gold.factor
    is_told_apart = (gold.is_known and answer.is_known) or "unit" in rules.require
    return None if is_told_apart else Fraction(1)


def _is_close(gold: Fraction, answer: Fraction, rules: AnswerRules) -> bool:
    if gold == answer:
        return True
    limits = [Fraction(0)]
    if rules.absolute_tolerance is not None:
        limits.append(Fraction(str(rules.absolute_tolerance)))
    if rules.relative_tolerance is not None:
        limits.append(Fraction(str(rules.relative_tolerance)) * abs(gold))
    if abs(gold - answer) <= max(limits):
        return True
    places = _places(gold, rules)
    if places is None:
        return False
    step = Fraction(10) ** -places
    rounded = math.floor(abs(gold) / step + Fraction(1, 2)) * step
    return abs((rounded if gold > 0 else -rounded) - answer) * 2 <= step


def _places(gold: Fraction, rules: AnswerRules) -> int | None:
    """The decimal places that a number is rounded to; negative for tens, hundreds and on."""
    if rules.significant_digits is None or gold == 0:
        return rules.decimals
    magnitude = math.floor(math.log10(abs(gold.numerator)) - math.log10(gold.denominator))
    if abs(gold) >= Fraction(10) ** (magnitude + 1):  # the logarithm is a float, so it may be one off
        magnitude += 1
    elif abs(gold) < Fraction(10) ** magnitude:
        magnitude -= 1
    return rules.significant_digits - 1 - magnitude

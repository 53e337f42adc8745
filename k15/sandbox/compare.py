"""Is this output the expected one? Outside of the box, on bytes that were read from a pipe.

Tokens are compared exactly, as text or as the number they denote: 0.50 is 0.5 and 1e5 is 100000, while
digits of other scripts, 1_000 and 0x10 are no numbers. A tolerance counts only where the problem has one.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

from k15.sandbox.base import Comparison

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_BLANKS = " \t\r\n\v\f"
_MAX_NUMBER_CHARS = 10_000  # a longer token is compared as text


def matches(output: str, expected: str, rule: Comparison) -> bool:
    """Whether a program's output agrees with what was expected."""
    if rule.mode == "exact":
        return output == expected
    if rule.mode == "tokens":
        return _lines_match([_tokens(output)], [_tokens(expected)], rule)
    return _lines_match(_lines(output), _lines(expected), rule)


def values_match(value: Any, expected: Any, rule: Comparison) -> bool:
    """Whether two JSON values agree. Lists stand for tuples too; True is not 1; 1.0 is 1 unless the rule
    keeps integers apart; numbers agree within the rule's tolerance, else exactly.
    """
    if isinstance(expected, bool) or isinstance(value, bool) or expected is None or value is None:
        return value is expected
    if isinstance(expected, int | float) and isinstance(value, int | float):
        if rule.integers_are_exact and isinstance(expected, int) and not isinstance(value, int):
            return False
        if isinstance(value, float) and isinstance(expected, float) and math.isnan(expected):
            return math.isnan(value)
        return value == expected or _is_near(value, expected, rule)
    if isinstance(expected, str) and isinstance(value, str):
        return value == expected or (rule.ignore_case and value.lower() == expected.lower())
    if isinstance(expected, list) and isinstance(value, list):
        return len(value) == len(expected) and all(
            values_match(v, e, rule) for v, e in zip(value, expected, strict=True)
        )
    if isinstance(expected, dict) and isinstance(value, dict):
        return value.keys() == expected.keys() and all(
            values_match(value[key], expected[key], rule) for key in expected
        )
    return False


def _lines(text: str) -> list[list[str]]:
    """The tokens of each line that has any."""
    return [tokens for line in text.split("\n") if (tokens := _tokens(line))]


def _tokens(text: str) -> list[str]:
    # not str.split(): that also splits at blanks of other scripts
    return [token for token in re.split(f"[{_BLANKS}]+", text) if token]


def _lines_match(output: list[list[str]], expected: list[list[str]], rule: Comparison) -> bool:
    return len(output) == len(expected) and all(
        len(o) == len(e) and all(_token_matches(a, b, rule) for a, b in zip(o, e, strict=True))
        for o, e in zip(output, expected, strict=True)
    )


def _token_matches(token: str, expected: str, rule: Comparison) -> bool:
    if token == expected:
        return True
    if rule.ignore_case and token.lower() == expected.lower():
        return True
    if rule.integers_are_exact and _INTEGER.fullmatch(expected) and not _INTEGER.fullmatch(token):
        return False
    number, wanted = _number(token), _number(expected)
    if number is None or wanted is None:
        return False
    return number == wanted or _is_near(number, wanted, rule)


def _number(token: str) -> Decimal | None:
    if len(token) > _MAX_NUMBER_CHARS or not _NUMBER.fullmatch(token):
        return None
    try:
        return Decimal(token)
    except InvalidOperation:  # an exponent of absurd size
        return None


def _is_near(number: Decimal | float, wanted: Decimal | float, rule: Comparison) -> bool:
    if rule.absolute is None and rule.relative is None:
        return False
    with localcontext() as context:
        context.prec = 50
        try:
            number, wanted = Decimal(number), Decimal(wanted)
            difference = abs(number - wanted)
            allowed = max(Decimal(rule.absolute or 0), abs(wanted) * Decimal(rule.relative or 0))
        except ArithmeticError:  # an exponent beyond what is counted
            return False
        return difference.is_finite() and difference <= allowed

"""Arithmetic that people write: a safe parser with exact values, and every way to combine numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import combinations
from types import MappingProxyType

LARGEST = 99
"""Largest intermediate result of a worked solution: every number stays one token."""

_TOKEN = re.compile(r"[0-9]{1,9}|[-+*/()]")
_MAX_TOKENS = 64  # bounds the recursion of the parser
_OPERATIONS: MappingProxyType[str, Callable[[Fraction, Fraction], Fraction]] = MappingProxyType(
    {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y, "/": lambda x, y: x / y}
)


class ExpressionError(ValueError):
    """The text is not an expression; stays inside the task room. Its text says why."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: its exact value, and the numbers it uses in order of appearance."""

    value: Fraction
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Term:
    """A value of a worked solution.

    Attributes:
        value: what it comes to.
        text: the expression that makes it.
        steps: one text "x + y = z" for each combination in it, in order; none for a plain number.
    """

    value: int
    text: str
    steps: tuple[str, ...] = ()


def parse_expression(text: str) -> Expression:
    """The value of an expression of whole numbers, + - * / and parentheses. No sign before a number.

    Raises:
        ExpressionError: anything else, or a division by zero.
    """
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"[ \t]", "", text) or not tokens:
        raise ExpressionError("only whole numbers, + - * / and parentheses are allowed")
    if re.search(r"[0-9][ \t]+[0-9]", text):
        raise ExpressionError("two numbers stand side by side")
    if len(tokens) > _MAX_TOKENS:
        raise ExpressionError(f"longer than {_MAX_TOKENS} symbols")
    expression, rest = _parse_sum(tokens, 0)
    if rest != len(tokens):
        raise ExpressionError(f"{tokens[rest]!r} is not expected there")
    return expression


def _parse_sum(tokens: list[str], at: int) -> tuple[Expression, int]:
    return _parse_chain(tokens, at, "+-", _parse_product)


def _parse_product(tokens: list[str], at: int) -> tuple[Expression, int]:
    return _parse_chain(tokens, at, "*/", _parse_atom)


def _parse_chain(
    tokens: list[str],
    at: int,
    signs: str,
    parse_part: Callable[[list[str], int], tuple[Expression, int]],
) -> tuple[Expression, int]:
    left, at = parse_part(tokens, at)
    while at < len(tokens) and tokens[at] in signs:
        sign = tokens[at]
        right, at = parse_part(tokens, at + 1)
        if sign == "/" and right.value == 0:
            raise ExpressionError("it divides by zero")
        left = Expression(_OPERATIONS[sign](left.value, right.value), left.numbers + right.numbers)
    return left, at


def _parse_atom(tokens: list[str], at: int) -> tuple[Expression, int]:
    if at >= len(tokens):
        raise ExpressionError("it ends too early")
    if tokens[at].isdigit():
        return Expression(Fraction(int(tokens[at])), (int(tokens[at]),)), at + 1
    if tokens[at] != "(":
        raise ExpressionError(f"{tokens[at]!r} is not expected there")
    inner, at = _parse_sum(tokens, at + 1)
    if at >= len(tokens) or tokens[at] != ")":
        raise ExpressionError("a parenthesis is not closed")
    return inner, at + 1


def combine(x: int, sign: str, y: int) -> int | None:
    """x sign y where that is a whole number from 1 to LARGEST, else None."""
    if sign == "/":
        return x // y if x % y == 0 else None
    value = x + y if sign == "+" else x - y if sign == "-" else x * y
    return value if 1 <= value <= LARGEST else None


def join(left: Term, sign: str, right: Term, value: int) -> Term:
    """The two terms as one, each in parentheses if it is itself a combination."""
    x, y = (f"({term.text})" if term.steps else term.text for term in (left, right))
    step = f"{left.value} {sign} {right.value} = {value}"
    return Term(value, f"{x} {sign} {y}", (*left.steps, *right.steps, step))


@cache
def reachable(numbers: tuple[int, ...], signs: str = "+-*/") -> frozenset[int]:
    """Every value that uses each number once, intermediate results from 1 to LARGEST."""
    if len(numbers) == 1:
        return frozenset(numbers)
    values: set[int] = set()
    for left, right in _splits(numbers):
        for x in reachable(left, signs):
            for y in reachable(right, signs):
                values.update(v for sign in signs if (v := combine(x, sign, y)) is not None)
    return frozenset(values)


@cache
def find_expression(numbers: tuple[int, ...], target: int) -> Term | None:
    """The first way, in a fixed order, to reach the target with each number once."""
    if len(numbers) == 1:
        return Term(target, str(target)) if numbers[0] == target else None
    for left, right in _splits(numbers):
        if target not in _combined(left, right):
            continue
        for x in sorted(reachable(left)):
            for y in sorted(reachable(right)):
                for sign in "+-*/":
                    if combine(x, sign, y) == target:
                        first, second = find_expression(left, x), find_expression(right, y)
                        assert first is not None, f"{x} is reachable from {left}"
                        assert second is not None, f"{y} is reachable from {right}"
                        return join(first, sign, second, target)
    return None


@cache
def _combined(left: tuple[int, ...], right: tuple[int, ...]) -> frozenset[int]:
    pairs = ((x, y) for x in reachable(left) for y in reachable(right))
    return frozenset(v for x, y in pairs for sign in "+-*/" if (v := combine(x, sign, y)) is not None)


def _splits(numbers: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every ordered split into two parts that are not empty."""
    places = range(len(numbers))
    for size in range(1, len(numbers)):
        for chosen in combinations(places, size):
            rest = tuple(numbers[i] for i in places if i not in chosen)
            yield tuple(numbers[i] for i in chosen), rest

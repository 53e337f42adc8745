r"""Sets of real numbers: `(2,5]`, `2 < x \le 5`, `x < 1 \text{ or } x > 3`, `\mathbb{R} \setminus \{0\}`.

Read only for golds of the type "interval": there an inequality is right for brackets and the other way
round. Two sets are equal when their pieces are, once overlapping and touching pieces are joined.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from k15.rewards.notation import is_enclosed, normalise, split_top
from k15.rewards.rational import rational

_UNION = re.compile(r"\s*(?:\\cup|\\lor|\\vee|\\text\{\s*or\s*\}|\bor\b)(?![a-zA-Z])\s*")
_RELATION = re.compile(
    r"\\leq?(?![a-zA-Z])|\\geq?(?![a-zA-Z])|\\[lg]t(?![a-zA-Z])|\\neq?(?![a-zA-Z])|<=|>=|!=|<|>|="
)
_SIGNS = {
    "<=": r"\le",
    ">=": r"\ge",
    r"\lt": "<",
    r"\gt": ">",
    "!=": r"\ne",
    r"\neq": r"\ne",
    r"\leq": r"\le",
    r"\geq": r"\ge",
}
_COMMA = re.compile(r"\s*[,;]\s*")
_VARIABLE = re.compile(r"[a-zA-Z]|\\(?:theta|alpha|beta|lambda|phi)")
_MEMBER = re.compile(r"(?:[a-zA-Z]|\\theta)\s*\\in(?![a-zA-Z])\s*")
_BUILDER = re.compile(
    r"\\\{\s*(?P<name>[a-zA-Z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid|\||:)\s*(?P<condition>.*)\\\}"
)
_LINE = re.compile(r"\\mathbb\{R\}|\\R|\\text\{all real numbers\}|all real numbers")
_WITHOUT = re.compile(r"\\(?:setminus|backslash)(?![a-zA-Z])")
_DIGITS = 30

Value = Callable[[str], Fraction | None]
_Bound = Fraction | None  # None: infinite, in the direction of its side


@dataclass(frozen=True, slots=True)
class Piece:
    """One interval; an infinite end is None and open."""

    low: _Bound
    high: _Bound
    has_low: bool
    has_high: bool

    @property
    def is_empty(self) -> bool:
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and not (self.has_low and self.has_high))


def read_set(text: str, value: Value) -> tuple[Piece, ...] | None:
    """The pieces of a set of real numbers, in ascending order and joined; None if it cannot be read.

    Args:
        value: the value of an end point's formula, to some thirty digits.
    """
    text = normalise(text)
    builder = _BUILDER.fullmatch(text)
    text = builder["condition"].strip() if builder else text
    found: list[Piece] = []
    names: set[str] = set()
    for part in split_top(text, _UNION):
        pieces = _read_piece(part, value, names)
        if pieces is None:
            return None
        found += pieces
    return _joined(found) if len(names) <= 1 else None


def _read_piece(text: str, value: Value, names: set[str]) -> list[Piece] | None:
    member = _MEMBER.match(text)
    text = text[member.end() :].strip() if member else text
    if _LINE.fullmatch(text):
        return [Piece(None, None, has_low=False, has_high=False)]
    if text == r"\emptyset":
        return []
    without = split_top(text, _WITHOUT)
    if len(without) == 2:
        return _line_without(without[1], value) if _LINE.fullmatch(without[0]) else None
    if is_enclosed(text, r"\{", r"\}"):
        points = [_end(point, value) for point in split_top(text[2:-2].strip(), _COMMA)]
        return None if None in points else [Piece(p, p, has_low=True, has_high=True) for p in points]
    if text[:1] in ("(", "[", "]") and text[-1:] in (")", "]", "["):
        return _read_brackets(text, value)
    return _read_inequality(text, value, names)


def _line_without(text: str, value: Value) -> list[Piece] | None:
    if not is_enclosed(text, r"\{", r"\}"):
        return None
    points = [_end(point, value) for point in split_top(text[2:-2].strip(), _COMMA)]
    known = sorted({point for point in points if point is not None})
    if None in points:
        return None
    ends = [None, *known, None]
    return [Piece(low, high, has_low=False, has_high=False) for low, high in pairwise(ends)]


def _read_brackets(text: str, value: Value) -> list[Piece] | None:
    ends = split_top(text[1:-1].strip(), _COMMA)
    if len(ends) != 2:
        return None
    return _piece(ends[0], ends[1], value, has_low=text[0] == "[", has_high=text[-1] == "]")


def _read_inequality(text: str, value: Value, names: set[str]) -> list[Piece] | None:
    parts = split_top(text, _RELATION)
    signs: list[str] = [_SIGNS.get(sign, sign) for sign in map(str, _RELATION.findall(text))]
    if len(signs) != len(parts) - 1:
        return None
    if len(parts) == 2 and not _VARIABLE.fullmatch(parts[0]):
        parts, signs = parts[::-1], [_mirrored(signs[0])]
    if len(parts) == 2 and _VARIABLE.fullmatch(parts[0]):
        names.add(parts[0])
        return _half_line(signs[0], parts[1], value)
    if len(parts) != 3 or not _VARIABLE.fullmatch(parts[1]):
        return None
    names.add(parts[1])
    if all(sign in (">", r"\ge") for sign in signs):
        parts, signs = parts[::-1], [_mirrored(sign) for sign in reversed(signs)]
    if not all(sign in ("<", r"\le") for sign in signs):
        return None
    return _piece(parts[0], parts[2], value, has_low=signs[0] != "<", has_high=signs[1] != "<")


def _half_line(sign: str, end: str, value: Value) -> list[Piece] | None:
    if sign == "=":
        return _piece(end, end, value, has_low=True, has_high=True)
    if sign == r"\ne":
        return _line_without(rf"\{{{end}\}}", value)
    if sign in ("<", r"\le"):
        return _piece(r"-\infty", end, value, has_low=False, has_high=sign != "<")
    return _piece(end, r"\infty", value, has_low=sign != ">", has_high=False)


def _piece(low: str, high: str, value: Value, *, has_low: bool, has_high: bool) -> list[Piece] | None:
    is_below, is_above = _infinite(low) == -1, _infinite(high) == 1
    if (is_below and has_low) or (is_above and has_high):
        return None  # [-infinity, ...: no such set
    left, right = (None if is_below else _end(low, value)), (None if is_above else _end(high, value))
    if (left is None and not is_below) or (right is None and not is_above):
        return None
    return [Piece(left, right, has_low=has_low, has_high=has_high)]


def _end(text: str, value: Value) -> Fraction | None:
    exact = rational(text)
    exact = value(text) if exact is None else exact
    return None if exact is None else Fraction(round(exact * 10**_DIGITS), 10**_DIGITS)


def _infinite(text: str) -> int:
    found = re.fullmatch(r"([+-]?)\s*\\infty\s*", text)
    return 0 if found is None else -1 if found[1] == "-" else 1


def _mirrored(sign: str) -> str:
    return {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}.get(sign, sign)


def _joined(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Ascending pieces that neither overlap nor touch; empty ones are left out."""

    def start(piece: Piece) -> tuple[bool, Fraction, bool]:
        return (piece.low is not None, piece.low or Fraction(0), not piece.has_low)

    result: list[Piece] = []
    for piece in sorted((p for p in pieces if not p.is_empty), key=start):
        if not result or not _touch(result[-1], piece):
            result.append(piece)
            continue
        last = result.pop()
        result.append(Piece(last.low, *_further(last, piece)))
    return tuple(result)


def _touch(left: Piece, right: Piece) -> bool:
    if left.high is None or right.low is None:
        return True
    return right.low < left.high or (right.low == left.high and (left.has_high or right.has_low))


def _further(left: Piece, right: Piece) -> tuple[_Bound, bool, bool]:
    """The upper end of two pieces that touch, then the lower bracket of the left and that end's bracket."""
    if left.high is None or right.high is None:
        return None, left.has_low, False
    if left.high == right.high:
        return left.high, left.has_low, left.has_high or right.has_high
    higher = left if left.high > right.high else right
    return higher.high, left.has_low, higher.has_high

r"""Exact values of rational formulas, without sympy: `\frac{1}{2^{99}}`, `10^{6}`, `0.\overline{3}`, `50%`.

Two answers that are both rational are compared here, as fractions, so a near miss in the hundredth
digit is a miss, and nearly all of GSM8K and AIME never leaves this process. The text is read by a
small parser of our own; the size of every number and the depth of brackets are bounded, so hostile
text (towers of powers, factorials) ends as "not decided here" after microseconds.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

_MAX_BITS = 30_000
_MAX_FACTORIAL = 2500
_MAX_DEPTH = 40
_MAX_CHARS = 1000

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<repeat>\\overline\s*\{\s*\d+\s*\})?"
    r"(?P<exponent>[eE][+-]?\d+(?![\d.a-zA-Z]))?"
    r"|(?P<command>\\(?:frac|binom|sqrt|cdot|times|div)(?![a-zA-Z]))"
    r"|(?P<symbol>[-+*/^!(){}%]))",
    re.ASCII,
)


class _NotDecidedError(Exception):
    """Not a rational formula that this parser reads, or a number too big."""


def rational(text: str) -> Fraction | None:
    """The value of a normalised formula, or None where this parser cannot tell.

    Reads integers, decimals (with an exponent or a repeating part), + - * / ^ !,
    brackets, percent signs, \\frac, \\binom, \\sqrt of a perfect square, and mixed numbers.
    """
    if len(text) > _MAX_CHARS:
        return None
    try:
        parser = _Parser(text)
        value = parser.sum(0)
        return value if parser.is_at_end else None
    except (_NotDecidedError, ZeroDivisionError):
        return None


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[re.Match[str]] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            token = _TOKEN.match(text, position)
            if token is None:
                raise _NotDecidedError
            self._tokens.append(token)
            position = token.end()
        self._next = 0

    @property
    def is_at_end(self) -> bool:
        return self._next == len(self._tokens)

    def _peek(self) -> str:
        return "" if self.is_at_end else self._tokens[self._next][0].strip()

    def _take(self, *wanted: str) -> str | None:
        token = self._peek()
        if token and token in wanted:
            self._next += 1
            return token
        return None

    def _expect(self, wanted: str) -> None:
        if not self._take(wanted):
            raise _NotDecidedError

    def sum(self, depth: int) -> Fraction:
        if depth > _MAX_DEPTH:
            raise _NotDecidedError
        value = self._product(depth)
        while sign := self._take("+", "-"):
            term = self._product(depth)
            value = _bounded(value + term if sign == "+" else value - term)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._signed(depth)
        while True:
            operator = self._take("*", r"\cdot", r"\times", "/", r"\div")
            if operator is None and self._peek() in ("(", r"\frac", r"\binom", r"\sqrt"):
                value = _bounded(value * self._power(depth))  # written side by side
            elif operator is None:
                return value
            else:
                factor = self._signed(depth)
                value = _bounded(value / factor if operator in ("/", r"\div") else value * factor)

    def _signed(self, depth: int) -> Fraction:
        if sign := self._take("+", "-"):
            value = self._signed(depth + 1) if depth < _MAX_DEPTH else self._fail()
            return -value if sign == "-" else value
        return self._power(depth)

    def _power(self, depth: int) -> Fraction:
        value = self._postfix(depth)
        if not self._take("^"):
            return value
        if depth >= _MAX_DEPTH:
            raise _NotDecidedError
        # LaTeX would read 2^10 as (2^1)0; everybody who writes it means 2^{10}.
        exponent = self._group(depth) if self._peek() == "{" else self._signed(depth + 1)
        return _power(value, exponent)

    def _postfix(self, depth: int) -> Fraction:
        value = self._atom(depth)
        while mark := self._take("!", "%"):
            if mark == "!" == self._peek():
                raise _NotDecidedError  # n!! is not (n!)!
            value = _factorial(value) if mark == "!" else value / 100
        return value

    def _atom(self, depth: int) -> Fraction:
        if self.is_at_end:
            raise _NotDecidedError
        token = self._tokens[self._next]
        if token["number"]:
            self._next += 1
            return self._mixed(_number(token), token, depth)
        if self._take(r"\frac"):
            top, bottom = self._group(depth), self._group(depth)
            return _bounded(top / bottom)
        if self._take(r"\binom"):
            return _binomial(self._group(depth), self._group(depth))
        if self._take(r"\sqrt"):
            return _square_root(self._group(depth))
        for opening, closing in (("(", ")"), ("{", "}")):
            if self._take(opening):
                value = self.sum(depth + 1)
                self._expect(closing)
                return value
        raise _NotDecidedError

    def _mixed(self, whole: Fraction, token: re.Match[str], depth: int) -> Fraction:
        """`7\\frac{3}{4}` and `7 3/4` are mixed numbers; `7\\frac{9}{4}` could be a product: not decided."""
        if not token["number"].isdigit() or token["repeat"] or token["exponent"]:
            return whole
        if self._peek() == r"\frac":
            self._next += 1
            top, bottom = self._group(depth), self._group(depth)
        elif self._rest_is_fraction():
            top, bottom = (_number(self._tokens[self._next + step]) for step in (0, 2))
            self._next += 3
        else:
            return whole
        if not 0 <= top < bottom:
            raise _NotDecidedError
        return _bounded(whole + top / bottom)

    def _rest_is_fraction(self) -> bool:
        rest = self._tokens[self._next : self._next + 3]
        return len(rest) == 3 and all(rest[i]["number"] for i in (0, 2)) and rest[1]["symbol"] == "/"

    def _group(self, depth: int) -> Fraction:
        self._expect("{")
        value = self.sum(depth + 1)
        self._expect("}")
        return value

    def _fail(self) -> Fraction:
        raise _NotDecidedError


def _number(token: re.Match[str]) -> Fraction:
    digits = token["number"]
    value = Fraction("0" + digits if digits.startswith(".") else digits.rstrip("."))
    if token["repeat"]:
        if "." not in digits:
            raise _NotDecidedError
        repeat = re.sub(r"\D", "", token["repeat"])
        places = len(digits) - digits.index(".") - 1
        value += Fraction(int(repeat), (10 ** len(repeat) - 1) * 10**places)
    if token["exponent"]:
        value = _bounded(value * _power(Fraction(10), Fraction(int(token["exponent"][1:]))))
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or (base == 0 and exponent <= 0):
        raise _NotDecidedError
    if base in (0, 1):
        return base
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * bits > _MAX_BITS:
        raise _NotDecidedError
    return base ** int(exponent)


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or not 0 <= value <= _MAX_FACTORIAL:
        raise _NotDecidedError
    return Fraction(math.factorial(int(value)))


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= _MAX_FACTORIAL:
        raise _NotDecidedError
    return Fraction(math.comb(int(n), int(k)))


def _square_root(value: Fraction) -> Fraction:
    if value < 0:
        raise _NotDecidedError
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top != value.numerator or bottom * bottom != value.denominator:
        raise _NotDecidedError
    return Fraction(top, bottom)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise _NotDecidedError
    return value

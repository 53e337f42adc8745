r"""Formulas as the auditor reads them: parsed into small functions, compared by their values at fixed points.

Nothing here is shared with the verifier "math", which asks Math-Verify for an algebraic answer: an error would have
to be made twice to go unseen. What this parser does not know is not judged.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

Number = Fraction | complex
Points = Mapping[str, complex]

_MAX_CHARS = 400
_MAX_DEPTH = 24
_MAX_BITS = 8000
_MAX_FACTORIAL = 300
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)|(?P<command>\\[a-zA-Z]+)|(?P<letter>[a-zA-Z])"
    r"|(?P<sign>[-+*/^!(){}\[\]|%]))"
)
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    r"\sin": cmath.sin,
    r"\cos": cmath.cos,
    r"\tan": cmath.tan,
    r"\ln": cmath.log,
    r"\exp": cmath.exp,
    r"\arcsin": cmath.asin,
    r"\arccos": cmath.acos,
    r"\arctan": cmath.atan,
}
_PRODUCT = ("*", r"\cdot", r"\times")
# Both signs, none of them special, so that |x| is not x and ln(x^2) is not 2 ln x.
_PLACES = (0.7390851, -1.3247179, 2.2360679, -0.5671432, 1.9021605)


class UnreadableError(Exception):
    """Not a formula that this parser knows, or a value it cannot hold."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A parsed formula: its variables, and its value at a point that gives each a number."""

    variables: frozenset[str]
    at: Callable[[Points], Number]


def read_formula(text: str) -> Formula:
    """A formula in LaTeX: numbers, letters, + - * / ^ !, brackets, |x|, percent, and common commands.

    Raises:
        UnreadableError: anything else.
    """
    parser = _Parser(text)
    value = parser.sum(0)
    if parser.token:
        raise UnreadableError
    return Formula(frozenset(parser.variables), value)


def are_equal(left: Formula, right: Formula) -> bool | None:
    """Whether two formulas have the same value at every point tried; None where their values do not tell.

    Fractions are compared exactly. A fraction and an irrational value are never called equal, only different.

    Raises:
        UnreadableError: a value cannot be computed.
    """
    names = sorted(left.variables | right.variables)
    answers = set()
    for shift in range(len(_PLACES) if names else 1):
        point = {
            name: complex(_PLACES[(shift + i * 2) % len(_PLACES)] + i / 7)
            for i, name in enumerate(names)
        }
        answers.add(_same(_value(left, point), _value(right, point)))
    if False in answers:
        return False
    return None if None in answers else True


def _value(formula: Formula, point: Points) -> Number:
    try:
        value = formula.at(point)
    except (ArithmeticError, ValueError) as error:
        raise UnreadableError from error
    if isinstance(value, complex) and not (math.isfinite(value.real) and math.isfinite(value.imag)):
        raise UnreadableError
    return value


def _same(left: Number, right: Number) -> bool | None:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    is_mixed = isinstance(left, Fraction) or isinstance(right, Fraction)
    a, b = _inexact(left), _inexact(right)
    gap = abs(a - b) / max(abs(a), abs(b), 1e-30)
    if gap > 1e-6:
        return False
    return True if gap < 1e-12 and not is_mixed else None


class _Parser:
    """Reads a sum by descent; each method gives a function from a point to a value."""

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_CHARS:
            raise UnreadableError
        self._tokens: list[str] = []
        self._kinds: list[str] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise UnreadableError
            assert found.lastgroup is not None
            self._kinds.append(found.lastgroup)
            self._tokens.append(found[found.lastgroup])
            position = found.end()
        self._next = 0
        self.variables: set[str] = set()

    @property
    def token(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    @property
    def kind(self) -> str:
        return self._kinds[self._next] if self._next < len(self._kinds) else ""

    def _take(self) -> str:
        token = self.token
        self._next += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise UnreadableError

    def sum(self, depth: int) -> Callable[[Points], Number]:
        if depth > _MAX_DEPTH:
            raise UnreadableError
        terms = [self._product(depth)]
        while self.token in ("+", "-"):
            sign = self._take()
            term = self._product(depth)
            terms.append(term if sign == "+" else _negative(term))
        return terms[0] if len(terms) == 1 else lambda p: _add([term(p) for term in terms])

    def _product(self, depth: int) -> Callable[[Points], Number]:
        value = self._signed(depth)
        while True:
            if self.token in _PRODUCT:
                self._take()
                value = _binary(_times, value, self._signed(depth))
            elif self.token in ("/", r"\div"):
                self._take()
                value = _binary(_over, value, self._signed(depth))
            elif self.kind in ("letter", "command") or self.token in ("(", "{"):
                value = _binary(_times, value, self._power(depth))
            else:
                return value

    def _signed(self, depth: int) -> Callable[[Points], Number]:
        sign = 1
        while self.token in ("+", "-"):
            sign = -sign if self._take() == "-" else sign
        value = self._power(depth)
        return value if sign == 1 else _negative(value)

    def _power(self, depth: int) -> Callable[[Points], Number]:
        value = self._atom(depth)
        while self.token in ("!", "%"):
            value = _unary(_factorial if self._take() == "!" else _hundredth, value)
        if self.token != "^":
            return value
        self._take()
        exponent = self._group(depth) if self.token == "{" else self._exponent(depth)
        return _binary(_to_the, value, exponent)

    def _exponent(self, depth: int) -> Callable[[Points], Number]:
        if depth > _MAX_DEPTH:
            raise UnreadableError
        if self.token == "-":
            self._take()
            return _negative(self._power(depth + 1))
        return self._power(depth + 1)

    def _atom(self, depth: int) -> Callable[[Points], Number]:
        kind, token = self.kind, self._take()
        if kind == "number":
            return self._mixed(Fraction(token), token, depth)
        if kind == "letter":
            return self._letter(token)
        if token == "(" or token == "{":
            value = self.sum(depth + 1)
            self._expect(")" if token == "(" else "}")
            return value
        if token == "|":
            value = self.sum(depth + 1)
            self._expect("|")
            return _unary(lambda v: abs(v), value)
        if kind == "command":
            return self._command(token, depth)
        raise UnreadableError

    def _letter(self, token: str) -> Callable[[Points], Number]:
        if token == "e":
            return lambda _: complex(math.e)
        if token == "i":
            return lambda _: 1j
        self.variables.add(token)
        return lambda p: p[token]

    def _command(self, token: str, depth: int) -> Callable[[Points], Number]:
        if token == r"\pi":
            return lambda _: complex(math.pi)
        if token == r"\frac":
            return _binary(_over, self._group(depth), self._group(depth))
        if token == r"\binom":
            return _binary(_choose, self._group(depth), self._group(depth))
        if token == r"\sqrt":
            index = 2
            if self.token == "[":
                self._take()
                index = int(self._take()) if self.kind == "number" and self.token.isdigit() else 0
                self._expect("]")
            root = self._group(depth)
            return _unary(lambda v: _root(v, index), root)
        if token in _FUNCTIONS:
            power = None
            if self.token == "^":
                self._take()
                power = self._group(depth) if self.token == "{" else self._atom(depth + 1)
            bracketed = self.token in ("(", "{")
            value = _unary(
                _FUNCTIONS[token], self._atom(depth + 1) if bracketed else self._power(depth + 1)
            )
            return value if power is None else _binary(_to_the, value, power)
        if token in (r"\theta", r"\alpha", r"\beta", r"\lambda"):
            self.variables.add(token)
            return lambda p: p[token]
        raise UnreadableError

    def _mixed(self, whole: Fraction, token: str, depth: int) -> Callable[[Points], Number]:
        """`7\\frac{3}{4}` is 7.75."""
        if not (token.isdigit() and self.token == r"\frac"):
            return lambda _: whole
        self._take()
        part = _binary(_over, self._group(depth), self._group(depth))
        return lambda p: _add([whole, part(p)])

    def _group(self, depth: int) -> Callable[[Points], Number]:
        self._expect("{")
        value = self.sum(depth + 1)
        self._expect("}")
        return value


def _unary(
    function: Callable[..., Number], value: Callable[[Points], Number]
) -> Callable[[Points], Number]:
    return lambda p: function(value(p))


def _binary(
    function: Callable[[Number, Number], Number],
    left: Callable[[Points], Number],
    right: Callable[[Points], Number],
) -> Callable[[Points], Number]:
    return lambda p: function(left(p), right(p))


def _negative(value: Callable[[Points], Number]) -> Callable[[Points], Number]:
    return lambda p: -value(p)


def _inexact(value: Number) -> complex:
    return complex(float(value)) if isinstance(value, Fraction) else value


def _exact(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise UnreadableError
    return value


def _add(values: Sequence[Number]) -> Number:
    total: Number = Fraction(0)
    for value in values:
        if isinstance(total, Fraction) and isinstance(value, Fraction):
            total = _exact(total + value)
        else:
            total = _inexact(total) + _inexact(value)
    return total


def _times(left: Number, right: Number) -> Number:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _exact(left * right)
    return _inexact(left) * _inexact(right)


def _over(left: Number, right: Number) -> Number:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _exact(left / right)
    return _inexact(left) / _inexact(right)


def _to_the(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * bits > _MAX_BITS:
                raise UnreadableError
            return base ** int(exponent)
        if exponent.denominator <= 64 and exponent.numerator == 1:
            return _root(base, exponent.denominator)
    return _inexact(base) ** _inexact(exponent)


def _root(value: Number, index: int) -> Number:
    if not 2 <= index <= 64:
        raise UnreadableError
    if isinstance(value, Fraction) and value >= 0:
        top, bottom = (_whole_root(n, index) for n in (value.numerator, value.denominator))
        if top is not None and bottom is not None:
            return Fraction(top, bottom)
    if index % 2 == 1 and not isinstance(value, complex):
        return complex(math.copysign(abs(float(value)) ** (1 / index), value))
    return _inexact(value) ** (1 / index)


def _whole_root(number: int, index: int) -> int | None:
    if number.bit_length() > 900:
        return None
    guess = math.isqrt(number) if index == 2 else round(number ** (1 / index))
    return next((n for n in (guess - 1, guess, guess + 1) if n >= 0 and n**index == number), None)


def _whole(value: Number) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= _MAX_FACTORIAL:
        raise UnreadableError
    return int(value)


def _factorial(value: Number) -> Number:
    return Fraction(math.factorial(_whole(value)))


def _hundredth(value: Number) -> Number:
    return value / 100


def _choose(left: Number, right: Number) -> Number:
    return Fraction(math.comb(_whole(left), _whole(right)))

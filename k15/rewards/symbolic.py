"""Math-Verify, as it is used inside a grading process: the only file that imports it or sympy.

Both sides are parsed by Math-Verify's LaTeX grammar alone. Its other reader ("plain expressions") and
sympy's `sympify` of strings, which even a number literal goes through, call `parse_expr`, and that is
`eval`. In this process `parse_expr` is replaced by a reader of number literals, so no text of a policy
is ever evaluated as Python. Math-Verify's own time limits are off, because they are signal handlers
that do not interrupt C code; the pool kills this process instead.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, NoReturn

import math_verify.parser
import sympy.parsing
import sympy.parsing.sympy_parser
import sympy.physics.units  # simplify imports it, and its import reads names of units as text
from latex2sympy2_extended import NormalizationConfig, latex2sympy2
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, Float, I, Integer, MatrixBase, Number, Symbol

from k15.config.answers import read_rules
from k15.rewards.typed import Formulas, compare_by_rules

# Floats are compared to 12 decimals and formulas to 50 digits: near misses are misses.
_FLOAT_DECIMALS = 12
_NUMERIC_DIGITS = 50
_VALUE_DIGITS = 40
# Its list of units has single letters (3t would be 3), and boxes are taken off before: both are ours.
_NOTATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_LATEX_ONLY = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=_NOTATION)]


_LITERAL = re.compile(r"[0-9]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def _read_literal(text: str, *_args: object, **_kwargs: object) -> Number:
    """In the place of `parse_expr`: a number literal as a sympy number, anything else refused."""
    if _LITERAL.fullmatch(text) is None:
        raise ValueError(f"text is never evaluated as Python; got {text[:40]!r}")
    return Integer(int(text)) if text.isdigit() else Float(text)


def _never_evaluate(*_args: object, **_kwargs: object) -> NoReturn:
    raise ValueError("text is never evaluated as Python")


for _module in (math_verify.parser, latex2sympy2, sympy.parsing, sympy.parsing.sympy_parser):
    _module.__dict__["parse_expr"] = _read_literal
sympy.parsing.sympy_parser.__dict__["eval_expr"] = _never_evaluate


def compare_job(job: list[Any]) -> list[str]:
    """The pool's job: [gold, answer, rules as a row or None] in, [outcome, reason] out."""
    gold, answer, rules = job
    match = compare_by_rules(gold, answer, read_rules(rules), Formulas(symbolic_equal, real_value))
    return [match.outcome.value, match.reason]


def symbolic_equal(gold: str, answer: str) -> bool:
    """Whether two normalised LaTeX formulas are equal by Math-Verify; False if either cannot be read."""
    left, right = _parse(gold), _parse(answer)
    if left is None or right is None:
        return False
    if _verify(left, right):
        return True
    # The grammar reads i as a variable. Read as the imaginary unit, sqrt(-1) is i and e^{i pi} is -1.
    as_number = [_with_imaginary_unit(side) for side in (left, right)]
    return as_number != [left, right] and _verify(*as_number)


def real_value(formula: str) -> Fraction | None:
    """The value of a formula without variables, to 40 digits; None if it has variables or is not real."""
    parsed = _parse(formula)
    if not isinstance(parsed, Expr) or not parsed.is_number:
        return None
    value = parsed.evalf(_VALUE_DIGITS)  # a number literal stays as it is: nothing here is text
    return Fraction(str(value)) if isinstance(value, Float | Integer) and value.is_finite else None


@lru_cache(maxsize=64)
def _parse(text: str) -> Any:
    """A sympy object, or None. A sign that LaTeX cannot hold between dollars ends the reading."""
    if "$" in text or "\n" in text:
        return None
    found = parse(f"${text}$", _LATEX_ONLY, fallback_mode="no_fallback", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    return found[0] if found and isinstance(found[0], (Basic, MatrixBase)) else None


def _verify(gold: Any, answer: Any) -> bool:
    return bool(
        verify(
            gold,
            answer,
            float_rounding=_FLOAT_DECIMALS,
            numeric_precision=_NUMERIC_DIGITS,
            timeout_seconds=None,
        )
    )


def _with_imaginary_unit(formula: Any) -> Any:
    units = {
        symbol: I for symbol in formula.free_symbols if isinstance(symbol, Symbol) and symbol.name == "i"
    }
    return formula.subs(units) if units else formula


# The first comparison builds the grammar's tables. Do it now, while the process starts and no clock runs.
symbolic_equal(r"\frac{x + 1}{2} < \sqrt{3}", r"\frac{x}{2} + \frac{1}{2} < \sqrt{3}")

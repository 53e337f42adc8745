"""Exact values: agreement with Python's own fractions, and no hostile formula costs time."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.rewards.rational import rational

Formula = tuple[str, Fraction | None]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("016", 16),
        (".5", Fraction(1, 2)),
        ("7.", 7),
        ("1.000", 1),
        ("-3/4", Fraction(-3, 4)),
        ("1e-3", Fraction(1, 1000)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        (r"\frac{1}{2}+\frac{1}{3}", Fraction(5, 6)),
        (r"\frac{\frac{1}{2}}{3}", Fraction(1, 6)),
        ("2^{10}", 1024),
        ("2^3^2", 512),
        ("-2^2", -4),
        ("(-2)^2", 4),
        ("4!", 24),
        ("50%", Fraction(1, 2)),
        (r"\binom{5}{2}", 10),
        (r"\sqrt{\frac{4}{9}}", Fraction(2, 3)),
        (r"2\sqrt{9}", 6),
        ("3(4+1)", 15),
        (r"2 \cdot 3 \times 4", 24),
        (r"7\frac{3}{4}", Fraction(31, 4)),
        ("7 3/4", Fraction(31, 4)),
    ],
)
def test_value_of_a_rational_formula(text, value):
    assert rational(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "2x",
        "1e2x",
        "1 2",
        "1,2",
        "[1]",
        "1/0",
        "0^{0}",
        r"\sqrt{2}",
        r"\sqrt{-1}",
        r"7\frac{9}{4}",
        "10_2",
        "2^{1/2}",
        r"\pi",
        "(1",
        "1)",
        "+",
        "١",
        "４２",
        r"\frac{1}",
        "1..2",
        "(-1)!",
        "0.5!",
        "1__2",
        "0x10",
        "1_000",
    ],
)
def test_what_is_not_plainly_rational_is_not_decided(text):
    assert rational(text) is None


def _join(left: Formula, sign: str, right: Formula) -> Formula:
    (left_text, a), (right_text, b) = left, right
    if a is None or b is None or (sign == "/" and b == 0):
        return f"({left_text}{sign}{right_text})", None
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[sign]
    return f"({left_text}{sign}{right_text})", value


numbers = st.integers(0, 999).map(str) | st.decimals(0, 99, places=2).map(str)
formulas = st.recursive(
    numbers.map(lambda text: (text, Fraction(text))),
    lambda inner: st.builds(_join, inner, st.sampled_from("+-*/"), inner),
    max_leaves=12,
)


@given(formulas)
def test_arithmetic_agrees_with_python(formula):
    text, value = formula
    assert rational(text) == value


@given(st.fractions(), st.fractions())
def test_two_fractions_have_equal_values_only_if_they_are_equal(left, right):
    texts = [rf"\frac{{{f.numerator}}}{{{f.denominator}}}" for f in (left, right)]
    assert (rational(texts[0]) == rational(texts[1])) == (left == right)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 999,
        "10^{10^{10}}",
        "9^9^9^9",
        "((9!)!)!",
        "2500!!",
        "^".join("9" * 300),
        "(" * 999,
        "-" * 999 + "1",
        "+".join(["1/2500!"] * 120),
        "*".join(["2500!"] * 190),
        "(" * 400 + "1" + ")" * 400,
        "1" + "%" * 990,
        "1e99999",
    ],
)
def test_hostile_formulas_cost_little(text):
    start = time.process_time()
    rational(text)
    assert time.process_time() - start < 0.5

"""Golds with a type: numbers with units and precision, choices, words, lists, sets, tuples, intervals."""

import random
from fractions import Fraction

import pytest

from k15.config.answers import read_rules
from k15.rewards.intervals import read_set
from k15.rewards.math import MathItem, MathVerifier, gold_problem
from k15.rewards.typed import Formulas, compare_by_rules
from k15.rewards.units import read_unit
from k15.types import DEFAULT_RULES, AnswerRules, Outcome

NUMBER, CHOICE, TEXT = {"type": "number"}, {"type": "choice"}, {"type": "text"}
LIST, SET, TUPLE, INTERVAL = {"type": "list"}, {"type": "set"}, {"type": "tuple"}, {"type": "interval"}
OPTIONS = {"type": "choice", "choices": ["3/11", r"\frac{8}{11}", "4/11", "none of these"]}


def judge(gold: str, answer: str, row: dict) -> Outcome:
    """Without any process: what is tested here is decided by types and exact numbers."""
    no_formulas = Formulas(lambda left, right: False, lambda formula: None)
    return compare_by_rules(gold, answer, read_rules(row), no_formulas).outcome


RIGHT = [
    ("3.14", "3.1416", NUMBER | {"decimals": 2}),
    ("0.6", "0.64", NUMBER | {"decimals": 1}),
    ("0.6", "0.65", NUMBER | {"decimals": 1}),  # both schools of rounding
    (r"\frac{2}{3}", "0.67", NUMBER | {"decimals": 2}),
    ("-2.345", "-2.35", NUMBER | {"decimals": 2}),
    ("1234", "1200", NUMBER | {"significant_digits": 2}),
    ("0.00123", "0.001234", NUMBER | {"significant_digits": 3}),
    ("6.02e23", "6.0221e23", NUMBER | {"significant_digits": 3}),
    ("999.7", "1000", NUMBER | {"significant_digits": 3}),
    ("100", "101", NUMBER | {"absolute_tolerance": 1}),
    ("1000", "1010", NUMBER | {"relative_tolerance": 0.01}),
    ("-1000", "-990", NUMBER | {"relative_tolerance": 0.01}),
    ("50%", "49.8", NUMBER | {"absolute_tolerance": 0.01}),
    ("7", "x = 7.2", NUMBER | {"decimals": 0}),
    ("7", r"7 \text{ apples}", NUMBER),
    ("7 apples", "7.0 apples", NUMBER | {"require": ["unit"]}),
    ("5 km", "5", NUMBER),
    ("5 km", "5000 m", NUMBER | {"convert_units": True}),
    ("36 km/h", "10 m/s", NUMBER | {"convert_units": True}),
    ("2 ft^2", r"288 \text{ square inches}", NUMBER | {"convert_units": True}),
    ("1 L", r"1000\text{ cm}^3", NUMBER | {"convert_units": True}),
    ("1.45 dollars", r"\$1.45", NUMBER | {"require": ["unit"]}),
    ("5 km", r"5 \text{ kilometers}", NUMBER | {"require": ["unit"]}),
    ("50%", r"50\%", {"require": ["percent"]}),
    ("101_2", "101_{2}", {"require": ["base"]}),
    ("1/2", r"\frac{1}{2}", {"require": ["reduced"]}),
    (r"5 \text{ cm}", "5 cm", {"require": ["unit"]}),
    ("B", "(B) 3/11", CHOICE),
    ("B", r"\textbf{(B)}", CHOICE),
    ("B", "B.", CHOICE),
    ("B", "b", CHOICE),
    ("B", "option B", CHOICE),
    ("B", "not A but B", CHOICE),
    ("B", "8/11", OPTIONS),
    ("B", r"(B)\ \frac{8}{11}", OPTIONS),
    (r"\frac{8}{11}", "B", OPTIONS),
    ("D", "none of these", OPTIONS),
    ("A, C", r"\text{A and C}", CHOICE),
    ("AC", "C, A", CHOICE),
    ("Paris", r"\text{paris}.", TEXT),
    ("the Nile", "Nile", TEXT),
    ("USA", "The United States", TEXT | {"accept": ["united states"]}),
    ("St. Louis", "St Louis", TEXT),
    ("1,2,3", "(3,2,1)", LIST),
    ("1,2,3", r"\{3,2,1\}", LIST),
    ("1,234", "234, 1", LIST),
    ("1, 1, 2", "1, 2, 1", LIST),
    ("3", "[3]", LIST),
    ("1,2,3", "[1,2,3]", LIST | {"require": ["order"]}),
    ("1,1,2", "2,1", SET),
    ("a,b,c", "c,b,a", SET),
    ("1,2", r"2 \text{ or } 1", SET),
    ("1,2,3", "[1, 2, 3]", TUPLE),
    ("(1, 1/2)", "1, 0.5", TUPLE),
    ("1, 2", "1 and 2", {"require": ["order"]}),
    ("(1,2)", "1<x<2", INTERVAL),
    ("(1,2)", "2 > t > 1", INTERVAL),
    (r"(-\infty,2)\cup(3,\infty)", "x<2 or x>3", INTERVAL),
    (r"(-\infty,2)\cup(3,\infty)", r"x > 3 \text{ or } x < 2", INTERVAL),
    (r"[1,2]\cup[2,3]", r"[1,3]", INTERVAL),
    (r"\mathbb{R}\setminus\{0\}", r"x \neq 0", INTERVAL),
    (r"(0,1]", r"\{x \mid 0 < x \le 1\}", INTERVAL),
    (r"(0,1)", r"x \in (0, 1)", INTERVAL),
    (r"(-\infty,\infty)", r"\mathbb{R}", INTERVAL),
    (r"\{1\}\cup[2,3]", r"[2,3] \cup \{1\}", INTERVAL),
    ("(0, 1/2)", "]0; 0.5[", INTERVAL),
]
UNPAID = [
    ("3.14", "3.15", NUMBER | {"decimals": 2}),
    ("3.14", "3.1451", NUMBER | {"decimals": 2}),
    ("0.6", "0.66", NUMBER | {"decimals": 1}),
    ("6.02e23", "6.03e23", NUMBER | {"significant_digits": 3}),
    ("1000", "1011", NUMBER | {"relative_tolerance": 0.01}),
    ("7", "6.9 or 8", NUMBER | {"decimals": 0}),
    ("7", "6, 7", NUMBER | {"decimals": 0}),
    ("7", "7 is wrong", NUMBER),
    ("7", r"7 \text{ is wrong}", NUMBER),
    ("7", r"7 \text{ or } 8", NUMBER | {"decimals": 0}),
    ("7 apples", "7 pears", NUMBER | {"require": ["unit"]}),
    ("5 km", "5000 m", NUMBER),
    ("5 km", "5 m", NUMBER | {"convert_units": True}),
    ("5 km", "5 s", NUMBER | {"convert_units": True}),
    ("5 km^2", "5000 m^2", NUMBER | {"convert_units": True}),
    ("5 km", "5", NUMBER | {"require": ["unit"]}),
    ("0.5", r"50", NUMBER | {"absolute_tolerance": 0.1}),
    ("50%", "0.5", {"require": ["percent"]}),
    ("101_2", "101", {"require": ["base"]}),
    ("1/2", "2/4", {"require": ["reduced"]}),
    ("3", "6/2", {"require": ["reduced"]}),
    (r"\text{Even}", "even", {"require": ["case"]}),
    (r"5 \text{ cm}", "5", {"require": ["unit"]}),
    ("B", "A or B", CHOICE),
    ("B", "A, B, C, D", CHOICE),
    ("B", "not B but A", CHOICE),
    ("B", "3/11", OPTIONS),
    ("B", "(B) 3/11", OPTIONS),
    ("B", "(B) or maybe (C)", CHOICE),
    ("B", "E", OPTIONS),
    ("B", "", CHOICE),
    ("A, C", "A", CHOICE),
    ("A, C", "A, C, D", CHOICE),
    ("Paris", "Paris or London", TEXT),
    ("Paris", "not Paris", TEXT),
    ("Paris", "paris", TEXT | {"require": ["case"]}),
    ("version 3.5", "version 35", TEXT),
    ("1,2,3", "1,2", LIST),
    ("1,1,2", "1,2", LIST),
    ("1,2,3", "3,2,1", LIST | {"require": ["order"]}),
    ("1,2,3", "3,2,1", TUPLE),
    ("1, 2", "2, 1", {"require": ["order"]}),
    ("1,2", "1,2,3", SET),
    ("1", "1 or 2", SET),
    ("(1,2)", "[1,2)", INTERVAL),
    ("(1,2)", r"1<x\le2", INTERVAL),
    (r"(-\infty,2)\cup(3,\infty)", "x<2", INTERVAL),
    (r"[1,2)\cup(2,3]", r"[1,3]", INTERVAL),
    ("(1,2)", "1<x<y", INTERVAL),
]


@pytest.mark.parametrize(("gold", "answer", "row"), RIGHT)
def test_right_by_its_rules(gold, answer, row):
    assert judge(gold, answer, row) is Outcome.RIGHT


@pytest.mark.parametrize(("gold", "answer", "row"), UNPAID)
def test_not_paid_by_its_rules(gold, answer, row):
    assert judge(gold, answer, row) in (Outcome.WRONG, Outcome.NO_ANSWER)


# Each policy choice of docs/rewards.md that a row may turn around: right without rules, not with them.
CHOICES_OF_POLICY = [
    ("50%", "50", {"require": ["percent"]}),
    ("1, 2, 3", "3, 2, 1", {"require": ["order"]}),
    ("2516_8", "2516", {"require": ["base"]}),
    ("1/2", "3/6", {"require": ["reduced"]}),
    (r"4 \text{ cm}^2", "4", {"require": ["unit"]}),
    (r"\text{Evelyn}", "evelyn", {"require": ["case"]}),
]
# And the other way round: not paid without rules, right with them.
REFUSALS_OF_POLICY = [
    (r"\frac{1}{3}", "0.333", NUMBER | {"decimals": 3}),
    ("a, b, c", "c, b, a", SET),
    ("(0, 1)", "0 < x < 1", INTERVAL),
    ("5 km", "5000 m", NUMBER | {"convert_units": True}),
    ("2, 3", "(2, 3)", LIST),
]


@pytest.mark.parametrize(("gold", "answer", "row"), CHOICES_OF_POLICY)
def test_a_row_may_ask_for_more_than_the_value(gold, answer, row):
    assert judge(gold, answer, {}) is Outcome.RIGHT
    assert judge(gold, answer, row) is Outcome.WRONG


@pytest.mark.parametrize(("gold", "answer", "row"), REFUSALS_OF_POLICY)
def test_a_row_may_accept_more(gold, answer, row):
    strict = compare_by_rules(gold, answer, DEFAULT_RULES, Formulas(lambda g, a: False, lambda f: None))
    assert strict.outcome is Outcome.WRONG
    assert judge(gold, answer, row) is Outcome.RIGHT


def test_formulas_have_values_and_logarithms_a_base():
    cases = [
        ("3.14", r"\pi", NUMBER | {"decimals": 2}, Outcome.RIGHT),
        (r"10\pi", "31.4", NUMBER | {"absolute_tolerance": 0.1}, Outcome.RIGHT),
        (r"10\pi", "31.6", NUMBER | {"absolute_tolerance": 0.1}, Outcome.WRONG),
        ("3.14", "x", NUMBER | {"decimals": 2}, Outcome.WRONG),
        ("2", r"\sqrt{-4}", NUMBER | {"decimals": 2}, Outcome.WRONG),
        (r"(-\infty,\sqrt{8}]", r"x \le 2\sqrt{2}", INTERVAL, Outcome.RIGHT),
        (r"(-\infty,\sqrt{8}]", r"x \le 2.828427", INTERVAL, Outcome.WRONG),
        (r"\sqrt{2}, 1", r"1, \frac{2}{\sqrt{2}}", SET, Outcome.RIGHT),
        (r"\log 2", r"\ln 2", {"log": "e"}, Outcome.RIGHT),
        (r"\log 2", r"\ln 2", {"log": "10"}, Outcome.WRONG),
        (r"\log 2", r"\log_{10} 2", {"log": "10"}, Outcome.RIGHT),
        ("(a, b)", "(a, b)", INTERVAL, Outcome.RIGHT),
        ("x", "5", NUMBER, Outcome.FAULT),
    ]
    items = [MathItem(g, a, is_reply=False, rules=read_rules(row)) for g, a, row, _ in cases]
    with MathVerifier(timeout_seconds=8.0) as verifier:
        found = [verdict.outcome for verdict in verifier.judge(items)]
    assert found == [outcome for *_, outcome in cases]


def test_one_pair_under_two_rules_has_two_verdicts():
    item = MathItem("1, 2", r"\boxed{2, 1}")
    ordered = MathItem("1, 2", r"\boxed{2, 1}", rules=read_rules({"require": ["order"]}))
    with MathVerifier() as verifier:
        found = [verdict.outcome for verdict in verifier.judge([item, ordered, item, ordered])]
    assert found == [Outcome.RIGHT, Outcome.WRONG] * 2


@pytest.mark.parametrize(
    ("gold", "row", "problem"),
    [
        ("B", CHOICE, ""),
        ("3.5 km", NUMBER, ""),
        ("x+1", {}, ""),
        ("twelve", CHOICE, "names no option"),
        ("F", OPTIONS, "names no option"),
        ("...", TEXT, "has no words"),
        (",", LIST, "has no elements"),
        (" ", {}, "is empty"),
        ("9" * 1200, {}, "longer than"),
    ],
)
def test_a_gold_that_is_not_right_for_itself_is_found(gold, row, problem):
    found = gold_problem(gold, read_rules(row))
    assert (problem in found) if problem else found == ""


@pytest.mark.parametrize(
    ("left", "right", "factor"),
    [
        ("km", "m", 1000),
        ("ft", "in", 12),
        ("mi", "ft", 5280),
        ("yd", "ft", 3),
        ("hour", "min", 60),
        ("week", "days", 7),
        ("lb", "oz", 16),
        ("dollars", "cents", 100),
        ("m^2", "cm^2", 10_000),
        ("cubic meters", "L", 1000),
        ("km/h", "m/s", Fraction(5, 18)),
        ("mph", "ft/s", Fraction(22, 15)),
        ("years", "months", 12),
        ("N", "kg m/s^2", 1),
        ("J", r"\text{N} \cdot \text{m}", 1),
    ],
)
def test_units_convert_by_the_factors_of_any_table(left, right, factor):
    one, other = read_unit(left), read_unit(right)
    assert one is not None
    assert other is not None
    assert one.quantity == other.quantity
    assert one.factor / other.factor == factor


@pytest.mark.parametrize("text", ["", "5", "^2", "m^", "square", "3 m", "m " * 20, r"\frac{m}{s}"])
def test_what_names_no_unit(text):
    assert read_unit(text) is None


def test_sets_of_numbers_are_equal_when_their_members_are():
    """Against an independent truth: membership at every end point, beside it, and in between."""
    rng = random.Random(5)
    brackets = (("(", ")"), ("[", ")"), ("(", "]"), ("[", "]"))

    def draw() -> list[tuple[str, int, int, str]]:
        found = []
        for _ in range(rng.randint(1, 3)):
            low, high = sorted(rng.sample(range(5), 2))
            opening, closing = rng.choice(brackets)
            found.append((opening, low, high, closing))
        return found

    def holds(pieces: list[tuple[str, int, int, str]], x: Fraction) -> bool:
        return any(
            (low < x or (low == x and opening == "[")) and (x < high or (x == high and closing == "]"))
            for opening, low, high, closing in pieces
        )

    places = [Fraction(n, 2) for n in range(-1, 11)]
    num_equal = 0
    for _ in range(3000):
        left, right = draw(), draw()
        texts = [r" \cup ".join(f"{o}{a}, {b}{c}" for o, a, b, c in side) for side in (left, right)]
        sets = [read_set(text, lambda formula: None) for text in texts]
        same = all(holds(left, x) == holds(right, x) for x in places)
        assert (sets[0] == sets[1]) == same, texts
        num_equal += same
    assert num_equal > 50


def test_rules_that_are_the_default_change_nothing():
    formulas = Formulas(lambda left, right: left == right, lambda formula: None)
    for gold, answer in (("1/2", "0.5"), ("42", "41, 42"), ("x+1", "1+x"), ("50%", "50")):
        plain = compare_by_rules(gold, answer, DEFAULT_RULES, formulas)
        assert compare_by_rules(gold, answer, AnswerRules(accept=("no such",)), formulas) == plain

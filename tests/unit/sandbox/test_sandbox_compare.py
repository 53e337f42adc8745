"""Output comparison against a table that was decided by people, not by this code."""

import json
import math

import pytest

from k15.sandbox.base import Comparison
from k15.sandbox.compare import matches, values_match

EXACT = Comparison()
FLOAT = Comparison(absolute=1e-6, relative=1e-6)


@pytest.mark.parametrize(
    ("produced", "expected", "want"),
    [
        ("1 2 3", "1 2 3 ", True),
        ("1 2 3\n", "1 2 3", True),
        ("1\n2\n3", "1 2 3", False),
        ("1\r\n2", "1\n2", True),
        ("YES", "yes", False),
        ("0.5", "0.50", True),
        ("0.333333333", "0.333333334", False),
        ("50000000000000000", "50000000000000001", False),
        ("1e5", "100000", True),
        ("0.0001", "0.0009", False),
        ("-0.0", "0.0", True),
        ("nan", "nan", True),
        ("inf", "inf", True),
        ("inf", "1e400", False),
        ("3", "3.0", True),
        ("", "", True),
        ("\n\n1", "1", True),
        ("1\n\n2", "1\n2", True),
        ("a  b", "a b", True),
        ("\uff11", "1", False),
        ("1_000", "1000", False),
        ("abc", "abc\0", False),
        ("1 2", "2 1", False),
        ("0x10", "16", False),
        ("1\u00a02", "1 2", False),
        ("1\x1c2", "1 2", False),
        ("٣", "3", False),
        ("+3", "3", True),
        ("3.", "3", True),
        (".5", "0.5", True),
        (".", "0", False),
        ("1e999999999999999999999", "1", False),
        ("1e99999999", "1e99999998", False),
        ("\ufeff1", "1", False),
        ("1", "", False),
        ("", "1", False),
        (" " * 100_000 + "42" + "\n" * 100_000, "42", True),
    ],
)
def test_the_default_is_exact_token_by_token_and_line_by_line(produced, expected, want):
    assert matches(produced, expected, EXACT) is want


@pytest.mark.parametrize(
    ("produced", "expected", "rule", "want"),
    [
        ("0.333333333", "0.333333334", FLOAT, True),
        ("0.3333", "0.333333333", FLOAT, False),
        ("0.0001", "0.0009", FLOAT, False),
        ("1000000.5", "1000000", FLOAT, True),
        ("1000002", "1000000", FLOAT, False),
        ("0.0000005", "0", FLOAT, True),
        ("nan", "1", FLOAT, False),
        ("inf", "1", FLOAT, False),
        ("1e400", "1e401", FLOAT, False),
        ("x", "1", FLOAT, False),
        ("0.1", "0.1000000001", Comparison(absolute=1e-6), True),
        ("0.1", "0.1000000001", Comparison(relative=1e-12), False),
        ("1\n2\n3", "1 2 3", Comparison(mode="tokens"), True),
        ("1 2 3 4", "1 2 3", Comparison(mode="tokens"), False),
        ("1 2", "1 2\n", Comparison(mode="exact"), False),
        ("1 2\n", "1 2\n", Comparison(mode="exact"), True),
        ("YES", "yes", Comparison(ignore_case=True), True),
        ("3.0", "3", Comparison(integers_are_exact=True), False),
        ("3", "3.0", Comparison(integers_are_exact=True), True),
        ("3", "3", Comparison(integers_are_exact=True, absolute=0.5), True),
        ("4", "3", Comparison(absolute=1.0), True),
    ],
)
def test_a_problem_may_set_its_rule(produced, expected, rule, want):
    assert matches(produced, expected, rule) is want


@pytest.mark.parametrize(
    ("value", "expected", "want"),
    [
        (1, 1, True),
        (True, 1, False),
        (1, True, False),
        (True, True, True),
        (None, None, True),
        (0, None, False),
        (1.0, 1, True),
        ([1, [2, 3]], [1, [2, 3]], True),
        ([1, 2], [1, 2, 3], False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1], {"0": 1}, False),
        ("1", 1, False),
        ("a", "a", True),
        ([], [], True),
        ([], {}, False),
        (0.1 + 0.2, 0.3, False),
        (10**30, 10**30 + 1, False),
    ],
)
def test_values_of_json(value, expected, want):
    assert values_match(value, expected, EXACT) is want
    assert values_match(json.loads(json.dumps([value])), [expected], EXACT) is want


def test_values_with_a_tolerance():
    assert values_match([0.1 + 0.2], [0.3], FLOAT)
    assert not values_match([0.31], [0.3], FLOAT)
    assert values_match(math.nan, math.nan, EXACT)
    assert not values_match(math.nan, 1.0, FLOAT)
    assert not values_match(math.inf, 1.0, FLOAT)
    assert not values_match(3.0, 3, Comparison(integers_are_exact=True))

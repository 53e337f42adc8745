"""The rules of a row: what is read comes back, and what contradicts itself is refused with a cure."""

import pytest

from k15.config.answers import read_rules, rules_as_row
from k15.errors import DataError
from k15.types import DEFAULT_RULES, AnswerKind, AnswerRules

ROWS = [
    {"type": "number", "decimals": 2},
    {"type": "number", "significant_digits": 3, "require": ["unit"], "convert_units": True},
    {"type": "number", "absolute_tolerance": 0.5, "relative_tolerance": 0.01},
    {"type": "choice", "choices": ["3/11", "8/11"]},
    {"type": "text", "accept": ["the United States", "USA"], "require": ["case"]},
    {"type": "list", "require": ["order"]},
    {"require": ["base", "percent", "reduced"], "log": "10"},
    {"type": "interval"},
]


@pytest.mark.parametrize("row", ROWS)
def test_rules_come_back_as_they_were_written(row):
    rules = read_rules(row)
    assert rules != DEFAULT_RULES
    assert rules_as_row(rules) == row
    assert read_rules(rules_as_row(rules)) == rules


def test_no_rules_are_the_rules_for_all():
    assert read_rules(None) == read_rules({}) == read_rules({"type": "auto"}) == AnswerRules()
    assert rules_as_row(DEFAULT_RULES) is None


def test_every_field_has_its_key():
    full = AnswerRules(AnswerKind.NUMBER, ("5",), (), frozenset({"unit"}), True, "e", 1, None, 0.5, 0.25)
    row = rules_as_row(full)
    assert row is not None
    assert read_rules(row) == full


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("number", "must be a JSON object"),
        ({"kind": "number"}, "unknown key; got 'kind'"),
        ({"type": "numbers"}, '"type" is unknown'),
        ({"type": ["number"]}, '"type" is unknown'),
        ({"type": None}, '"type" is unknown'),
        ({"decimals": 2}, 'needs "type": "number"'),
        ({"type": "number", "decimals": 2.5}, "whole number from 0 to 30"),
        ({"type": "number", "decimals": True}, "whole number"),
        ({"type": "number", "decimals": -1}, "whole number from 0"),
        ({"type": "number", "significant_digits": 0}, "whole number from 1"),
        ({"type": "number", "decimals": 1, "significant_digits": 2}, "exclude each other"),
        ({"type": "number", "absolute_tolerance": -1}, "0 or more"),
        ({"type": "number", "relative_tolerance": float("inf")}, "0 or more"),
        ({"type": "number", "relative_tolerance": "1%"}, "0 or more"),
        ({"convert_units": True}, '"convert_units" needs'),
        ({"type": "number", "convert_units": 1}, "true or false"),
        ({"choices": ["1"]}, '"choices" needs'),
        ({"type": "choice", "choices": ["8/11", " 8/11"]}, "the same text twice"),
        ({"type": "choice", "choices": [str(i) for i in range(27)]}, "26 texts"),
        ({"require": "order"}, "list of texts"),
        ({"require": ["ordered"]}, "unknown word; got 'ordered'"),
        ({"accept": [" "]}, "not empty"),
        ({"log": "2"}, '"e" or "10"'),
    ],
)
def test_a_wrong_rule_is_refused(row, message):
    with pytest.raises(DataError) as caught:
        read_rules(row)
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")

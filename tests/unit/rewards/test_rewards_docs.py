"""docs/rewards.md tells the truth: each line of its table of choices is judged, with and without its rule."""

import dataclasses
import json
import re
from pathlib import Path
from typing import get_args

import pytest

from k15.config.answers import Requirement, read_rules, rules_as_row
from k15.rewards.math import MathItem, MathVerifier
from k15.types import AnswerKind, AnswerRules

PAGE = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text()
LINE = re.compile(
    r"\| `(?P<gold>[^`]+)` \| `(?P<answer>[^`]+)` \| (?P<verdict>right|not paid) \| (?:`(?P<rules>\{.*\})`)? *\|"
)
CHOICES = [found.groupdict() for found in map(LINE.fullmatch, PAGE.splitlines()) if found]


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(timeout_seconds=8.0) as verifier:
        yield verifier


def test_the_table_is_read():
    assert len(CHOICES) >= 30
    assert sum(choice["rules"] is not None for choice in CHOICES) >= 12


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: f"{choice['gold']} {choice['answer']}")
def test_a_choice_of_policy_is_as_the_page_says(verifier, choice):
    items = [MathItem(choice["gold"], rf"So \boxed{{{choice['answer']}}}.")]
    if choice["rules"] is not None:
        items.append(MathItem(*_pair(items[0]), rules=read_rules(json.loads(choice["rules"]))))
    paid = [verdict.correct == 1.0 for verdict in verifier.judge(items)]
    is_right = choice["verdict"] == "right"
    assert paid == [is_right, not is_right][: len(items)]


def _pair(item: MathItem) -> tuple[str, str]:
    return item.gold, item.text


def test_the_page_names_every_rule():
    full = AnswerRules(AnswerKind.LIST, ("a",), ("b",), frozenset({"order"}), True, "e", 1, 1, 1, 1)
    row = rules_as_row(full)
    assert row is not None
    assert len(row) == len(dataclasses.fields(AnswerRules)) == 10
    words = {*row, *get_args(Requirement), *(kind.value for kind in AnswerKind)}
    assert [word for word in sorted(words) if f"`{word}`" not in PAGE] == []


def test_the_rows_shown_on_the_page_are_rules():
    shown = [json.loads(line) for line in PAGE.splitlines() if line.startswith('{"question"')]
    assert len(shown) == 3
    for row in shown:
        assert rules_as_row(read_rules(row["rules"])) == row["rules"]

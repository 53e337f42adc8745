"""One answer in many forms, near misses, different golds: RWD-02 to RWD-05, and RWD-10 on determinism.

The same on the golds of whole data sets, and on 100,000 pairs, is `studies/grader.py`. K15_GOLDS names files of
prompts, separated by colons, whose golds are then compared with themselves here too.
"""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.prompts.rows import read_row, read_rows
from k15.rewards.math import MathItem, MathVerifier, gold_problem
from k15.testing.answers import GOLDS, near_misses, renderings
from k15.types import DEFAULT_RULES, Outcome

FILES = [Path(name) for name in os.environ.get("K15_GOLDS", "").split(":") if name]


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(timeout_seconds=8.0) as verifier:
        yield verifier


def test_every_gold_is_right_for_itself():
    assert [gold for gold in GOLDS if gold_problem(gold, DEFAULT_RULES)] == []


@pytest.mark.skipif(not FILES, reason="K15_GOLDS names no files of prompts")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_gold_of_a_data_set_is_right_for_itself(path):
    golds = [read_row(value).answer for _, value in read_rows(path)]
    assert [gold for gold in golds if gold_problem(gold, DEFAULT_RULES)] == []


def test_an_answer_is_right_however_it_is_written(verifier):
    cases = [(gold, name, text) for gold in GOLDS for name, text in renderings(gold)]
    assert len({name for _, name, _ in cases}) >= 30
    items = [MathItem(gold, rf"So \boxed{{{text}}}.") for gold, _, text in cases]
    missed = [c for c, v in zip(cases, verifier.judge(items), strict=True) if not v.correct]
    assert missed == []


def test_a_near_miss_is_a_miss(verifier):
    cases = [(gold, name, text) for gold in GOLDS for name, text in near_misses(gold)]
    assert len(cases) > 600
    items = [MathItem(gold, rf"So \boxed{{{text}}}.") for gold, _, text in cases]
    verdicts = list(verifier.judge(items))
    paid = [case for case, verdict in zip(cases, verdicts, strict=True) if verdict.correct]
    assert paid == []
    assert {verdict.outcome for verdict in verdicts} <= {Outcome.WRONG, Outcome.NO_ANSWER}


def test_different_golds_are_different(verifier):
    """Equal are only those that are so in truth: 1/2 and 0.5 do not both stand in the list."""
    equal = {("-2, 5", "5, -2")}
    rng = random.Random(7)
    pairs = [tuple(rng.sample(GOLDS, 2)) for _ in range(600)]
    verdicts = verifier.judge([MathItem(gold, rf"\boxed{{{other}}}") for gold, other in pairs])
    assert {pair for pair, v in zip(pairs, verdicts, strict=True) if v.correct} <= equal


@settings(max_examples=60, deadline=None)
@given(st.integers(-(10**9), 10**9).filter(bool), st.integers(1, 10**6), st.integers(0, 8))
def test_any_rational_number_in_any_form_and_no_neighbour(top, bottom, places):
    """Decided in this process: the outcome must be there without a pool."""
    forms = [str(top), rf"\frac{{{top}}}{{{bottom}}}", f"{top / 10**places:.{places}f}"]
    with MathVerifier() as verifier:
        for gold in forms:
            ways = list(renderings(gold))
            misses = [text for name, text in near_misses(gold) if name != "hedges"]
            items = [
                MathItem(gold, text, is_reply=False) for text in (*(text for _, text in ways), *misses)
            ]
            verdicts = [verdict.outcome for verdict in verifier.judge(items)]
            missed = [way for way, v in zip(ways, verdicts, strict=False) if v is not Outcome.RIGHT]
            assert missed == []
            assert Outcome.RIGHT not in verdicts[len(ways) :]
        assert verifier.process_ids == ()


def test_a_reply_has_one_verdict_whenever_and_after_whatever_it_is_judged():
    cases = [(gold, text) for gold in GOLDS[::4] for _, text in (*renderings(gold), *near_misses(gold))]
    items = [MathItem(gold, rf"\boxed{{{text}}}") for gold, text in random.Random(0).sample(cases, 120)]

    def judged(order: list[int], num_workers: int) -> list[tuple[Outcome, str]]:
        with MathVerifier(timeout_seconds=20.0, num_workers=num_workers) as verifier:
            verdicts = list(verifier.judge([items[i] for i in order]))
            again = list(verifier.judge([items[i] for i in order]))  # remembered
        assert [(v.outcome, v.reason) for v in again] == [(v.outcome, v.reason) for v in verdicts]
        by_place = dict(zip(order, verdicts, strict=True))
        return [(by_place[i].outcome, by_place[i].reason) for i in range(len(items))]

    order = list(range(len(items)))
    first = judged(order, 1)
    assert judged(order[::-1], 1) == first
    assert judged(random.Random(1).sample(order, len(order)), 2) == first
    with MathVerifier() as verifier:
        hundred = list(verifier.judge([items[0]] * 100))
    assert {(v.outcome, v.reason, v.span) for v in hundred} == {(*first[0], hundred[0].span)}

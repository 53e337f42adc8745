"""The auditor: right where it is sure, unsure where it cannot tell, and independent of what it audits."""

import ast
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import k15.rewards.strict
from k15.config.answers import read_rules
from k15.rewards.math import MathItem, MathVerifier
from k15.rewards.strict import audit_reply, find_answer
from k15.rewards.strict_tasks import audit_task
from k15.tasks import get_family
from k15.types import Audit, Outcome, Verdict

GOLDEN = os.environ.get("K15_GOLDEN_PAIRS")
ROOM = Path(k15.rewards.strict.__file__).parent

RIGHT = [
    ("72", "72.0"),
    (r"\frac12", r"\dfrac{1}{2}"),
    ("0.5", "1/2"),
    ("1,234", "1234"),
    ("1234", r"1{,}234"),
    (r"7\frac{3}{4}", "31/4"),
    ("x^2-4", "(x-2)(x+2)"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\sin^2 x + \cos^2 x + y", "1+y"),
    (r"\binom{5}{2}", "10"),
    ("5!", "120"),
    ("50%", "0.5"),
    ("50%", "50"),
    ("x=3", "3"),
    ("3", "x = 3"),
    ("(1,2)", r"\left(1,\ \frac{4}{2}\right)"),
    ("1, 2, 3", "3, 2, 1"),
    ("1, 2", r"2 \text{ and } 1"),
    ("1,2", r"\{1, 2\}"),
    (r"\text{Evelyn}", "evelyn"),
    (r"5 \text{ cm}", r"5\text{ cm}"),
    ("2^{100}", "4^{50}"),
    (r"|x|", r"\sqrt{x^2}"),
    (r"2\pi r", r"\pi \cdot 2 \cdot r"),
    ("e^{2x}", "(e^x)^2"),
    (r"\sqrt[3]{8}", "2"),
    (r"5 \text{ cm}", "5"),
    ("73", "**73**"),
    ("(1,2),(3,4)", "(3,4), (1,2)"),
]
WRONG = [
    ("72", "73"),
    ("72", "720"),
    ("72", "-72"),
    ("0.5", "50"),
    ("2^{100}", "2^{100}+1"),
    ("x^2-4", "(x-2)(x+3)"),
    ("x", "-x"),
    ("|x|", "x"),
    (r"\ln(x^2)", r"3\ln x"),
    ("42", "41, 42"),
    ("42", "41 or 42"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("1, 2", "1, 2, 3"),
    ("1, 2", "1, 3"),
    (r"\pi", "3.14"),
    (r"\text{odd}", r"\text{even}"),
    ("a+b", "a+c"),
    ("42", ""),
]
UNSURE = [
    (r"\pi", "3.14159265358979"),
    ("1 < x < 2", "x>1"),
    (r"\pm 2", "2, -2"),
    ("2x+y=3", "4x+2y=6"),
    ("101_2", "5"),
    ("5", r"5 \text{ cm}"),
    ("81", "9**2"),
    (r"\text{none}", r"\emptyset"),
    ("x", "y" * 500),
    ("3", r"\int_0^3 1 dx"),
    (r"288 \pi", r"288.0000001 \pi"),
    (r"36^\circ", r"\$36"),
    (r"\log 2", r"\ln 2"),
    ("1", "(((9!)!)!)!"),
]


@pytest.mark.parametrize(
    ("gold", "answer", "audit"),
    [(*pair, Audit.RIGHT) for pair in RIGHT]
    + [(*pair, Audit.WRONG) for pair in WRONG]
    + [(*pair, Audit.UNSURE) for pair in UNSURE],
)
def test_what_the_auditor_says(gold, answer, audit):
    assert audit_reply(gold, rf"so \boxed{{{answer}}}") is audit


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"<think>\boxed{1}</think> It is $\boxed{42}$.", "42"),
        (
            r"\boxed{41}, "
            + "no, wait, that cannot be, it has to be one more than this is: "
            + r"\boxed{42}",
            "42",
        ),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("9 * 2 = 18. #### 18", "18"),
        ("The answer is 42. So it is.", "42"),
        (r"<think>\boxed{42}", ""),
        (r"<think>\boxed{42}</think> Hm", ""),
        (r"\boxed{42", ""),
        ("It is 42.", ""),
        (r"\boxed{1} and \boxed{2}", None),
        (r"\boxed{\boxed{42}}", None),
    ],
)
def test_where_the_auditor_finds_the_answer(reply, answer):
    assert find_answer(reply) == answer


def test_a_reply_that_begins_in_a_thought_must_close_it():
    assert find_answer(r"\boxed{42}", in_thought=True) == ""
    assert find_answer(r"so</think>\boxed{42}", in_thought=True) == "42"


@pytest.mark.parametrize(
    ("gold", "answer", "row", "audit"),
    [
        ("B", "(B)", {"type": "choice"}, Audit.RIGHT),
        ("B", "(C)", {"type": "choice"}, Audit.WRONG),
        ("B", "A or B", {"type": "choice"}, Audit.UNSURE),
        ("10", "10.4", {"type": "number", "absolute_tolerance": 0.5}, Audit.RIGHT),
        ("10", "10.6", {"type": "number", "absolute_tolerance": 0.5}, Audit.WRONG),
        ("10", "10.5", {"type": "number", "absolute_tolerance": 0.5}, Audit.UNSURE),
        ("1, 2", "2, 1", {"require": ["order"]}, Audit.UNSURE),
    ],
)
def test_rules_of_a_row(gold, answer, row, audit):
    assert audit_reply(gold, rf"\boxed{{{answer}}}", rules=read_rules(row)) is audit


def test_it_shares_no_code_with_the_verifier():
    """Of k15 it may import its own files and the records; of the rest nothing but the standard library."""
    for name in ("strict.py", "strict_formula.py", "strict_tasks.py"):
        for node in ast.walk(ast.parse((ROOM / name).read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                is_own = module.startswith(("k15.rewards.strict", "k15.types"))
                assert is_own or module.split(".")[0] in ("__future__", *_STANDARD), (name, module)


_STANDARD = ("ast", "cmath", "collections", "dataclasses", "fractions", "itertools", "math", "re")


def test_a_defect_of_the_verifier_is_disputed():
    """Had the verifier paid a wrong answer, or not paid a right one, the auditor would say so."""
    for gold, answer in RIGHT:
        audit = audit_reply(gold, rf"\boxed{{{answer}}}")
        assert Verdict(Outcome.WRONG, audit=audit).is_disputed
        assert Verdict(Outcome.NO_ANSWER, audit=audit).is_disputed
        assert not Verdict(Outcome.RIGHT, audit=audit).is_disputed
        assert not Verdict(Outcome.FAULT, audit=audit).is_disputed
    for gold, answer in WRONG:
        audit = audit_reply(gold, rf"\boxed{{{answer}}}")
        assert Verdict(Outcome.RIGHT, audit=audit).is_disputed
        assert not Verdict(Outcome.WRONG, audit=audit).is_disputed
    assert not Verdict(Outcome.RIGHT).is_disputed
    assert not Verdict(Outcome.RIGHT, audit=Audit.UNSURE).is_disputed


def test_both_graders_agree_where_the_auditor_is_sure():
    pairs = RIGHT + WRONG + UNSURE
    items = [MathItem(gold, rf"\boxed{{{answer}}}") for gold, answer in pairs]
    with MathVerifier(timeout_seconds=8.0) as verifier:
        verdicts = list(verifier.judge(items))
    for (gold, answer), verdict in zip(pairs, verdicts, strict=True):
        audit = audit_reply(gold, rf"\boxed{{{answer}}}")
        assert audit is Audit.UNSURE or (audit is Audit.RIGHT) == (verdict.outcome is Outcome.RIGHT), (
            gold,
            answer,
        )


@given(st.text(max_size=60), st.text(alphabet=r"\frac{}sqrt()^_0123456789+-*/x,.%!|$ ", max_size=60))
def test_any_text_is_audited(gold, answer):
    assert audit_reply(gold, rf"\boxed{{{answer}}}") in Audit


@pytest.mark.parametrize("name", ["trial", "collatz", "countdown"])
def test_generated_problems_are_judged_as_their_family_does(name):
    """Right answers, answers of other problems, and noise: two independent judges, one opinion."""
    family, rng = get_family(name), random.Random(3)
    problems = family.problems(0, family.levels, 60, "train")
    noise = ["", "7", "x", "-3", "1 2", "12 * (3 - 1)", "0", "3+4", "007"]
    num_right = 0
    for problem in problems:
        for answer in (problem.answer, rng.choice(problems).answer, rng.choice(noise)):
            reply = f"<think>\nAnswer: 1\n</think>\nAnswer: {answer}"
            verdict = family.verify(problem.question, problem.answer, reply)
            audit = audit_task(name, problem.question, reply)
            assert audit is (Audit.RIGHT if verdict.outcome is Outcome.RIGHT else Audit.WRONG), reply
            num_right += verdict.outcome is Outcome.RIGHT
    assert num_right >= 60
    assert audit_task("no such family", "?", "Answer: 1") is None


@pytest.mark.skipif(GOLDEN is None, reason="K15_GOLDEN_PAIRS names no file of labelled pairs")
def test_no_labelled_pair_is_audited_wrongly():
    assert GOLDEN is not None
    rows = [json.loads(line) for line in Path(GOLDEN).read_text().splitlines() if line.strip()]
    sure = 0
    for row in rows:
        audit = audit_reply(row["gold"], row.get("reply") or rf"\boxed{{{row['answer']}}}")
        sure += audit is not Audit.UNSURE
        assert audit is Audit.UNSURE or (audit is Audit.RIGHT) == row["correct"], row
    assert sure >= len(rows) / 2

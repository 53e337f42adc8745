"""The verifier "math": what is paid, what is not, and that no answer escapes its limits."""

import json
import os
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k15.rewards.compare import compare
from k15.rewards.math import MathItem, MathVerifier
from k15.types import Outcome

GOLDEN = os.environ.get("K15_GOLDEN_PAIRS")


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(timeout_seconds=8.0, num_workers=1) as verifier:
        yield verifier


def judge(verifier: MathVerifier, gold: str, text: str, *, is_reply: bool = False):
    [verdict] = verifier.judge([MathItem(gold, text, is_reply=is_reply)])
    return verdict


EQUAL = [
    ("0.5", r"\frac{1}{2}"),
    (r"\frac12", r"\dfrac{1}{2}"),
    ("72", "72.00"),
    ("72", r"\$72"),
    ("1234", "1,234"),
    ("1234", r"1{,}234"),
    ("-3", "−3"),
    ("5", "5 hours"),
    ("5", r"5\text{ apples}"),
    (r"5\text{ cm}", "5"),
    ("5 dollars", "$5"),
    (r"45^\circ", "45"),
    ("25%", "0.25"),
    ("25%", "25"),
    ("0.25", r"25\%"),
    ("2000000", "2 million"),
    ("x^2-4", "(x-2)(x+2)"),
    ("a^2-4", "(a-2)(a+2)"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    ("2x+1", "1+2x"),
    ("x=3", "3"),
    ("3", "x=3"),
    ("3", "x = 1 + 2 = 3"),
    (r"\frac{1}{3}", r"\frac{1}{3} \approx 0.333"),
    ("y=2x", "f(x)=2x"),
    ("2,3", "3,2"),
    ("2,3", r"\{3, 2\}"),
    ("2 and 3", r"3 \text{ and } 2"),
    (r"\pm 2", "-2, 2"),
    (r"1 \pm \sqrt{2}", r"1-\sqrt{2}, 1+\sqrt{2}"),
    ("(1,2)", r"\left( 1,\, 2 \right)"),
    ("(1, 0.5)", r"(1,\frac{1}{2})"),
    ("[0,1)", "[0, 1)"),
    (r"x \in [0,1]", "[0,1]"),
    (r"(-\infty, 2) \cup (3, \infty)", r"x \in (-\infty,2)\cup(3,\infty)"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
    (r"x \ge 2", r"2 \le x"),
    (r"\text{Evelyn}", "evelyn"),
    (r"\text{(B)}", "B"),
    (r"\text{no real solutions}", r"\emptyset"),
    ("11_2", "11"),
    ("3:2", "3 : 2"),
    ("e^{x}", "exp(x)"),
    (r"\sqrt{-4}", "2i"),
]
DIFFERENT = [
    ("72", "73"),
    ("72", "-72"),
    ("72", "720"),
    ("72", "7.2"),
    ("72", "172"),
    ("0.5", "50"),
    ("50", "0.5"),
    ("1000", "1.000"),
    ("1.5", "1,5"),
    (r"\frac{1}{3}", "0.333333333"),
    (r"\pi", "3.14159265"),
    ("2^{200}", "2^{200}+1"),
    (r"\frac{1}{900!}", r"\frac{1}{901!}"),
    ("0.00000001", "0.00000002"),
    ("x^2-4", "(x-2)(x+3)"),
    ("a^2-4", "(a-2)(a-2)"),
    ("x", "3x"),
    ("3", "3x"),
    ("3", "3t"),
    ("3", "3k"),
    ("42", "42, 43"),
    ("42", "42 or 43"),
    ("42", r"42 \text{ or } 43"),
    ("42", r"41 \text{ is wrong, it is } 42"),
    ("42", "41=42"),
    ("42", r"41 \approx 42"),
    ("42", "a=41, b=42"),
    ("42", r"42\%"),
    ("42", "42_5"),
    ("5 cm", "5 km"),
    ("2,3", "2"),
    ("2,3", "2,3,4"),
    ("2,2,3", "2,3"),
    ("2,3", "(2,3)"),
    ("(2,3)", "(3,2)"),
    ("(2,3)", r"\{2,3\}"),
    ("[2,3]", "(2,3)"),
    ("x=2,y=3", "x=3,y=2"),
    ("x=2,y=3", "3,2"),
    (r"x \ge 2", "x > 2"),
    ("x+y=1", "x+y=2"),
    ("x+y=1", "1"),
    ("B", "A, B, C, D"),
    (r"(-\infty, 2) \cup (3, \infty)", r"[-\infty, 2) \cup (3, \infty)"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty, 2) \cup (3, \infty]"),
    (r"36^\circ", r"\$36"),
    (r"\$36", r"36^{\circ}"),
    (r"\text{odd}", r"\text{even}"),
    ("0", r"\text{none}"),
    ("3:00", "3"),
    ("10", "1e1x"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers_are_right(verifier, gold, answer):
    assert judge(verifier, gold, answer).outcome is Outcome.RIGHT


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers_are_not_paid(verifier, gold, answer):
    assert judge(verifier, gold, answer).outcome in (Outcome.WRONG, Outcome.NO_ANSWER)


# Every way to write two values at once that we could think of. Neither may be paid.
HEDGES = [
    *(
        "%s|%s",
        r"%s \vee %s",
        "%s; %s",
        r"%s \quad %s",
        r"%s \\ %s",
        r"%s\text{ }%s",
        "%s!=%s",
        "%s:%s",
        r"%s \to %s",
    ),
    *(
        r"%s \neq %s",
        "%s<%s",
        r"%s \le %s",
        r"%s \in \{%s\}",
        "[%s,%s]",
        "(%s,%s)",
        r"\{%s,%s\}",
        "%s or %s",
        "%s ? %s",
    ),
    *(
        r"\{%s\} \cup \{%s\}",
        r"%s \equiv %s",
        "%s & %s",
        "%s_{%s}",
        "not %s but %s",
        r"\cancel{%s} %s",
        "%s=%s",
    ),
    *(
        r"%s \hspace{%s}",
        r"\overset{%s}{%s}",
        r"%s \not= %s",
        "x=%s, y=%s",
        r"%s \ldots %s",
        "%s\n%s",
        "$%s$ $%s$",
    ),
    *(
        r"\phantom{%s} %s",
        r"\begin{cases} %s \\ %s \end{cases}",
        "%s (%s)",
        r"\text{%s} %s",
        r"%s \tag{%s}",
        "%s #%s",
    ),
]


def test_no_hedge_is_paid(verifier):
    values = [("42", "43"), ("43", "42"), (r"\sqrt{2}", r"\sqrt{3}"), (r"\sqrt{3}", r"\sqrt{2}")]
    items = [MathItem(min(pair), form % pair, is_reply=False) for form in HEDGES for pair in values]
    paid = [item.text for item, v in zip(items, verifier.judge(items), strict=True) if v.correct]
    assert paid == []


@pytest.mark.parametrize("text", sorted({text for pair in EQUAL + DIFFERENT for text in pair}))
def test_every_formula_equals_itself_in_a_box(verifier, text):
    assert (
        judge(
            verifier, text, rf"<think>\boxed{{0}}</think>so $\boxed{{ {text} }}$.", is_reply=True
        ).correct
        == 1.0
    )


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_numbers_are_equal_as_exactly_as_fractions_are(left, right):
    def never(gold: str, answer: str) -> bool:
        raise AssertionError("numbers need no Math-Verify")

    gold = f"{left.numerator}/{left.denominator}"
    answer = rf"\dfrac{{{right.numerator}}}{{{right.denominator}}}"
    assert (compare(gold, answer, never).outcome is Outcome.RIGHT) == (left == right)


@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_the_ways_to_write_a_number_are_one_number(number, places):
    gold = str(Fraction(number, 10**places))
    decimal = (
        f"{number / 10**places:,.{places}f}"
        if abs(number) < 10**9
        else str(Fraction(number, 10**places))
    )
    for written in (
        decimal,
        f"${decimal}$",
        rf"\({decimal}\)",
        f"**{decimal}**",
        f"{decimal}.",
        f"x = {decimal}",
    ):
        assert compare(gold, written, lambda g, a: False).outcome is Outcome.RIGHT, written
    assert (
        compare(gold, str(Fraction(number, 10**places) + 1), lambda g, a: False).outcome is Outcome.WRONG
    )


@pytest.mark.parametrize(
    ("gold", "reply", "outcome"),
    [
        ("18", "She sells 16 - 7 = 9 eggs, 9 * 2 = 18. #### 18", Outcome.RIGHT),
        ("18", "She sells 16 - 7 = 9 eggs, 9 * 2 = 18.", Outcome.NO_ANSWER),
        ("18", r"<think>\boxed{18}", Outcome.NO_ANSWER),
        ("18", r"<think>\boxed{18}</think> I am not sure.", Outcome.NO_ANSWER),
        ("18", r"\boxed{17} or \boxed{18}", Outcome.NO_ANSWER),
        ("17, 18", r"\boxed{17} and \boxed{18}", Outcome.RIGHT),
        ("18", r"\boxed{17}", Outcome.WRONG),
        ("18", "", Outcome.NO_ANSWER),
        ("18", "1\u200b8 so the answer is 1\u200b8", Outcome.NO_ANSWER),
        ("18", r"\boxed{１８}", Outcome.NO_ANSWER),
        ("18", "\\boxed{1\ud8008}", Outcome.NO_ANSWER),
        ("", r"\boxed{18}", Outcome.FAULT),
    ],
)
def test_replies(verifier, gold, reply, outcome):
    verdict = judge(verifier, gold, reply, is_reply=True)
    assert verdict.outcome is outcome
    assert verdict.reason


def test_numbers_need_no_process():
    with MathVerifier() as verifier:
        assert judge(verifier, "72", r"\boxed{72.0}").correct == 1.0
        assert judge(verifier, "72", "1/2").correct == 0.0
        assert verifier.process_ids == ()


# Each of these needs Math-Verify and would take minutes or the machine's memory.
HOSTILE = [r"10^{10^{10}}", r"\sum_{k=1}^{1000000000} \sin(kx)"]
NESTED = "(" * 450 + "1" + ")" * 450
HOSTILE_BUT_CHEAP = [
    r"\boxed{" * 1000,
    r"\boxed{" * 1000 + "1" + "}" * 1000,
    "(" * 900,
    "{" * 400 + "1" + "}" * 400,
    r"\{" * 200 + "1" + r"\}" * 200,
    r"\frac{" * 200,
    r"\text{" * 150,
    r"\pm" * 300 + "1",
    "9" * 1000,
    "9" * 100_000,
    "=".join("1" * 400),
    ",".join("1" * 400),
    "1" + "%" * 900,
    "5 cm " * 50,
    "a " * 490,
    "4\x002",
    "__import__('os').abort()",
    "().__class__.__base__.__subclasses__()",
    r"\input{/etc/passwd}",
    r"\def\a{\a\a}\a",
    "1_" + NESTED,
]


def test_an_answer_that_takes_too_long_is_a_timeout_and_the_next_one_is_judged():
    items = [
        MathItem("x^2-4", a, is_reply=False)
        for h in HOSTILE
        for a in (h, f"(x-2)(x+2)+{len(h)}-{len(h)}")
    ]
    with MathVerifier(timeout_seconds=1.0) as verifier:
        verdicts = list(verifier.judge(items))
        again = list(verifier.judge(items))
    assert [v.outcome for v in verdicts] == [Outcome.TIMEOUT, Outcome.RIGHT] * len(HOSTILE)
    assert all(v.seconds < 4.0 for v in verdicts)
    assert verdicts[0].reason == "the comparison took more than 1 s"
    assert [v.outcome for v in again] == [v.outcome for v in verdicts]
    assert all(v.seconds < 0.1 for v in again)  # remembered


@pytest.mark.parametrize("gold", ["42", "x"])
def test_hostile_text_is_judged_without_a_fault(gold):
    items = [MathItem(gold, text, is_reply=r) for text in HOSTILE_BUT_CHEAP for r in (False, True)]
    with MathVerifier(timeout_seconds=1.0) as verifier:
        for item, verdict in zip(items, verifier.judge(items), strict=True):
            assert verdict.outcome in (Outcome.WRONG, Outcome.NO_ANSWER, Outcome.TIMEOUT), (
                item,
                verdict,
            )


def test_text_of_a_policy_is_never_evaluated(tmp_path):
    # In a process of its own: importing `symbolic` takes sympy's evaluator away.
    flag = tmp_path / "evaluated"
    script = f"""
from k15.rewards.symbolic import symbolic_equal
import sympy
attack = "__import__('pathlib').Path({str(flag)!r}).touch()"
for text in (attack, "f(" + attack + ")", "\\\\max(" + attack + ",1)", "\\\\text{{" + attack + "}}", "1+" + attack):
    assert not symbolic_equal("1", text)
    try:
        sympy.sympify(text)
    except ValueError as error:
        assert "never evaluated" in str(error), error
    else:
        raise SystemExit("sympify evaluated " + text)
assert symbolic_equal("x/2", "0.5x")
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    assert not flag.exists()


fragments = st.sampled_from(
    [
        r"\frac",
        r"\sqrt",
        r"\boxed",
        r"\text",
        r"\pm",
        r"\cup",
        r"\in",
        r"\approx",
        r"\left(",
        r"\begin{pmatrix}",
        r"\\",
        *list("{}[]()^_=<>,;:!%$&|+-*/.\\ "),
        "1",
        "42",
        "x",
        "or",
        "and",
        "is",
        "million",
        "cm",
        "answer is",
        "é",
        "½",
        "\u200b",
        "\n",
        "'",
        '"',
    ]
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(fragments, max_size=14).map("".join), st.lists(fragments, max_size=14).map("".join))
def test_any_text_has_a_comparison(gold, answer):
    def unequal(gold: str, answer: str) -> bool:
        return False

    match = compare(gold, answer, unequal)
    assert match.outcome in (Outcome.RIGHT, Outcome.WRONG, Outcome.NO_ANSWER)
    assert match.reason


def test_any_text_has_a_verdict(verifier):
    rng = random.Random(0)
    words = [
        r"\frac{",
        r"\sqrt{",
        "}",
        "{",
        "(",
        ")",
        "x",
        "2",
        "^",
        "+",
        "=",
        ",",
        r"\boxed{",
        r"\text{",
        "<",
        "|",
        "!",
    ]
    texts = ["".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(150)]
    items = [MathItem("x^2+1", text, is_reply=False) for text in texts]
    for verdict in verifier.judge(items):
        assert verdict.outcome in (Outcome.RIGHT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.TIMEOUT), (
            verdict
        )


@pytest.mark.skipif(GOLDEN is None, reason="K15_GOLDEN_PAIRS names no file of labelled pairs")
def test_labelled_pairs(verifier):
    """A JSON line each: id, gold, answer or reply, correct. Kept outside the project."""
    assert GOLDEN is not None
    rows = [json.loads(line) for line in Path(GOLDEN).read_text().splitlines() if line.strip()]
    items = [MathItem(r["gold"], r.get("reply", r.get("answer")), is_reply="reply" in r) for r in rows]
    verdicts = verifier.judge(items)
    wrong = [
        (r["id"], v.reason)
        for r, v in zip(rows, verdicts, strict=True)
        if (v.correct == 1.0) != r["correct"]
    ]
    assert len(rows) >= 100
    assert wrong == []


@pytest.mark.parametrize(
    ("gold", "answer", "is_right"),
    [
        ("58,500", "58500", True),
        ("58,500", "58, 500", True),  # the same digits in the same order
        ("58,500", "500, 58", False),
        ("2,125", "125,2", False),
        ("58, 500", "500,58", True),  # with a space it is a list from the start
        ("234, 1", "1,234", True),
    ],
)
def test_a_number_in_groups_of_three_is_no_list_in_any_order(gold, answer, is_right):
    found = compare(gold, answer, lambda g, a: False).outcome
    assert (found is Outcome.RIGHT) == is_right

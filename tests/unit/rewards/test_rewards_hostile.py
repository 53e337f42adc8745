"""G01-G24: text that attacks a grader. Nothing is paid, nothing hangs, and the next answer is judged as ever."""

import time
from pathlib import Path

import pytest

from k15.rewards.math import MathItem, MathVerifier
from k15.rewards.strict import audit_reply
from k15.types import Audit, Outcome

LIMIT_SECONDS = 2.0
MOST_SECONDS = 2.5
MOST_MB = 512

ATTACKS = {
    "G01 import": '__import__("os").getpid()',
    "G02 subclasses": "().__class__.__base__.__subclasses__()",
    "G03 open": 'open("/etc/passwd").read()',
    "G04 tower of **": "9**9**9**9",
    "G05 factorial": "99999999!",
    "G06 long power": "3**400000000",
    "G07 tower of ^": r"10^{10^{10^{10}}}",
    "G08 factorials of factorials": "(((9!)!)!)!",
    "G09 a sum of 10^9 terms": r"\sum_{k=1}^{1000000000} \sin(kx)",
    "G10 nested brackets": "(" * 5000 + "1" + ")" * 5000,
    "G11 nested roots": r"\sqrt{" * 2000 + "2" + "}" * 2000,
    "G12 many digits": "9" * 100_000,
    "G13 many boxes": r"\boxed{1}" * 20_000,
    "G14 huge binomial and product": r"\binom{10^{9}}{5 \cdot 10^{8}} \prod_{k=1}^{10^{9}} k",
    "G15 nested boxes": r"\boxed{" * 10_000 + "1" + "}" * 10_000,
    "G16 unclosed fractions": r"\frac{" * 10_000,
    "G17 hidden marks in a number": "4\u202e2\u200b0",
    "G18 combining marks and foreign digits": "4\u0332 \u0664\u0662",
    "G19 a megabyte of brackets": "(" * (1 << 20),
    "G20 nested text": r"\text{" * 10_000,
    "G21 macros that call themselves": r"\def\a{\a\a}\newcommand{\b}{\b\b}\a\b",
    "G22 a file": r"\input{/etc/passwd}",
    "G23 the delimiters of the gold": r"$x/2$ } \boxed{ $$ \] x/2 \( #### ",
    "G24 half a surrogate pair, and NUL": "4\ud800\x002\udfff",
}
# Short forms of those above that are longer than an answer may be: they reach the comparison itself.
SHORT = {
    "G10 short": "(" * 400 + "1" + ")" * 400,
    "G11 short": r"\sqrt{" * 100 + "2" + "}" * 100,
    "G12 short": "9" * 999,
    "G15 short": r"\boxed{" * 80 + "1" + "}" * 80,
    "G16 short": r"\frac{" * 150,
    "G20 short": r"\text{" * 150,
}
GOLDS = ("x/2", "42")


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(timeout_seconds=LIMIT_SECONDS) as verifier:
        [verdict] = verifier.judge([MathItem("x-1", "-1+x", is_reply=False)])  # the process is up
        assert verdict.outcome is Outcome.RIGHT
        yield verifier


@pytest.mark.parametrize("name", [*ATTACKS, *SHORT])
def test_an_attack_is_not_paid_not_slow_and_leaves_the_grader_in_order(verifier, name):
    text = {**ATTACKS, **SHORT}[name]
    own, verdicts = time.process_time(), []
    for gold in GOLDS:
        written = MathItem(gold, text, is_reply=False), MathItem(gold, rf"so \boxed{{{text}}}")
        verdicts += verifier.judge(written)
        if any(verdict.outcome is Outcome.TIMEOUT for verdict in verdicts):
            break  # once is enough: the other gold would take as long
    assert time.process_time() - own < MOST_SECONDS
    for verdict in verdicts:
        assert verdict.outcome in (Outcome.WRONG, Outcome.NO_ANSWER, Outcome.TIMEOUT)
        assert verdict.seconds <= MOST_SECONDS
        assert len(verdict.extracted) <= 1000 or verdict.outcome is Outcome.NO_ANSWER
    for pid in verifier.process_ids:
        status = Path(f"/proc/{pid}/status").read_text()
        assert int(status.split("VmHWM:")[1].split()[0]) < MOST_MB * 1024
    number = len(name)  # another pair each time, so that it is not remembered
    [verdict] = verifier.judge([MathItem(f"{number}x+x", rf"\boxed{{{number + 1}x}}")])
    assert verdict.outcome is Outcome.RIGHT


@pytest.mark.parametrize("name", ATTACKS)
def test_the_auditor_pays_no_attack_either(name):
    own = time.process_time()
    for gold in GOLDS:
        assert audit_reply(gold, rf"so \boxed{{{ATTACKS[name]}}}") is not Audit.RIGHT
        assert audit_reply(gold, ATTACKS[name]) is not Audit.RIGHT
    assert time.process_time() - own < MOST_SECONDS

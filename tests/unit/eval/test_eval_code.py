"""Code benchmarks: which job comes of which problem, and the verdicts of a whole batch."""

import json

import pytest

from k15.config.rl import RewardsConfig
from k15.eval import judge as judge_module
from k15.eval.code import code_job
from k15.eval.judge import Judge, Reply
from k15.eval.problem import Problem
from k15.sandbox.base import AssertTest, CallTest, JobResult, RunVerdict, Sandbox, StdinTest
from k15.types import Outcome

HEAD = (
    'from math import sqrt\n\ndef helper(x):\n    return x\n\ndef root(x):\n    """The root of x."""\n'
)
ASSERT = {
    "kind": "assert",
    "head": HEAD,
    "entry_point": "root",
    "tests": "def check(candidate):\n    assert candidate(4) == helper(2) == root(4)\n",
}


def packed(kind, *tests, function=""):
    return {
        "kind": kind,
        "entry_point": function,
        "statement": "",
        "public": json.dumps(tests[:1]),
        "private": json.dumps(tests[1:]),
    }


def run_python(source, **names):
    scope = dict(names)
    exec(source, scope)
    return scope


@pytest.mark.parametrize(
    "code",
    [
        "def root(x):\n    return sqrt(x)\n",  # the head's import is missing
        "    return sqrt(x)\n",  # the body alone
        HEAD + "    return sqrt(x)\n",  # all of it
    ],
)
def test_humaneval_replies_become_whole_programs(code):
    job = code_job(ASSERT, code)
    assert job.entry_point == "root"
    candidate = run_python(job.program.code)["root"]
    (test,) = job.tests
    assert isinstance(test, AssertTest)
    run_python(test.code, candidate=candidate)  # raises if the assertion fails
    with pytest.raises(AssertionError):
        run_python(test.code, candidate=lambda x: 3)


def test_the_program_does_not_hold_the_tests():
    assert "check" not in code_job(ASSERT, "def root(x):\n    return 1\n").program.code


def test_stdin_tests_are_public_and_private():
    tests = [{"input": "1", "output": "2"}, {"input": "3", "output": "6"}]
    job = code_job(packed("stdin", *tests), "print(int(input()) * 2)")
    assert job.tests == (StdinTest("1", "2"), StdinTest("3", "6"))
    assert job.stop_at_first_failure


@pytest.mark.parametrize(
    ("code", "entry_point"),
    [("class Solution:\n    def f(self, a, b): pass", "Solution.f"), ("def f(a, b): pass", "f")],
)
def test_call_tests_have_one_argument_a_line(code, entry_point):
    job = code_job(packed("call", {"input": '[1, 2]\n"x"', "output": "null"}, function="f"), code)
    assert job.tests == (CallTest(([1, 2], "x"), None),)
    assert job.entry_point == entry_point


@pytest.mark.parametrize(
    "details",
    [
        packed("stdin"),
        packed("call", {"input": "[1", "output": "1"}, function="f"),
        packed("call", {"input": "1", "output": "one"}, function="f"),
        {**packed("stdin"), "private": "!!"},
    ],
)
def test_tests_that_cannot_be_read_are_an_error(details):
    with pytest.raises(ValueError):
        code_job(details, "pass")


class FakeSandbox(Sandbox):
    """Says of a program what its first line says."""

    num_slots = 3

    def __init__(self):
        self.is_closed = False

    def run(self, job):
        return JobResult(RunVerdict(job.program.code.split("\n")[0].removeprefix("# ")), "said so")

    def close(self):
        self.is_closed = True


def test_a_batch_of_replies_keeps_its_order(monkeypatch):
    sandbox = FakeSandbox()
    monkeypatch.setattr(judge_module, "make_sandbox", lambda config: sandbox)
    good = Problem("p", "?", "", "code", details=packed("stdin", {"input": "1", "output": "2"}))
    broken = Problem("q", "?", "", "code", details=packed("stdin"))
    math = Problem("m", "?", "7", "math")

    def block(verdict):
        return Reply(f"<think>hm</think>\n```python\n# {verdict}\n```")

    pairs = [
        (good, block("WA")),
        (math, Reply(r"\boxed{7}")),
        (good, block("OK")),
        (broken, block("OK")),
        (good, Reply("no code")),
        (good, block("TLE")),
        (good, block("XX")),
        (good, Reply("```python\n# OK\n```", in_thought=True)),
    ]
    with Judge(RewardsConfig()) as judge:
        verdicts = judge.judge(pairs)
    assert [v.outcome for v in verdicts] == [
        Outcome.WRONG, Outcome.RIGHT, Outcome.RIGHT, Outcome.FAULT,
        Outcome.NO_ANSWER, Outcome.TIMEOUT, Outcome.FAULT, Outcome.NO_ANSWER,
    ]  # fmt: skip
    assert "no tests" in verdicts[3].reason
    assert sandbox.is_closed

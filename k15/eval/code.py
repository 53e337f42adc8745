"""Code benchmarks: the program in a reply, and the job that tests it in the sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from k15.eval.livecodebench import decode_tests
from k15.sandbox.base import (
    AssertTest,
    CallTest,
    Job,
    JobResult,
    Limits,
    Program,
    RunVerdict,
    StdinTest,
    Test,
)
from k15.types import Outcome, Verdict

_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE
)
LIMITS = Limits(cpu_seconds=6.0, memory_mb=1024)  # LiveCodeBench's own time limit for a test


def program_in(reply: str) -> str:
    """The code of the last fenced block that has any; without a block "", because prose is not code."""
    blocks = [block for _, _, block in _FENCE.findall(reply + "\n") if block.strip()]
    return blocks[-1] if blocks else ""


def code_job(details: Mapping[str, Any], code: str) -> Job:
    """The program with the tests of its problem.

    Raises:
        ValueError: the problem's tests cannot be read.
    """
    kind, entry_point = details["kind"], details["entry_point"]
    tests: tuple[Test, ...]
    if kind == "assert":
        code = _with_head(details["head"], entry_point, code)
        tests = (AssertTest(f"{details['tests']}\n\ncheck(candidate)\n"),)
        return Job(Program("python", code), tests, entry_point=entry_point, limits=LIMITS)
    packed = [*decode_tests(details["public"]), *decode_tests(details["private"])]
    if not packed:
        raise ValueError("the problem has no tests")
    if kind == "stdin":
        tests = tuple(StdinTest(test["input"], test["output"]) for test in packed)
        return Job(Program("python", code), tests, limits=LIMITS, stop_at_first_failure=True)
    tests = tuple(_call(test) for test in packed)
    name = (
        f"Solution.{entry_point}" if re.search(r"^class Solution\b", code, re.MULTILINE) else entry_point
    )
    return Job(
        Program("python", code), tests, entry_point=name, limits=LIMITS, stop_at_first_failure=True
    )


def code_verdict(result: JobResult) -> Verdict:
    """What a job's result says of the reply: only `OK` is right, `XX` is our fault, a time limit is a timeout."""
    reason = f"{result.verdict.value}: {result.reason}" if result.reason else result.verdict.value
    seconds = sum(test.wall_seconds for test in result.tests)
    if result.verdict is RunVerdict.OK:
        return Verdict(Outcome.RIGHT, "all tests pass", "OK", seconds)
    if result.verdict is RunVerdict.XX:
        return Verdict(Outcome.FAULT, reason, "XX", seconds)
    outcome = Outcome.TIMEOUT if result.verdict is RunVerdict.TLE else Outcome.WRONG
    return Verdict(outcome, reason, result.verdict.value, seconds)


def _with_head(head: str, entry_point: str, code: str) -> str:
    """The whole program: a reply may leave out the imports of the head, or give the body alone."""
    if re.search(rf"^def {re.escape(entry_point)}\b", code, re.MULTILINE):
        before = head[: head.index(f"def {entry_point}")] if f"def {entry_point}" in head else ""
        return f"{before}\n{code}"
    return f"{head}{code}"


def _call(test: Mapping[str, Any]) -> CallTest:
    """A test of a function: one JSON value a line for the arguments, one for what it returns."""
    try:
        arguments = tuple(json.loads(line) for line in test["input"].split("\n") if line.strip())
        return CallTest(arguments, json.loads(test["output"]))
    except ValueError as error:
        raise ValueError(f"a test's input and output must be JSON values: {error}") from None

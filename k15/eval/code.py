"""Code benchmarks: the job that tests a program against its problem's tests in the sandbox.

A problem's details say of which kind its tests are:

    "assert"   HumanEval: test code that calls the function; "head" is the function's beginning
    "call"     LiveCodeBench with a starter: arguments and results, packed
    "stdin"    LiveCodeBench: input and output, packed
    "tests"    a row of one's own: tests as `k15.sandbox.rows` reads them

"statement" is the bare problem where its programs read standard input, for the vote (`vote`); else "".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from k15.eval.livecodebench import decode_tests
from k15.sandbox.base import AssertTest, CallTest, Job, Limits, Program, StdinTest
from k15.sandbox.rows import read_job

LIMITS = Limits(cpu_seconds=6.0, memory_mb=1024)  # LiveCodeBench gives each test six seconds


def code_job(details: Mapping[str, Any], code: str) -> Job:
    """The program with the tests of its problem.

    Raises:
        ValueError: the problem's tests cannot be read.
    """
    kind = details["kind"]
    if kind == "tests":
        row = {"language": "python", "stop_at_first_failure": True, **json.loads(details["tests"])}
        return read_job(row, code)
    entry_point = details["entry_point"]
    if kind == "assert":
        program = Program("python", _whole_program(details["head"], entry_point, code))
        # some of HumanEval's tests call helpers that the head defines, or the function by its own name
        setting = f"{details['head']}\n{entry_point} = candidate\n"
        test = AssertTest(f"{setting}{details['tests']}\n\ncheck(candidate)\n")
        return Job(program, (test,), entry_point=entry_point, limits=LIMITS)
    packed = [*decode_tests(details["public"]), *decode_tests(details["private"])]
    if not packed:
        raise ValueError("the problem has no tests")
    if kind == "stdin":
        tests = tuple(StdinTest(test["input"], test["output"]) for test in packed)
        return Job(Program("python", code), tests, limits=LIMITS, stop_at_first_failure=True)
    has_class = re.search(r"^class Solution\b", code, re.MULTILINE)
    return Job(
        Program("python", code),
        tuple(_call(test) for test in packed),
        entry_point=f"Solution.{entry_point}" if has_class else entry_point,
        limits=LIMITS,
        stop_at_first_failure=True,
    )


def _whole_program(head: str, entry_point: str, code: str) -> str:
    """A reply may leave out the imports of the head, or give the function's body alone."""
    definition = re.compile(rf"^def {re.escape(entry_point)}\b", re.MULTILINE)
    if not definition.search(code):
        return f"{head}{code}"
    found = definition.search(head)
    return f"{head[: found.start()] if found else ''}\n{code}"


def _call(test: Mapping[str, Any]) -> CallTest:
    """One JSON value a line for the arguments, one for what the function returns."""
    try:
        arguments = tuple(json.loads(line) for line in test["input"].split("\n") if line.strip())
        return CallTest(arguments, json.loads(test["output"]))
    except ValueError as error:
        raise ValueError(f"a test's input and output must be JSON values: {error}") from None

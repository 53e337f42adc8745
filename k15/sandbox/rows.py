"""Jobs and their results as JSON: what `k15 grade code`, the service and prompt sets read and write.

    {"language": "python", "code": "...", "tests": [
        {"stdin": "21", "expected": "42"},             a program that reads and prints
        {"args": [21], "expected": 42},                 a call of `entry_point`; JSON values
        {"assert": "assert candidate(21) == 42"}]}      Python test code, run in a box of its own

and, where wanted, "entry_point", "limits", "compile_limits", "comparison", "checker" ({"language",
"code"}), "files" (name -> text) and "stop_at_first_failure".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from k15.errors import ConfigError
from k15.sandbox.base import (
    COMPILE_LIMITS,
    AssertTest,
    CallTest,
    Comparison,
    Job,
    JobResult,
    Limits,
    Program,
    RunResult,
    RunVerdict,
    StdinTest,
    Test,
)
from k15.sandbox.languages import get_language

_JOB_FIELDS = {
    *("id", "language", "code", "tests", "entry_point", "limits", "compile_limits", "comparison"),
    *("checker", "files", "stop_at_first_failure"),
}
_LARGEST = Limits(
    cpu_seconds=600, wall_seconds=1800, memory_mb=1 << 16, processes=4096, output_bytes=1 << 28,
    disk_mb=1 << 14, open_files=1 << 16, stack_mb=1 << 12,
)  # fmt: skip
_LEAST_OPEN_FILES = 16
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", re.ASCII)
_MAX_FILES = 60
OURS = "k15_"
"""Files in a box whose names begin so are the harness's."""
Record = TypeVar("Record", Limits, Comparison)


def check_job(job: Job) -> None:
    """Refuse a job that makes no sense.

    Raises:
        ConfigError: an unknown language, a file with a name that could be taken for something else, or a
            test that calls a function of nothing.
    """
    languages = {get_language(p.language).name for p in (job.program, job.checker) if p is not None}
    names = [*job.program.files, *(job.checker.files if job.checker else ())]
    for name in names:
        if not _FILE_NAME.fullmatch(name) or name.startswith(OURS):
            raise ConfigError(
                "a file beside a program has a plain name of letters, digits and _.+-, which does not begin with "
                f"{OURS}; got {name!r:.80}."
            )
    if len(names) > _MAX_FILES:
        raise ConfigError(f"at most {_MAX_FILES} files stand beside a program; got {len(names)}.")
    if any(not isinstance(test, StdinTest) for test in job.tests):
        if languages != {"python"} or not job.entry_point:
            raise ConfigError(
                "tests that call a function need a Python program and its entry_point; got "
                f"{job.program.language} and {job.entry_point!r}."
            )
        if job.checker is not None:
            raise ConfigError("a checker judges what a program prints; its tests must have stdin.")


def read_job(row: Any, code: str | None = None) -> Job:
    """The job of a JSON object.

    Args:
        row: the object, as above.
        code: the program, where the row holds the tests alone.

    Raises:
        ValueError: it is malformed; says which field, what stands there, and what is wanted.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a job must be a JSON object; got {row!r:.60}")
    if unknown := sorted(set(row) - _JOB_FIELDS):
        raise ValueError(
            f"a job has no field {unknown[0]!r}; there are {', '.join(sorted(_JOB_FIELDS))}"
        )
    program = _program(row if code is None else {**row, "code": code}, "")
    tests = row.get("tests")
    if not isinstance(tests, list) or not tests:
        raise ValueError(f'"tests" must be a list with at least one test; got {tests!r:.60}')
    entry_point = row.get("entry_point")
    if entry_point is not None and not isinstance(entry_point, str):
        raise ValueError(f'"entry_point" must be the name of a function; got {entry_point!r:.60}')
    checker = row.get("checker")
    job = Job(
        program,
        tuple(_test(test, number) for number, test in enumerate(tests, start=1)),
        entry_point=entry_point,
        limits=_limits(row.get("limits"), Limits(), "limits"),
        compile_limits=_limits(row.get("compile_limits"), COMPILE_LIMITS, "compile_limits"),
        comparison=_comparison(row.get("comparison")),
        checker=None if checker is None else _program(checker, "checker: "),
        stop_at_first_failure=_boolean(row, "stop_at_first_failure"),
    )
    check_job(job)
    return job


def result_row(result: JobResult, *, with_outputs: bool = False) -> dict[str, Any]:
    """A job's result as a JSON object: {verdict, correct, reason, seconds, tests}.

    "correct" is true, false, or null where it is our fault. `with_outputs` adds what the program printed.
    """
    runs = [*([result.compilation] if result.compilation else []), *result.tests]
    row: dict[str, Any] = {
        "verdict": result.verdict.value,
        "correct": None if result.verdict is RunVerdict.XX else result.verdict is RunVerdict.OK,
        "reason": result.reason,
        "seconds": round(sum(run.wall_seconds for run in runs), 6),
        "tests": [_run_row(run, with_outputs) for run in result.tests],
    }
    if result.compilation is not None:
        row["compilation"] = _run_row(result.compilation, with_outputs or not result.tests)
    return row


def _run_row(run: RunResult, with_outputs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "verdict": run.verdict.value,
        "reason": run.reason,
        "cpu_seconds": run.cpu_seconds,
        "wall_seconds": run.wall_seconds,
        "memory_bytes": run.memory_bytes,
        "exit_code": run.exit_code,
        "signal": run.signal,
    }
    return {**row, "stdout": run.stdout, "stderr": run.stderr} if with_outputs else row


def _program(row: Any, where: str) -> Program:
    if not isinstance(row, dict):
        raise ValueError(f"{where}must be an object with language and code; got {row!r:.60}")
    for name in ("language", "code"):
        if not isinstance(row.get(name), str):
            raise ValueError(f'{where}"{name}" must be a text; got {row.get(name)!r:.60}')
    files = row.get("files") or {}
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise ValueError(f'{where}"files" must be an object of texts by name; got {files!r:.60}')
    return Program(
        row["language"],
        row["code"],
        {name: text.encode(errors="replace") for name, text in files.items()},
    )


def _test(row: Any, number: int) -> Test:
    if isinstance(row, dict):
        keys = set(row)
        if keys <= {"stdin", "expected"} and keys:
            stdin, expected = row.get("stdin", ""), row.get("expected")
            if isinstance(stdin, str) and (expected is None or isinstance(expected, str)):
                return StdinTest(stdin, expected)
        if keys == {"args", "expected"} and isinstance(row["args"], list):
            return CallTest(tuple(row["args"]), row["expected"])
        if keys == {"assert"} and isinstance(row["assert"], str):
            return AssertTest(row["assert"])
    raise ValueError(
        f'test {number} must be {{"stdin": TEXT, "expected": TEXT}}, {{"args": [...], "expected": ...}} or '
        f'{{"assert": PYTHON}}; got {row!r:.80}'
    )


def _limits(row: Any, default: Limits, where: str) -> Limits:
    limits = _record(row, default, where)
    for field in fields(Limits):
        value, most = getattr(limits, field.name), getattr(_LARGEST, field.name)
        least = _LEAST_OPEN_FILES if field.name == "open_files" else 0
        if value is not None and not least < value <= most:
            raise ValueError(
                f'"{where}.{field.name}" must be above {least} and at most {most}; got {value}'
            )
    return limits


def _comparison(row: Any) -> Comparison:
    rule = _record(row, Comparison(), "comparison")
    if rule.mode not in ("lines", "tokens", "exact"):
        raise ValueError(f'"comparison.mode" must be lines, tokens or exact; got {rule.mode!r:.60}')
    return rule


def _record(row: Any, default: Record, where: str) -> Record:
    """The default with a JSON object's fields in place of its own; each must keep its type."""
    if row is None:
        return default
    if not isinstance(row, Mapping):
        raise ValueError(f'"{where}" must be an object; got {row!r:.60}')
    known = {field.name: str(field.type) for field in fields(default)}
    for name, value in row.items():
        if name not in known:
            raise ValueError(f'"{where}" has no field {name!r}; there are {", ".join(known)}')
        if not _fits(value, known[name]):
            raise ValueError(f'"{where}.{name}" must be {known[name]}; got {value!r:.60}')
    return replace(default, **row)


def _fits(value: Any, kind: str) -> bool:
    if value is None:
        return "None" in kind
    if isinstance(value, bool):
        return kind == "bool"
    if isinstance(value, float):
        return "float" in kind and value == value
    if isinstance(value, int):
        return "int" in kind or "float" in kind
    return isinstance(value, str) and "Literal" in kind


def _boolean(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f'"{name}" must be true or false; got {value!r:.60}')
    return value

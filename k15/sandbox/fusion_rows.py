"""SandboxFusion's `/run_code`, as the service understands and answers it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import Any

from k15.sandbox.base import (
    COMPILE_LIMITS,
    Job,
    JobResult,
    Limits,
    Program,
    RunResult,
    RunVerdict,
    StdinTest,
)
from k15.sandbox.rows import check_job

_DEFAULT_SECONDS = 10.0
_DEFAULT_MEMORY_MB = 1024
_MOST_SECONDS = 600.0


def read_fusion(row: Any) -> Job:
    """The job of a request: one program, one run, any output.

    Raises:
        ValueError: it is malformed, or asks for what this service does not have.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a request must be a JSON object; got {row!r:.60}")
    for name in ("fetch_files", "args"):
        if row.get(name):
            raise ValueError(f'"{name}" is not supported: nothing is taken out of a box but its output')
    for name in ("code", "language"):
        if not isinstance(row.get(name), str):
            raise ValueError(f'"{name}" must be a text; got {row.get(name)!r:.60}')
    stdin = row.get("stdin") or ""
    if not isinstance(stdin, str):
        raise ValueError(f'"stdin" must be a text; got {stdin!r:.60}')
    run_seconds = _number(row, "run_timeout", _DEFAULT_SECONDS)
    compile_seconds = _number(row, "compile_timeout", _DEFAULT_SECONDS)
    memory_mb = row.get("memory_limit_MB", -1)
    if not isinstance(memory_mb, int) or isinstance(memory_mb, bool):
        raise ValueError(f'"memory_limit_MB" must be a number; got {memory_mb!r:.60}')
    job = Job(
        Program(row["language"], row["code"], _files(row.get("files") or {})),
        (StdinTest(stdin),),
        limits=Limits(
            cpu_seconds=run_seconds,
            wall_seconds=run_seconds,  # their clock is on the wall
            memory_mb=memory_mb if memory_mb > 0 else _DEFAULT_MEMORY_MB,
            processes=64,
        ),
        compile_limits=replace(COMPILE_LIMITS, cpu_seconds=compile_seconds),
    )
    check_job(job)
    return job


def fusion_reply(result: JobResult) -> dict[str, Any]:
    """A job's result in the service's words."""
    run = result.tests[0] if result.tests else None
    status = "Success" if result.verdict is RunVerdict.OK else "Failed"
    if result.verdict is RunVerdict.XX:
        status = "SandboxError"
    return {
        "status": status,
        "message": result.reason if status == "SandboxError" else "",
        "compile_result": _command(result.compilation) if result.compilation else None,
        "run_result": _command(run) if run else None,
        "executor_pod_name": None,
        "files": {},
    }


def _command(run: RunResult) -> dict[str, Any]:
    if run.verdict is RunVerdict.XX:
        return {
            "status": "Error",
            "execution_time": None,
            "return_code": None,
            "stdout": "",
            "stderr": run.reason,
        }
    is_late = run.verdict is RunVerdict.TLE or "s of CPU time" in run.reason
    code = run.exit_code if run.exit_code is not None else 128 + (run.signal or 0)
    if code == 0 and run.verdict is not RunVerdict.OK:
        code = 1
    return {
        "status": "TimeLimitExceeded" if is_late else "Finished",
        "execution_time": run.wall_seconds,
        "return_code": None if is_late else code,
        "stdout": run.stdout,
        "stderr": run.stderr,
    }


def _number(row: dict[str, Any], name: str, default: float) -> float:
    value = row.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST_SECONDS:
        raise ValueError(f'"{name}" must be above 0 and at most {_MOST_SECONDS:g}; got {value!r:.60}')
    return float(value)


def _files(row: Any) -> dict[str, bytes]:
    if not isinstance(row, dict):
        raise ValueError(f'"files" must be an object; got {row!r:.60}')
    try:
        return {name: base64.b64decode(text or "", validate=True) for name, text in row.items()}
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f'"files" must hold base64 texts: {error}') from None

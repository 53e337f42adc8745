"""A client for services that speak SandboxFusion's HTTP API (`POST /run_code`), such as `k15 sandbox serve`.

The isolation is the service's; what it promises is its own affair. Outputs are compared here, so that what
is expected stays here. The API has no second box, so tests that assert cannot be run over it.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from k15.config.sandbox import SandboxConfig
from k15.errors import ConfigError
from k15.sandbox.base import (
    AssertTest,
    CallTest,
    Job,
    JobResult,
    Limits,
    Program,
    RunResult,
    RunVerdict,
    Sandbox,
    StdinTest,
    summarize,
)
from k15.sandbox.compare import matches, values_match
from k15.sandbox.judge import runtime_error
from k15.sandbox.languages import get_language
from k15.sandbox.rows import check_job

_NAMES = {"javascript": "nodejs"}  # theirs, where it is another one
_PAUSES = (0.5, 2.0)  # seconds before what was our fault is tried again
_ROOM_SECONDS = 60.0  # for the queue at the other end
_MAX_REPLY_BYTES = 1 << 28
_CALL = """
import json, os, sys
channel = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the program prints must not get into the answer
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
request = json.loads(sys.stdin.read())
import solution_under_test as module
owner, _, name = request["entry_point"].rpartition(".")
function = getattr(getattr(module, owner)(), name) if owner else getattr(module, name)
channel.write(json.dumps({"value": function(*request["args"])}) + "\\n")
channel.flush()
"""
_CHECK = """
import os, sys
folder = os.path.dirname(os.path.abspath(__file__))
sys.argv[1:] = [os.path.join(folder, name) for name in ("input.txt", "output.txt", "answer.txt")]
"""


class FusionSandbox(Sandbox):
    """Runs jobs on another machine.

    Args:
        config: `url` and `token` of the service; `num_slots` requests at a time.

    Raises:
        ConfigError: there is no url.
    """

    def __init__(self, config: SandboxConfig) -> None:
        if config.url is None:
            raise ConfigError(
                'the sandbox back end "fusion" needs the service\'s address: set sandbox.url, as in '
                "http://127.0.0.1:8080."
            )
        self.num_slots = config.num_slots
        self._url = config.url.rstrip("/")
        self._token = config.token

    def run(self, job: Job) -> JobResult:
        check_job(job)
        if any(isinstance(test, AssertTest) for test in job.tests):
            raise ConfigError(
                'tests that assert need two boxes, which the back end "fusion" does not have. Use another back '
                "end, or tests with args and expected."
            )
        results: list[RunResult] = []
        for test in job.tests or (StdinTest(),):
            assert not isinstance(test, AssertTest)
            result = self._run_test(job, test)
            if result.verdict is RunVerdict.CE:
                return summarize((), result)
            results.append(result)
            if job.stop_at_first_failure and result.verdict is not RunVerdict.OK:
                break
        return summarize(tuple(results))

    def close(self) -> None:
        """Nothing is kept open."""

    def _run_test(self, job: Job, test: StdinTest | CallTest) -> RunResult:
        if isinstance(test, StdinTest):
            result = self._run_program(job.program, test.stdin, job)
            if result.verdict is not RunVerdict.OK:
                return result
            if job.checker is not None:
                return self._check(job, job.checker, test, result)
            if test.expected is None or matches(result.stdout, test.expected, job.comparison):
                return result
            return replace(result, verdict=RunVerdict.WA, reason="the output is not the expected one")
        files = {**job.program.files, "solution_under_test.py": job.program.code.encode()}
        request = json.dumps({"entry_point": job.entry_point, "args": list(test.args)})
        result = self._run_program(Program("python", _CALL, files), request, job)
        if result.verdict is not RunVerdict.OK:
            return result
        try:
            [line] = result.stdout.splitlines()
            value = json.loads(line)["value"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return replace(result, verdict=RunVerdict.PE, reason="the result is not one JSON value")
        if values_match(value, test.expected, job.comparison):
            return replace(result, value=value)
        return replace(
            result, value=value, verdict=RunVerdict.WA, reason="the function returned something else"
        )

    def _check(self, job: Job, checker: Program, test: StdinTest, result: RunResult) -> RunResult:
        """The special judge; it reads its three files from the folder in which it starts."""
        named = {"input.txt": test.stdin, "output.txt": result.stdout, "answer.txt": test.expected or ""}
        files = {**checker.files, **{name: text.encode() for name, text in named.items()}}
        if get_language(checker.language).name != "python":
            raise ConfigError('over the back end "fusion" a checker must be a Python program.')
        code = _CHECK + checker.code
        said = self._run_program(Program("python", code, files), "", job)
        verdicts = {0: RunVerdict.OK, 1: RunVerdict.WA, 2: RunVerdict.PE}
        verdict = verdicts.get(said.exit_code if said.exit_code is not None else -1, RunVerdict.XX)
        reason = "" if verdict is RunVerdict.OK else f"the checker: {said.reason}"
        return replace(result, verdict=verdict, reason=reason)

    def _run_program(self, program: Program, stdin: str, job: Job) -> RunResult:
        language = get_language(program.language).name
        body = {
            "code": program.code,
            "language": _NAMES.get(language, language),
            "stdin": stdin,
            "compile_timeout": job.compile_limits.wall,
            "run_timeout": job.limits.wall,
            "memory_limit_MB": job.limits.memory_mb,
            "files": {name: base64.b64encode(data).decode() for name, data in program.files.items()},
        }
        for pause in _PAUSES:
            result = self._ask(body, job)
            if result.verdict is not RunVerdict.XX:
                return result
            time.sleep(pause)
        return self._ask(body, job)

    def _ask(self, body: Mapping[str, Any], job: Job) -> RunResult:
        try:
            reply = self._post(body, job.limits.wall + job.compile_limits.wall + _ROOM_SECONDS)
        except (OSError, ValueError) as error:
            return RunResult(RunVerdict.XX, f"{self._url}: {error}"[:300])
        return _result(reply, job.limits)

    def _post(self, body: Mapping[str, Any], timeout_seconds: float) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(
            f"{self._url}/run_code", json.dumps(body).encode(), headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
            return json.loads(response.read(_MAX_REPLY_BYTES))


def _result(reply: Any, limits: Limits) -> RunResult:
    """The service's answer as a result. Anything that is not what the API promises is our fault."""
    try:
        if reply["status"] not in ("Success", "Failed"):
            return RunResult(RunVerdict.XX, f"the service failed: {reply.get('message', '')}"[:300])
        compilation, run = reply.get("compile_result"), reply.get("run_result")
        if compilation and (compilation["status"] != "Finished" or compilation["return_code"]):
            stderr = compilation.get("stderr") or ""
            return RunResult(RunVerdict.CE, "does not compile", stderr=stderr)
        result = RunResult(
            RunVerdict.OK,
            stdout=run.get("stdout") or "",
            stderr=run.get("stderr") or "",
            exit_code=run.get("return_code"),
            wall_seconds=run.get("execution_time") or 0.0,
        )
        if run["status"] == "TimeLimitExceeded":
            return replace(result, verdict=RunVerdict.TLE, reason=f"more than {limits.wall:g} s")
        if run["status"] != "Finished":
            return replace(result, verdict=RunVerdict.XX, reason="the service could not run it")
    except (KeyError, TypeError, AttributeError) as error:
        return RunResult(RunVerdict.XX, f"the service's answer has not the form of the API: {error!r}")
    if not result.exit_code:
        return result
    verdict, reason = runtime_error(result.exit_code, result.stderr, limits)
    return replace(result, verdict=verdict, reason=reason)

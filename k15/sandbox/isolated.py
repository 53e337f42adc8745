"""The sandbox on this machine: jobs become boxes, what the boxes did becomes verdicts."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
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
    Test,
    summarize,
)
from k15.sandbox.client import SupervisorClient
from k15.sandbox.compare import matches, values_match
from k15.sandbox.judge import as_bytes, judge, judge_compilation
from k15.sandbox.languages import Language, get_language
from k15.sandbox.rows import OURS, check_job
from k15.sandbox.wire import BoxSpec, RawRun

_ARTIFACT_BYTES = 256 << 20
_NUM_KEPT_CHECKERS = 32
_MAX_ATTEMPTS = 3
_CHECKER_VERDICTS = {0: RunVerdict.OK, 1: RunVerdict.WA, 2: RunVerdict.PE}
_CHECKER_FAILED = 3
_TRACEBACK = "Traceback (most recent call last)"
_TESTER_ROOM = 1.0  # seconds of CPU time that test code has beyond what it tests
_TESTER_RAISED, _FUNCTION_RAISED, _OTHER_ENDED = 1, 3, 4


@dataclass(frozen=True, slots=True)
class _Built:
    """A program that can be run.

    Attributes:
        language: how it is started.
        files: what stands in /box: the source, or what the compiler made; and the program's own files.
        main: the main class, for a language that has one.
        compilation: the compiler's result, None without one.
    """

    language: Language
    files: dict[str, bytes]
    main: str
    compilation: RunResult | None


class IsolatedSandbox(Sandbox):
    """Runs jobs in boxes on this machine.

    Args:
        config: back end, slots, images. The supervisor starts at the first job.
    """

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self.num_slots = config.num_slots
        self._client = SupervisorClient(
            {
                "backend": config.backend,
                "num_slots": max(2, config.num_slots),  # two boxes that talk to each other need both
                "warm": config.warm and "python" not in config.images,
                "cgroups": config.cgroups,
                "cgroup_parent": str(config.cgroup_parent) if config.cgroup_parent else None,
            }
        )
        self._checkers: OrderedDict[str, _Built] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def client(self) -> SupervisorClient:
        """The supervisor's client; `doctor` asks it what this host can do."""
        return self._client

    def run(self, job: Job) -> JobResult:
        self._check(job)
        built = self._build(job.program, job.compile_limits)
        if built.compilation is not None and built.compilation.verdict is not RunVerdict.OK:
            return summarize((), built.compilation)
        results: list[RunResult] = []
        for test in job.tests:
            results.append(self._run_test(job, built, test))
            if job.stop_at_first_failure and results[-1].verdict is not RunVerdict.OK:
                break
        return summarize(tuple(results), built.compilation)

    def close(self) -> None:
        self._client.close()

    def _check(self, job: Job) -> None:
        check_job(job)
        language = get_language(job.program.language)
        if missing := language.missing(self._config.images.get(language.name)):
            where = self._config.images.get(language.name, "this host's /usr")
            raise ConfigError(
                f"{language.name} needs {', '.join(missing)}, and {where} does not have it. Install the package "
                f"{language.package}, or name a root file system that has it (sandbox.images.{language.name})."
            )

    def _build(self, program: Program, limits: Limits) -> _Built:
        language = get_language(program.language)
        main = language.main_name(program.code)
        source = language.source.format(main=main)
        sources = {source: as_bytes(program.code), **program.files}
        if not language.compile:
            return _Built(language, sources, main, None)
        command = language.compile.format(source=f"/box/{source}", main=main)
        spec = self._spec(
            language,
            ("sh", "-c", f"{command} >&2 && cat /tmp/out >&3"),
            limits,
            files=sources,
            may_lock=True,
            result_bytes=_ARTIFACT_BYTES,
        )
        spec = replace(spec, limit_address_space=False)
        [raw] = self._run_boxes([spec])
        result = judge_compilation(raw, limits)
        return _Built(language, {**program.files, language.artifact: raw.result}, main, result)

    def _run_test(self, job: Job, built: _Built, test: Test) -> RunResult:
        if isinstance(test, StdinTest):
            return self._run_stdin(job, built, test)
        assert job.entry_point is not None
        if isinstance(test, CallTest):
            return self._run_call(job, built, test, job.entry_point)
        return self._run_assert(job, built, test, job.entry_point)

    def _run_stdin(self, job: Job, built: _Built, test: StdinTest) -> RunResult:
        [raw] = self._run_boxes([self._program(built, job.limits, stdin=as_bytes(test.stdin))])
        result = judge(raw, self._limits(built.language, job.limits))
        if result.verdict is not RunVerdict.OK:
            return result
        if job.checker is not None:
            verdict, reason = self._check_output(job, job.checker, test, raw.stdout)
            return replace(result, verdict=verdict, reason=reason)
        if test.expected is None:
            return result
        output = raw.stdout.decode("utf-8", errors="surrogateescape")
        if not matches(output, test.expected, job.comparison):
            return replace(result, verdict=RunVerdict.WA, reason="the output is not the expected one")
        return result

    def _run_call(self, job: Job, built: _Built, test: CallTest, entry_point: str) -> RunResult:
        request = json.dumps({"entry_point": entry_point, "args": list(test.args)}).encode()
        limits = job.limits
        spec = self._program(
            built,
            limits,
            script="k15_call.py",
            harness=("call",),
            stdin=request,
            result_bytes=limits.output_bytes,
        )
        [raw] = self._run_boxes([spec])
        result = judge(raw, limits)
        if result.verdict is not RunVerdict.OK:
            return result
        lines = raw.result.splitlines()
        if not lines:
            return replace(result, verdict=RunVerdict.RE, reason="ended before the function returned")
        try:
            [line] = lines
            value = json.loads(line)["value"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return replace(result, verdict=RunVerdict.PE, reason="the result is not one JSON value")
        is_right = values_match(value, test.expected, job.comparison)
        return replace(
            result,
            value=value,
            verdict=RunVerdict.OK if is_right else RunVerdict.WA,
            reason="" if is_right else "the function returned something else",
        )

    def _run_assert(self, job: Job, built: _Built, test: AssertTest, entry_point: str) -> RunResult:
        limits = job.limits
        candidate = self._program(
            built, limits, script="k15_serve.py", harness=("serve", "call", "values")
        )
        candidate = replace(candidate, is_linked=True)
        tester_limits = replace(
            limits, cpu_seconds=limits.cpu_seconds + _TESTER_ROOM, wall_seconds=limits.wall
        )
        tester = self._spec(
            built.language,
            ("python3", "-s", "-B", "/box/k15_test.py", entry_point),
            tester_limits,
            files={"test_code.py": as_bytes(test.code), **_harness("test", "values")},
            is_warm=candidate.is_warm,
            is_linked=True,
        )
        theirs, ours = self._run_boxes([candidate, tester])
        result = judge(theirs, limits)
        if result.verdict is not RunVerdict.OK and result.verdict is not RunVerdict.RE:
            return result
        verdict, reason = _assert_verdict(ours, judge(ours, tester_limits), result)
        return replace(result, verdict=verdict, reason=reason)

    def _check_output(
        self, job: Job, checker: Program, test: StdinTest, output: bytes
    ) -> tuple[RunVerdict, str]:
        """What the special judge says of an output."""
        built = self._built_checker(checker, job.compile_limits)
        if built.compilation is not None and built.compilation.verdict is not RunVerdict.OK:
            return RunVerdict.XX, f"the checker: {built.compilation.reason}"
        code, reason = self._ask_checker(job, built, test, output)
        if code in _CHECKER_VERDICTS:
            verdict = _CHECKER_VERDICTS[code]
            return verdict, "" if verdict is RunVerdict.OK else "the checker refuses the output"
        if code == _CHECKER_FAILED:
            return RunVerdict.XX, "the checker says that it failed (exit code 3)"
        # It broke. On this output only, then the output is to blame: breaking it must not pay.
        if test.expected is not None:
            code, _ = self._ask_checker(job, built, test, as_bytes(test.expected))
            if code == 0:
                return RunVerdict.PE, "the checker cannot read the output"
        return RunVerdict.XX, f"the checker broke: {reason}"

    def _ask_checker(
        self, job: Job, built: _Built, test: StdinTest, output: bytes
    ) -> tuple[int | None, str]:
        limits = replace(job.limits, cpu_seconds=max(10.0, job.limits.cpu_seconds), wall_seconds=None)
        named = {
            "input.txt": as_bytes(test.stdin),
            "output.txt": output,
            "answer.txt": as_bytes(test.expected or ""),
        }
        spec = self._program(built, limits)
        spec = replace(
            spec,
            argv=(*spec.argv, *(f"/box/{name}" for name in named)),
            files={**spec.files, **named},
            is_warm=False,
        )
        [raw] = self._run_boxes([spec])
        result = judge(raw, limits)
        has_raised = (
            built.language.name == "python" and _TRACEBACK in result.stderr
        )  # its exit code is 1, too
        ended = result.verdict in (RunVerdict.OK, RunVerdict.RE) and not has_raised
        return (result.exit_code if ended else None), result.reason or "it raised an exception"

    def _built_checker(self, checker: Program, limits: Limits) -> _Built:
        """The compiled checker; the last few are kept, for one checker judges many outputs."""
        parts = [checker.language, checker.code, *(repr(item) for item in sorted(checker.files.items()))]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        with self._lock:
            built = self._checkers.get(key)
        if built is None:
            built = self._build(checker, limits)
            if built.compilation is not None and built.compilation.verdict is RunVerdict.XX:
                return built
            with self._lock:
                self._checkers[key] = built
                while len(self._checkers) > _NUM_KEPT_CHECKERS:
                    self._checkers.popitem(last=False)
        return built

    def _program(
        self,
        built: _Built,
        limits: Limits,
        *,
        script: str = "",
        harness: Sequence[str] = (),
        stdin: bytes = b"",
        result_bytes: int = 0,
    ) -> BoxSpec:
        """The box of a built program, or of a harness around it."""
        language = built.language
        words = {"memory_mb": limits.memory_mb, "main": built.main}
        argv = tuple(word.format(**words) for word in language.run)
        if script:
            argv = (*argv[:-1], f"/box/{script}")
        return self._spec(
            language,
            argv,
            self._limits(language, limits),
            files={**built.files, **_harness(*harness)},
            executable=(language.artifact,) if language.artifact else (),
            stdin=stdin,
            result_bytes=result_bytes,
            is_warm=language.name == "python"
            and self._config.warm
            and "python" not in self._config.images,
        )

    def _spec(self, language: Language, argv: tuple[str, ...], limits: Limits, **more: Any) -> BoxSpec:
        root = self._config.images.get(language.name)
        return BoxSpec(
            argv,
            limits,
            env=language.environment(),
            root=str(root) if root else None,
            host_paths=() if root else language.shown_host_paths(),
            limit_address_space=language.limit_address_space,
            **more,
        )

    def _limits(self, language: Language, limits: Limits) -> Limits:
        """The limits with room for the language's runtime."""
        return replace(
            limits,
            memory_mb=limits.memory_mb + language.extra_memory_mb,
            processes=limits.processes + language.extra_processes,
        )

    def _run_boxes(self, specs: list[BoxSpec]) -> list[RawRun]:
        """Run them; what was our fault is tried again."""
        runs = self._client.run(specs)
        for _ in range(_MAX_ATTEMPTS - 1):
            verdicts = [judge(run, spec.limits).verdict for run, spec in zip(runs, specs, strict=True)]
            if RunVerdict.XX not in verdicts:
                break
            runs = self._client.run(specs)
        return runs


def _assert_verdict(raw: RawRun, tester: RunResult, candidate: RunResult) -> tuple[RunVerdict, str]:
    """The verdict from the tester's end, where the candidate's box kept to its limits."""
    if tester.verdict is RunVerdict.XX:
        return RunVerdict.XX, tester.reason
    if raw.exit_code == 0:
        return RunVerdict.OK, ""
    if raw.exit_code == _TESTER_RAISED:
        return RunVerdict.WA, "an assertion failed"
    if raw.exit_code == _FUNCTION_RAISED:
        return RunVerdict.RE, "the function raised an exception"
    if raw.exit_code == _OTHER_ENDED:
        return RunVerdict.RE, candidate.reason or "ended before its tests"
    return (
        RunVerdict.TLE if tester.verdict is RunVerdict.TLE else RunVerdict.RE,
        f"tests: {tester.reason}",
    )


@cache
def _harness_text(name: str) -> bytes:
    return (files("k15.sandbox.inside") / f"{name}.py").read_bytes()


def _harness(*names: str) -> dict[str, bytes]:
    """Programs of ours for a box, by file name."""
    return {f"{OURS}{name}.py": _harness_text(name) for name in names}

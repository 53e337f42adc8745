"""The sandbox's interface: a job goes in, a verdict per test comes out (Kimi k1.5, section 2.6.4).

    job = Job(Program("python", "print(int(input()) * 2)"), tests=(StdinTest("21", "42"),))
    with make_sandbox(SandboxConfig()) as sandbox:
        result = sandbox.run(job)            # result.verdict is RunVerdict.OK

Every test is a run of its own, in a box that nobody has used before and nobody will use again. What is
expected never enters that box: the program's output is compared outside, and test code that asserts
runs in a second box, from which it calls the program's function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self


class RunVerdict(StrEnum):
    """What became of a run. Only `OK` pays; `XX` is our fault and says nothing about the program."""

    OK = "OK"
    WA = "WA"  # wrong answer
    RE = "RE"  # runtime error: exit code, signal, or an exception
    TLE = "TLE"  # time limit: CPU time of all its processes, or the wall clock
    MLE = "MLE"  # memory limit
    OLE = "OLE"  # output limit
    PE = "PE"  # presentation: the checker or the protocol could not read the output
    CE = "CE"  # does not compile
    SV = "SV"  # security violation: a system call that nobody needs; the box was killed
    XX = "XX"  # our fault


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use.

    Attributes:
        cpu_seconds: CPU time of all processes of the box together; this is the time that is judged.
        wall_seconds: wall time; None is twice the CPU time and two seconds more, room for a busy host.
        memory_mb: memory of all processes together, files in the box included.
        processes: processes and threads at the same time.
        output_bytes: standard output; standard error may have as much, a sixteenth of it is kept.
        disk_mb: files written, in memory; they count towards `memory_mb` too.
        open_files: file descriptors of one process.
        stack_mb: the main thread's stack.
    """

    cpu_seconds: float = 2.0
    wall_seconds: float | None = None
    memory_mb: int = 256
    processes: int = 32
    output_bytes: int = 1 << 20
    disk_mb: int = 16
    open_files: int = 256
    stack_mb: int = 64

    @property
    def wall(self) -> float:
        """The wall-clock limit in seconds."""
        return 2 * self.cpu_seconds + 2 if self.wall_seconds is None else self.wall_seconds


COMPILE_LIMITS = Limits(
    cpu_seconds=20.0, memory_mb=2048, processes=128, output_bytes=1 << 16, disk_mb=512, open_files=1024
)
"""What a compiler may use."""


@dataclass(frozen=True, slots=True)
class Program:
    """Source code nobody trusts.

    Attributes:
        language: a name in `sandbox.languages.LANGUAGES`: "python", "cpp", "c", "javascript", ...
        code: the source, one file.
        files: more files, by name, read-only beside the program. No folders.
    """

    language: str
    code: str
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StdinTest:
    """The program reads `stdin` and must print `expected`. None: any output will do."""

    stdin: str = ""
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class CallTest:
    """The job's function (Python) is called with `args` and must return `expected`; both are JSON values.

    Lists and tuples count as the same; True is not 1; floats compare as the job's `Comparison` says.
    """

    args: tuple[Any, ...]
    expected: Any = None


@dataclass(frozen=True, slots=True)
class AssertTest:
    """Python test code, run in a second box with `candidate` (and the function's own name) bound to the
    job's function: each call crosses to the program's box and comes back as plain data.

    The test passes if the code ends without an exception. HumanEval's `check(candidate)` needs its call
    appended.
    """

    code: str


Test = StdinTest | CallTest | AssertTest


@dataclass(frozen=True, slots=True)
class Comparison:
    """How output is compared with what is expected; the default is exact, token by token.

    Attributes:
        mode: "lines": tokens and the lines they stand on must agree, blank lines and trailing blanks
            are ignored; "tokens": line ends are blanks like any other; "exact": the same bytes.
        absolute, relative: numbers agree within either tolerance; None = numbers as exact values, so
            that 0.50 is 0.5 and 1e5 is 100000.
        ignore_case: letters compare without their case.
        integers_are_exact: 3.0 is not 3 where the expected token is an integer.
    """

    mode: Literal["lines", "tokens", "exact"] = "lines"
    absolute: float | None = None
    relative: float | None = None
    ignore_case: bool = False
    integers_are_exact: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A program and its tests.

    Attributes:
        program: what is run.
        tests: none is allowed for a program that is only compiled.
        entry_point: the function that `CallTest` and `AssertTest` call; "Solution.name" makes an object
            first.
        limits: of each test's run.
        compile_limits: of the compiler.
        comparison: how output is compared.
        checker: a special judge, run in its own box as `checker input output answer`, exit codes as in
            testlib: 0 OK, 1 WA, 2 PE, 3 the checker failed. For `StdinTest` only.
        stop_at_first_failure: leave the tests after the first one that is not OK out of the result.
    """

    program: Program
    tests: tuple[Test, ...]
    entry_point: str | None = None
    limits: Limits = Limits()
    compile_limits: Limits = COMPILE_LIMITS
    comparison: Comparison = Comparison()
    checker: Program | None = None
    stop_at_first_failure: bool = False


@dataclass(frozen=True, slots=True)
class RunResult:
    """What became of one test, or of the compiler.

    Attributes:
        verdict: one of the closed list.
        reason: one short sentence; never contains what was expected.
        stdout, stderr: what was printed, cut at the cap; bytes that are no UTF-8 are escaped.
        exit_code: of the program, None if it was killed or ended by a signal.
        signal: the signal's number that ended it, or None.
        cpu_seconds, wall_seconds: what it took.
        memory_bytes: the most memory it held; 0 where the host cannot tell.
        value: what the function returned, for `CallTest`.
    """

    verdict: RunVerdict
    reason: str = ""
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    signal: int | None = None
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    memory_bytes: int = 0
    value: Any = None


@dataclass(frozen=True, slots=True)
class JobResult:
    """What became of a job.

    Attributes:
        verdict: OK if every test is; otherwise that of the first test that says something about the
            program, and XX only if all that is not OK is our fault.
        reason: of that test, with its number.
        tests: one result a test, in order; empty if the program did not compile.
        compilation: the compiler's run, None for languages without one.
    """

    verdict: RunVerdict
    reason: str = ""
    tests: tuple[RunResult, ...] = ()
    compilation: RunResult | None = None

    @property
    def num_passed(self) -> int:
        return sum(test.verdict is RunVerdict.OK for test in self.tests)


def summarize(tests: tuple[RunResult, ...], compilation: RunResult | None = None) -> JobResult:
    """The job's result from its tests' results."""
    if compilation is not None and compilation.verdict is not RunVerdict.OK:
        return JobResult(compilation.verdict, compilation.reason, (), compilation)
    failed = [(i, test) for i, test in enumerate(tests) if test.verdict is not RunVerdict.OK]
    if not failed:
        return JobResult(RunVerdict.OK, "", tests, compilation)
    index, test = next(((i, t) for i, t in failed if t.verdict is not RunVerdict.XX), failed[0])
    return JobResult(test.verdict, f"test {index + 1}: {test.reason}", tests, compilation)


class Sandbox(ABC):
    """Runs jobs. `run` may be called from several threads at once."""

    num_slots: int = 1
    """Boxes that may run at the same time."""

    @abstractmethod
    def run(self, job: Job) -> JobResult:
        """Compile once, run every test. Never raises for what the program does.

        Raises:
            ConfigError: the job itself makes no sense: an unknown language, a test without a function.
        """

    @abstractmethod
    def close(self) -> None:
        """End every box and process. Idempotent."""

    def run_many(self, jobs: Iterable[Job]) -> Iterator[JobResult]:
        """One result a job, in order, `num_slots` jobs at a time; reads no further ahead than that."""
        source = iter(jobs)
        with ThreadPoolExecutor(self.num_slots, thread_name_prefix="k15-sandbox") as threads:
            pending: list[Future[JobResult]] = []
            try:
                for job in source:
                    pending.append(threads.submit(self.run, job))
                    if len(pending) > self.num_slots:
                        yield pending.pop(0).result()
                while pending:
                    yield pending.pop(0).result()
            finally:
                for future in pending:
                    future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

"""From what the supervisor saw to a verdict: one place, pure functions."""

from __future__ import annotations

import re
import signal
from dataclasses import replace

from k15.sandbox.base import Limits, RunResult, RunVerdict
from k15.sandbox.wire import RawRun

# What runtimes say when they get no more memory. Said falsely it only turns one failure into another.
_OUT_OF_MEMORY = re.compile(
    r"^MemoryError|std::bad_alloc|OutOfMemoryError|heap out of memory|cannot allocate memory|"
    r"fatal error: out of memory|runtime: out of memory|Cannot allocate memory",
    re.MULTILINE,
)
_NEARLY_ALL = 0.98  # of the memory: an end by SIGKILL or SIGSEGV there is for lack of it
_STARVED_SHARE = 0.5


def judge(raw: RawRun, limits: Limits) -> RunResult:
    """The result of a run that prints; OK here means that it ended well, not that its output is right."""
    verdict, reason = _verdict(raw, limits)
    return RunResult(
        verdict,
        reason,
        stdout=to_text(raw.stdout),
        stderr=to_text(raw.stderr),
        exit_code=raw.exit_code,
        signal=raw.signal,
        cpu_seconds=round(raw.cpu_seconds, 6),
        wall_seconds=round(raw.wall_seconds, 6),
        memory_bytes=raw.memory_bytes,
    )


def judge_compilation(raw: RawRun, limits: Limits) -> RunResult:
    """The compiler's result: whatever goes wrong in it is CE, unless it is our fault."""
    result = judge(raw, limits)
    if result.verdict is RunVerdict.OK and not raw.result:
        return replace(result, verdict=RunVerdict.CE, reason="the compiler made no program")
    if result.verdict in (RunVerdict.OK, RunVerdict.XX):
        return result
    reason = "does not compile" if result.verdict is RunVerdict.RE else f"compiler: {result.reason}"
    return replace(result, verdict=RunVerdict.CE, reason=reason)


def to_text(data: bytes) -> str:
    r"""Bytes as text; those that are no UTF-8 become \xNN."""
    return data.decode("utf-8", errors="backslashreplace")


def as_bytes(text: str) -> bytes:
    """Text as UTF-8; bytes that were read as text come out as they were, other halves of characters too."""
    try:
        return text.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", errors="surrogatepass")


def _verdict(raw: RawRun, limits: Limits) -> tuple[RunVerdict, str]:
    if raw.fault:
        return RunVerdict.XX, raw.fault
    if raw.num_oom_kills or raw.stopped_by == "memory":
        return RunVerdict.MLE, f"more than {limits.memory_mb} MB"
    if raw.stopped_by == "output" or raw.signal == signal.SIGXFSZ:
        return (
            RunVerdict.OLE,
            f"more than {limits.output_bytes} bytes of output, or than {limits.disk_mb} MB of files",
        )
    if raw.stopped_by == "cpu" or raw.cpu_seconds > limits.cpu_seconds or raw.signal == signal.SIGXCPU:
        return RunVerdict.TLE, f"more than {limits.cpu_seconds:g} s of CPU time"
    if raw.stopped_by == "wall":
        if raw.starved_seconds > _STARVED_SHARE * limits.wall:
            return RunVerdict.XX, (
                f"no core was free for {raw.starved_seconds:.1f} of {limits.wall:g} s: this host is overloaded"
            )
        return RunVerdict.TLE, f"more than {limits.wall:g} s by the clock"
    if raw.signal == signal.SIGSYS:
        return RunVerdict.SV, "made a system call that is not allowed"
    if raw.signal is not None:
        if raw.memory_bytes > _NEARLY_ALL * (limits.memory_mb << 20):
            return RunVerdict.MLE, _no_more_memory(limits)
        code = 128 + raw.signal
    else:
        code = raw.exit_code
    if code:
        return runtime_error(code, raw.stderr.decode(errors="replace"), limits)
    return RunVerdict.OK, ""


def runtime_error(code: int, stderr: str, limits: Limits) -> tuple[RunVerdict, str]:
    """What an exit code other than 0 means; above 128 it stands for a signal."""
    if _OUT_OF_MEMORY.search(stderr):
        return RunVerdict.MLE, _no_more_memory(limits)
    if code > 128:
        return RunVerdict.RE, f"ended by signal {_signal_name(code - 128)}"
    return RunVerdict.RE, f"exit code {code}"


def _no_more_memory(limits: Limits) -> str:
    return f"could not get more memory; the limit is {limits.memory_mb} MB"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)

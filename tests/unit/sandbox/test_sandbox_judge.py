"""From what was seen to a verdict."""

import signal

import pytest

from k15.sandbox.base import JobResult, Limits, RunResult, RunVerdict, summarize
from k15.sandbox.judge import as_bytes, judge, judge_compilation, to_text
from k15.sandbox.wire import RawRun

LIMITS = Limits(cpu_seconds=1.0, wall_seconds=4.0, memory_mb=100)
FULL = 100 << 20


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        (RawRun(exit_code=0), "OK"),
        (RawRun(fault="no box"), "XX"),
        (RawRun(fault="no box", exit_code=0, num_oom_kills=1), "XX"),
        (RawRun(exit_code=1), "RE"),
        (RawRun(signal=signal.SIGSEGV), "RE"),
        (RawRun(signal=signal.SIGKILL), "RE"),
        (RawRun(signal=signal.SIGKILL, memory_bytes=FULL), "MLE"),
        (RawRun(exit_code=0, num_oom_kills=1), "MLE"),
        (RawRun(stopped_by="memory"), "MLE"),
        (RawRun(exit_code=1, stderr=b"Traceback\nMemoryError\n"), "MLE"),
        (RawRun(exit_code=1, stderr=b"no MemoryError here\n"), "RE"),
        (RawRun(signal=signal.SIGABRT, stderr=b"terminate called after 'std::bad_alloc'"), "MLE"),
        (RawRun(exit_code=1, stderr=b"java.lang.OutOfMemoryError: Java heap space"), "MLE"),
        (RawRun(stopped_by="output"), "OLE"),
        (RawRun(signal=signal.SIGXFSZ), "OLE"),
        (RawRun(stopped_by="cpu", cpu_seconds=1.01), "TLE"),
        (RawRun(exit_code=0, cpu_seconds=1.01), "TLE"),
        (RawRun(exit_code=0, cpu_seconds=0.99, wall_seconds=3.9), "OK"),
        (RawRun(signal=signal.SIGXCPU), "TLE"),
        (RawRun(stopped_by="wall", starved_seconds=1.9), "TLE"),
        (RawRun(stopped_by="wall", starved_seconds=2.1), "XX"),
        (RawRun(stopped_by="cpu", starved_seconds=9.0), "TLE"),
        (RawRun(signal=signal.SIGSYS), "SV"),
    ],
)
def test_each_end_has_its_verdict(raw, verdict):
    assert judge(raw, LIMITS).verdict == verdict


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        (RawRun(exit_code=0, result=b"x"), "OK"),
        (RawRun(exit_code=0), "CE"),
        (RawRun(exit_code=1), "CE"),
        (RawRun(stopped_by="cpu"), "CE"),
        (RawRun(stopped_by="memory"), "CE"),
        (RawRun(signal=signal.SIGSYS), "CE"),
        (RawRun(fault="no box"), "XX"),
    ],
)
def test_whatever_goes_wrong_in_a_compiler_is_ce_but_our_fault(raw, verdict):
    assert judge_compilation(raw, LIMITS).verdict == verdict


def test_bytes_that_are_no_text_are_escaped():
    assert to_text(b"a\xff\x00\xc3\xa9") == "a\\xff\x00é"
    for data in (b"\xff\xfe", "é".encode(), b"\xed\xa0\x80"):
        assert as_bytes(data.decode(errors="surrogateescape")) == data
    assert as_bytes("\ud800") == b"\xed\xa0\x80"


def result(*verdicts: str) -> JobResult:
    return summarize(tuple(RunResult(RunVerdict(v), f"is {v}") for v in verdicts))


def test_a_job_is_what_its_first_telling_test_says():
    assert result("OK", "OK").verdict is RunVerdict.OK
    assert result("OK", "WA", "TLE").verdict is RunVerdict.WA
    assert result("OK", "WA", "TLE").reason == "test 2: is WA"
    assert result("XX", "WA").verdict is RunVerdict.WA
    assert result("OK", "XX").verdict is RunVerdict.XX
    assert result("OK", "WA", "OK").num_passed == 2
    compilation = RunResult(RunVerdict.CE, "does not compile")
    assert summarize((), compilation) == JobResult(RunVerdict.CE, "does not compile", (), compilation)

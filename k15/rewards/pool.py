"""A pool of processes that can be killed: for work on text nobody trusts.

A comparison of two formulas can take for ever, inside one C call where no signal handler of Python
runs. The only limit that holds is to kill the process, so each job runs in a child process that this
pool may kill and replace at any time. Messages are JSON lines over pipes, never pickles: the child
reads hostile text, and nothing it sends back is executed.

    pool = KillablePool("k15.rewards.symbolic:compare_job", num_workers=2, timeout_seconds=2.0)
    for result in pool.run([["1/2", "0.5"], ["x", "9**9**9**9"]]): ...      # in the order of the jobs
    pool.close()

No process exists before the first job. A child is a new interpreter (not a fork, and `__main__` is
not imported again), has its own session (Ctrl-C does not reach it), and ends when its input does; a
busy one is ended by the kernel's timer soon after the limit, should the parent have died.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

# The child gets this process's import path, so that it finds what we find and nothing else.
_CHILD = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from k15.rewards import worker; worker.main()"
_STARTUP_SECONDS = 120.0  # generous: importing sympy on a loaded machine
_MAX_FAILED_STARTS = 3
_MAX_ATTEMPTS = 2
_MAX_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class JobResult:
    """What became of one job.

    Attributes:
        status: "done" (`value` holds what the function returned), "timeout" (it went past the limit of
            time or memory), or "fault" (the process died by itself, could not start, or the function
            raised; twice).
        value: the function's return value, as JSON gives it back.
        detail: which limit, or what the fault was.
        seconds: wall time of the last attempt, without starting the process.
    """

    status: Literal["done", "timeout", "fault"]
    value: Any = None
    detail: str = ""
    seconds: float = 0.0


@dataclass
class _Job:
    index: int
    payload: Any
    attempts: int = 0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    is_ready: bool = False
    job: _Job | None = None
    started_at: float = 0.0  # of the process until it is ready, then of the job
    num_jobs: int = 0
    received: bytearray = field(default_factory=bytearray)

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self) -> None:
        """Start the job's clock and hand the job over. A dead process shows up at its output."""
        assert self.job is not None
        assert self.process.stdin is not None
        self.started_at = time.monotonic()
        try:
            self.process.stdin.write(json.dumps(self.job.payload).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # an unsent job in the buffer
                    pipe.close()


class KillablePool:
    """Runs `module:function` on JSON values in processes that are killed at a limit.

    Args:
        target: "module:function"; the function takes one JSON value and returns one.
        num_workers: most processes at the same time; each is started when a job first waits for it.
        timeout_seconds: wall time of one job, by the monotonic clock. Starting a process does not count.
        memory_mb: most address space of a child; beyond it Python raises MemoryError there.
        max_jobs_per_worker: a child is replaced after so many jobs, so that caches cannot pile up.
    """

    def __init__(
        self,
        target: str,
        *,
        num_workers: int,
        timeout_seconds: float,
        memory_mb: int = 1024,
        max_jobs_per_worker: int = 2000,
    ) -> None:
        self._target = target
        self._num_workers = num_workers
        self._timeout_seconds = timeout_seconds
        self._memory_mb = memory_mb
        self._max_jobs_per_worker = max_jobs_per_worker
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._is_running = False

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The children alive now."""
        return tuple(w.process.pid for w in self._workers)

    def run(self, jobs: Iterable[Any], *, read_ahead: int = 0) -> Generator[JobResult, None, None]:
        """One result a job, in order, as soon as it and all before it are there.

        A job that is a `JobResult` already is passed through in its turn. Reads at most `num_workers` jobs
        ahead, or `read_ahead` if that is more: then a job that runs into its limit keeps no other worker
        waiting. Ending the iteration early kills the jobs under way.
        """
        assert not self._is_running, "one run at a time"
        self._is_running = True
        self._failed_starts = 0
        source = enumerate(jobs)
        waiting: deque[_Job] = deque()
        finished: dict[int, JobResult] = {}
        next_index, num_taken, is_exhausted = 0, 0, False
        try:
            while True:
                while not is_exhausted and num_taken - next_index < max(self._num_workers, read_ahead):
                    try:
                        index, payload = next(source)
                    except StopIteration:
                        is_exhausted = True
                        break
                    num_taken += 1
                    if isinstance(payload, JobResult):
                        finished[index] = payload
                    else:
                        waiting.append(_Job(index, payload))
                if next_index == num_taken:
                    return
                while next_index not in finished:
                    self._assign(waiting, finished)
                    self._wait(waiting, finished)
                yield finished.pop(next_index)
                next_index += 1
        finally:
            for worker in [w for w in self._workers if w.job is not None]:
                self._drop(worker)
            self._is_running = False

    def close(self) -> None:
        """Kill every child and wait until it is gone. The pool can be used again."""
        for worker in list(self._workers):
            self._drop(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _assign(self, waiting: deque[_Job], finished: dict[int, JobResult]) -> None:
        while waiting:
            if self._failed_starts >= _MAX_FAILED_STARTS:
                detail = f"the grading process could not be started {self._failed_starts} times in a row"
                for job in waiting:
                    finished[job.index] = JobResult("fault", detail=detail)
                waiting.clear()
                return
            worker = next((w for w in self._workers if w.job is None), None)
            if worker is None:
                if len(self._workers) >= self._num_workers:
                    return
                worker = self._start()
            worker.job = waiting.popleft()
            worker.job.attempts += 1
            if worker.is_ready:
                worker.send()

    def _start(self) -> _Worker:
        limits = [self._target, str(self._timeout_seconds), str(self._memory_mb)]
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(sys.path), *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            # one hash seed: sympy's order of terms, and with it a rare verdict, depends on it
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        )
        worker = _Worker(process, started_at=time.monotonic())
        self._workers.append(worker)
        return worker

    def _wait(self, waiting: deque[_Job], finished: dict[int, JobResult]) -> None:
        """Until one message, death or deadline has been dealt with."""
        busy = [w for w in self._workers if w.job is not None]
        if not busy:
            return
        now = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            pause = max(0.0, min(self._deadline(w) for w in busy) - now)
            readable = [key.data for key, _ in selector.select(pause)]
        for worker in readable:
            self._read(worker, waiting, finished)
        for worker in busy:
            if worker not in readable and time.monotonic() >= self._deadline(worker):
                self._expire(worker, waiting, finished)

    def _deadline(self, worker: _Worker) -> float:
        return worker.started_at + (self._timeout_seconds if worker.is_ready else _STARTUP_SECONDS)

    def _read(self, worker: _Worker, waiting: deque[_Job], finished: dict[int, JobResult]) -> None:
        assert worker.job is not None
        chunk = os.read(worker.output, 1 << 16)
        worker.received += chunk
        if not chunk and self._exit_code(worker) == -signal.SIGALRM:  # its own timer was first
            seconds = time.monotonic() - worker.started_at
            self._finish_at_limit(worker, finished, self._time_limit, seconds)
            return
        if not chunk or len(worker.received) > _MAX_MESSAGE_BYTES:
            detail = (
                "the grading process sent too long a message" if chunk else self._post_mortem(worker)
            )
            self._fault(worker, waiting, finished, detail)
            return
        if not worker.received.endswith(b"\n"):
            return
        message, worker.received = bytes(worker.received), bytearray()
        try:
            kind, value, seconds = json.loads(message)
        except ValueError:
            self._fault(worker, waiting, finished, "the grading process sent an unreadable message")
            return
        if kind == "ready":
            worker.is_ready = True
            self._failed_starts = 0
            worker.send()
        elif kind == "memory":
            self._finish_at_limit(worker, finished, f"more than {self._memory_mb} MB", seconds)
        elif kind == "done" and seconds > self._timeout_seconds:  # nobody looked at the deadline
            self._finish_at_limit(worker, finished, self._time_limit, seconds)
        elif kind == "done":
            finished[worker.job.index] = JobResult("done", value, seconds=seconds)
            worker.job = None
            worker.num_jobs += 1
            if worker.num_jobs >= self._max_jobs_per_worker:
                self._drop(worker)
        else:
            self._fault(worker, waiting, finished, str(value))

    def _expire(self, worker: _Worker, waiting: deque[_Job], finished: dict[int, JobResult]) -> None:
        assert worker.job is not None
        if not worker.is_ready:
            self._fault(
                worker,
                waiting,
                finished,
                f"the grading process was not ready after {_STARTUP_SECONDS:g} s",
            )
            return
        self._finish_at_limit(worker, finished, self._time_limit, time.monotonic() - worker.started_at)

    @property
    def _time_limit(self) -> str:
        return f"more than {self._timeout_seconds:g} s"

    def _finish_at_limit(
        self, worker: _Worker, finished: dict[int, JobResult], detail: str, seconds: float
    ) -> None:
        assert worker.job is not None
        finished[worker.job.index] = JobResult("timeout", detail=detail, seconds=seconds)
        self._drop(worker)

    def _fault(
        self, worker: _Worker, waiting: deque[_Job], finished: dict[int, JobResult], detail: str
    ) -> None:
        """Not the limit and not an answer: replace the process and try the job once more."""
        assert worker.job is not None
        job, seconds = worker.job, time.monotonic() - worker.started_at
        if not worker.is_ready:
            self._failed_starts += 1
        self._drop(worker)
        if job.attempts < _MAX_ATTEMPTS:
            waiting.appendleft(job)
        else:
            finished[job.index] = JobResult("fault", detail=detail, seconds=seconds)

    def _exit_code(self, worker: _Worker) -> int | None:
        try:
            return worker.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return None

    def _post_mortem(self, worker: _Worker) -> str:
        code = self._exit_code(worker)
        if code is None:
            return "the grading process closed its output"
        when = "while it judged" if worker.is_ready else "while it started"
        return f"the grading process died {when}, " + (
            f"by signal {-code}" if code < 0 else f"with code {code}"
        )

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.end()

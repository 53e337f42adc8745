"""A sandbox that runs nothing: it checks its jobs and answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable

from k15.sandbox.base import Job, JobResult, Sandbox
from k15.sandbox.rows import check_job


class ScriptedSandbox(Sandbox):
    """Answers each job with what a function says.

    Args:
        answer: job -> result; may be called from several threads.
        num_slots: jobs at a time.

    Attributes:
        jobs: what it was asked, in the order of arrival.
        is_closed: whether `close` was called.
    """

    def __init__(self, answer: Callable[[Job], JobResult], *, num_slots: int = 2) -> None:
        self.num_slots = num_slots
        self._answer = answer
        self._lock = threading.Lock()
        self.jobs: list[Job] = []
        self.is_closed = False

    def run(self, job: Job) -> JobResult:
        assert not self.is_closed, "a job came after close"
        check_job(job)
        with self._lock:
            self.jobs.append(job)
        return self._answer(job)

    def close(self) -> None:
        self.is_closed = True

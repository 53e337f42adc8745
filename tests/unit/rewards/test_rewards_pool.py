"""The pool of killable processes: nothing that a job does outlives its limit, or reaches another job."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from k15.rewards.pool import JobResult, KillablePool

JOBS = "rewards_pool_jobs:job"
LIMIT = 0.6


@pytest.fixture
def pool():
    with KillablePool(JOBS, num_workers=1, timeout_seconds=LIMIT) as pool:
        yield pool


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead but not yet collected by its parent does not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_gone(pid: int, *, within_seconds: float) -> bool:
    deadline = time.monotonic() + within_seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def test_no_process_before_the_first_job(pool):
    assert pool.process_ids == ()
    assert list(pool.run([])) == []
    assert list(pool.run([JobResult("done", 1)])) == [JobResult("done", 1)]
    assert pool.process_ids == ()


def test_reading_ahead_a_job_at_its_limit_keeps_nobody_waiting():
    taken = []

    def jobs():
        for number in range(12):
            taken.append(number)
            yield "loop" if number == 0 else number

    with KillablePool(JOBS, num_workers=2, timeout_seconds=LIMIT) as pool:
        list(pool.run([0, 0]))  # the processes are up
        results = pool.run(jobs(), read_ahead=10)
        first = next(results)
        num_read = len(taken)
        rest = list(results)
    assert first.status == "timeout"
    assert num_read == 10
    assert [r.value for r in rest] == list(range(1, 12))


def test_without_it_no_more_is_read_than_there_are_workers(pool):
    taken = []
    results = pool.run(taken.append(number) or number for number in range(5))
    for number in range(5):
        assert next(results).value == number
        assert taken == list(range(number + 1))


def test_results_come_in_the_order_of_the_jobs_with_several_workers():
    jobs = ["loop", 1, JobResult("done", "known"), {"a": [None]}, "loop", 2, JobResult("done", "too")]
    with KillablePool(JOBS, num_workers=3, timeout_seconds=LIMIT) as pool:
        results = list(pool.run(jobs))
    assert [(r.status, r.value) for r in results] == [
        ("timeout", None),
        ("done", 1),
        ("done", "known"),
        ("done", {"a": [None]}),
        ("timeout", None),
        ("done", 2),
        ("done", "too"),
    ]


@pytest.mark.parametrize("hang", ["loop", "c call"])
def test_a_job_that_never_ends_is_killed_and_the_next_one_works(pool, hang):
    [first, second] = pool.run([hang, "after"])
    assert first.status == "timeout"
    assert LIMIT <= first.seconds < LIMIT + 3.0
    assert first.detail == "more than 0.6 s"
    assert (second.status, second.value) == ("done", "after")


def test_a_job_that_wants_too_much_memory_ends_at_its_limit(pool):
    [first, second] = pool.run(["memory", "after"])
    assert (first.status, first.detail) == ("timeout", "more than 1024 MB")
    assert second.value == "after"


@pytest.mark.parametrize(
    ("job", "detail"),
    [
        ("raise", "KeyError: 'a defect'"),
        ("exit", "the grading process died while it judged, with code 3"),
        ("segfault", f"the grading process died while it judged, by signal {int(signal.SIGSEGV)}"),
        ("long message", "the grading process sent too long a message"),
    ],
)
def test_what_breaks_twice_is_a_fault_and_the_next_job_works(pool, job, detail):
    [first, second] = pool.run([job, "after"])
    assert (first.status, first.detail) == ("fault", detail)
    assert second.value == "after"


def test_what_breaks_once_is_tried_again(pool, tmp_path):
    [result] = pool.run([{"die once": str(tmp_path / "flag")}])
    assert (result.status, result.value) == ("done", "second attempt")


def test_what_a_job_prints_is_not_taken_for_its_result(pool):
    [first, second] = pool.run(["noise", "after"])
    assert (first.value, second.value) == ("noise", "after")


def test_processes_that_cannot_start_make_faults_soon():
    with KillablePool("rewards_no_such_module:job", num_workers=2, timeout_seconds=LIMIT) as pool:
        results = list(pool.run(range(50)))
    assert len(results) == 50
    assert {r.status for r in results} == {"fault"}
    assert "could not be started" in results[-1].detail


def test_close_leaves_no_process_and_the_pool_can_be_used_again(pool):
    [first] = pool.run(["pid"])
    assert pool.process_ids == (first.value,)
    assert is_alive(first.value)
    pool.close()
    assert not is_alive(first.value)
    [second] = pool.run(["pid"])
    assert second.value != first.value


def test_ending_the_iteration_early_kills_the_job_under_way():
    with KillablePool(JOBS, num_workers=2, timeout_seconds=60) as pool:
        results = pool.run(["pid", "loop", "loop"])
        next(results)
        busy = pool.process_ids
        results.close()
        assert len(busy) == 2
        assert not any(is_alive(pid) for pid in busy if pid not in pool.process_ids)
        assert len(pool.process_ids) <= 1
        assert [r.value for r in pool.run(["after"])] == ["after"]


def test_a_process_is_replaced_after_its_share_of_jobs():
    with KillablePool(JOBS, num_workers=1, timeout_seconds=LIMIT, max_jobs_per_worker=2) as pool:
        pids = [r.value for r in pool.run(["pid"] * 4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_an_interrupt_from_the_keyboard_does_not_reach_a_process(pool):
    [first] = pool.run(["pid"])
    assert os.getsid(first.value) != os.getsid(0)
    os.kill(first.value, signal.SIGINT)
    [second] = pool.run(["pid"])
    assert second.value == first.value


@pytest.mark.parametrize("last_job", ["loop", "pid"])
def test_a_killed_parent_leaves_no_process_behind(last_job):
    script = f"""
import os, signal
from k15.rewards.pool import KillablePool
pool = KillablePool({JOBS!r}, num_workers=1, timeout_seconds={LIMIT})
results = pool.run(["pid", {last_job!r}])
print(next(results).value, flush=True)
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
signal.setitimer(signal.ITIMER_REAL, 0.2)
next(results)
while True: signal.pause()
"""
    path = os.pathsep.join(p for p in sys.path if p)
    parent = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    assert is_gone(int(parent.stdout), within_seconds=LIMIT + 3.0)

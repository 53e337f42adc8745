"""One process per run folder (REL-11)."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from k15.errors import RunLockedError
from k15.record import lock as module
from k15.record.lock import RunLock

CHILD = Path(__file__).with_name("record_child.py")


class _Owner:
    """Another process that holds the lock, and perhaps a forked child of it."""

    def __init__(self, path: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, CHILD, "lock", path, *options], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.pid, self.child = map(int, self.process.stdout.readline().split())

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait(10) == -signal.SIGKILL
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_a_second_process_is_refused_at_once_and_takes_over_when_the_first_is_killed(
    tmp_path: Path,
) -> None:
    owner = _Owner(tmp_path / "lock.json")
    try:
        started = time.monotonic()
        with pytest.raises(RunLockedError, match=rf"process {owner.pid} on .*--run") as refused:
            RunLock.acquire(tmp_path / "lock.json")
        assert time.monotonic() - started < 1.0
        assert os.uname().nodename in str(refused.value)
    finally:
        owner.kill()
    started = time.monotonic()
    lock = RunLock.acquire(tmp_path / "lock.json")
    assert time.monotonic() - started < 1.0
    lock.check()
    lock.release()


def test_a_stopped_owner_is_still_the_owner(tmp_path: Path) -> None:
    owner = _Owner(tmp_path / "lock.json")
    try:
        owner.process.send_signal(signal.SIGSTOP)
        with pytest.raises(RunLockedError, match=str(owner.pid)):
            RunLock.acquire(tmp_path / "lock.json")
    finally:
        owner.kill()


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    owner = _Owner(tmp_path / "lock.json", "fork")
    owner.kill()
    try:
        os.kill(owner.child, 0)  # the orphan lives
        RunLock.acquire(tmp_path / "lock.json").release()
    finally:
        os.kill(owner.child, signal.SIGKILL)


def test_the_same_process_cannot_open_a_folder_twice(tmp_path: Path) -> None:
    lock = RunLock.acquire(tmp_path / "lock.json")
    with pytest.raises(RunLockedError, match=f"process {os.getpid()} "):
        RunLock.acquire(tmp_path / "lock.json")
    lock.release()
    lock.release()
    RunLock.acquire(tmp_path / "lock.json").release()
    with pytest.raises(RunLockedError, match="was closed"):
        lock.check()


@pytest.mark.parametrize("damage", ["deleted", "replaced", "scrambled"])
def test_an_owner_notices_that_its_lock_is_gone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "lock.json"
    lock = RunLock.acquire(path)
    lock.check()
    if damage == "deleted":
        path.unlink()
    elif damage == "replaced":
        path.rename(tmp_path / "old")
        RunLock.acquire(path).release()
    else:
        path.write_text("junk")
    with pytest.raises(RunLockedError, match="no longer owns"):
        lock.check()
    lock.release()


# where the kernel cannot tell -----------------------------------------------------------------


def _foreign(path: Path, **changes) -> module.Owner:
    owner = replace(module._this_process(), host="elsewhere", boot_id="another", **changes)
    path.write_text(json.dumps(asdict(owner)))
    return owner


def test_an_owner_on_another_host_counts_as_alive_while_its_heart_beats(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    owner = _foreign(path)
    timer = threading.Timer(0.1, lambda: path.write_text(json.dumps(asdict(replace(owner, beat=1)))))
    timer.start()
    with pytest.raises(RunLockedError, match="on elsewhere"):
        RunLock.acquire(path, patience_seconds=5.0)
    timer.join()


def test_an_owner_on_another_host_is_dead_when_its_heart_stands_still_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock.json"
    _foreign(path, since=time.time() + 3600)
    jump = iter(range(10**6))
    monkeypatch.setattr(
        time, "time", lambda: 1e9 + 3600.0 * (-1) ** next(jump)
    )  # the wall clock jumps by 2 h
    started = time.monotonic()
    lock = RunLock.acquire(path, patience_seconds=0.2)
    assert 0.2 <= time.monotonic() - started < 2.0
    lock.release()


def test_a_released_lock_of_another_host_is_free_at_once(tmp_path: Path) -> None:
    _foreign(tmp_path / "lock.json", beat=-1)
    started = time.monotonic()
    RunLock.acquire(tmp_path / "lock.json", patience_seconds=30.0).release()
    assert time.monotonic() - started < 1.0


def _without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_kernel_locks_a_living_pid_owns_and_a_recycled_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_locks(monkeypatch)
    path = tmp_path / "lock.json"
    this = module._this_process()
    assert this.started is not None
    path.write_text(json.dumps(asdict(this)))
    with pytest.raises(RunLockedError, match=f"process {os.getpid()} "):
        RunLock.acquire(path)
    path.write_text(
        json.dumps(asdict(replace(this, started=this.started - 1)))
    )  # same pid, another process
    RunLock.acquire(path).release()
    path.write_text(json.dumps(asdict(replace(this, pid=2**22 + 1))))  # no such process
    RunLock.acquire(path).release()


def test_without_kernel_locks_the_last_of_two_newcomers_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_locks(monkeypatch)
    path = tmp_path / "lock.json"
    timer = threading.Timer(0.05, lambda: _foreign(path))
    timer.start()
    with pytest.raises(RunLockedError, match=r"belongs to process .* on elsewhere"):
        RunLock.acquire(path)
    timer.join()


def test_the_heart_beats_in_place(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    lock = RunLock.acquire(path, heartbeat_seconds=0.02)
    deadline = time.monotonic() + 5
    while json.loads(path.read_text())["beat"] < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.check()
    lock.release()
    assert json.loads(path.read_text())["beat"] == -1

"""One process per run folder: a kernel lock, with a name tag for the message.

The owner holds `flock` on the lock file, which the kernel frees the moment the process is gone,
however it went. The file's JSON says who it is: host, pid, boot id, start time of the pid (so that
a recycled pid is noticed) and a heartbeat. Where the kernel cannot tell (another machine on a
shared disk, or a disk without locks), the heartbeat is watched for a while on our own clock.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
import weakref
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from k15.errors import RunLockedError

HEARTBEAT_SECONDS = 2.0
PATIENCE_SECONDS = 10.0

_TAG_BYTES = 1024


@dataclass(frozen=True)
class Owner:
    """Who holds the lock.

    Attributes:
        host: host name.
        pid: process id.
        boot_id: identifies the running kernel; "" where there is none.
        started: start time of the process in clock ticks since boot, or None where unknown.
        since: Unix time at which it took the lock, in seconds.
        token: differs for every acquisition.
        beat: counts heartbeats; -1 once the lock is released.
    """

    host: str
    pid: int
    boot_id: str
    started: int | None
    since: float
    token: str
    beat: int = 0

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


class RunLock:
    """The right to write to a run folder. Held until `release`, or the end of the process."""

    def __init__(self, path: Path, descriptor: int, owner: Owner) -> None:
        self._path = path
        self._descriptor: int | None = descriptor
        self._owner = owner
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="k15-run-lock", daemon=True)

    @classmethod
    def acquire(
        cls,
        path: Path,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> RunLock:
        """Take the lock at `path`, or refuse.

        Args:
            path: the lock file; made if missing, never deleted.
            patience_seconds: how long the heartbeat of an owner that the kernel does not know must stand
                still before it counts as dead.
            heartbeat_seconds: time between two heartbeats of our own.

        Raises:
            RunLockedError: another process owns it. At once, or at its first heartbeat.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            is_exclusive = _lock(descriptor, path, min(patience_seconds, 3.0))
            previous = _read_owner(descriptor)
            if previous is not None and _is_alive(previous, path, is_exclusive, patience_seconds):
                raise RunLockedError(_refusal(path, str(previous)))
            owner = _this_process()
            _write_owner(descriptor, owner)
            if not is_exclusive:
                time.sleep(
                    min(0.2, patience_seconds)
                )  # two may have come this far: the last writer wins
                _check_token(descriptor, path, owner)
        except BaseException:
            os.close(descriptor)
            raise
        lock = cls(path, descriptor, owner)
        lock._start(heartbeat_seconds)
        return lock

    def check(self) -> None:
        """Nothing, as long as the lock is ours.

        Raises:
            RunLockedError: the file was deleted or replaced, or another host took over while this
                process stood still.
        """
        if self._descriptor is None:
            raise RunLockedError(
                f"the run folder {self._path.parent} was closed; open it again to write to it"
            )
        _check_token(self._descriptor, self._path, self._owner)

    def release(self) -> None:
        """Give the lock up. Doing it twice is fine."""
        if self._descriptor is None:
            return
        self._stop.set()
        self._thread.join()
        descriptor, self._descriptor = self._descriptor, None
        try:
            _write_owner(descriptor, replace(self._owner, beat=-1))
        finally:
            os.close(descriptor)

    def _start(self, heartbeat_seconds: float) -> None:
        self._heartbeat_seconds = heartbeat_seconds
        _held.add(self)
        self._thread.start()

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(self._heartbeat_seconds) and self._descriptor is not None:
            beat += 1
            try:
                _check_token(self._descriptor, self._path, self._owner)
                _write_owner(self._descriptor, replace(self._owner, beat=beat))
            except (OSError, RunLockedError):
                continue  # the next save or record finds out and says so

    def _forget_in_child(self) -> None:
        """A forked child must not keep the lock alive when its parent dies."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: [lock._forget_in_child() for lock in tuple(_held)])


def _lock(descriptor: int, path: Path, patience_seconds: float) -> bool:
    """True if the kernel gave us the lock, False if this file system has no locks.

    The lock of a process that has just ended may be freed a moment later, by the kernel that takes a
    large process apart or by a fork that is only beginning: only then it is worth waiting.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _read_owner(descriptor)
            if time.monotonic() >= deadline or (owner is not None and not _has_ended(owner)):
                raise RunLockedError(_refusal(path, str(owner or "an unknown process"))) from None
            time.sleep(0.02)
        except OSError:
            return False
        else:
            return True


def _has_ended(owner: Owner) -> bool:
    """Whether an owner has released the lock, or was on this machine and is gone. False where unknown."""
    is_here = _is_same_kernel(owner, _this_process()) and owner.started is not None
    return owner.beat < 0 or (is_here and _start_time(owner.pid) != owner.started)


def _is_same_kernel(owner: Owner, this: Owner) -> bool:
    return owner.boot_id == this.boot_id and bool(owner.boot_id or owner.host == this.host)


def _is_alive(owner: Owner, path: Path, is_exclusive: bool, patience_seconds: float) -> bool:
    if _has_ended(owner):
        return False
    if _is_same_kernel(owner, _this_process()):
        return not is_exclusive  # one kernel: it would not have given us the lock of a living process
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.25, patience_seconds / 4))
        now = _read_tag(path)
        if now is not None and now.beat != owner.beat:
            return now.beat >= 0
    return False


def _check_token(descriptor: int, path: Path, owner: Owner) -> None:
    now = _read_tag(path)
    if now is None or now.token != owner.token:
        taken = str(now) if now is not None else "nobody: the lock file is gone or damaged"
        raise RunLockedError(
            f"this process no longer owns the run folder {path.parent}; it belongs to {taken}"
        )


def _refusal(path: Path, owner: str) -> str:
    return (
        f"only one process may write to the run folder {path.parent}, and {owner} does. "
        "Wait for it or stop it, or give another folder with --run."
    )


def _this_process() -> Owner:
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        boot_id=_read_text("/proc/sys/kernel/random/boot_id"),
        started=_start_time(os.getpid()),
        since=time.time(),
        token=secrets.token_hex(8),
    )


def _start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None if it has ended, or there is no /proc."""
    fields = (
        _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    )  # the name before ")" may hold anything
    return int(fields[19]) if len(fields) > 19 and fields[0] != "Z" else None


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _read_tag(path: Path) -> Owner | None:
    """The owner as another process sees it: by name, not through our descriptor."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read_owner(descriptor)
    finally:
        os.close(descriptor)


def _read_owner(descriptor: int) -> Owner | None:
    try:
        return Owner(**json.loads(os.pread(descriptor, _TAG_BYTES, 0)))
    except (OSError, ValueError, TypeError):
        return None


def _write_owner(descriptor: int, owner: Owner) -> None:
    """One write of fixed size in place, so that a reader never sees half a tag."""
    os.pwrite(descriptor, (json.dumps(asdict(owner)).ljust(_TAG_BYTES - 1) + "\n").encode(), 0)

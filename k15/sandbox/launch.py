"""Starting the process behind a box: control group, limits, user and file descriptors, then exec."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from k15.sandbox.base import Limits
from k15.sandbox.wire import BoxSpec

RESERVED = 100
"""The supervisor's own files have numbers from here on, so that none of them is in a child's way."""
STATUS_FD = 5
EXTRA_PROCESSES = 3
"""The back end's own in a box, which are counted, too."""
_SHARED_BYTES = 64 << 20  # libraries, which count for each process
_RESERVED_BYTES = 2 << 30
_LIMIT_ATTEMPTS = 10_000  # a tenth of a millisecond each: a second
_SIGNALS_TO_RESET = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


@dataclass(frozen=True, slots=True)
class Slot:
    """What belongs to one box at a time.

    Attributes:
        index: from 0.
        user: user and group id outside of the box; None = the supervisor's own (it is not root).
        entrances, doors: files of its control group, see `Group`; empty without control groups.
    """

    index: int
    user: int | None = None
    entrances: tuple[int, ...] = ()
    doors: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that starts a box, as a back end makes it.

    Attributes:
        argv: the command, outside of the box.
        env: its environment.
        files: file descriptors for it: number -> the supervisor's; closed here after the start.
        as_user: whether the command is started as the slot's user.
        folder: where it starts.
        gate: a file descriptor that the command reads to its end before it does anything, and what it will
            read there. Then it is placed and limited from outside while it waits, which costs much less
            than to do so in a fork of this process.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[int, int] = field(default_factory=dict)
    as_user: bool = True
    folder: str = "/"
    gate: tuple[int, bytes] | None = None


class Launcher(ABC):
    """How one back end starts boxes."""

    reports_start = True
    """Whether it writes to STATUS_FD: {"child-pid": N} of the box's first process as seen from here, and
    {"exit-code": N} at the end, only if the program was started at all."""
    reports_signals = True
    """Whether it ends with 128 + N where signal N ended the program."""

    @abstractmethod
    def prepare(self, spec: BoxSpec, slot: Slot) -> Launch:
        """The command for a box."""

    def failure(self, slot: Slot) -> str:
        """For one that does not report the start: what kept the program from being started, or ""."""
        return ""

    def kill(self, process_id: int) -> None:  # noqa: B027
        """End what the started process leaves behind, where killing the box's first process does not."""

    def release(self, slot: Slot) -> None:  # noqa: B027 - most back ends leave nothing
        """After the box is gone: take away what `prepare` made."""

    def close(self) -> None:  # noqa: B027
        """Take away what is left."""


def spawn(
    launch: Launch, slot: Slot, streams: Mapping[int, int], limits: Sequence[tuple[int, int]]
) -> int:
    """The new process's id. `streams` are further file descriptors, as in `Launch.files`."""
    with _inside(slot):
        if launch.gate is not None:
            return _spawn_gated(launch, slot, streams, limits, launch.gate)
        process_id = os.fork()
        if process_id == 0:
            _become(launch, slot, streams, limits)
        return process_id


@contextlib.contextmanager
def _inside(slot: Slot) -> Iterator[None]:
    """What is started within is born in the slot's control group, where that has doors.

    To move a process that runs already, the kernel waits until no process at all is in the middle of a fork:
    ten milliseconds. A thread that moves itself waits for nobody.
    """
    try:
        for way_in, _ in slot.doors:
            os.write(way_in, b"0")
        yield
    finally:
        for _, way_out in slot.doors:
            os.write(way_out, b"0")


def rlimits(spec: BoxSpec, slot: Slot, *, has_group: bool) -> list[tuple[int, int]]:
    """Limits of each process, as (resource, value); without a control group they also stand in for it."""
    limits: Limits = spec.limits
    found = [
        (
            resource.RLIMIT_CORE,
            1,
        ),  # not 0: only with 1 a core dump is not piped to a program of the host either
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.disk_mb << 20),
        (resource.RLIMIT_STACK, limits.stack_mb << 20),
        (resource.RLIMIT_CPU, int(limits.cpu_seconds) + 2),
        (resource.RLIMIT_MEMLOCK, 1 << 16),
        (resource.RLIMIT_MSGQUEUE, 1 << 16),
    ]
    if not has_group:
        memory = limits.memory_mb << 20
        if spec.limit_address_space:
            found.append((resource.RLIMIT_AS, memory + _SHARED_BYTES))
        else:  # stacks of threads count whole, though little of them is used
            found.append((resource.RLIMIT_DATA, 4 * memory + _RESERVED_BYTES))
        if slot.user is not None:  # a user's own other processes would count, too
            found.append((resource.RLIMIT_NPROC, limits.processes + EXTRA_PROCESSES))
    return found


def memory_file(content: bytes) -> int:
    """A file descriptor to read `content` from; the file is in memory and has no name."""
    file = os.memfd_create("k15", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _spawn_gated(
    launch: Launch,
    slot: Slot,
    streams: Mapping[int, int],
    limits: Sequence[tuple[int, int]],
    gate: tuple[int, bytes],
) -> int:
    number, content = gate
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    try:
        files = {**streams, **launch.files, number: theirs}
        with _as_user(slot.user if launch.as_user else None):
            process_id = os.posix_spawn(
                launch.argv[0],
                launch.argv,
                launch.env,
                file_actions=[(os.POSIX_SPAWN_DUP2, file, at) for at, file in files.items()],
                setsid=True,
                setsigmask=(),
                setsigdef=_SIGNALS_TO_RESET,  # Python's settings would be inherited
            )
            for kind, value in limits:  # as that user: root in a container may have no right to it
                _limit(process_id, kind, value)
        text = str(process_id).encode()
        for entrance in () if slot.doors else slot.entrances:
            os.write(entrance, text)
        os.write(ours, content)
    finally:  # without its last word the command ends
        os.close(theirs)
        os.close(ours)
    return process_id


def _limit(process_id: int, kind: int, value: int) -> None:
    """Lower a limit of another process. Until its exec is over, the kernel takes it for another user's."""
    for attempt in range(_LIMIT_ATTEMPTS):
        try:
            _, most = resource.prlimit(process_id, kind)
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.prlimit(process_id, kind, (value, value))
            return
        except PermissionError:
            if attempt == _LIMIT_ATTEMPTS - 1:
                raise
            time.sleep(0.0001)


@contextlib.contextmanager
def _as_user(user: int | None) -> Iterator[None]:
    """What is started within is that user's, for good: a started program keeps no way back."""
    if user is None:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(user, user, 0)
    os.setresuid(user, user, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def _become(
    launch: Launch, slot: Slot, streams: Mapping[int, int], limits: Sequence[tuple[int, int]]
) -> NoReturn:
    """In the child: everything, then exec. Whatever fails is told on the standard error that it got."""
    try:
        os.setsid()
        os.chdir(launch.folder)
        os.umask(0o022)
        for number in _SIGNALS_TO_RESET:  # Python's settings would be inherited
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for entrance in () if slot.doors else slot.entrances:
            os.write(entrance, b"0")
        for number, file in (*streams.items(), *launch.files.items()):
            os.dup2(file, number)
        for kind, value in limits:
            _, most = resource.getrlimit(kind)
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(kind, (value, value))
        if launch.as_user and slot.user is not None:
            os.setgroups([])
            os.setresgid(slot.user, slot.user, slot.user)
            os.setresuid(slot.user, slot.user, slot.user)
        os.execve(launch.argv[0], launch.argv, launch.env)
    except BaseException as error:
        os.write(2, f"k15: {type(error).__name__}: {error}".encode())
    finally:
        sys.stderr.flush()
        os._exit(127)

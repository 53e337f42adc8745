"""A box from start to end, as the supervisor sees it: pipes, limits, and the last process gone."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from k15.sandbox.cgroups import Group
from k15.sandbox.launch import Slot
from k15.sandbox.watch import TreeWatch, descendants, starved_seconds
from k15.sandbox.wire import BoxSpec, RawRun, Stopper

_CHUNK = 1 << 16
_KEPT_STDERR = 1 << 16
_KILL_AGAIN_SECONDS = 1.0


class Pipe(NamedTuple):
    """A pipe's two ends."""

    read: int
    write: int


def make_pipe() -> Pipe:
    return Pipe(*os.pipe2(os.O_CLOEXEC))


@dataclass(eq=False)
class Sink:
    """What is read from one of the box's outputs: counted, and kept up to a limit.

    Attributes:
        most: bytes that may be written; beyond them the box is ended.
        kept: bytes that are kept.
        keeps_end: keep the last ones, not the first.
    """

    most: int
    kept: int
    keeps_end: bool = False
    data: bytearray = field(default_factory=bytearray)
    num_bytes: int = 0

    def take(self, chunk: bytes) -> None:
        self.num_bytes += len(chunk)
        if self.keeps_end:
            self.data += chunk
            if len(self.data) > 2 * self.kept:
                del self.data[: -self.kept]
        else:
            self.data += chunk[: max(0, self.kept - len(self.data))]

    @property
    def is_over(self) -> bool:
        return self.num_bytes > self.most

    def bytes(self) -> bytes:
        return bytes(self.data[-self.kept :] if self.keeps_end else self.data)


class Box(ABC):
    """A box that runs.

    Args:
        spec: what runs in it, under which limits.
        slot, group: whose place it takes; a group is None where there are no control groups.
        selector: the supervisor's; this box registers what it waits for, with a function to call.
        on_end: called once, with the box, when no process of it is left and all it wrote was read.
        links: file descriptors 3 and 4 of a box that talks to another one; they are closed here.
    """

    def __init__(
        self,
        spec: BoxSpec,
        slot: Slot,
        group: Group | None,
        selector: selectors.BaseSelector,
        on_end: Callable[[Box], None],
        links: tuple[int, int] | None = None,
    ) -> None:
        self.spec, self.slot = spec, slot
        self._group = group
        self._selector = selector
        self._on_end = on_end
        self._links = links
        limits = spec.limits
        self._sinks: dict[int, Sink] = {}
        self._stdout = Sink(limits.output_bytes, limits.output_bytes)
        self._stderr = Sink(limits.output_bytes, _KEPT_STDERR, keeps_end=True)
        self._result = Sink(spec.result_bytes, spec.result_bytes)
        self._stdin = memoryview(spec.stdin)
        self._stdin_file: int | None = None
        self._watch = TreeWatch()
        self._first = 0  # the box's first process, as seen from here; with it all others end
        self._pidfds: set[int] = set()  # of processes that have to end before the box has
        self._waited_cpu = 0.0  # CPU time of processes that were waited for
        self._stopped_by: Stopper = ""
        self._starved = 0.0
        self._started_at = self._ended_at = 0.0
        self._killed_at: float | None = None
        self.is_stuck = False

    @abstractmethod
    def start(self) -> None:
        """Start the program. Errors of the launch show up as a box that did not start.

        Raises:
            OSError: nothing was started, for lack of files, processes or memory of our own.
        """

    @abstractmethod
    def _exit(self) -> tuple[int | None, int | None]:
        """Exit code and signal of the program, as far as they were reported: one of them, or none."""

    @abstractmethod
    def _why_not_started(self) -> str:
        """What kept the program from being started, "" if nothing did."""

    @property
    def own_processes(self) -> tuple[int, ...]:
        """Children of the supervisor that this box waits for itself."""
        return (self._first,)

    def look(self, now: float) -> None:
        """Compare what the box uses with its limits; called every few milliseconds."""
        if self._killed_at is not None:
            if now - self._killed_at > _KILL_AGAIN_SECONDS:
                self._kill(now)
            return
        limits = self.spec.limits
        if self._group is not None:
            if self._group.num_oom_kills():
                self.stop("memory", now)
            elif self._group.cpu_seconds() > limits.cpu_seconds:
                self.stop("cpu", now)
        elif self._first:
            self._watch.look(self._first)
            if self._watch.memory_bytes > limits.memory_mb << 20:
                self.stop("memory", now)
            elif self._watch.cpu_seconds > limits.cpu_seconds:
                self.stop("cpu", now)
        if now - self._started_at > limits.wall and self._killed_at is None:
            self._starved = starved_seconds(self._process_ids())
            self.stop("wall", now)

    def stop(self, reason: Stopper, now: float | None = None) -> None:
        """End the box at a limit."""
        if not self._stopped_by:
            self._stopped_by = reason
        self._kill(time.monotonic() if now is None else now)

    def abandon(self) -> None:
        """Give up a box that could not be started, and close all files of it."""
        for file in list(self._sinks):
            self._forget(file)
        self._sinks.clear()
        self._close_stdin()
        for pidfd in self._pidfds:
            send_kill(pidfd)
            self._forget(pidfd)
        self._pidfds.clear()

    def raw_run(self) -> RawRun:
        """What was seen; once the box has ended."""
        group = self._group
        cpu = self._waited_cpu if group is None else group.cpu_seconds()
        num_oom_kills = 0 if group is None else group.num_oom_kills()
        fault = "" if num_oom_kills else self._why_not_started()
        code, number = (None, signal.SIGKILL) if self._stopped_by else self._exit()
        return RawRun(
            fault=fault,
            stopped_by=self._stopped_by,
            exit_code=code,
            signal=number,
            stdout=self._stdout.bytes(),
            stderr=self._stderr.bytes(),
            result=self._result.bytes(),
            cpu_seconds=max(cpu, self._watch.cpu_seconds),
            wall_seconds=self._ended_at - self._started_at,
            memory_bytes=self._watch.memory_bytes if group is None else group.memory_bytes(),
            num_oom_kills=num_oom_kills,
            starved_seconds=self._starved,
        )

    def _open_streams(self) -> dict[int, int]:
        """Pipes for the program: number in the box -> our file, to be closed after the start."""
        stdin, stdout, stderr = (make_pipe() for _ in range(3))
        streams = {0: stdin.read, 1: stdout.write, 2: stderr.write}
        self._listen(stdout.read, self._stdout)
        self._listen(stderr.read, self._stderr)
        self._stdin_file = stdin.write
        if self.spec.result_bytes:
            result = make_pipe()
            streams[3] = result.write
            self._listen(result.read, self._result)
        if self._links is not None:
            streams[3], streams[4] = self._links
        return streams

    def _feed(self) -> None:
        """Begin to write standard input."""
        assert self._stdin_file is not None
        os.set_blocking(self._stdin_file, False)
        self._write(self._stdin_file)
        if self._stdin_file is not None:
            self._selector.register(self._stdin_file, selectors.EVENT_WRITE, self._write)

    def _listen(self, file: int, sink: Sink) -> None:
        self._sinks[file] = sink
        os.set_blocking(file, False)
        self._selector.register(file, selectors.EVENT_READ, self._read)

    def _process_ids(self) -> list[int]:
        if self._group is not None:
            return self._group.process_ids()
        return descendants(self._first) if self._first else []

    def _read(self, file: int) -> None:
        sink = self._sinks[file]
        try:
            chunk = os.read(file, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            self._forget(file)
            del self._sinks[file]
            self._end_if_done()
            return
        sink.take(chunk)
        if sink.is_over and self._killed_at is None:
            self.stop("output")

    def _write(self, file: int) -> None:
        try:
            while self._stdin:
                self._stdin = self._stdin[os.write(file, self._stdin[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            pass
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self._stdin_file is not None:
            self._forget(self._stdin_file)
            self._stdin_file = None

    def _forget(self, file: int) -> None:
        """Close a file, and no longer wait for it."""
        if file in self._selector.get_map():
            self._selector.unregister(file)
        os.close(file)

    def _kill(self, now: float) -> None:
        self._killed_at = now
        for pidfd in self._pidfds:
            send_kill(pidfd)
        if self._group is not None:
            self._group.kill()

    def _end_if_done(self) -> None:
        if self._pidfds or self._sinks:
            return
        self._close_stdin()
        if self._group is not None and not self._group.empty():
            self.is_stuck = True
        self._on_end(self)


def send_kill(pidfd: int) -> None:
    """SIGKILL for the process that a pidfd stands for, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)

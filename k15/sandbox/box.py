"""One box from start to end, as the supervisor sees it: pipes, limits, and the last process gone."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from k15.sandbox.cgroups import Group
from k15.sandbox.launch import STATUS_FD, Launcher, Slot, rlimits, spawn
from k15.sandbox.watch import TreeWatch, descendants, starved_seconds
from k15.sandbox.wire import BoxSpec, RawRun, Stopper

_CHUNK = 1 << 16
_KEPT_STDERR = 1 << 16
_STATUS_BYTES = 1 << 14
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


class Box:
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
        self.stdout = Sink(limits.output_bytes, limits.output_bytes)
        self.stderr = Sink(limits.output_bytes, _KEPT_STDERR, keeps_end=True)
        self.result = Sink(spec.result_bytes, spec.result_bytes)
        self.status = Sink(_STATUS_BYTES, _STATUS_BYTES)
        self._stdin = memoryview(spec.stdin)
        self._stdin_file: int | None = None
        self._watch = TreeWatch()
        self._monitor = self._monitor_fd = 0  # what we started: its id, and a file that stands for it
        self._first = self._first_fd = 0  # the box's first process, as seen from here; holds all others
        self._wait_status: int | None = None
        self._rusage_cpu = 0.0
        self._stopped_by: Stopper = ""
        self._starved = 0.0
        self._started_at = self._ended_at = 0.0
        self._killed_at: float | None = None
        self._reports_start = True
        self.is_stuck = False

    def start(self, launcher: Launcher) -> None:
        """Start the process. Errors of the launch show up as a box that did not start."""
        if self._group is not None:
            self._group.configure(self.spec.limits)
        self._reports_start = launcher.reports_start
        launch = launcher.prepare(self.spec, self.slot)
        stdin, stdout, stderr, status = (make_pipe() for _ in range(4))
        streams = {0: stdin.read, 1: stdout.write, 2: stderr.write, STATUS_FD: status.write}
        outputs = {stdout.read: self.stdout, stderr.read: self.stderr, status.read: self.status}
        if self.spec.result_bytes:
            result = make_pipe()
            streams[3] = result.write
            outputs[result.read] = self.result
        if self._links is not None:
            streams[3], streams[4] = self._links
        self._started_at = time.monotonic()
        limits = rlimits(self.spec, has_group=self._group is not None)
        self._monitor = spawn(launch, self.slot, streams, limits)
        for file in (*streams.values(), *launch.files.values()):
            os.close(file)
        for file, sink in outputs.items():
            self._sinks[file] = sink
            os.set_blocking(file, False)
            self._selector.register(file, selectors.EVENT_READ, self._read)
        self._stdin_file = stdin.write
        os.set_blocking(stdin.write, False)
        self._write(stdin.write)
        if self._stdin_file is not None:
            self._selector.register(stdin.write, selectors.EVENT_WRITE, self._write)
        self._monitor_fd = os.pidfd_open(self._monitor)
        self._selector.register(self._monitor_fd, selectors.EVENT_READ, self._reap_monitor)

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

    def raw_run(self) -> RawRun:
        """What was seen; once the box has ended."""
        code, number = self._exit()
        group = self._group
        cpu = self._rusage_cpu if group is None else group.cpu_seconds()
        num_oom_kills = 0 if group is None else group.num_oom_kills()
        has_started = not self._reports_start or self._is_reported_ended() or bool(self._stopped_by)
        fault = ""
        if not has_started and not num_oom_kills:
            said = self.stderr.bytes().decode(errors="replace").strip()
            fault = (
                f"the box could not be started: {said[-300:] or f'exit code {code}, signal {number}'}"
            )
        return RawRun(
            fault=fault,
            stopped_by=self._stopped_by,
            exit_code=code,
            signal=number,
            stdout=self.stdout.bytes(),
            stderr=self.stderr.bytes(),
            result=self.result.bytes(),
            cpu_seconds=max(cpu, self._watch.cpu_seconds),
            wall_seconds=self._ended_at - self._started_at,
            memory_bytes=self._watch.memory_bytes if group is None else group.memory_bytes(),
            num_oom_kills=num_oom_kills,
            starved_seconds=self._starved,
        )

    def _exit(self) -> tuple[int | None, int | None]:
        """Exit code or signal of the program. A back end says 128 + N for a program that signal N ended."""
        assert self._wait_status is not None
        code = os.waitstatus_to_exitcode(self._wait_status)
        if self._stopped_by:
            return None, signal.SIGKILL
        if code < 0:
            return None, -code
        if self._reports_start and 128 < code < 128 + signal.NSIG:
            return None, code - 128
        return code, None

    def _is_reported_ended(self) -> bool:
        return b"exit-code" in self.status.data

    def _process_ids(self) -> list[int]:
        if self._group is not None:
            return self._group.process_ids()
        return descendants(self._first) if self._first else []

    def _reap_monitor(self, pidfd: int) -> None:
        _, self._wait_status, usage = os.wait4(self._monitor, 0)
        self._ended_at = time.monotonic()
        self._rusage_cpu += usage.ru_utime + usage.ru_stime
        self._selector.unregister(pidfd)
        os.close(pidfd)
        self._monitor_fd = 0
        self._read_status()
        if self._first_fd:  # now our child; with it all others go
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)
            self._selector.register(self._first_fd, selectors.EVENT_READ, self._reap_first)
        self._end_if_done()

    def _reap_first(self, pidfd: int) -> None:
        with contextlib.suppress(ChildProcessError):  # the monitor has reaped it
            usage = os.wait4(self._first, 0)[2]
            self._rusage_cpu += usage.ru_utime + usage.ru_stime
        self._selector.unregister(pidfd)
        os.close(pidfd)
        self._first_fd = 0
        self._end_if_done()

    def _read(self, file: int) -> None:
        sink = self._sinks[file]
        try:
            chunk = os.read(file, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            self._close_output(file)
            self._end_if_done()
            return
        sink.take(chunk)
        if sink is self.status:
            self._note_status()
        elif sink.is_over and self._killed_at is None:
            self.stop("output")

    def _read_status(self) -> None:
        """All that the back end reported, now that it has ended."""
        file = next((f for f, sink in self._sinks.items() if sink is self.status), None)
        if file is None:
            return
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(file, _CHUNK):
                self.status.take(chunk)
        self._note_status()

    def _note_status(self) -> None:
        """The first process's id is in the first line."""
        if self._first or b"\n" not in self.status.data:
            return
        line = bytes(self.status.data).partition(b"\n")[0]
        self._first = int(json.loads(line)["child-pid"])
        with contextlib.suppress(ProcessLookupError):
            self._first_fd = os.pidfd_open(self._first)
        if self._killed_at is not None:
            self._kill(time.monotonic())

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
            if self._stdin_file in self._selector.get_map():
                self._selector.unregister(self._stdin_file)
            os.close(self._stdin_file)
            self._stdin_file = None

    def _close_output(self, file: int) -> None:
        self._selector.unregister(file)
        os.close(file)
        del self._sinks[file]

    def _kill(self, now: float) -> None:
        self._killed_at = now
        for pidfd in (self._first_fd, self._monitor_fd):
            if pidfd:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if self._group is not None:
            self._group.kill()

    def _end_if_done(self) -> None:
        if self._monitor_fd or self._first_fd or self._sinks:
            return
        self._close_stdin()
        if self._group is not None and not self._group.empty():
            self.is_stuck = True
        self._on_end(self)

"""A box that a back end's command makes for one program: bubblewrap's, crun's, or none at all."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import time
from typing import Any

from k15.sandbox.box import Box, Sink, make_pipe, send_kill
from k15.sandbox.launch import EXTRA_PROCESSES, STATUS_FD, Launcher, rlimits, spawn
from k15.sandbox.watch import descendants

_STATUS_BYTES = 1 << 14


class ColdBox(Box):
    """Started from nothing.

    The command stays as the box's parent, the *monitor*, and ends with the program's exit code. On
    STATUS_FD it tells the id of the box's first process, and whether the program was started at all.

    Args:
        launcher: the back end.
    """

    def __init__(self, *args: Any, launcher: Launcher, **more: Any) -> None:
        super().__init__(*args, **more)
        self._launcher = launcher
        self._status = Sink(_STATUS_BYTES, _STATUS_BYTES)
        self._status_file = 0
        self._monitor = 0
        self._first_fd = 0
        self._wait_status = 0

    def start(self) -> None:
        if self._group is not None:
            self._group.configure(self.spec.limits)
        launch = self._launcher.prepare(self.spec, self.slot)
        status = make_pipe()
        streams = {**self._open_streams(), STATUS_FD: status.write}
        self._status_file = status.read
        self._listen(status.read, self._status)
        self._started_at = time.monotonic()
        limits = rlimits(self.spec, self.slot, has_group=self._group is not None)
        self._monitor = spawn(launch, self.slot, streams, limits)
        for file in (*streams.values(), *launch.files.values()):
            os.close(file)
        self._feed()
        self._wait_for(os.pidfd_open(self._monitor), self._reap_monitor)

    def look(self, now: float) -> None:
        super().look(now)
        if self._group is None and self.slot.user is None and self._first:
            # Set before the start, it would count all processes of this user; inside, it counts the box's.
            most = self.spec.limits.processes + EXTRA_PROCESSES
            for process_id in descendants(self._first):
                with contextlib.suppress(OSError):
                    resource.prlimit(process_id, resource.RLIMIT_NPROC, (most, most))

    @property
    def own_processes(self) -> tuple[int, ...]:
        return self._first, self._monitor

    def _kill(self, now: float) -> None:
        super()._kill(now)
        self._launcher.kill(self._monitor)

    def _wait_for(self, pidfd: int, then: Any) -> None:
        self._pidfds.add(pidfd)
        self._selector.register(pidfd, selectors.EVENT_READ, then)

    def _reap_monitor(self, pidfd: int) -> None:
        _, self._wait_status, usage = os.wait4(self._monitor, 0)
        self._ended_at = time.monotonic()
        self._waited_cpu += usage.ru_utime + usage.ru_stime
        self._forget(pidfd)
        self._pidfds.discard(pidfd)
        self._drain_status()
        self._launcher.kill(self._monitor)
        if self._first_fd:  # it has become our child; with it all others go
            send_kill(self._first_fd)
            self._selector.register(self._first_fd, selectors.EVENT_READ, self._reap_first)
        self._end_if_done()

    def _reap_first(self, pidfd: int) -> None:
        with contextlib.suppress(ChildProcessError):  # the monitor has waited for it
            usage = os.wait4(self._first, 0)[2]
            self._waited_cpu += usage.ru_utime + usage.ru_stime
        self._forget(pidfd)
        self._pidfds.discard(pidfd)
        self._end_if_done()

    def _read(self, file: int) -> None:
        super()._read(file)
        if file == self._status_file:
            self._note_status()

    def _drain_status(self) -> None:
        """All that the monitor reported, now that it has ended."""
        while self._status_file in self._sinks and self._selector.get_map()[self._status_file]:
            before = self._status.num_bytes
            self._read(self._status_file)
            if self._status.num_bytes == before:
                return

    def _note_status(self) -> None:
        """The first process's id is in the first line."""
        if self._first or b"\n" not in self._status.data:
            return
        line = bytes(self._status.data).partition(b"\n")[0]
        self._first = int(json.loads(line)["child-pid"])
        with contextlib.suppress(ProcessLookupError):
            self._first_fd = os.pidfd_open(self._first)  # from now on the id cannot be mistaken
            self._pidfds.add(self._first_fd)
        if self._killed_at is not None:
            self._kill(time.monotonic())

    def _exit(self) -> tuple[int | None, int | None]:
        code = os.waitstatus_to_exitcode(self._wait_status)
        if code < 0:
            return None, -code
        if self._launcher.reports_signals and 128 < code < 128 + signal.NSIG:
            return None, code - 128  # how a back end tells that a signal ended the program
        return code, None

    def _why_not_started(self) -> str:
        if self._stopped_by:
            return ""
        if not self._launcher.reports_start:
            return self._launcher.failure(self.slot)
        if b"exit-code" in self._status.data:
            return ""
        said = self._stderr.bytes().decode(errors="replace").strip()[-300:]
        code, number = self._exit()
        return f"the box could not be started: {said or f'exit code {code}, signal {number}'}"

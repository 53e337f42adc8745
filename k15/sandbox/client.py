"""This process's end of the supervisor: starts it, hands boxes over, and gets back what became of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from k15.errors import SandboxError
from k15.sandbox.wire import BoxSpec, FrameReader, RawRun, pack, run_from_wire, spec_to_wire

# The child gets this process's import path, so that it finds what we find and nothing else.
_CHILD = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from k15.sandbox import supervisor; supervisor.main()"
)
_START_SECONDS = 120.0  # generous: a loaded machine
_STOP_SECONDS = 20.0
_GRACE_SECONDS = 60.0  # beyond the wall limit and the queue: then the supervisor counts as lost


class SupervisorClient:
    """Runs boxes in a supervisor process, which is started at the first call and again if it dies.

    Args:
        settings: as `supervisor.main` takes them; "num_slots" among them.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._pending: dict[int, tuple[Future[list[RawRun]], int]] = {}  # and how many runs it waits for
        self._slots = threading.BoundedSemaphore(settings["num_slots"])
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._is_closed = False
        self.ready: dict[str, Any] = {}

    @property
    def process_id(self) -> int | None:
        """The supervisor's process id, None before the first call."""
        return None if self._process is None else self._process.pid

    def start(self) -> dict[str, Any]:
        """Start the supervisor if it does not run; what it said about this host.

        Raises:
            SandboxError: the back end cannot be used here.
        """
        with self._lock:
            if self._socket is None:
                self._start()
            return self.ready

    def run(self, specs: Sequence[BoxSpec]) -> list[RawRun]:
        """Run one box, or two that are linked; waits for a slot, then for the end.

        Raises:
            SandboxError: the back end cannot be used here.
        """
        future: Future[list[RawRun]] = Future()
        messages, blobs = [], []
        for spec in specs:
            message, parts = spec_to_wire(spec)
            messages.append(message)
            blobs += parts
        longest = max(spec.limits.wall for spec in specs)
        with self._slots:
            with self._lock:
                if self._is_closed:
                    raise SandboxError("the sandbox is closed. Make a new one.")
                if self._socket is None:
                    self._start()
                assert self._socket is not None
                number = next(self._numbers)
                self._pending[number] = future, len(specs)
                with contextlib.suppress(OSError):  # it died; the reading thread settles the future
                    self._socket.sendall(pack({"do": "run", "id": number, "boxes": messages}, blobs))
            try:
                return future.result(timeout=longest + _GRACE_SECONDS)
            except TimeoutError:
                self._drop()
                return [RawRun(fault="the sandbox supervisor did not answer in time")] * len(specs)

    def close(self) -> None:
        """End the supervisor and with it every box. Idempotent."""
        with self._lock:
            self._is_closed = True
            process, channel = self._process, self._socket
            self._socket = None
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
        if process is not None:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in os.environ}
        arguments = [json.dumps(sys.path), str(theirs.fileno()), json.dumps(self._settings)]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-B", "-s", "-c", _CHILD, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        frames = FrameReader()
        ours.settimeout(_START_SECONDS)
        message: dict[str, Any] = {}
        try:
            while not message and (data := ours.recv(1 << 16)):
                message = next((first for first, _ in frames.feed(data)), {})
        except OSError as error:
            message = {"error": f"the supervisor did not start: {error}"}
        if "ready" not in message:
            ours.close()
            process.kill()
            process.wait()
            raise SandboxError(message.get("error", "the sandbox supervisor ended while it started."))
        ours.settimeout(None)
        self.ready = message["ready"]
        self._process, self._socket = process, ours
        threading.Thread(
            target=self._listen, args=(ours, process, frames), name="k15-sandbox-listen", daemon=True
        ).start()

    def _listen(
        self, channel: socket.socket, process: subprocess.Popen[bytes], frames: FrameReader
    ) -> None:
        try:
            while data := channel.recv(1 << 20):
                for message, blobs in frames.feed(data):
                    self._settle(message, blobs)
        except OSError:
            pass
        with self._lock:
            if self._socket is channel:
                self._socket = None
            lost, self._pending = self._pending, {}
        channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        for future, count in lost.values():
            future.set_result([RawRun(fault="the sandbox supervisor died")] * count)

    def _settle(self, message: dict[str, Any], blobs: list[bytes]) -> None:
        runs = [run_from_wire(item, blobs[3 * i : 3 * i + 3]) for i, item in enumerate(message["runs"])]
        with self._lock:
            waiting = self._pending.pop(message["id"], None)
        if waiting is not None:
            waiting[0].set_result(runs)

    def _drop(self) -> None:
        """Kill a supervisor that hangs; the next call starts another one."""
        with self._lock:
            process, self._socket = self._process, None
        if process is not None:
            process.kill()

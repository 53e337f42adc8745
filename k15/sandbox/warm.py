"""Boxes with Python already started: one waits in each slot, serves one program, and is replaced.

What makes them is `inside/warm.py`, a program in a box of its own, called the nursery here. A nursery
that dies is started again a few times; then programs get ordinary boxes.
"""

from __future__ import annotations

import array
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from k15.sandbox.box import Box, send_kill
from k15.sandbox.cgroups import Group
from k15.sandbox.launch import Launch, Slot, memory_file, rlimits, spawn
from k15.sandbox.seccomp import filter_program

_MAX_STARTS = 3
_START_SECONDS = 20.0
_LAST_WORD_SECONDS = 1.0
_HEARD_BYTES = 1 << 12
_CREDENTIALS = struct.Struct("3i")
_PROGRAM_FD, _FILTER_FD = 10, 11
PYTHON = "python3"


class Prepared:
    """A box that was asked for, and is ready once it has said so.

    Args:
        channel: our end of the socket to its first process.
        group: the control group of its slot.
    """

    def __init__(self, channel: socket.socket, group: Group | None) -> None:
        self.channel = channel
        self.process_id = 0
        self.pidfd = 0
        self._group = group

    @property
    def is_ready(self) -> bool:
        return bool(self.pidfd)

    def hear(self) -> bool:
        """Read what it says; False if it could not be made."""
        data, extra, _, _ = self.channel.recvmsg(_HEARD_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
        message = json.loads(data) if data else {}
        if "ready" not in message:
            return False
        for level, kind, content in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                self.process_id = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
        try:
            self.pidfd = os.pidfd_open(self.process_id)
            is_placed = self._group is None or message.get("placed")
            for entrance in () if is_placed or self._group is None else self._group.entrances:
                os.write(entrance, str(self.process_id).encode())
        except OSError:
            return False
        return True

    def discard(self) -> None:
        """End it unused."""
        self.channel.close()
        if self.pidfd:
            send_kill(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = 0


class Nursery:
    """Makes prepared boxes.

    Args:
        slot: whose user it runs as; its own, so that its processes are nobody else's.
        selector: the supervisor's.
        on_change: called when a box has become ready, or cannot be made any more.
    """

    def __init__(
        self, slot: Slot, selector: selectors.BaseSelector, on_change: Callable[[], None]
    ) -> None:
        self._slot = slot
        self._selector = selector
        self._on_change = on_change
        self._process_id = 0
        self._channel: socket.socket | None = None
        self._num_starts = 0
        self._prepared: dict[int, Prepared] = {}

    @property
    def is_usable(self) -> bool:
        """Whether boxes can be asked for."""
        return self._channel is not None or self._num_starts < _MAX_STARTS

    def prepare(self, slot: Slot, group: Group | None) -> None:
        """Ask for a box for a slot, if it has none."""
        if slot.index in self._prepared or not self.is_usable:
            return
        if self._channel is None and not self._start():
            return
        assert self._channel is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            try:
                doors = () if group is None else group.doors
                socket.send_fds(self._channel, [b"box"], [theirs.fileno(), *(door for door, _ in doors)])
            except OSError:
                ours.close()
                self._end()
                return
        prepared = self._prepared[slot.index] = Prepared(ours, group)
        self._selector.register(ours, selectors.EVENT_READ, lambda _: self._hear(slot.index, prepared))

    def has(self, slot: Slot) -> bool:
        """Whether a slot's box is ready."""
        return slot.index in self._prepared and self._prepared[slot.index].is_ready

    def take(self, slot: Slot) -> Prepared:
        """A slot's box; it is the caller's now."""
        return self._prepared.pop(slot.index)

    def discard(self, slot: Slot) -> None:
        """End a slot's box unused, because another kind of box takes the slot."""
        prepared = self._prepared.pop(slot.index, None)
        if prepared is not None:
            if not prepared.is_ready:
                self._selector.unregister(prepared.channel)
            prepared.discard()

    def close(self) -> None:
        """End all boxes, and what makes them."""
        for index in list(self._prepared):
            self.discard(Slot(index))
        self._end()

    def _hear(self, index: int, prepared: Prepared) -> None:
        self._selector.unregister(prepared.channel)
        if not prepared.hear():
            prepared.discard()
            del self._prepared[index]
            self._end()  # it does not do its work: the next request starts another one
        self._on_change()

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process_id:
            os.kill(self._process_id, signal.SIGKILL)
            os.waitpid(self._process_id, 0)
            self._process_id = 0

    def _start(self) -> bool:
        self._num_starts += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launch = nursery_launch()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        streams = {0: null, 1: null, 2: null, 3: theirs.fileno()}
        self._process_id = spawn(launch, self._slot, streams, ())
        theirs.close()
        for file in (null, *launch.files.values()):
            os.close(file)
        ours.settimeout(_START_SECONDS)
        self._channel = ours
        try:
            is_up = ours.recv(16) == b"ready"
        except OSError:
            is_up = False
        if not is_up:
            self._end()
        return is_up


def nursery_launch() -> Launch:
    """The nursery's own box: a user that has all rights in it, and in nothing else."""
    from k15.sandbox.bubblewrap import root_words
    from k15.sandbox.languages import get_language

    language = get_language("python")
    words = ["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    words += ["--unshare-cgroup-try", "--die-with-parent", "--new-session"]
    words += ["--uid", "0", "--gid", "0", "--cap-add", "ALL", "--hostname", "box"]
    words += root_words(None, language.shown_host_paths())
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/box"]
    words += ["--file", str(_PROGRAM_FD), "/box/warm.py", "--file", str(_FILTER_FD), "/box/filter"]
    words += ["--remount-ro", "/box", "--remount-ro", "/"]
    program = (files("k15.sandbox.inside") / "warm.py").read_bytes()
    bubblewrap = shutil.which("bwrap")
    assert bubblewrap is not None
    argv = (bubblewrap, *words, "--", PYTHON, "-s", "-B", "/box/warm.py")
    contents = {_PROGRAM_FD: program, _FILTER_FD: filter_program("run") or b""}
    opened = {number: memory_file(content) for number, content in contents.items()}
    return Launch(argv, language.environment(), opened)


class WarmBox(Box):
    """Started long ago, used now.

    Args:
        prepared: the box; its process ends with this run.
    """

    def __init__(self, *args: Any, prepared: Prepared, **more: Any) -> None:
        super().__init__(*args, **more)
        self._prepared = prepared
        self._said: dict[str, Any] = {}

    def start(self) -> None:
        prepared = self._prepared
        self._first = prepared.process_id
        self._pidfds.add(prepared.pidfd)
        if self._group is not None:
            self._group.configure(self.spec.limits)
        streams = self._open_streams()
        content = memory_file(b"".join(self.spec.files.values()))
        limits = rlimits(self.spec, Slot(0), has_group=self._group is not None)
        script = next(i for i, word in enumerate(self.spec.argv) if word.startswith("/box/"))
        job = {
            "argv": self.spec.argv[script:],
            "env": self.spec.env,
            "files": [(name, len(data), 0o444) for name, data in self.spec.files.items()],
            "disk_mb": self.spec.limits.disk_mb,
            "limits": limits,
        }
        numbers = array.array("i", [content, *(streams[number] for number in sorted(streams))])
        prepared.channel.settimeout(_LAST_WORD_SECONDS)
        self._started_at = time.monotonic()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        try:
            prepared.channel.sendmsg([json.dumps(job).encode()], rights)
        finally:
            for file in (content, *streams.values()):
                os.close(file)
        self._feed()
        self._selector.register(prepared.channel, selectors.EVENT_READ, self._hear)
        self._selector.register(prepared.pidfd, selectors.EVENT_READ, self._reap)

    def abandon(self) -> None:
        super().abandon()
        self._prepared.channel.close()

    def _hear(self, _: int) -> None:
        try:
            data = self._prepared.channel.recv(_HEARD_BYTES)
        except OSError:  # it ended without having read all, or nobody is left to speak
            data = b""
        if data:
            self._said.update(json.loads(data))
            self._waited_cpu = self._said.get("cpu", 0.0)
        if not data or "exit-code" in self._said:
            self._selector.unregister(self._prepared.channel)

    def _reap(self, pidfd: int) -> None:
        self._ended_at = time.monotonic()
        while self._prepared.channel in self._selector.get_map():  # until it has said its last
            self._hear(0)
        self._prepared.channel.close()
        self._forget(pidfd)
        self._pidfds.discard(pidfd)
        self._end_if_done()

    def _exit(self) -> tuple[int | None, int | None]:
        code = self._said.get("exit-code")
        return (
            (None, code - 128) if code is not None and 128 < code < 128 + signal.NSIG else (code, None)
        )

    def _why_not_started(self) -> str:
        if "started" in self._said:
            return ""
        return f"the prepared box did not work: {self._said.get('error', 'it ended without a word')}"

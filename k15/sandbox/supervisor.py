"""The supervisor: a small process that starts boxes, watches them, and sees to it that nothing is left.

It is a process of its own because a training process is too large to fork a hundred times a second, has
secrets in its environment, and can die: then this one ends every box and goes too. It adopts whatever
loses its parent (a subreaper), so that no process of a box becomes a zombie somewhere else.

    request   {"do": "run", "id": N, "boxes": [spec, ...]} and blobs; two boxes are linked to each other
    reply     {"id": N, "runs": [run, ...]} and blobs, when all boxes of the request have ended
    first     {"ready": {...}}, or {"error": "..."} and the end
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k15.errors import SandboxError
from k15.sandbox.box import Box, make_pipe
from k15.sandbox.cgroups import Group
from k15.sandbox.cold import ColdBox
from k15.sandbox.launch import RESERVED, Launcher, Slot
from k15.sandbox.places import find_places, make_groups
from k15.sandbox.warm import Nursery, WarmBox
from k15.sandbox.wire import BoxSpec, FrameReader, RawRun, pack, run_to_wire, spec_from_wire

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_SECONDS = 0.02
FIRST_USER = 64100
"""As root: boxes run as this user and those that follow, one a slot."""


@dataclass(eq=False)
class _Request:
    """A request whose boxes wait for slots, or run."""

    number: int
    specs: list[BoxSpec]
    runs: dict[int, RawRun] = field(default_factory=dict)


class Supervisor:
    """Starts boxes in slots, as many at a time as there are slots.

    Args:
        channel: the socket to the sandbox.
        launcher: the back end.
        groups: a control group for each slot, or none at all.
        num_slots: how many slots.
        is_warm: keep a box with Python already started in each slot.
    """

    def __init__(
        self,
        channel: socket.socket,
        launcher: Launcher,
        groups: list[Group],
        num_slots: int,
        *,
        is_warm: bool = False,
    ) -> None:
        self._channel = channel
        self._launcher = launcher
        self._groups = groups
        self._selector = selectors.DefaultSelector()
        first_user = FIRST_USER if _may_be_others(num_slots + 1) else None
        self._free = deque(
            Slot(
                index,
                None if first_user is None else first_user + index,
                groups[index].entrances if groups else (),
                groups[index].doors if groups else (),
            )
            for index in range(num_slots)
        )
        self._waiting: deque[_Request] = deque()
        self._running: dict[Box, tuple[_Request, int]] = {}
        self._frames = FrameReader()
        self._outgoing = bytearray()
        self._is_open = True
        self._nursery: Nursery | None = None
        if is_warm:
            user = None if first_user is None else first_user + num_slots
            self._nursery = Nursery(Slot(num_slots, user), self._selector, self._start_waiting)
        channel.setblocking(False)
        self._selector.register(channel, selectors.EVENT_READ, self._talk)

    def serve(self) -> None:
        """Until the other end is closed; then every box is ended."""
        self._selector.register(_child_signals(), selectors.EVENT_READ, self._note_children)
        next_look = time.monotonic()
        while self._is_open or self._running:
            pause = max(0.0, next_look - time.monotonic()) if self._running else None
            for key, _ in self._selector.select(pause):
                # An event before this one may have closed the file, and its number may be another's by now.
                if self._selector.get_map().get(key.fd) == key:
                    key.data(key.fd)
            now = time.monotonic()
            if now >= next_look:
                for box in list(self._running):
                    box.look(now)
                next_look = now + _LOOK_SECONDS
        if self._nursery is not None:
            self._nursery.close()
        self._launcher.close()
        for group in self._groups:
            group.empty()
            group.remove()
        self._reap_orphans()

    def send(self, message: dict[str, Any], blobs: list[bytes]) -> None:
        """Say something, without waiting for the other end to listen."""
        self._outgoing += pack(message, blobs)
        self._flush()

    def _talk(self, _: int) -> None:
        self._flush()
        try:
            data = self._channel.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        for message, blobs in self._frames.feed(data):
            self._take(message, blobs)
        self._start_waiting()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._channel.send(self._outgoing[: 1 << 20])]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing.clear()
        if self._is_open:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
            self._selector.modify(self._channel, wanted, self._talk)

    def _hang_up(self) -> None:
        self._is_open = False
        self._selector.unregister(self._channel)
        self._waiting.clear()
        for box in list(self._running):
            box.stop("wall")

    def _take(self, message: dict[str, Any], blobs: list[bytes]) -> None:
        specs = []
        for item in message["boxes"]:
            num_blobs = 1 + len(item["files"])
            specs.append(spec_from_wire(item, blobs[:num_blobs]))
            blobs = blobs[num_blobs:]
        self._waiting.append(_Request(message["id"], specs))

    def _note_children(self, file: int) -> None:
        os.read(file, 1 << 12)
        self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Wait for processes whose parents have gone; not for those that a box waits for itself."""
        known = {process for box in self._running for process in box.own_processes}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in known:
                return
            os.waitpid(found.si_pid, 0)

    def _start_waiting(self) -> None:
        """Start requests in their order, as long as there are slots (and prepared boxes) for them."""
        while self._waiting and self._free:
            slots = self._choose(self._waiting[0].specs)
            if slots is None:
                return
            self._start(self._waiting.popleft(), slots)

    def _choose(self, specs: list[BoxSpec]) -> list[Slot] | None:
        """Slots for the boxes of a request, None if it has to wait."""
        nursery = self._nursery
        if nursery is None or not nursery.is_usable:
            return [self._free.popleft() for _ in specs] if len(self._free) >= len(specs) else None
        for slot in self._free:
            nursery.prepare(slot, self._group(slot))
        chosen: list[Slot] = []
        for spec in specs:
            fitting = [s for s in self._free if s not in chosen and nursery.has(s) == spec.is_warm]
            if not spec.is_warm and not fitting:
                fitting = [s for s in self._free if s not in chosen]
            if not fitting:
                return None
            chosen.append(fitting[0])
        for slot in chosen:
            self._free.remove(slot)
        return chosen

    def _group(self, slot: Slot) -> Group | None:
        return self._groups[slot.index] if self._groups else None

    def _start(self, request: _Request, slots: list[Slot]) -> None:
        links: list[tuple[int, int] | None] = [None] * len(request.specs)
        if len(request.specs) == 2:
            there, back = make_pipe(), make_pipe()
            links = [(there.read, back.write), (back.read, there.write)]
        for index, (spec, slot, link) in enumerate(zip(request.specs, slots, links, strict=True)):
            box = self._make_box(spec, slot, link)
            self._running[box] = (request, index)
            try:
                box.start()
            except OSError as error:  # no file descriptors, no processes, no memory left for us
                box.abandon()
                self._drop(box, RawRun(fault=f"the box could not be started: {error}"))

    def _make_box(self, spec: BoxSpec, slot: Slot, link: tuple[int, int] | None) -> Box:
        group = self._group(slot)
        if self._nursery is not None:
            if spec.is_warm and self._nursery.has(slot):
                prepared = self._nursery.take(slot)
                return WarmBox(spec, slot, group, self._selector, self._finish, link, prepared=prepared)
            self._nursery.discard(slot)
            if group is not None:
                group.empty()
        return ColdBox(spec, slot, group, self._selector, self._finish, link, launcher=self._launcher)

    def _finish(self, box: Box) -> None:
        run = box.raw_run()
        self._launcher.release(box.slot)
        self._drop(box, run)
        self._reap_orphans()  # one may have stood behind this box's processes

    def _drop(self, box: Box, run: RawRun) -> None:
        request, index = self._running.pop(box)
        request.runs[index] = run
        if not box.is_stuck:  # a slot with a process that cannot be killed is not used again
            self._free.append(box.slot)
            if self._nursery is not None and self._is_open:
                self._nursery.prepare(box.slot, self._group(box.slot))
        if len(request.runs) == len(request.specs) and self._is_open:
            messages, blobs = [], []
            for place in range(len(request.specs)):
                message, parts = run_to_wire(request.runs[place])
                messages.append(message)
                blobs += parts
            self.send({"id": request.number, "runs": messages}, blobs)
        self._start_waiting()


def make_launcher(backend: str) -> Launcher:
    """The back end of a name.

    Raises:
        SandboxError: what it needs is not there.
    """
    if backend == "bubblewrap":
        from k15.sandbox.bubblewrap import BubblewrapLauncher

        return BubblewrapLauncher()
    if backend == "crun":
        from k15.sandbox.crun import CrunLauncher

        return CrunLauncher()
    if backend == "unsafe-local":
        from k15.sandbox.unsafe import UnsafeLauncher

        return UnsafeLauncher()
    raise SandboxError(f"no local back end {backend!r}")


def main() -> None:
    """Arguments: the socket's file descriptor, and the settings as JSON."""
    settings = json.loads(sys.argv[2])
    _reserve()
    channel = socket.socket(fileno=os.dup(int(sys.argv[1])))
    os.close(int(sys.argv[1]))
    _adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when its parent does
    try:
        parent = settings["cgroup_parent"]
        places = find_places(settings["cgroups"], Path(parent) if parent else None)
        if settings["cgroups"] not in ("auto", places.version):
            raise SandboxError(
                f"control groups {settings['cgroups']} were asked for (sandbox.cgroups): {places.reason}"
            )
        groups = make_groups(places, settings["num_slots"])
        try:
            launcher = make_launcher(settings["backend"])  # may hide the groups' folders from here on
        except (SandboxError, OSError):
            for group in groups:
                group.remove()
            raise
        if settings["backend"] == "crun" and not _may_be_others(settings["num_slots"]):
            raise SandboxError(
                'the sandbox back end "crun" gives each slot a user of its own, and this root may not become another '
                "user (it is root of a namespace only). Use the back end bubblewrap."
            )
        if settings["backend"] == "crun" and not groups:
            raise SandboxError(
                f'the sandbox back end "crun" needs control groups, and there are none: {places.reason}'
            )
    except (SandboxError, OSError) as error:
        channel.sendall(pack({"error": str(error)}))
        return
    supervisor = Supervisor(channel, launcher, groups, settings["num_slots"], is_warm=settings["warm"])
    supervisor.send({"ready": {"cgroups": places.version, "reason": places.reason}}, [])
    supervisor.serve()


def _may_be_others(count: int) -> bool:
    """Whether this process may become the users from FIRST_USER on: root, where they exist."""
    if os.getuid() != 0 or Path("/proc/self/setgroups").read_text().strip() == "deny":
        return False
    for name in ("uid_map", "gid_map"):
        ranges = [
            list(map(int, line.split())) for line in Path("/proc/self", name).read_text().splitlines()
        ]
        if not any(
            low <= FIRST_USER and FIRST_USER + count <= low + length for low, _, length in ranges
        ):
            return False
    return True


def _child_signals() -> int:
    """A file that can be read whenever a child has ended."""
    ours, signals = make_pipe()
    for file in (ours, signals):
        os.set_blocking(file, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler there is no waking up
    signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
    return ours


def _reserve() -> None:
    """Occupy the low numbers, so that every file of ours has a higher one and a child's can be set freely."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    while nothing < RESERVED:
        nothing = os.dup(nothing)
    os.close(nothing)


def _adopt_orphans() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    main()

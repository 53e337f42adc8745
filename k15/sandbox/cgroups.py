"""Control groups made in advance and used again (section 2.6.4), version 1 or 2; and what stands in.

A group holds the processes of one box: it limits their memory and number, counts their CPU time, and
says whether the kernel had to kill one of them for memory. Making one costs more than a run should, so
each slot keeps its own from start to end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path

from k15.sandbox.base import Limits
from k15.sandbox.launch import EXTRA_PROCESSES

# Not cpu: its weights would cost milliseconds at each start, and sessions share the cores fairly without it.
CONTROLLERS_V1 = ("memory", "pids", "cpuacct")
# controller, file, how it is opened; the kernel may not have memsw, which counts swap
_FILES_V1 = (
    ("memory", "memory.force_empty", os.O_WRONLY),
    ("memory", "memory.limit_in_bytes", os.O_RDWR),
    ("memory", "memory.memsw.limit_in_bytes", os.O_RDWR),
    ("memory", "memory.max_usage_in_bytes", os.O_RDWR),
    ("memory", "memory.oom_control", os.O_RDONLY),
    ("pids", "pids.max", os.O_RDWR),
    ("cpuacct", "cpuacct.usage", os.O_RDWR),
)
_EXTRA_MEMORY = 4 << 20  # bytes, for the same
_EMPTY_SECONDS = 2.0


class Group(ABC):
    """The control group of one slot."""

    @abstractmethod
    def configure(self, limits: Limits) -> None:
        """Set the limits of the next run, and start counting from zero."""

    @property
    @abstractmethod
    def entrances(self) -> tuple[int, ...]:
        """Open files: a process that writes "0" into each of them is in the group."""

    @property
    def doors(self) -> tuple[tuple[int, int], ...]:
        """Open files in pairs, where the kernel has them: a thread that writes "0" into the first is in the
        group, and out again by the second. Unlike an entrance this waits for nobody (version 1 only)."""
        return ()

    @abstractmethod
    def cpu_seconds(self) -> float:
        """CPU time of all processes of the group since `configure`."""

    @abstractmethod
    def memory_bytes(self) -> int:
        """The most memory held since `configure`, or 0 where the kernel does not keep it."""

    @abstractmethod
    def num_oom_kills(self) -> int:
        """Processes killed for memory since `configure`."""

    @abstractmethod
    def process_ids(self) -> list[int]:
        """Who is in the group now."""

    @abstractmethod
    def remove(self) -> None:
        """Delete the group; it must be empty."""

    def kill(self) -> None:
        """Kill whoever is in the group. A fork during the walk is caught by the next one."""
        for process_id in self.process_ids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)

    def empty(self) -> bool:
        """Kill until nobody is left; False if that took too long."""
        deadline = time.monotonic() + _EMPTY_SECONDS
        while self.process_ids():
            self.kill()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True


class GroupV1(Group):
    """A folder in each of the hierarchies of version 1.

    Args:
        folders: one a controller: memory, pids and cpuacct.
    """

    def __init__(self, folders: dict[str, Path]) -> None:
        self._places = [
            (os.open(folder.parent, os.O_PATH | os.O_CLOEXEC), folder.name)
            for folder in sorted(set(folders.values()))
        ]
        for folder in set(folders.values()):
            folder.mkdir(exist_ok=True)
        # All opened now: the supervisor may later hide these folders from the programs that it starts.
        self._files = {
            name: os.open(folders[controller] / name, flags | os.O_CLOEXEC)
            for controller, name, flags in _FILES_V1
            if (folders[controller] / name).exists()
        }
        self._entrances = tuple(
            os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            for folder in sorted(set(folders.values()))
        )
        self._doors = tuple(
            (os.open(folder / "tasks", flags), os.open(folder.parent / "tasks", flags))
            for flags in (os.O_WRONLY | os.O_CLOEXEC,)
            for folder in sorted(set(folders.values()))
            if (folder / "tasks").exists()
        )
        self._members = os.open(folders["pids"], os.O_PATH | os.O_CLOEXEC)
        self._oom_kills_before = 0
        self._limits: tuple[int, int] | None = None

    @property
    def entrances(self) -> tuple[int, ...]:
        return self._entrances

    @property
    def doors(self) -> tuple[tuple[int, int], ...]:
        return self._doors

    def configure(self, limits: Limits) -> None:
        wanted = (limits.memory_mb, limits.processes)
        if wanted != self._limits:
            memory = (limits.memory_mb << 20) + _EXTRA_MEMORY
            with contextlib.suppress(OSError):  # what earlier runs left cached
                self._write("memory.force_empty", 0)
            with contextlib.suppress(OSError):
                self._write("memory.memsw.limit_in_bytes", -1)
            self._write("memory.limit_in_bytes", memory)
            with contextlib.suppress(OSError):
                self._write("memory.memsw.limit_in_bytes", memory)
            self._write("pids.max", limits.processes + EXTRA_PROCESSES)
            self._limits = wanted
        self._write("memory.max_usage_in_bytes", 0)
        self._write("cpuacct.usage", 0)
        self._oom_kills_before += self.num_oom_kills()

    def cpu_seconds(self) -> float:
        return int(self._read("cpuacct.usage")) / 1e9

    def memory_bytes(self) -> int:
        return int(self._read("memory.max_usage_in_bytes"))

    def num_oom_kills(self) -> int:
        return _field(self._read("memory.oom_control"), "oom_kill") - self._oom_kills_before

    def process_ids(self) -> list[int]:
        # Opened anew: an open file of version 1 keeps the list that was read first.
        file = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._members)
        try:
            return [int(line) for line in _read_all(file).split()]
        finally:
            os.close(file)

    def remove(self) -> None:
        doors = [file for pair in self._doors for file in pair]
        for file in (*self._files.values(), *self._entrances, *doors, self._members):
            os.close(file)
        for parent, name in self._places:
            _remove(name, parent)
            os.close(parent)

    def _write(self, name: str, value: int) -> None:
        if name in self._files:
            os.pwrite(self._files[name], str(value).encode(), 0)

    def _read(self, name: str) -> str:
        return _read_all(self._files[name])


class GroupV2(Group):
    """A folder of the unified hierarchy, whose parent hands out memory and pids."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._entrances = (os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC),)
        self._cpu_before = 0.0
        self._oom_kills_before = 0
        self._peak: int | None = None  # a file of its own: what is written to it starts it anew
        with contextlib.suppress(OSError):
            (folder / "memory.oom.group").write_text("1")
        with contextlib.suppress(OSError):  # Linux 6.12
            self._peak = os.open(folder / "memory.peak", os.O_RDWR | os.O_CLOEXEC)

    @property
    def entrances(self) -> tuple[int, ...]:
        return self._entrances

    def configure(self, limits: Limits) -> None:
        self._write("memory.max", (limits.memory_mb << 20) + _EXTRA_MEMORY)
        with contextlib.suppress(OSError):  # no swap in this kernel
            self._write("memory.swap.max", 0)
        self._write("pids.max", limits.processes + EXTRA_PROCESSES)
        if self._peak is not None:
            try:
                os.pwrite(self._peak, b"0", 0)
            except OSError:  # an older kernel: the file is there but keeps the highest of all runs
                os.close(self._peak)
                self._peak = None
        self._cpu_before += self.cpu_seconds()
        self._oom_kills_before += self.num_oom_kills()

    def cpu_seconds(self) -> float:
        return _field(self._read("cpu.stat"), "usage_usec") / 1e6 - self._cpu_before

    def memory_bytes(self) -> int:
        return 0 if self._peak is None else int(_read_all(self._peak))

    def num_oom_kills(self) -> int:
        return _field(self._read("memory.events"), "oom_kill") - self._oom_kills_before

    def process_ids(self) -> list[int]:
        return [int(line) for line in self._read("cgroup.procs").split()]

    def kill(self) -> None:
        try:
            self._write("cgroup.kill", 1)  # Linux 5.14
        except OSError:
            super().kill()

    def remove(self) -> None:
        for file in (*self._entrances, *([] if self._peak is None else [self._peak])):
            os.close(file)
        _remove(str(self._folder))

    def _write(self, name: str, value: int) -> None:
        (self._folder / name).write_text(str(value))

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text()


def _remove(folder: str, parent: int | None = None) -> None:
    deadline = time.monotonic() + _EMPTY_SECONDS
    while True:
        try:
            os.rmdir(folder, dir_fd=parent)
            return
        except FileNotFoundError:
            return
        except OSError:  # a process that was reaped a moment ago can still be on its way out
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)


def _read_all(file: int) -> str:
    return os.pread(file, 1 << 16, 0).decode()


def _field(text: str, name: str) -> int:
    """The number behind a name in lines of "name number"."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0

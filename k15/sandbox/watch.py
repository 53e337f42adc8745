"""What the processes of a box use, read from /proc: for hosts without control groups."""

from __future__ import annotations

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def descendants(process_id: int) -> list[int]:
    """A process and all below it, as far as they still exist."""
    found, queue = [], [process_id]
    while queue:
        current = queue.pop()
        found.append(current)
        try:
            for task in os.listdir(f"/proc/{current}/task"):
                queue += map(int, Path(f"/proc/{current}/task/{task}/children").read_text().split())
        except OSError:
            continue
    return found


class TreeWatch:
    """Adds up CPU time and memory of a box's processes; the box's first process has all others below it."""

    def __init__(self) -> None:
        self._cpu: dict[int, float] = {}
        self.memory_bytes = 0

    def look(self, first: int) -> None:
        """Look once. What lived and died between two looks is not seen."""
        memory = 0
        for process_id in descendants(first):
            try:
                stat = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
                pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
            except (OSError, IndexError):
                continue
            self._cpu[process_id] = (int(stat[11]) + int(stat[12])) / _TICK
            memory += _own_memory(process_id, pages * _PAGE)
        self.memory_bytes = max(self.memory_bytes, memory)

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu.values())


def starved_seconds(process_ids: list[int]) -> float:
    """For how long the threads that waited longest in each process were ready to run and had no core."""
    total = 0.0
    for process_id in process_ids:
        try:
            total += int(Path(f"/proc/{process_id}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            continue
    return total


def _own_memory(process_id: int, resident: int) -> int:
    """Resident memory with shared pages divided among those who share them, where that may be read."""
    if resident < 32 << 20:
        return resident
    try:
        rollup = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    except OSError:
        return resident
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return resident

"""Where the engine's work comes from: an iterable, or a pipe that may have nothing to say just now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

from k15.types import Work


class WorkSource(Protocol):
    """Work that is handed out when a slot falls free."""

    @property
    def is_exhausted(self) -> bool:
        """No work will come any more."""
        ...

    def take(self, limit: int) -> list[Work]:
        """At most `limit` pieces of work, fewer or none if no more are there yet; never waits."""
        ...

    def wait(self) -> None:
        """Return when work is there, or when none will come any more."""
        ...


class IterableSource:
    """Work drawn lazily from an iterable."""

    def __init__(self, work: Iterable[Work]) -> None:
        self._work: Iterator[Work] = iter(work)
        self._is_exhausted = False

    @property
    def is_exhausted(self) -> bool:
        return self._is_exhausted

    def take(self, limit: int) -> list[Work]:
        taken = list(islice(self._work, limit))
        self._is_exhausted = len(taken) < limit
        return taken

    def wait(self) -> None:
        """Nothing to wait for: an iterable has its work at once."""

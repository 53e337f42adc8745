"""What a person sees while a stage runs: a progress bar with phase, rate and time left, and lines.

Bars only on a terminal; plain lines otherwise, and with NO_COLOR. Everything goes to standard
error: standard output belongs to results that programs read.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")


class Watch:
    """One display of a stage with `total` iterations (or steps).

    Args:
        title: name of the stage, before the bar.
        total: planned iterations.
        quiet: show nothing (tests).
    """

    def __init__(self, title: str, total: int, *, quiet: bool = False) -> None:
        is_plain = bool(os.environ.get("NO_COLOR"))
        self._console = Console(
            stderr=True, quiet=quiet, highlight=False, emoji=False, no_color=is_plain
        )
        self._title, self._total = title, total
        self._is_live = self._console.is_terminal and not is_plain and not quiet
        self._progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self._is_live,
        )
        self._stage: TaskID | None = None
        self._phase: TaskID | None = None

    @contextmanager
    def showing(self, done: int = 0) -> Iterator[Watch]:
        """Show the bars; `done` iterations were finished in an earlier life of the run."""
        with self._progress:
            self._stage = self._progress.add_task(
                self._title, total=self._total, completed=done, rate=""
            )
            self._phase = self._progress.add_task("", total=None, visible=False, rate="")
            yield self

    def line(self, text: str) -> None:
        """One line that stays."""
        if self._is_live:
            self._progress.console.print(text, soft_wrap=True, markup=False)
        elif not self._console.quiet:
            print(text, file=sys.stderr, flush=True)

    def advance(self, count: int = 1) -> None:
        """That many iterations more are finished."""
        if self._stage is not None:
            self._progress.advance(self._stage, count)

    def follow(
        self,
        items: Iterable[Item],
        phase: str,
        total: int,
        *,
        unit: str,
        note: Callable[[], str] | None = None,
    ) -> Iterator[Item]:
        """The same items, while a bar shows how many came and how fast, and what `note` has to say."""
        if self._phase is None or not self._is_live:
            yield from items
            return
        task, started = self._phase, time.monotonic()
        self._progress.reset(task, total=total, description=f"  {phase}", visible=True, rate="")
        self._progress.refresh()  # a phase may be shorter than the time between two refreshes
        count = 0
        try:
            for item in items:
                count += 1
                rate = count / max(time.monotonic() - started, 1e-3)
                said = f"  {note()}" if note is not None else ""
                self._progress.update(task, completed=count, rate=f"{rate:.0f} {unit}/s{said}")
                yield item
        finally:
            self._progress.update(task, visible=False)

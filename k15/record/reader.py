"""Read a run folder, or a copy of one, on a machine without torch.

The reader never raises for damage: what cannot be read is left out, and `notices` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from k15.record import schema

Row = dict[str, Any]


class RunReader:
    """A run folder as it is on disk when each property is first used. Make a new one to see news.

    Attributes:
        path: the folder.
        notices: sentences for a person about what is missing, damaged or unknown; grows while reading.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []

    @cached_property
    def config(self) -> Row:
        """The resolved configuration; empty if it cannot be read."""
        return self._object(schema.CONFIG)

    @cached_property
    def manifest(self) -> Row:
        """`schema.RunManifest`; empty if it cannot be read."""
        manifest = self._object(schema.MANIFEST)
        version = manifest.get("schema", schema.SCHEMA)
        if version != schema.SCHEMA:
            self._notice(
                f"this run has schema {version}, and this version of k15 reads {schema.SCHEMA}: parts may be missing"
            )
        return manifest

    @cached_property
    def metrics(self) -> list[Row]:
        """One flat object an iteration, in order; of lines with the same iteration the last counts."""
        rows = self._lines(schema.METRICS, _has_iteration, "an iteration")
        latest = {row["iteration"]: row for row in rows}
        return [latest[iteration] for iteration in sorted(latest)]

    @cached_property
    def events(self) -> list[Row]:
        """`schema.EventRow`s, oldest first. A run without events has no file of them."""
        if not (self.path / schema.EVENTS).exists():
            return []
        return self._lines(schema.EVENTS, lambda row: isinstance(row.get("kind"), str), "a kind")

    @cached_property
    def iterations(self) -> tuple[int, ...]:
        """Iterations whose completions are stored, in order."""
        try:
            names = [entry.name for entry in (self.path / schema.ROLLOUTS).iterdir()]
        except OSError:
            return ()  # supervised fine-tuning has none
        stems = [name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl")]
        return tuple(sorted(int(stem) for stem in stems if stem.isascii() and stem.isdecimal()))

    def rollouts(self, iteration: int) -> list[Row]:
        """`schema.CompletionRow`s of one iteration, as they were stored; incomplete rows are left out."""
        required = schema.CompletionRow.__required_keys__
        name = f"{schema.ROLLOUTS}/{iteration:06d}.jsonl"
        return self._lines(name, lambda row: required <= row.keys(), "all keys of a completion")

    def _object(self, name: str) -> Row:
        data = self._read(name)
        if data is None:
            return {}
        row = _decode(data)
        if row is None:
            self._notice(f"{name} is damaged")
        return row or {}

    def _lines(self, name: str, is_whole: Callable[[Mapping[str, Any]], bool], what: str) -> list[Row]:
        data = self._read(name)
        if data is None:
            return []
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            self._notice(
                f"the last line of {name} is torn and left out; a run that is still writing does that"
            )
        rows = [_decode(line) for line in whole.split(b"\n")] if whole else []
        good = [row for row in rows if row is not None and is_whole(row)]
        self._count(name, sum(row is None for row in rows), "are damaged and left out")
        self._count(
            name,
            len(rows) - len(good) - sum(row is None for row in rows),
            f"lack {what} and are left out",
        )
        return good

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            self._notice(f"{name} is missing")
        except OSError as error:
            self._notice(f"{name} cannot be read ({error.strerror})")
        return None

    def _count(self, name: str, number: int, what: str) -> None:
        if number:
            self._notice(f"{number} lines of {name} {what}")

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)


def _decode(data: bytes) -> Row | None:
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _has_iteration(row: Mapping[str, Any]) -> bool:
    iteration = row.get("iteration")
    return isinstance(iteration, int) and not isinstance(iteration, bool)

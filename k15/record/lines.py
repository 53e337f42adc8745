"""Files of JSON lines: appended one whole line at a time, repaired when the last one is torn."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from k15.crashpoints import crashpoint
from k15.record.durable import replace_file, write_all


def encode_line(row: Mapping[str, Any]) -> bytes:
    """A row as one line of JSON. NaN and infinity become null: JSON has no word for them."""
    try:
        text = json.dumps(row, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(row), allow_nan=False, separators=(",", ":"))
    return (text + "\n").encode()


def decode_line(line: bytes) -> dict[str, Any] | None:
    """The row of a line, or None if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    return row if isinstance(row, dict) else None


class LineLog:
    """An append-only file of JSON lines.

    A line that the disk refuses is kept in memory and written before the next one, so a disk that is
    full for an hour leaves no gap.

    Args:
        path: the file.
        point: first word of its crash points.
        is_synced: fsync every line; else only in `sync`. A killed process loses no line either way, a
            power cut those since the last `sync`.
    """

    def __init__(self, path: Path, *, point: str, is_synced: bool) -> None:
        self._path = path
        self._point = point
        self._is_synced = is_synced
        self._descriptor: int | None = None
        self._size = 0
        self._waiting = b""

    @property
    def num_waiting(self) -> int:
        """Lines that are not on disk yet."""
        return self._waiting.count(b"\n")

    def open(self) -> int:
        """Open the file, cut a torn last line off, and return the number of bytes cut."""
        self._descriptor = os.open(
            self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o644
        )
        data = self._path.read_bytes()
        self._size = data.rfind(b"\n") + 1
        if self._size < len(data):
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
        return len(data) - self._size

    def append(self, row: Mapping[str, Any]) -> OSError | None:
        """Write one line. If the disk refuses, the error comes back and the line waits."""
        self._waiting += encode_line(row)
        return self._write(is_synced=self._is_synced)

    def sync(self) -> OSError | None:
        """Make all lines durable; the error if the disk refuses."""
        return self._write(is_synced=True)

    def _write(self, *, is_synced: bool) -> OSError | None:
        if self._descriptor is None:
            raise ValueError(f"{self._path.name} is not open")
        crashpoint(f"{self._point}.before_write")
        try:
            if os.fstat(self._descriptor).st_size != self._size:
                os.ftruncate(self._descriptor, self._size)  # what a refused write left
            write_all(self._descriptor, self._waiting)
            self._size += len(self._waiting)
            self._waiting = b""
            if is_synced:
                crashpoint(f"{self._point}.before_fsync")
                os.fsync(self._descriptor)
        except OSError as error:
            return error
        crashpoint(f"{self._point}.after_write")
        return None

    def rewrite(self, keep: Callable[[dict[str, Any]], bool]) -> int:
        """Drop the lines that `keep` refuses, and damaged ones; returns the number of damaged ones."""
        lines = self._path.read_bytes().splitlines(keepends=True)
        rows = [decode_line(line) for line in lines]
        kept = b"".join(
            line for line, row in zip(lines, rows, strict=True) if row is not None and keep(row)
        )
        self.close()
        if len(kept) != sum(map(len, lines)):
            replace_file(self._path, kept, point=self._point)
        self.open()
        return sum(row is None for row in rows)

    def close(self) -> None:
        """Close the file. Doing it twice is fine."""
        if self._descriptor is not None:
            self.sync()
            os.close(self._descriptor)
            self._descriptor = None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value

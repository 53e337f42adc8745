"""Writes that survive a kill and a power cut: fsync the file, rename it, fsync its directory.

A rename is atomic but not durable; the directory must be synced too. Every step has its crash
point, so that a test can kill the process exactly there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from safetensors import SafetensorError

from k15.crashpoints import crashpoint

TEMPORARY_PREFIX = ".tmp-"


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`; a full disk or a broken one raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_file(path: Path, data: bytes, *, point: str) -> None:
    """Create `path` with `data` and fsync it. Crash points `point`.before_write, before_fsync, after_fsync."""
    crashpoint(f"{point}.before_write")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, data)
        crashpoint(f"{point}.before_fsync")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    crashpoint(f"{point}.after_fsync")


def replace_file(path: Path, data: bytes, *, point: str) -> None:
    """Make `path` hold `data`: a reader sees the old bytes or the new ones, never a mixture."""
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    try:
        write_file(temporary, data, point=point)
        crashpoint(f"{point}.before_rename")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    crashpoint(f"{point}.after_rename")
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents, durably."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        sync_path(directory.parent)


def as_disk_error(error: Exception) -> OSError | None:
    """The OSError behind a failed write, or None if `error` is something else.

    safetensors reports a full disk as its own exception, which is no OSError.
    """
    if isinstance(error, OSError):
        return error
    if isinstance(error, SafetensorError) and (code := re.search(r"os error (\d+)", str(error))):
        return OSError(int(code[1]), os.strerror(int(code[1])))
    return None

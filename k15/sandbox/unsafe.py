"""No isolation at all: programs run as this user, on this machine, with its files and its network.

For a host where nothing else works and the code is trusted, and for measuring what isolation costs. It is
never chosen by itself. Limits of CPU time, memory and output hold against accidents, not against intent.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from k15.sandbox.launch import Launch, Launcher, Slot
from k15.sandbox.wire import BoxSpec


class UnsafeLauncher(Launcher):
    """Starts the program itself, in a folder of its own that is deleted afterwards."""

    reports_start = False
    reports_signals = False

    def __init__(self) -> None:
        print(
            "k15: the sandbox back end unsafe-local isolates nothing; a program can do whatever you can",
            file=sys.stderr,
        )
        self._folders: dict[int, Path] = {}

    def prepare(self, spec: BoxSpec, slot: Slot) -> Launch:
        folder = self._folders[slot.index] = Path(tempfile.mkdtemp(prefix="k15-unsafe-"))
        for name, content in spec.files.items():
            (folder / name).write_bytes(content)
            (folder / name).chmod(0o755 if name in spec.executable else 0o644)
        argv = [_outside(word, folder) for word in spec.argv]
        env = {**spec.env, "PATH": f"{spec.env.get('PATH', '')}:{os.environ.get('PATH', '')}"}
        for name in ("HOME", "GOCACHE", "GOPATH"):
            if name in env:
                env[name] = _outside(f"{env[name]}/", folder)
        program = shutil.which(argv[0], path=env["PATH"]) or argv[0]
        return Launch((program, *argv[1:]), env, as_user=False, folder=str(folder))

    def kill(self, process_id: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process_id, signal.SIGKILL)  # it leads a session; who left that is not found

    def release(self, slot: Slot) -> None:
        folder = self._folders.pop(slot.index, None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        for index in list(self._folders):
            self.release(Slot(index))


def _outside(word: str, folder: Path) -> str:
    """A word of a command with the folder in place of the box's."""
    return re.sub(r"/(box|tmp)/", f"{folder}/", word)

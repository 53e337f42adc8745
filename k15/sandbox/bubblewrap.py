"""The default back end: bubblewrap makes the namespaces and mounts, no root needed."""

from __future__ import annotations

import os
import shutil
from functools import lru_cache
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.launch import STATUS_FD, Launch, Launcher, Slot, memory_file
from k15.sandbox.seccomp import filter_program
from k15.sandbox.wire import BoxSpec

_ARGS_FD, _FILTER_FD, _FILES_FD = 6, 7, 10
MAX_FILES = 80
_HIDDEN = (
    "proc",
    "dev",
    "sys",
    "tmp",
    "box",
    "run",
    "boot",
    "mnt",
    "media",
    "lost+found",
)  # of an image
_SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_PASSWD = b"root:x:0:0::/tmp:/bin/sh\nbox:x:1000:1000::/tmp:/bin/sh\n"
BOX_USER = 1000


class BubblewrapLauncher(Launcher):
    """Starts `bwrap`.

    Raises:
        SandboxError: bubblewrap is not installed.
    """

    def __init__(self) -> None:
        path = shutil.which("bwrap", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin")
        if path is None:
            raise SandboxError(
                'the sandbox back end "bubblewrap" needs the program bwrap, and it is not installed. Install '
                "the package bubblewrap (apt install bubblewrap, dnf install bubblewrap)."
            )
        self._command = path
        self._filters = {may_lock: _filter(may_lock) for may_lock in (False, True)}

    def prepare(self, spec: BoxSpec, slot: Slot) -> Launch:
        assert len(spec.files) <= MAX_FILES, len(spec.files)
        words = ["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        words += ["--unshare-cgroup-try", "--disable-userns", "--die-with-parent", "--new-session"]
        words += ["--uid", str(BOX_USER), "--gid", str(BOX_USER), "--hostname", "box"]
        words += ["--json-status-fd", str(STATUS_FD)]
        words += root_words(spec.root, spec.host_paths)
        size = str(spec.limits.disk_mb << 20)
        words += ["--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm"]
        words += ["--remount-ro", "/dev", "--size", size, "--tmpfs", "/tmp", "--tmpfs", "/box"]
        files: dict[int, int] = {}
        if not spec.root:  # the root is read-only in the end
            files[_FILES_FD - 1] = memory_file(_PASSWD)
            words += ["--file", str(_FILES_FD - 1), "/etc/passwd"]
        for number, (name, content) in enumerate(spec.files.items(), start=_FILES_FD):
            files[number] = memory_file(content)
            mode = "0555" if name in spec.executable else "0444"
            words += ["--perms", mode, "--file", str(number), f"/box/{name}"]
        words += ["--remount-ro", "/box", "--remount-ro", "/", "--chdir", "/tmp"]
        filter_file = self._filters[spec.may_lock]
        if filter_file is not None:
            # opened anew: a file descriptor that several children inherit has one position for all
            files[_FILTER_FD] = os.open(f"/proc/self/fd/{filter_file}", os.O_RDONLY | os.O_CLOEXEC)
            words += ["--seccomp", str(_FILTER_FD)]
        argv = (self._command, "--args", str(_ARGS_FD), "--", *spec.argv)
        arguments = "".join(f"{word}\0" for word in words).encode()
        return Launch(argv, spec.env, files, gate=(_ARGS_FD, arguments))

    def close(self) -> None:
        for file in self._filters.values():
            if file is not None:
                os.close(file)


@lru_cache(maxsize=64)
def _entries(root: str) -> tuple[str, ...]:
    """The words that show an image's top level."""
    words: list[str] = []
    for entry in sorted(Path(root).iterdir()):
        if entry.name in _HIDDEN:
            continue
        if entry.is_symlink():
            words += ["--symlink", os.readlink(entry), f"/{entry.name}"]
        else:
            words += ["--ro-bind", str(entry), f"/{entry.name}"]
    return tuple(words)


@lru_cache(maxsize=64)
def _host_entries(paths: tuple[str, ...]) -> tuple[str, ...]:
    words = ["--ro-bind", "/usr", "/usr"]
    for path, target in host_links().items():
        words += ["--symlink", target, path]
    for name in _SYSTEM_FOLDERS:
        path = Path("/", name)
        if path.is_dir() and not path.is_symlink():
            words += ["--ro-bind", str(path), str(path)]
    for path in paths:
        if Path(path).exists():
            words += ["--ro-bind", path, path]
    return tuple(words)


def host_links() -> dict[str, str]:
    """Links at the host's top level into its /usr, as they are on a merged system: path -> target."""
    paths = [Path("/", name) for name in _SYSTEM_FOLDERS]
    return {str(path): os.readlink(path) for path in paths if path.is_symlink()}


def root_words(root: str | None, host_paths: tuple[str, ...]) -> tuple[str, ...]:
    """The words that build the root file system: an image, or the host's /usr and a little of /etc."""
    return _host_entries(host_paths) if root is None else _entries(root)


def _filter(may_lock: bool) -> int | None:
    program = filter_program("compile" if may_lock else "run")
    return None if program is None else memory_file(program)

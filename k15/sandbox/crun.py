"""The back end of the paper: crun, control groups made in advance, an overlay on a tmpfs of fixed size.

For servers where k15 runs as root. All mounts are made in a mount namespace of the supervisor's own, so
that they are gone when it is, however it ends.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from k15.errors import SandboxError
from k15.sandbox.bubblewrap import host_links
from k15.sandbox.launch import Launch, Launcher, Slot
from k15.sandbox.seccomp import filter_program
from k15.sandbox.wire import BoxSpec

_BASE = "/dev/shm"  # what lies there for others is not hidden from them: the namespace is ours
_NEW_MOUNTS = 0x00020000
_NOSUID, _NODEV, _REC, _PRIVATE = 2, 4, 16384, 1 << 18
_DETACH = 2
_BASE_MB = 64


class CrunLauncher(Launcher):
    """Starts `crun run`.

    Raises:
        SandboxError: crun is not installed, or this process is not root.
    """

    reports_start = False

    def __init__(self) -> None:
        path = shutil.which("crun", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin")
        if path is None:
            raise SandboxError(
                'the sandbox back end "crun" needs the program crun, and it is not installed. Install the package '
                "crun (apt install crun, dnf install crun), or use the back end bubblewrap."
            )
        if os.getuid() != 0:
            raise SandboxError(
                f'the sandbox back end "crun" must be run as root, for overlays and control groups; got user '
                f"{os.getuid()}. Use the back end bubblewrap, which needs no root."
            )
        self._command = path
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._filters = {lock: filter_program("compile" if lock else "run") for lock in (False, True)}
        self._check(self._libc.unshare(_NEW_MOUNTS), "a mount namespace of its own")
        self._mount("none", "/", "none", _REC | _PRIVATE)
        self._mount("tmpfs", _BASE, "tmpfs", _NOSUID | _NODEV, f"size={_BASE_MB}m,mode=700")
        if not Path(
            "/sys/fs/cgroup/cgroup.controllers"
        ).exists():  # crun refuses version 1 and both at once
            self._mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0)
        for name in ("state", "empty"):
            Path(_BASE, name).mkdir()

    def prepare(self, spec: BoxSpec, slot: Slot) -> Launch:
        assert slot.user is not None
        folder = Path(_BASE, str(slot.index))
        root = folder / "root"
        writable = folder / "rw"
        for path in (folder, root, writable):
            path.mkdir(exist_ok=True)
        self._mount("tmpfs", str(writable), "tmpfs", _NOSUID | _NODEV, f"size={spec.limits.disk_mb}m")
        upper, work = writable / "upper", writable / "work"
        for path in (upper, work, upper / "box", upper / "tmp"):
            path.mkdir()
        if spec.root is None:
            for name, target in host_links().items():
                (upper / name.lstrip("/")).symlink_to(target)
        for name, content in spec.files.items():
            (upper / "box" / name).write_bytes(content)
            (upper / "box" / name).chmod(0o555 if name in spec.executable else 0o444)
        os.chown(upper / "tmp", slot.user, slot.user)
        lower = spec.root or f"{_BASE}/empty"
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        self._mount("overlay", str(root), "overlay", _NOSUID | _NODEV, options)
        config = self._config(spec, slot.user, str(root))
        (folder / "config.json").write_text(json.dumps(config))
        argv = [self._command, "--root", f"{_BASE}/state", "--cgroup-manager=disabled"]
        argv += ["--log", str(folder / "log"), "run", "--no-pivot", "--bundle", str(folder)]
        argv += ["--preserve-fds", "2" if spec.is_linked else "1" if spec.result_bytes else "0"]
        return Launch((*argv, f"k15-{slot.index}"), {"PATH": "/usr/bin:/bin"}, as_user=False)

    def failure(self, slot: Slot) -> str:
        log = Path(_BASE, str(slot.index), "log")
        said = log.read_text(errors="replace").strip() if log.exists() else ""
        return f"the box could not be started: {said[-300:]}" if said else ""

    def release(self, slot: Slot) -> None:
        folder = Path(_BASE, str(slot.index))
        for name in ("root", "rw"):
            self._libc.umount2(str(folder / name).encode(), _DETACH)
        with contextlib.suppress(OSError):
            (folder / "log").unlink()
        shutil.rmtree(f"{_BASE}/state/k15-{slot.index}", ignore_errors=True)  # after a kill

    def _config(self, spec: BoxSpec, user: int, root: str) -> dict[str, Any]:
        """The OCI configuration of a run."""
        size = f"size={spec.limits.disk_mb}m"
        mounts = [
            _mount("proc", "/proc", "proc", ["nosuid", "noexec", "nodev"]),
            _mount("tmpfs", "/dev", "tmpfs", ["nosuid", "noexec", "size=64k", "mode=755"]),
            _mount("tmpfs", "/dev/shm", "tmpfs", ["nosuid", "noexec", "nodev", "mode=1777", size]),
            *_shown(spec.root, spec.host_paths),
        ]
        linux: dict[str, Any] = {
            "namespaces": [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"],
            "readonlyPaths": [
                *("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),
            ],
        }
        program = self._filters[spec.may_lock]
        annotations = {}
        if program is not None:
            annotations["run.oci.seccomp_bpf_data"] = base64.b64encode(program).decode()
        return {
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": user, "gid": user},
                "args": list(spec.argv),
                "env": [f"{name}={value}" for name, value in spec.env.items()],
                "cwd": "/tmp",
                "noNewPrivileges": True,
                "capabilities": {},
            },
            "root": {"path": root, "readonly": False},
            "hostname": "box",
            "mounts": mounts,
            "linux": linux,
            "annotations": annotations,
        }

    def _mount(self, source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        words = [word.encode() for word in (source, target, kind)]
        result = self._libc.mount(*words, ctypes.c_ulong(flags), data.encode())
        self._check(result, f"mounting {kind} on {target}")

    def _check(self, result: int, what: str) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")


@lru_cache(maxsize=64)
def _shown(root: str | None, paths: tuple[str, ...]) -> tuple[Mapping[str, Any], ...]:
    """Mounts that show the host's /usr and a little more, where there is no image."""
    if root is not None:
        return ()
    names = ["/usr", *(path for path in paths if Path(path).exists())]
    names += [f"/{n}" for n in ("bin", "sbin", "lib", "lib32", "lib64") if _is_folder(Path("/", n))]
    return tuple(_mount(name, name, "bind", ["rbind", "ro", "nosuid", "nodev"]) for name in names)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _mount(source: str, target: str, kind: str, options: list[str]) -> dict[str, Any]:
    return {"source": source, "destination": target, "type": kind, "options": options}

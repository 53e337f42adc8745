"""Where this process may make control groups: version 2 where it was delegated, else version 1, else not."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from k15.sandbox.cgroups import CONTROLLERS_V1, Group, GroupV1, GroupV2

_CONTROLLERS_V2 = {"memory", "pids"}  # CPU time is counted in every group


@dataclass(frozen=True)
class Places:
    """Where groups can be made on this host.

    Attributes:
        version: "v1", "v2" or "none".
        folders: the parent folder of each controller; for "v2" all are the same.
        reason: why not, or what was found.
    """

    version: str
    folders: dict[str, Path]
    reason: str


def find_places(wanted: str = "auto", parent: Path | None = None) -> Places:
    """Where this process may make control groups.

    Args:
        wanted: "auto", "v1", "v2" or "none".
        parent: a delegated folder of version 2; None = look beside this process's own group.
    """
    if wanted == "none":
        return Places("none", {}, "switched off")
    mounts = _mounts()
    own = _own_groups()
    reasons = []
    for version, find in (("v2", _find_v2), ("v1", _find_v1)):
        if wanted in ("auto", version):
            folders, reason = find(mounts, own, parent)
            if folders:
                return Places(version, folders, reason)
            reasons.append(f"{version}: {reason}")
    return Places("none", {}, "; ".join(reasons))


def make_groups(places: Places, count: int) -> list[Group]:
    """One group a slot; empty where there are no places for them."""
    sweep(places)
    names = [f"k15-{os.getpid()}-{i}" for i in range(count)]
    if places.version == "v1":
        return [GroupV1({c: folder / name for c, folder in places.folders.items()}) for name in names]
    if places.version == "v2":
        return [GroupV2(places.folders["memory"] / name) for name in names]
    return []


def sweep(places: Places) -> None:
    """Remove groups whose supervisor was killed before it could."""
    for parent in set(places.folders.values()):
        for folder in parent.glob("k15-*-*"):
            owner = folder.name.split("-")[1]
            if owner.isdigit() and not Path("/proc", owner).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _find_v1(
    mounts: dict[str, Path], own: dict[str, str], parent: Path | None
) -> tuple[dict[str, Path], str]:
    folders = {}
    for controller in CONTROLLERS_V1:
        mount = mounts.get(controller)
        if mount is None:
            return {}, f"no {controller} controller is mounted"
        # In a container the path is often that of the host, and the mount its end.
        beside = mount / own.get(controller, "/").lstrip("/")
        folder = beside if (beside / "cgroup.procs").exists() else mount
        if not os.access(folder, os.W_OK) or not _can_make(folder):
            return {}, f"{folder} is not writable"
        folders[controller] = folder
    return folders, ", ".join(sorted({str(folder) for folder in folders.values()}))


def _find_v2(
    mounts: dict[str, Path], own: dict[str, str], parent: Path | None
) -> tuple[dict[str, Path], str]:
    mount = mounts.get("")
    if mount is None:
        return {}, "not mounted"
    if parent is None:
        beside = mount / own.get("", "/").lstrip("/")
        parent = beside if (beside / "cgroup.procs").exists() else mount
    try:
        available = (parent / "cgroup.controllers").read_text().split()
        missing = _CONTROLLERS_V2 - set(available)
        if missing:
            return {}, f"{parent} does not have {', '.join(sorted(missing))}"
        handed_out = (parent / "cgroup.subtree_control").read_text().split()
        if _CONTROLLERS_V2 - set(handed_out):
            _step_aside(parent)
            (parent / "cgroup.subtree_control").write_text("+memory +pids")
    except OSError as error:
        return {}, (
            f"{parent} does not hand out memory and pids ({error.strerror}); start under "
            "`systemd-run --user --scope -p Delegate=yes`, or name a delegated folder as cgroup_parent"
        )
    if not _can_make(parent):
        return {}, f"{parent} is not writable"
    return dict.fromkeys(CONTROLLERS_V1, parent), str(parent)


def _step_aside(parent: Path) -> None:
    """A group that hands out controllers may hold no process: move this process tree into a leaf.

    Only where nobody else is in the group: it was delegated to us then.
    """
    present = {int(line) for line in (parent / "cgroup.procs").read_text().split()}
    if not present or not present <= {os.getpid(), os.getppid()}:
        return
    leaf = parent / "k15-main"
    leaf.mkdir(exist_ok=True)
    for process_id in present:
        (leaf / "cgroup.procs").write_text(str(process_id))


def _can_make(folder: Path) -> bool:
    probe = folder / f"k15-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def _mounts() -> dict[str, Path]:
    """Controller -> where its hierarchy is mounted; "" is that of version 2."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        where = Path(fields.split()[4])
        if kind == "cgroup2":
            found.setdefault("", where)
        elif kind == "cgroup":
            for controller in options.split(","):
                found.setdefault(controller, where)
    return found


def _own_groups() -> dict[str, str]:
    """Controller -> this process's path in its hierarchy; "" is that of version 2."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    return own

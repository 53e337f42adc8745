"""Config of the sandbox (section 2.6.4): which back end, how many boxes, what stands in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from k15.config.base import StrictModel

SlotCount = Annotated[int, Field(ge=1, le=256)]


class SandboxConfig(StrictModel):
    """Where code that nobody trusts is run."""

    backend: Literal["bubblewrap", "crun", "fusion", "unsafe-local"] = "bubblewrap"
    """"bubblewrap" needs no root; "crun" is an OCI runtime and needs root; "fusion" sends programs to a
    SandboxFusion-compatible service; "unsafe-local" isolates nothing and is never chosen by itself."""
    num_slots: SlotCount = 2
    """Boxes that run at the same time; about one a core."""
    warm: bool = False
    """Keep a box with Python already started for each slot; it serves one program. Bubblewrap only, and not
    where an image is set for Python."""
    strict: bool = False
    """Refuse to start where this host cannot enforce all limits; `k15 sandbox doctor` says which."""
    cgroups: Literal["auto", "v1", "v2", "none"] = "auto"
    """Control groups for memory, processes and CPU time. "auto" takes what is writable; without any,
    limits per process and a watch on the sum stand in."""
    cgroup_parent: Path | None = None
    """Version 2: a folder of /sys/fs/cgroup that was delegated to this user. None: look for one."""
    images: dict[str, Path] = Field(default_factory=dict)
    """Root file system of a language, as a folder: {"python": "/srv/images/python-3.12"}. A language that
    is not named sees the host's /usr and nothing else of it."""
    url: str | None = None
    """The service of "fusion", as in http://127.0.0.1:8080."""
    token: str | None = None
    """The service's bearer token; None = it asks for none."""

"""Back ends to attack, and what must be as it was after every attack."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from attack_list import ORDINARY

from k15.config.sandbox import SandboxConfig
from k15.errors import SandboxError
from k15.sandbox.base import Job, JobResult, RunVerdict
from k15.sandbox.isolated import IsolatedSandbox
from k15.sandbox.supervisor import FIRST_USER

BACKENDS = {
    "bubblewrap": {"backend": "bubblewrap"},
    "bubblewrap-warm": {"backend": "bubblewrap", "warm": True},
    "bubblewrap-no-cgroups": {"backend": "bubblewrap", "cgroups": "none"},
    "crun": {"backend": "crun"},
}


@dataclass(frozen=True)
class Attacked:
    """A sandbox under attack, and the host as it was."""

    name: str
    sandbox: IsolatedSandbox

    def run(self, job: Job) -> JobResult:
        return self.sandbox.run(job)

    def leftovers(self) -> list[str]:
        """What of the boxes is still there; empty is right."""
        supervisor = self.sandbox.client.process_id
        assert supervisor is not None
        found = []
        for _ in range(50):  # a kernel needs a moment to take a namespace down
            found = [*_children(supervisor), *_shared_memory(), *_files()]
            if not found:
                break
            time.sleep(0.02)
        return found

    def open_files(self) -> int:
        """File descriptors of the supervisor."""
        supervisor = self.sandbox.client.process_id
        return len(os.listdir(f"/proc/{supervisor}/fd"))

    def mounts(self) -> str:
        """Mounts that the supervisor sees."""
        return Path(f"/proc/{self.sandbox.client.process_id}/mountinfo").read_text()


@pytest.fixture(scope="session", params=BACKENDS)
def attacked(request: pytest.FixtureRequest) -> Iterator[Attacked]:
    if platform.machine() != "x86_64":
        pytest.skip("the attacks have the numbers of x86-64's system calls")
    sandbox = IsolatedSandbox(SandboxConfig(**BACKENDS[request.param]))
    try:
        result = sandbox.run(ORDINARY)
    except SandboxError as error:
        pytest.skip(f"this host cannot run {request.param}: {error}")
    if result.verdict is RunVerdict.XX:
        sandbox.close()
        pytest.skip(f"this host cannot run {request.param}: {result.reason}")
    assert result.verdict is RunVerdict.OK, result
    yield Attacked(request.param, sandbox)
    sandbox.close()


def _children(supervisor: int) -> list[str]:
    """The supervisor's children but the nursery of prepared boxes, which stays."""
    found = []
    for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        try:
            command = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if "/box/warm.py" not in command:
            found.append(f"process {child} ({state}): {command}")
    return found


def _shared_memory() -> list[str]:
    keys = {line.split()[0] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}
    return ["System V shared memory"] if str(0x6B3135) in keys else []


def _files() -> list[str]:
    """Files of the boxes' users on the host."""
    users = range(FIRST_USER, FIRST_USER + 300) if os.getuid() == 0 else ()
    found = []
    for folder in ("/", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/usr", "/box"):
        if os.path.isdir(folder):
            found += [
                e.path for e in os.scandir(folder) if e.stat(follow_symlinks=False).st_uid in users
            ]
    return found

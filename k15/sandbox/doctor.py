"""What this host can isolate, and a self-test that tries to break it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from k15.config.sandbox import SandboxConfig
from k15.errors import ConfigError, SandboxError
from k15.sandbox.attacks import AttackResult, run_attacks
from k15.sandbox.base import Job, Program, RunVerdict, Sandbox, StdinTest
from k15.sandbox.isolated import IsolatedSandbox
from k15.sandbox.languages import LANGUAGES
from k15.sandbox.seccomp import MACHINES

_NO_NAMESPACES = re.compile(
    "namespace|uid map|Operation not permitted|Permission denied|No space left|loopback|mount proc",
    re.IGNORECASE,
)
_LEAST_KERNEL = (5, 14)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the sandbox needs from the host.

    Attributes:
        name: what it is for.
        is_enough: whether `strict` accepts it.
        detail: what was found, and what to do where it is not enough.
    """

    name: str
    is_enough: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """What `k15 sandbox doctor` found.

    Attributes:
        backend: the back end that was examined.
        cgroups: "v1", "v2" or "none".
        findings: what the host offers.
        attacks: how the self-test ended; empty if no box could be started.
        languages: name -> missing programs, empty where the language is there.
    """

    backend: str
    cgroups: str
    findings: tuple[Finding, ...]
    attacks: tuple[AttackResult, ...]
    languages: dict[str, list[str]]

    @property
    def shortfalls(self) -> list[str]:
        """Why `strict` refuses; empty if it does not."""
        return [
            *(f"{f.name}: {f.detail}" for f in self.findings if not f.is_enough),
            *(
                f"a program can {a.name} ({a.verdict}: {a.said[:100]})"
                for a in self.attacks
                if not a.failed
            ),
        ]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "shortfalls": self.shortfalls}


def diagnose(
    config: SandboxConfig, sandbox: IsolatedSandbox | None = None, *, with_attacks: bool = True
) -> Diagnosis:
    """Examine this host with a config's back end, and attack it.

    Args:
        sandbox: one of this config that is there already; None = make one, and close it.
        with_attacks: run the self-test, seconds.
    """
    findings = list(_host_findings(config))
    cgroups, attacks = "none", []
    tested = sandbox or IsolatedSandbox(config)
    try:
        ready = tested.client.start()
        cgroups = ready["cgroups"]
        findings.append(_group_finding(cgroups, ready["reason"]))
        findings.append(_box_finding(config, tested))
        if (
            findings[-1].is_enough and with_attacks and config.backend != "unsafe-local"
        ):  # there they would succeed
            attacks = run_attacks(tested)
    except (SandboxError, ConfigError) as error:
        findings.append(Finding("boxes", False, str(error)))
    finally:
        if sandbox is None:
            tested.close()
    languages = {name: language.missing(config.images.get(name)) for name, language in LANGUAGES.items()}
    return Diagnosis(config.backend, cgroups, tuple(findings), tuple(attacks), languages)


def require_strict(config: SandboxConfig, sandbox: IsolatedSandbox) -> None:
    """Refuse a host that cannot isolate whole.

    Raises:
        SandboxError: lists what is missing.
    """
    shortfalls = diagnose(config, sandbox, with_attacks=False).shortfalls
    if shortfalls := shortfalls or diagnose(config, sandbox).shortfalls:
        raise SandboxError(
            "sandbox.strict asks for whole isolation, and this host falls short: "
            + "; ".join(shortfalls)
            + ". Cure that (`k15 sandbox doctor`), or set sandbox.strict to false if you accept it."
        )


def describe(diagnosis: Diagnosis) -> str:
    """The diagnosis as a page of text."""
    lines = [f"back end {diagnosis.backend}, control groups: {diagnosis.cgroups}", ""]
    lines += [f"  {_mark(f.is_enough)} {f.name}: {f.detail}" for f in diagnosis.findings]
    if diagnosis.attacks:
        lines += ["", "attacks (each must fail):"]
        lines += [f"  {_mark(a.failed)} {a.name}: {a.verdict}" for a in diagnosis.attacks]
    lines += ["", "languages:"]
    for name, missing in diagnosis.languages.items():
        package = LANGUAGES[name].package
        lines.append(
            f"  {_mark(not missing)} {name}"
            + (f": {', '.join(missing)} not found; install {package}" if missing else "")
        )
    shortfalls = diagnosis.shortfalls
    lines += [
        "",
        f"falls short in {len(shortfalls)} of its promises" if shortfalls else "isolates whole",
    ]
    return "\n".join(lines)


def _host_findings(config: SandboxConfig) -> Iterator[Finding]:
    system, release, machine = platform.system(), platform.release(), platform.machine()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    yield Finding(
        "kernel",
        system == "Linux" and numbers >= _LEAST_KERNEL,
        f"{system} {release}"
        + ("" if numbers >= _LEAST_KERNEL else f"; Linux {_LEAST_KERNEL[0]}.{_LEAST_KERNEL[1]} or newer counts "
           "processes per box"),
    )  # fmt: skip
    yield Finding(
        "system call filter",
        machine in MACHINES,
        machine
        if machine in MACHINES
        else f"there is no table for {machine}, only for {', '.join(MACHINES)}",
    )
    for name, program in (("bubblewrap", "bwrap"), ("crun", "crun")):
        path = shutil.which(program)
        version = _version(path) if path else f"not installed; the package is {name}"
        yield Finding(name, path is not None or config.backend != name, version)
    if config.backend == "unsafe-local":
        yield Finding("isolation", False, "the back end unsafe-local has none")
    yield Finding("user", True, "root" if os.getuid() == 0 else f"user {os.getuid()}")


def _group_finding(version: str, reason: str) -> Finding:
    if version == "none":
        reason = f"{reason}. Memory and CPU time are then summed by looking every 20 ms, and limited for each process"
    return Finding("control groups", version != "none", f"{version} ({reason})")


def _box_finding(config: SandboxConfig, sandbox: Sandbox) -> Finding:
    result = sandbox.run(Job(Program("python", "print(42)"), (StdinTest("", "42"),)))
    if result.verdict is RunVerdict.OK:
        return Finding("boxes", True, f"{config.backend} starts")
    cure = ""
    if _NO_NAMESPACES.search(result.reason):
        cure = (
            ". User namespaces are not allowed here. On Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0, "
            "or a profile for bwrap; in a container: start it with --security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined --security-opt systempaths=unconfined"
        )
    return Finding("boxes", False, f"{result.verdict}: {result.reason}{cure}")


def _version(path: str) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return f"{path}, {done.stdout.splitlines()[0] if done.stdout else 'unknown version'}"


def _mark(is_good: bool) -> str:
    return "ok " if is_good else "NO "

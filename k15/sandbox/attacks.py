"""A dozen attacks, one property each, that every start in `strict` mode and `k15 sandbox doctor` runs.

The whole list, with what must hold after each, is in tests/sandbox. A program here prints "in" if it got
what it wanted; the name says what it must not get.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from k15.sandbox.base import Job, Limits, Program, RunVerdict, Sandbox, StdinTest

_LIMITS = Limits(cpu_seconds=0.5, wall_seconds=3.0, memory_mb=128, processes=24, output_bytes=1 << 16)
_V = RunVerdict
_TRY = """
def got(wanted):
    try:
        value = wanted()
    except OSError:
        return False
    return value is not False
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack and the verdicts that mean it failed.

    Attributes:
        name: what must not be possible.
        needs: what on the host it depends on: "box" (namespaces), "seccomp" or "groups".
        code: a Python program.
        verdicts: what is accepted; with OK, the program must not print "in".
    """

    name: str
    needs: str
    code: str
    verdicts: tuple[RunVerdict, ...]


ATTACKS = (
    Attack("run for ever", "box", "while True: pass", (_V.TLE,)),
    Attack("sleep for ever", "box", "import time; time.sleep(60)", (_V.TLE,)),
    Attack("print for ever", "box", "while True: print('x' * 1000)", (_V.OLE,)),
    Attack("fork without end", "box", "import os\nwhile True: os.fork()", (_V.RE, _V.MLE, _V.TLE)),
    Attack(
        "take all memory",
        "box",
        "kept = [bytearray(1 << 24) for _ in range(1000)]",
        (_V.MLE,),
    ),
    Attack(
        "take memory with many processes",
        "groups",
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n"
        "        kept = bytearray(40 << 20)\n        time.sleep(2)\n        os._exit(0)\n"
        "for _ in range(8): os.wait()\nprint('in')",
        (_V.MLE,),
    ),
    Attack(
        "fill the disk",
        "box",
        "import os\nfor place in ('/tmp', '/dev/shm', '/', '/box', '/dev', '/usr'):\n    try:\n"
        "        file = open(place + '/x', 'wb')\n"
        "        for _ in range(64): file.write(bytes(1 << 20)); file.flush()\n        print('in')\n"
        "    except OSError: pass",
        (_V.OK, _V.OLE, _V.MLE),
    ),
    Attack(
        "read the host's files",
        "box",
        _TRY + "import os\nfor path in ('/etc/shadow', '/root', '/home', '/var', {secret_path!r}):\n"
        "    if got(lambda: os.path.isdir(path) or open(path)): print('in', path)",
        (_V.OK,),
    ),
    Attack(
        "see the host's processes",
        "box",
        "import os\nif len([n for n in os.listdir('/proc') if n.isdigit()]) > 3: print('in')",
        (_V.OK,),
    ),
    Attack(
        "read the host's environment",
        "box",
        "import glob\nfor path in glob.glob('/proc/*/environ'):\n    try:\n"
        "        if b'K15_' in open(path, 'rb').read() or b'PWD=/root' in open(path, 'rb').read(): print('in')\n"
        "    except OSError: pass",
        (_V.OK,),
    ),
    Attack(
        "reach a service of the host",
        "box",
        _TRY + "import socket\nprint('in') if got(lambda: socket.create_connection(('127.0.0.1', {port}), 1)) "
        "else None",
        (_V.OK,),
    ),
    Attack(
        "reach the network",
        "box",
        _TRY + "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "print('in') if got(lambda: s.sendto(b'x', ('192.0.2.1', 53))) else None",
        (_V.OK,),
    ),
    Attack(
        "outlive the run",
        "box",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(60)\n"
        "    os._exit(0)\nos.wait()",
        (_V.OK,),
    ),
    Attack(
        "trace another process",
        "seccomp",
        "import ctypes\nif ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0: print('in')",
        (_V.SV,),
    ),
    Attack(
        "become root of a namespace",
        "seccomp",
        "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0: print('in')",
        (_V.SV,),
    ),
    Attack(
        "talk to the hypervisor",
        "seccomp",
        "import socket\nsocket.socket(40, socket.SOCK_STREAM)\nprint('in')",
        (_V.SV,),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AttackResult:
    """How an attack ended: `failed` is what we want."""

    name: str
    failed: bool
    verdict: RunVerdict
    said: str


def run_attacks(sandbox: Sandbox) -> list[AttackResult]:
    """Run every attack, then an ordinary program, which must still be right."""
    with _listening() as port:
        secret_path = f"/tmp/{secrets.token_hex(8)}"
        fill = {"{port}": str(port), "{secret_path!r}": repr(secret_path)}
        results = []
        for attack in ATTACKS:
            code = attack.code
            for name, value in fill.items():
                code = code.replace(name, value)
            results.append(_run(sandbox, attack, code))
    ordinary = Attack("spoil the next run", "box", "print(6 * 7)", (_V.OK,))
    return [*results, _run(sandbox, ordinary, ordinary.code)]


def _run(sandbox: Sandbox, attack: Attack, code: str) -> AttackResult:
    expected = "42" if attack.name == "spoil the next run" else None
    job = Job(Program("python", code), (StdinTest("", expected),), limits=_LIMITS)
    result = sandbox.run(job)
    said = result.tests[0].stdout if result.tests else ""
    has_failed = result.verdict in attack.verdicts and "in" not in said.split()
    return AttackResult(attack.name, has_failed, result.verdict, result.reason or said[:200])


@contextmanager
def _listening() -> Iterator[int]:
    """A port of this host's loopback on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]

"""The child's side of `KillablePool`: read a job, run it, answer, one JSON line each."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
from typing import Any

_GRACE_SECONDS = 1.0


def main() -> None:
    """Serve jobs until the input ends. Arguments: path, "module:function", limit in s, memory in MB."""
    target, timeout_seconds, memory_mb = sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    # Whatever a library prints must not get among the answers.
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action ends the process, in C code too
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    _limit_memory(memory_mb)

    def answer(kind: str, value: Any, seconds: float = 0.0) -> None:
        channel.write(json.dumps([kind, value, seconds]).encode() + b"\n")

    answer("ready", None)
    for line in sys.stdin.buffer:
        # The parent kills at the limit. This timer is for the case that there is no parent any more.
        signal.setitimer(signal.ITIMER_REAL, timeout_seconds + _GRACE_SECONDS)
        start = time.monotonic()
        try:
            kind, value = "done", function(json.loads(line))
        except MemoryError:
            kind, value = "memory", None
        except Exception as error:
            kind, value = "fault", f"{type(error).__name__}: {error}"[:500]
        answer(kind, value, time.monotonic() - start)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory(memory_mb: int) -> None:
    """Address space on Linux; elsewhere the limit is not enforced by the kernel, and the time limit holds."""
    if sys.platform == "linux":
        limit = memory_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

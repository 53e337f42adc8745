"""Named places where a test can kill the process, to prove that nothing is lost there.

`crashpoint("checkpoint.before_rename")` does nothing in an ordinary run. With the environment
variable K15_CRASH it sends SIGKILL to its own process group's leader, i.e. itself:

    K15_CRASH="checkpoint.before_rename:2"   the second time that point is passed
    K15_CRASH="*:137"                        at the 137th crash point of any name

K15_CRASH_SIGNAL=SIGTERM sends that signal instead, for instance to stop a run gracefully just there.
K15_CRASH_COUNT=FILE makes the process append every point passed to FILE, so that a test knows
which points exist and can prove that the chosen one fired.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

_passed: Counter[str] = Counter()


def crashpoint(name: str) -> None:
    """Send this process SIGKILL (or K15_CRASH_SIGNAL) if K15_CRASH asks for it here; otherwise nothing."""
    target, log = os.environ.get("K15_CRASH"), os.environ.get("K15_CRASH_COUNT")
    if not target and not log:
        return
    _passed[name] += 1
    _passed["*"] += 1
    if log:
        with open(log, "a") as file:
            file.write(name + "\n")
    if target:
        wanted, _, count = target.rpartition(":")
        if wanted in (name, "*") and _passed[wanted] == int(count):
            os.kill(os.getpid(), signal.Signals[os.environ.get("K15_CRASH_SIGNAL") or "SIGKILL"])

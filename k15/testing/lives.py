"""Many short lives of a command: each is a process of its own that may be killed at a crash point.

Importing torch and transformers takes seconds. So one server process imports them once, and forks
for every life: a life of a tiny run then costs a fraction of a second, and 100 kills are a test.

    with Lives("k15.cli:main", preload=["k15.stages.launch"]) as lives:
        status = lives.run(["rl", "recipe.toml", "--run", folder], crash="*:17")
        assert status == -9
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Self


class Lives:
    """A server that runs a command again and again in forked processes.

    Args:
        entry: "module:function"; the function takes a list of arguments and returns an exit code.
        preload: modules that the server imports before it forks.
    """

    def __init__(self, entry: str, preload: Sequence[str] = ()) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "k15.testing.lives", entry, *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(
        self,
        arguments: Sequence[object],
        *,
        crash: str = "",
        signal_name: str = "SIGKILL",
        count_file: str = "",
        log: str = os.devnull,
    ) -> int:
        """One life; its exit code, or minus the number of the signal that killed it.

        Args:
            arguments: what the entry function gets, as texts.
            crash: value of K15_CRASH, see `k15.crashpoints`.
            signal_name: the signal sent there.
            count_file: value of K15_CRASH_COUNT.
            log: file that standard output and error are appended to.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        environment = {
            "K15_CRASH": crash,
            "K15_CRASH_SIGNAL": signal_name,
            "K15_CRASH_COUNT": count_file,
        }
        order = {"arguments": list(map(str, arguments)), "environment": environment, "log": log}
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError(f"the server of lives ended with {self._server.wait()}")
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()


def _serve(entry: str, preload: Sequence[str]) -> None:
    for name in preload:
        importlib.import_module(name)
    module, _, function = entry.partition(":")
    command = getattr(importlib.import_module(module), function)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_live(command, order))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _live(command, order: dict) -> int:
    os.environ.update(order["environment"])
    with open(order["log"], "a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        return command(order["arguments"])
    except BaseException:
        traceback.print_exc()
        return 70


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])

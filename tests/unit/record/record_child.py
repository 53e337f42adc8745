"""A process that commits checkpoints, for tests that kill it. Imports no torch.

python record_child.py saves DIRECTORY          commits iterations 1..4, keeping 2; prints each one
python record_child.py read DIRECTORY           loads the newest in a loop until DIRECTORY/stop exists
python record_child.py lock FILE [fork]         takes the lock, prints its pid, sleeps
"""

import os
import random
import sys
import time
from pathlib import Path

from k15.record.checkpoint import (
    checkpoint_name,
    clean_directory,
    commit_checkpoint,
    newest_valid,
    retire_checkpoints,
    verify_checkpoint,
)
from k15.record.lock import RunLock


def contents(iteration: int) -> dict[str, bytes]:
    """The files of the state of one iteration."""
    noise = random.Random(iteration)
    return {"weights.bin": noise.randbytes(9000), "parts/table.json": f'{{"at": {iteration}}}'.encode()}


def write_state(directory: Path, iteration: int) -> None:
    for name, data in contents(iteration).items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(data)


def saves(directory: Path) -> None:
    clean_directory(directory)
    newest = newest_valid(directory)
    start = newest.manifest.iteration if newest.manifest else 0
    for iteration in range(start + 1, 5):
        if iteration == 3:  # what a damaged checkpoint and a killed process leave
            for name in (checkpoint_name(3), f"{checkpoint_name(2)}.tmp-0", ".trash-old"):
                (directory / name).mkdir(exist_ok=True)
                (directory / name / "junk").write_bytes(b"junk")
            clean_directory(directory)
        name = checkpoint_name(iteration)
        commit_checkpoint(directory, name, lambda to, at=iteration: write_state(to, at))
        print(iteration, flush=True)
        retire_checkpoints(directory, keep=2)


def read(directory: Path) -> None:
    loads, last = 0, 0
    while not (directory / "stop").exists():
        newest = newest_valid(directory)
        if loads == 0 and newest.path is None:
            continue  # nothing was ever saved yet
        assert newest.path is not None
        assert newest.manifest is not None
        assert not newest.rejected, newest.rejected
        assert newest.manifest.iteration >= last, "the newest checkpoint went backwards"
        last = newest.manifest.iteration
        loads += 1
    assert verify_checkpoint(directory / checkpoint_name(last)).iteration == last
    print(loads, last)


def lock(path: Path, fork: bool) -> None:
    held = RunLock.acquire(path, heartbeat_seconds=0.05)
    child = os.fork() if fork else -1
    if child == 0:
        time.sleep(30)
        os._exit(0)
    print(os.getpid(), child, flush=True)
    time.sleep(30)
    held.release()


if __name__ == "__main__":
    command, target = sys.argv[1], Path(sys.argv[2])
    if command == "lock":
        lock(target, "fork" in sys.argv)
    else:
        {"saves": saves, "read": read}[command](target)

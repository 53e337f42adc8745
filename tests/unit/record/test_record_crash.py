"""SIGKILL at every crash point of the run folder: what is on disk is the old state or the new one."""

import json
import os
import random
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from record_child import contents

from k15 import crashpoints
from k15.config.base import StrictModel
from k15.record.checkpoint import clean_directory, newest_valid
from k15.record.run import Run

CHILD = Path(__file__).with_name("record_child.py")


def _passes(log: Path) -> Counter[str]:
    """How often every crash point was passed."""
    return Counter(log.read_text().split())


def _run_child(directory: Path, **environment: str) -> tuple[int, int]:
    """Exit status of the child, and the last iteration that it reported as committed."""
    child = subprocess.run(
        [sys.executable, CHILD, "saves", directory],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=30,
    )
    assert child.returncode in (0, -9), child.stderr
    return child.returncode, int((child.stdout.split() or ["0"])[-1])


def _assert_whole(directory: Path, iterations: set[int]) -> None:
    found = newest_valid(directory)
    iteration = found.manifest.iteration if found.manifest else 0
    assert iteration in iterations
    if found.path is not None:
        assert {name: (found.path / name).read_bytes() for name in contents(iteration)} == contents(
            iteration
        )


def test_sigkill_at_every_point_of_a_save(tmp_path: Path) -> None:
    log = tmp_path / "points"
    assert _run_child(tmp_path / "unbroken", K15_CRASH_COUNT=str(log)) == (0, 4)
    passes = _passes(log)
    assert len(passes) >= 24
    points = [
        (name, min(3, count)) for name, count in sorted(passes.items())
    ]  # 3: an exchange and a retirement
    for name, number in points:
        directory = tmp_path / f"{name}-{number}"
        status, committed = _run_child(directory, K15_CRASH=f"{name}:{number}")
        assert status == -9, f"{name} number {number} did not fire"
        _assert_whole(directory, {committed, committed + 1})
        clean_directory(directory)
        _assert_whole(directory, {committed, committed + 1})
        assert not [left for left in os.listdir(directory) if ".tmp-" in left or left.startswith(".")]
    for name, number in points[:: len(points) // 5]:  # and it goes on to the same end
        directory = tmp_path / f"{name}-{number}"
        assert _run_child(directory) in ((0, 4), (0, 0))
        assert sorted(os.listdir(directory)) == sorted(os.listdir(tmp_path / "unbroken"))


# the run folder as a whole -----------------------------------------------------------------


class _Settings(StrictModel):
    tau: float = 0.1


class _Sum:
    """State that depends on every iteration exactly once, in order."""

    def __init__(self) -> None:
        self.value = 1

    def train(self, iteration: int) -> None:
        self.value = (self.value * 31 + iteration) % 1_000_003

    def save_to(self, directory: Path) -> None:
        (directory / "value.json").write_text(json.dumps(self.value))

    def load_from(self, directory: Path) -> None:
        self.value = json.loads((directory / "value.json").read_text())


def _rows(iteration: int, value: int) -> list[dict]:
    segment = {"start": 0, "num_tokens": 3, "policy_version": iteration, "stop": "end"}
    return [
        {
            "iteration": iteration,
            "ordinal": iteration,
            "sample_index": 0,
            "difficulty": None,
            "segments": [segment],
            "stop": "end",
            "length": 3,
            "outcome": "right",
            "correct": 1.0,
            "reward": 1.0,
            "advantage": float(value),
            "trained_tokens": 3,
        }
    ]


def _train(path: Path, *, fresh: bool = False) -> int:
    """Six iterations with a save before every second one; the final state comes back."""
    state = _Sum()
    with Run.open(
        path, _Settings(), command="test", total=6, fresh=fresh, notify=lambda text: None
    ) as run:
        for iteration in range(run.restore({"sum": state}), 6):
            if iteration % 2 == 0:
                run.save(iteration, {"sum": state})
            state.train(iteration)
            run.record(iteration, {"value": state.value}, _rows(iteration, state.value))
        run.save(6, {"sum": state})
        assert run.finish(done=6)
    return state.value


def _in_killed_process(work: Callable[[], object], environment: dict[str, str]) -> int:
    """Run `work` in a forked process; its status is negative if a signal killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            crashpoints._passed.clear()
            os.environ.update(environment)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _record_of(path: Path) -> tuple[list[dict], dict[str, str], set[str]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in line.items() if key != "time"} for line in lines]
    rollouts = {file.name: file.read_text() for file in sorted((path / "rollouts").iterdir())}
    return metrics, rollouts, {file.name for file in (path / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    path = tmp_path_factory.mktemp("unbroken") / "run"
    return path, _train(path)


def test_the_unbroken_run_is_what_it_should_be(unbroken: tuple[Path, int]) -> None:
    path, value = unbroken
    expected = 1
    for iteration in range(6):
        expected = (expected * 31 + iteration) % 1_000_003
    assert value == expected
    metrics, rollouts, checkpoints = _record_of(path)
    assert [line["iteration"] for line in metrics] == list(range(6))
    assert len(rollouts) == 6
    assert checkpoints == {"iteration_000004", "iteration_000006", "latest"}


def test_sigkill_anywhere_in_a_run_then_again_gives_the_unbroken_run(
    tmp_path: Path, unbroken: tuple[Path, int]
) -> None:
    log = tmp_path / "points"
    assert _in_killed_process(lambda: _train(tmp_path / "count"), {"K15_CRASH_COUNT": str(log)}) == 0
    passes = _passes(log)
    assert {name.partition(".")[0] for name in passes} == {
        "checkpoint",
        "metrics",
        "events",
        "rollouts",
        "run",
    }
    points = [
        (name, number)
        for name, count in sorted(passes.items())
        for number in ({(count + 1) // 2} if name.startswith("checkpoint") else {1, count})
    ]
    for name, number in points:
        path = tmp_path / f"{name}-{number}"
        status = _in_killed_process(lambda at=path: _train(at), {"K15_CRASH": f"{name}:{number}"})
        assert status == -9, f"{name} number {number} did not fire"
        assert _train(path) == unbroken[1]
        assert _record_of(path) == _record_of(unbroken[0])


def test_sigkill_after_sigkill(tmp_path: Path, unbroken: tuple[Path, int]) -> None:
    """Every life dies after a seeded number of crash points, also while it repairs what the last one left."""
    noise, path, deaths = random.Random(7), tmp_path / "run", 0
    for _ in range(60):
        status = _in_killed_process(lambda: _train(path), {"K15_CRASH": f"*:{noise.randrange(8, 60)}"})
        assert status in (0, -9)
        deaths += status == -9
        if status == 0:
            break
    assert deaths >= 4
    assert _train(path) == unbroken[1]
    assert _record_of(path) == _record_of(unbroken[0])


def test_sigkill_while_an_old_run_is_moved_aside_loses_nothing(
    tmp_path: Path, unbroken: tuple[Path, int]
) -> None:
    log = tmp_path / "points"
    _train(tmp_path / "count")
    again = {"K15_CRASH_COUNT": str(log)}
    assert _in_killed_process(lambda: _train(tmp_path / "count", fresh=True), again) == 0
    moves = {name: count for name, count in _passes(log).items() if "move_aside" in name}
    assert moves == {"run.before_move_aside": 1, "run.in_move_aside": 6, "run.after_move_aside": 1}
    points = [(name, number) for name, count in moves.items() for number in range(1, count + 1)]
    for number, point in enumerate(points):
        path = tmp_path / f"run{number}"
        _train(path)
        old = _record_of(path)
        crash = {"K15_CRASH": f"{point[0]}:{point[1]}"}
        assert _in_killed_process(lambda at=path: _train(at, fresh=True), crash) == -9
        assert _train(path, fresh=True) == unbroken[1]
        aside = [folder for folder in path.iterdir() if folder.name.startswith(".old-")]
        assert old in [_record_of(folder) for folder in aside]

"""A run folder from its first start to its end: resume, drift, a full disk, signals, completeness."""

import contextlib
import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from record_disk import refusing
from safetensors.numpy import load_file, save_file

from k15.config.base import StrictModel
from k15.errors import (
    ConfigDriftError,
    CorruptCheckpointError,
    NoCheckpointError,
    RunFolderError,
    RunLockedError,
)
from k15.record.checkpoint import checkpoint_name, newest_valid
from k15.record.run import Run


class _Model(StrictModel):
    path: str = "warm"
    width: int = 64


class _Settings(StrictModel):
    seed: int = 11


class _Config(StrictModel):
    model: _Model = _Model()
    tau: float = 0.1
    levels: tuple[int, ...] = (1, 2)
    run: _Settings = _Settings()


class _Tensor:
    """A part with a tensor in it, as a policy has."""

    def __init__(self, value: float = 0.0, size: int = 10) -> None:
        self.values = np.full(size, value, dtype=np.float32)

    def save_to(self, directory: Path) -> None:
        save_file({"values": self.values}, directory / "values.safetensors")

    def load_from(self, directory: Path) -> None:
        self.values = load_file(directory / "values.safetensors")["values"]


def _open(path: Path, config: StrictModel | None = None, **options) -> Run:
    options = {"command": "k15 rl r.toml", "total": 6, "notify": lambda text: None, **options}
    return Run.open(path, config or _Config(), **options)


def _begin(path: Path, *iterations: int) -> None:
    """A run with a checkpoint of each of these iterations, which hold their number."""
    with _open(path, keep=9) as run:
        for iteration in range(iterations[-1] + 1):
            if iteration in iterations:
                assert run.save(iteration, {"policy": _Tensor(iteration)})
            run.record(iteration, {"update/loss": 0.5})


def _events(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]


def _kinds(path: Path) -> list[str]:
    return [event["kind"] for event in _events(path)]


def _recorded(path: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in (path / "metrics.jsonl").read_text().splitlines()]


# start and resume ------------------------------------------------------------------------------


def test_a_new_run_says_where_it_comes_from(tmp_path: Path) -> None:
    with _open(tmp_path / "runs" / "a", data_fingerprints={"prompts": "abc"}) as run:
        assert run.restore({"policy": _Tensor()}) == 0
        assert not run.is_complete
        assert run.oldest_checkpoint == 0
    manifest = json.loads((tmp_path / "runs" / "a" / "manifest.json").read_text())
    assert manifest["command"] == "k15 rl r.toml"
    assert manifest["seed"] == 11
    assert manifest["data_fingerprints"] == {"prompts": "abc"}
    assert manifest["total"] == 6
    assert {"k15", "torch", "transformers", "python"} <= manifest["versions"].keys()
    assert (
        _Config.model_validate_json((tmp_path / "runs" / "a" / "config.json").read_text()) == _Config()
    )


def test_resume_loads_the_newest_state_and_cuts_what_will_run_again(tmp_path: Path) -> None:
    with _open(tmp_path) as run:
        for iteration in range(5):
            if iteration in (0, 3):
                run.save(iteration, {"policy": _Tensor(iteration)})
            run.record(iteration, {"update/loss": iteration}, [_row(iteration)])
            run.event("faults", "something", iteration=iteration)
    part = _Tensor(99.0)
    with _open(tmp_path) as run:
        assert run.restore({"policy": part}) == 3
        assert run.oldest_checkpoint == 0
    assert part.values.tolist() == [3.0] * 10
    assert _recorded(tmp_path) == [0, 1, 2]
    assert sorted(os.listdir(tmp_path / "rollouts")) == ["000000.jsonl", "000001.jsonl", "000002.jsonl"]
    assert _kinds(tmp_path) == ["faults"] * 5 + ["resume"]  # events are history


def test_a_run_without_a_checkpoint_yet_starts_again(tmp_path: Path) -> None:
    with _open(tmp_path) as run:
        run.restore({})
        run.record(0, {})
    with _open(tmp_path) as run:
        assert run.restore({}) == 0
    assert _recorded(tmp_path) == []


def test_a_checkpoint_with_other_parts_is_refused(tmp_path: Path) -> None:
    _begin(tmp_path, 2)
    with (
        _open(tmp_path) as run,
        pytest.raises(CorruptCheckpointError, match=r"\['policy'\].*\['buffer', 'policy'\]"),
    ):
        run.restore({"policy": _Tensor(), "buffer": _Tensor()})


def test_a_second_process_is_refused_and_a_closed_run_writes_nothing(tmp_path: Path) -> None:
    run = _open(tmp_path)
    with pytest.raises(RunLockedError, match=str(os.getpid())):
        _open(tmp_path)
    run.close()
    with pytest.raises(RunLockedError, match="closed"):
        run.record(0, {})
    with pytest.raises(RunLockedError, match="closed"):
        run.save(0, {})
    _open(tmp_path).close()


@pytest.mark.parametrize("entry", ["config.json", "checkpoints"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, entry: str, fresh: bool) -> None:
    (tmp_path / entry).write_text('{"model_type": "qwen3"}')
    with pytest.raises(RunFolderError, match="not a run of k15"):
        _open(tmp_path, fresh=fresh)
    assert (tmp_path / entry).read_text() == '{"model_type": "qwen3"}'
    assert set(os.listdir(tmp_path)) == {entry, "lock.json"}


def test_a_path_that_cannot_be_a_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be used"):
        _open(tmp_path / "file" / "run")


def test_fresh_moves_the_old_run_aside_and_deletes_nothing(tmp_path: Path) -> None:
    _begin(tmp_path, 2)
    (tmp_path / "report.html").write_text("old")
    for number in (1, 2):
        with _open(tmp_path, fresh=True) as run:
            assert run.restore({"policy": _Tensor()}) == 0
        old = tmp_path / f".old-{number}"
        assert (old / "report.html").exists() == (number == 1)
        assert {"config.json", "manifest.json", "metrics.jsonl"} <= set(os.listdir(old))
    assert newest_valid(tmp_path / ".old-1" / "checkpoints").path is not None
    assert _recorded(tmp_path) == []


# REL-07: damage --------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_damaged_checkpoint_is_passed_over_loudly_and_never_comes_back(tmp_path: Path) -> None:
    _begin(tmp_path, 1, 2, 3)
    _truncate(tmp_path / "checkpoints" / checkpoint_name(3) / "policy" / "values.safetensors")
    (tmp_path / "checkpoints" / checkpoint_name(2) / "manifest.json").unlink()
    said: list[str] = []
    part = _Tensor()
    with _open(tmp_path, notify=said.append) as run:
        assert run.restore({"policy": part}) == 1
    assert part.values[0] == 1.0
    assert _kinds(tmp_path) == ["fallback", "fallback", "resume"]
    assert [checkpoint_name(3) in said[0], checkpoint_name(2) in said[1]] == [True, True]
    assert _recorded(tmp_path) == [0]
    with _open(tmp_path) as run:
        assert run.restore({"policy": part}) == 1
    assert _kinds(tmp_path) == ["fallback", "fallback", "resume", "resume"]


@pytest.mark.parametrize("gone", ["damaged", "deleted one by one", "deleted as a whole"])
def test_without_a_valid_checkpoint_a_run_never_starts_over_in_silence(
    tmp_path: Path, gone: str
) -> None:
    _begin(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints"
    if gone == "damaged":
        for iteration in (1, 2):
            _truncate(folder / checkpoint_name(iteration) / "manifest.json")
    elif gone == "deleted one by one":
        for iteration in (1, 2):
            (folder / checkpoint_name(iteration)).rename(
                tmp_path.parent / f"{tmp_path.name}-{iteration}"
            )
    else:
        folder.rename(tmp_path / ".gone")
    with pytest.raises(NoCheckpointError, match="--fresh"):
        _open(tmp_path)
    assert _recorded(tmp_path) == [0, 1, 2]  # nothing was cut either
    with _open(tmp_path, fresh=True) as run:
        assert run.restore({"policy": _Tensor()}) == 0
    for iteration in (1, 2):
        with contextlib.suppress(FileNotFoundError):
            moved = tmp_path.parent / f"{tmp_path.name}-{iteration}"
            moved.rename(tmp_path / f".gone-{iteration}")


@pytest.mark.parametrize("name", ["manifest.json", "config.json"])
def test_a_damaged_description_is_refused_unless_that_is_accepted(tmp_path: Path, name: str) -> None:
    _begin(tmp_path, 2)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    with pytest.raises(RunFolderError, match=r"damaged.*--allow-drift"):
        _open(tmp_path)
    with _open(tmp_path, allow_drift=True) as run:
        assert run.restore({"policy": _Tensor()}) == 2


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    _begin(tmp_path, 2)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "schema": 9}))
    with pytest.raises(RunFolderError, match="schema 9"):
        _open(tmp_path, allow_drift=True)


def test_torn_lines_are_repaired_when_the_run_is_opened(tmp_path: Path) -> None:
    _begin(tmp_path, 2)
    for name in ("metrics.jsonl", "events.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b'{"iteration": 3, "kind": "tor')
    with _open(tmp_path):
        assert _recorded(tmp_path) == [0, 1, 2]  # at once, before anything is written
    events = _events(tmp_path)
    assert [event["file"] for event in events if event["kind"] == "repaired"] == [
        "events.jsonl",
        "metrics.jsonl",
    ]


def test_a_damaged_line_in_the_middle_is_dropped_and_told(tmp_path: Path) -> None:
    _begin(tmp_path, 3)
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(lines[0] + b"\xff\x00garbage\n" + b"".join(lines[2:]))
    with _open(tmp_path) as run:
        run.restore({"policy": _Tensor()})
    assert _recorded(tmp_path) == [0, 2]
    assert "1 damaged line" in next(
        event["message"] for event in _events(tmp_path) if event["kind"] == "repaired"
    )


# REL-08: the disk refuses ----------------------------------------------------------------------


def _row(iteration: int) -> dict:
    segment = {"start": 0, "num_tokens": 3, "policy_version": iteration, "stop": "end"}
    return {
        "iteration": iteration,
        "ordinal": 0,
        "difficulty": 2.0,
        "segments": [segment],
        "stop": "end",
        "length": 3,
        "outcome": "right",
        "correct": 1.0,
        "reward": 1.0,
        "advantage": 0.0,
        "trained_tokens": 3,
        "completion": "x" * 60_000,
    }


@contextlib.contextmanager
def _small_files(num_bytes: int) -> Iterator[None]:
    """The kernel itself refuses every write past `num_bytes` of a file (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_when_the_kernel_refuses_a_save_training_goes_on(tmp_path: Path) -> None:
    """safetensors reports this as an exception of its own, not as an OSError."""
    said: list[str] = []
    with _open(tmp_path, notify=said.append) as run:
        assert run.save(0, {"policy": _Tensor(1.0)})
        with _small_files(100_000):
            assert run.save(2, {"policy": _Tensor(2.0, size=100_000)}) is None
            assert run.record(2, {})["save/failed"] == 1
        assert run.record(3, {})["save/failed"] == 0
        found = newest_valid(run.checkpoints)
        assert found.path is not None
        assert found.path.name == checkpoint_name(0)
        assert sorted(os.listdir(run.checkpoints)) == [checkpoint_name(0), "latest"]
        assert run.save(4, {"policy": _Tensor(4.0, size=100_000)})  # space has returned
    event = next(event for event in _events(tmp_path) if event["kind"] == "save_failed")
    assert event["errno"] == errno.EFBIG
    assert event["iteration"] == 2
    assert "the run goes on" in said[0]


def test_when_the_kernel_refuses_the_records_the_metrics_wait_and_nothing_is_torn(
    tmp_path: Path,
) -> None:
    with _open(tmp_path) as run:
        run.record(0, {"update/loss": 1.0})
        size = (tmp_path / "metrics.jsonl").stat().st_size
        with _small_files(size + 20):
            run.record(1, {"update/loss": 2.0}, [_row(1)])
            run.record(2, {"update/loss": 3.0})
        assert _recorded_or_torn(tmp_path) == [0, None]
        run.record(3, {"update/loss": 4.0})
    assert _recorded(tmp_path) == [0, 1, 2, 3]
    assert not (tmp_path / "rollouts" / "000001.jsonl").exists()
    assert os.listdir(tmp_path / "rollouts") == []
    assert _kinds(tmp_path).count("record_failed") == 3


def _recorded_or_torn(path: Path) -> list[int | None]:
    lines = (path / "metrics.jsonl").read_text().split("\n")
    return [json.loads(line)["iteration"] if line.endswith("}") else None for line in lines if line]


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_refused_call_during_a_save_leaves_a_run_that_goes_on(
    tmp_path: Path, code: int, once: bool
) -> None:
    number, failed = 0, ["not yet"]
    while failed:
        number += 1
        path = tmp_path / str(number)
        with _open(path) as run:
            run.save(0, {"policy": _Tensor(1.0)})
            with refusing(number, code, once=once) as failed:
                saved = run.save(2, {"policy": _Tensor(2.0)})
            assert newest_valid(run.checkpoints).rejected == ()
            assert run.record(2, {})["save/failed"] == (saved is None)
            assert run.save(4, {"policy": _Tensor(4.0)})
        part = _Tensor()
        with _open(path) as run:
            assert run.restore({"policy": part}) == 4
        assert part.values[0] == 4.0
        assert ("save_failed" in _kinds(path)) == (saved is None)  # the event waited for the disk
    assert number > 10


def test_an_error_that_is_not_the_disk_is_not_swallowed(tmp_path: Path) -> None:
    class Broken(_Tensor):
        def save_to(self, directory: Path) -> None:
            raise ZeroDivisionError

    with _open(tmp_path) as run:
        with pytest.raises(ZeroDivisionError):
            run.save(0, {"policy": Broken()})
        assert os.listdir(run.checkpoints) == []


# REL-25: drift ---------------------------------------------------------------------------------


def test_unsafe_changes_are_refused_with_every_difference_and_safe_ones_recorded(tmp_path: Path) -> None:
    _begin(tmp_path, 2)
    changed = _Config(model=_Model(path="other", width=32), tau=0.2, run=_Settings(seed=12))
    with pytest.raises(ConfigDriftError) as refused:
        _open(tmp_path, changed, unsafe=("model.*", "run.seed"))
    listed = [line.strip() for line in str(refused.value).splitlines()[1:4]]
    assert listed == ['model.path: "warm" -> "other"', "model.width: 64 -> 32", "run.seed: 11 -> 12"]
    assert "--allow-drift" in str(refused.value)
    assert _Config.model_validate_json((tmp_path / "config.json").read_text()) == _Config()  # untouched

    said: list[str] = []
    with _open(tmp_path, _Config(tau=0.2), unsafe=("model", "run.seed"), notify=said.append) as run:
        assert run.restore({"policy": _Tensor()}) == 2
    assert "tau: 0.1 -> 0.2" in said[0]
    assert _events(tmp_path)[-2]["changes"] == ["tau: 0.1 -> 0.2"]

    _open(tmp_path, changed, unsafe=("model", "run.seed"), allow_drift=True).close()
    assert _Config.model_validate_json((tmp_path / "config.json").read_text()) == changed
    assert len(_events(tmp_path)[-1]["changes"]) == 3


def test_other_data_is_refused(tmp_path: Path) -> None:
    _open(tmp_path, data_fingerprints={"prompts": "a"}).close()
    with pytest.raises(ConfigDriftError, match=r'data_fingerprints\.prompts: "a" -> "b"'):
        _open(tmp_path, data_fingerprints={"prompts": "b"})
    with pytest.raises(ConfigDriftError, match="not there"):
        _open(tmp_path)


def test_the_same_settings_are_no_drift(tmp_path: Path) -> None:
    _open(tmp_path).close()
    _open(tmp_path).close()
    assert _events(tmp_path) == []


# REL-22: stop requests -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_asks_the_loop_to_stop_and_the_old_handler_comes_back(
    tmp_path: Path, number: int
) -> None:
    before = signal.getsignal(number)
    with _open(tmp_path) as run:
        with run.catch_signals():
            assert not run.stop_requested
            os.kill(os.getpid(), number)
            assert run.stop_requested
        assert signal.getsignal(number) is before
    assert [(event["kind"], event["signal"]) for event in _events(tmp_path)] == [
        ("stop_requested", signal.Signals(number).name)
    ]


def test_a_second_ctrl_c_interrupts_but_a_second_sigterm_does_not(tmp_path: Path) -> None:
    with _open(tmp_path) as run:
        with run.catch_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert run.stop_requested


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path) -> None:
    handler, inside = signal.getsignal(signal.SIGTERM), []
    with _open(tmp_path) as run:

        def loop() -> None:
            with run.catch_signals():
                inside.append(signal.getsignal(signal.SIGTERM))

        thread = threading.Thread(target=loop)
        thread.start()
        thread.join()
    assert inside == [handler]


# REL-26: complete only if everything was done ------------------------------------------------------


def test_a_run_is_complete_only_when_all_is_done_and_saved(tmp_path: Path) -> None:
    with _open(tmp_path) as run:
        run.save(4, {"policy": _Tensor()})
        assert not run.finish(done=4)  # fewer than planned
        with _small_files(1000):
            assert run.save(6, {"policy": _Tensor(size=100_000)}) is None
        assert not run.finish(done=6)  # done, but the result is nowhere
        assert not run.is_complete
    with _open(tmp_path) as run:
        assert not run.is_complete
        assert run.restore({"policy": _Tensor()}) == 4
        run.save(6, {"policy": _Tensor()})
        assert run.finish(done=6)
    with _open(tmp_path) as run:
        assert run.is_complete
    with _open(tmp_path, total=8) as run:
        assert not run.is_complete  # more is planned now
    _truncate(tmp_path / "checkpoints" / checkpoint_name(6) / "manifest.json")
    with _open(tmp_path) as run:
        assert not run.is_complete  # the result is damaged: it has to be made again


# what is recorded ------------------------------------------------------------------------------


def test_metrics_are_computed_from_the_rows_that_are_stored(tmp_path: Path) -> None:
    with _open(tmp_path) as run:
        line = run.record(
            3, {"update/loss": math.nan, "train/accuracy": 0.25}, (_row(3) for _ in range(2))
        )
    assert line["train/num_completions"] == 2
    stored = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert stored["iteration"] == 3
    assert stored["update/loss"] is None  # JSON has no NaN
    assert stored["train/length_mean"] == 3
    assert stored["train/accuracy"] == 0.25  # what the loop says wins
    rows = (tmp_path / "rollouts" / "000003.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in rows] == [_row(3)] * 2


def test_a_state_that_is_on_disk_is_not_written_twice(tmp_path: Path) -> None:
    with _open(tmp_path) as run:
        path = run.save(2, {"policy": _Tensor(1.0)})
        assert path is not None
        before = path.stat().st_ino
        assert run.save(2, {"policy": _Tensor(1.0)}) == path
    with _open(tmp_path) as run:
        assert run.restore({"policy": _Tensor()}) == 2
        assert run.save(2, {"policy": _Tensor(1.0)}) == path
        assert path.stat().st_ino == before
        assert run.oldest_checkpoint == 2


def test_a_killed_retirement_is_made_up_for_when_the_run_goes_on(tmp_path: Path) -> None:
    _begin(tmp_path, 1, 2, 3)
    with _open(tmp_path, keep=2) as run:
        assert run.restore({"policy": _Tensor()}) == 3
        assert run.oldest_checkpoint == 2


def test_metrics_are_durable_before_the_checkpoint_that_makes_them_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may take lines that will be written again, never one from before the checkpoint."""
    trace: list[str] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (trace.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), fsync(fd))[1],
    )
    monkeypatch.setattr(
        os, "rename", lambda a, b, **o: (trace.append(f"-> {Path(b).name}"), rename(a, b, **o))[1]
    )
    with _open(tmp_path) as run:
        run.record(0, {}, [_row(0)])
        trace.clear()
        run.record(1, {}, [_row(1)])
        run.save(2, {"policy": _Tensor()})
    assert trace[0] == ".tmp-000001.jsonl"
    assert trace.index("metrics.jsonl") < trace.index(f"-> {checkpoint_name(2)}")


def test_the_record_room_works_without_torch() -> None:
    code = "import sys, k15.record.run, k15.record.reader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

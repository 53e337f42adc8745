"""The reader of a run folder: exact on a whole one, and never an exception on a damaged one."""

import json
import random
import shutil
from pathlib import Path

import pytest

from k15.config.base import StrictModel
from k15.record.reader import RunReader
from k15.record.run import Run
from k15.record.schema import CompletionRow


class _Config(StrictModel):
    tau: float = 0.1


def _row(iteration: int, sample_index: int) -> CompletionRow:
    return {
        "iteration": iteration,
        "ordinal": iteration,
        "sample_index": sample_index,
        "prompt_id": "p",
        "family": "trial",
        "difficulty": 1.0,
        "question": "<b>1 + 1?</b>",
        "answer": "2",
        "completion": "two\n</script> \u2028 \U0001f600",
        "token_ids": [1, 2, 3],
        "logprobs": [-0.5, -0.25, -0.125],
        "segments": [{"start": 0, "num_tokens": 3, "policy_version": iteration, "stop": "end"}],
        "stop": "end",
        "length": 3,
        "outcome": "right",
        "reason": "",
        "extracted": "2",
        "correct": 1.0,
        "reward": 1.0,
        "length_reward": 0.0,
        "advantage": 0.0,
        "trained_tokens": 3,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of a run folder, somewhere else."""
    with Run.open(tmp_path / "run", _Config(), command="test", total=3, notify=lambda text: None) as run:
        run.restore({})
        for iteration in range(3):
            run.record(iteration, {"update/loss": 0.5}, [_row(iteration, index) for index in range(2)])
            run.event("faults", "one fault", iteration=iteration)
    return shutil.copytree(tmp_path / "run", tmp_path / "laptop" / "copy")


def test_a_whole_run_comes_back_without_a_notice(path: Path) -> None:
    reader = RunReader(path)
    assert reader.config == {"tau": 0.1}
    assert reader.manifest["command"] == "test"
    assert [line["iteration"] for line in reader.metrics] == [0, 1, 2]
    assert reader.metrics[1]["train/accuracy"] == 1.0
    assert reader.iterations == (0, 1, 2)
    assert reader.rollouts(2) == [_row(2, 0), _row(2, 1)]
    assert [event["iteration"] for event in reader.events] == [0, 1, 2]
    assert reader.notices == []


def test_a_torn_last_line_is_left_out(path: Path) -> None:
    for name in ("metrics.jsonl", "events.jsonl", "rollouts/000001.jsonl"):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[:-9])
    reader = RunReader(path)
    assert len(reader.metrics) == len(reader.events) == 2
    assert len(reader.rollouts(1)) == 1
    assert [notice.count("torn") for notice in reader.notices] == [1, 1, 1]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"null",
        b"",
        b'{"iteration": true, "kind": 3}',
        b'{"iteration": "1"}',
        b"[" * 100_000,
        b'{"iteration": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_damaged_line_in_the_middle_is_left_out_and_told(path: Path, garbage: bytes) -> None:
    for name in ("metrics.jsonl", "events.jsonl", "rollouts/000001.jsonl"):
        first, _, rest = (path / name).read_bytes().partition(b"\n")
        (path / name).write_bytes(first + b"\n" + garbage + b"\n" + rest)
    reader = RunReader(path)
    assert [line["iteration"] for line in reader.metrics] == [0, 1, 2]
    assert len(reader.events) == 3
    assert len(reader.rollouts(1)) == 2
    assert len([notice for notice in reader.notices if notice.startswith("1 lines of")]) == 3


def test_of_two_lines_of_one_iteration_the_last_counts(path: Path) -> None:
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 1, "update/loss": 0.25}\n')
    assert [line.get("update/loss") for line in RunReader(path).metrics] == [0.5, 0.25, 0.5]


@pytest.mark.parametrize(
    "name", ["config.json", "manifest.json", "metrics.jsonl", "rollouts/000001.jsonl"]
)
@pytest.mark.parametrize("damage", ["deleted", "a directory", "empty", "zeros", "cut"])
def test_any_file_may_be_missing_or_damaged(path: Path, name: str, damage: str) -> None:
    file = path / name
    data = file.read_bytes()
    file.unlink()
    if damage == "a directory":
        file.mkdir()
    elif damage != "deleted":
        file.write_bytes(
            {"empty": b"", "zeros": bytes(len(data)), "cut": data[: len(data) // 3 + 5]}[damage]
        )
    reader = RunReader(path)
    parts = {
        "config.json": reader.config,
        "manifest.json": reader.manifest,
        "metrics.jsonl": reader.metrics,
        "events.jsonl": reader.events,
        "rollouts/000001.jsonl": reader.rollouts(1),
    }
    damaged = parts.pop(name)
    assert not damaged or (
        damage == "cut" and len(damaged) == 1 and name == "metrics.jsonl"
    )  # its first line
    assert all(parts.values())
    assert len(reader.notices) == (0 if damage == "empty" and name.endswith("jsonl") else 1)


def test_random_bytes_never_raise(path: Path) -> None:
    noise = random.Random(0)
    names = ["config.json", "manifest.json", "metrics.jsonl", "events.jsonl", "rollouts/000001.jsonl"]
    originals = {name: (path / name).read_bytes() for name in names}
    for _ in range(100):
        for name, data in originals.items():
            damaged = bytearray(data)
            for _ in range(noise.randrange(1, 6)):
                damaged[noise.randrange(len(damaged))] = noise.randrange(256)
            (path / name).write_bytes(damaged)
        reader = RunReader(path)
        assert len(reader.metrics) <= 3
        assert len(reader.rollouts(1)) <= 2
        assert len(reader.events) <= 4
        assert isinstance(reader.config, dict)
        assert isinstance(reader.manifest, dict)


def test_no_folder_at_all_and_one_of_a_newer_version_are_told(tmp_path: Path, path: Path) -> None:
    reader = RunReader(tmp_path / "nowhere")
    assert (reader.config, reader.manifest, reader.metrics, reader.events) == ({}, {}, [], [])
    assert (reader.iterations, reader.rollouts(0)) == ((), [])
    assert "metrics.jsonl is missing" in reader.notices
    (path / "manifest.json").write_text(json.dumps({**RunReader(path).manifest, "schema": 7}))
    newer = RunReader(path)
    assert newer.manifest["command"] == "test"
    assert "schema 7" in newer.notices[0]


def test_rows_that_lack_a_key_are_left_out(path: Path) -> None:
    row = {key: value for key, value in _row(1, 2).items() if key != "token_ids"}
    with (path / "rollouts" / "000001.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    reader = RunReader(path)
    assert len(reader.rollouts(1)) == 2
    assert reader.notices == [
        "1 lines of rollouts/000001.jsonl lack all keys of a completion and are left out"
    ]

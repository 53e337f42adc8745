"""Checkpoints: whole or not there; damage is found; a failing disk costs nothing that was saved."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from record_disk import refusing

from k15.errors import CorruptCheckpointError, RunFolderError
from k15.record import checkpoint as module
from k15.record.checkpoint import (
    checkpoint_name,
    clean_directory,
    commit_checkpoint,
    newest_valid,
    reject_checkpoint,
    retire_checkpoints,
    verify_checkpoint,
)

CHILD = Path(__file__).with_name("record_child.py")


def _commit(directory: Path, iteration: int, size: int = 9000) -> Path:
    def write(to: Path) -> None:
        noise = random.Random(iteration)
        (to / "weights.bin").write_bytes(noise.randbytes(size))
        (to / "loop").mkdir()
        (to / "loop" / "state.json").write_text(json.dumps({"iteration": iteration}))

    return commit_checkpoint(directory, checkpoint_name(iteration), write, metadata={"parts": ["loop"]})


def test_a_committed_checkpoint_verifies_and_says_what_it_holds(tmp_path: Path) -> None:
    path = _commit(tmp_path, 12)
    manifest = verify_checkpoint(path)
    assert path == tmp_path / "iteration_000012"
    assert manifest.iteration == 12
    assert manifest.metadata == {"parts": ["loop"]}
    assert [(entry.path, entry.num_bytes) for entry in manifest.files] == [
        ("loop/state.json", 17),
        ("weights.bin", 9000),
    ]
    assert {"k15", "torch", "python"} <= manifest.versions.keys()
    assert (tmp_path / "latest").read_text() == "iteration_000012\n"
    check = subprocess.run(
        ["sha256sum", path / "weights.bin"], capture_output=True, text=True, check=True
    )
    assert check.stdout.split()[0] == manifest.files[1].sha256  # an independent program agrees


def test_the_newest_is_found_by_number_not_by_name_or_hint(tmp_path: Path) -> None:
    for iteration in (999_999, 1_000_000, 5):
        _commit(tmp_path, iteration)  # `latest` ends up on 5
    newest = newest_valid(tmp_path)
    assert newest.manifest is not None
    assert newest.manifest.iteration == 1_000_000
    assert newest.rejected == ()


def test_a_bad_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="six digits"):
        commit_checkpoint(tmp_path, "newest", lambda to: None)
    assert list(tmp_path.iterdir()) == []


# REL-07 ------------------------------------------------------------------------------------


def _damages(data: bytes, noise: random.Random):
    """What may happen to a file's bytes; the last is deletion."""
    for _ in range(20):
        yield data[: noise.randrange(len(data))]
    for _ in range(20):
        at, bit = noise.randrange(len(data)), noise.randrange(8)
        yield data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
    page = noise.randrange(max(1, len(data) - 4096))
    yield data[:page] + bytes(len(data[page : page + 4096])) + data[page + 4096 :]
    yield data + b"\0"
    yield None


@pytest.mark.parametrize("name", ["weights.bin", "loop/state.json", "manifest.json"])
def test_every_damage_to_a_file_is_found_and_the_older_checkpoint_taken(
    tmp_path: Path, name: str
) -> None:
    _commit(tmp_path, 1)
    newest = _commit(tmp_path, 2)
    data = (newest / name).read_bytes()
    damages = list(_damages(data, random.Random(name)))
    assert len(damages) == 43
    for damaged in damages:
        if damaged is None:
            (newest / name).unlink()
        else:
            (newest / name).write_bytes(damaged)
        found = newest_valid(tmp_path)
        assert found.manifest is not None
        assert found.manifest.iteration == 1
        assert [rejected.path for rejected in found.rejected] == [newest]
        (newest / name).write_bytes(data)
    assert (
        verify_checkpoint(newest).iteration == 2
    )  # the untouched one is fine: nothing was found by chance


def test_every_single_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    path = _commit(tmp_path, 1) / "manifest.json"
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 13):
        path.write_bytes(
            data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :]
        )
        with pytest.raises(CorruptCheckpointError):
            verify_checkpoint(path.parent)


def test_a_deleted_directory_is_missed_when_latest_names_it(tmp_path: Path) -> None:
    _commit(tmp_path, 1)
    newest = _commit(tmp_path, 2)
    newest.rename(tmp_path / "elsewhere")
    found = newest_valid(tmp_path)
    assert found.manifest is not None
    assert found.manifest.iteration == 1
    assert [rejected.path for rejected in found.rejected] == [newest]
    assert "gone" in found.rejected[0].reason


@pytest.mark.parametrize("damage", ["stranger", "link", "renamed"])
def test_files_that_do_not_belong_are_refused(tmp_path: Path, damage: str) -> None:
    path = _commit(tmp_path, 1)
    if damage == "stranger":
        (path / "loop" / "extra.json").write_text("{}")
    elif damage == "link":
        (path / "weights.bin").rename(tmp_path / "weights.bin")
        (path / "weights.bin").symlink_to(tmp_path / "weights.bin")
    else:
        path = path.rename(tmp_path / checkpoint_name(7))
    with pytest.raises(
        CorruptCheckpointError, match=r"not in the manifest|symbolic link|that of iteration 1"
    ):
        verify_checkpoint(path)


def test_sizes_alone_find_a_cut_file_and_digests_a_changed_one(tmp_path: Path) -> None:
    path = _commit(tmp_path, 1)
    data = (path / "weights.bin").read_bytes()
    (path / "weights.bin").write_bytes(data[:-1])
    with pytest.raises(CorruptCheckpointError, match="9000 bytes"):
        verify_checkpoint(path, digests=False)
    (path / "weights.bin").write_bytes(bytes(len(data)))
    assert verify_checkpoint(path, digests=False).iteration == 1
    with pytest.raises(CorruptCheckpointError, match=r"weights\.bin have changed"):
        verify_checkpoint(path)


def test_an_intact_checkpoint_of_a_newer_format_is_refused_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _commit(tmp_path, 1)
    path = _commit(tmp_path, 2)
    body = json.loads((path / "manifest.json").read_text())
    del body["sha256"]
    (path / "manifest.json").write_bytes(module._with_digest({**body, "schema": 2, "news": []}))
    with pytest.raises(RunFolderError, match="schema 2") as caught:
        newest_valid(tmp_path)
    assert not isinstance(caught.value, CorruptCheckpointError)


# REL-08 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("once", [True, False])
def test_a_refused_disk_call_never_costs_the_old_checkpoint(
    tmp_path: Path, code: int, once: bool
) -> None:
    kinds: set[str] = set()
    number = 0
    while True:
        number += 1
        directory = tmp_path / str(number)
        _commit(directory, 1)
        error = None
        with refusing(number, code, once=once) as failed:
            try:
                _commit(directory, 2)
            except OSError as refused:
                error = refused
        if error is None:
            assert failed in ([], ["mkdir"])  # of a directory that exists: nothing was lost
            assert verify_checkpoint(directory / checkpoint_name(2)).iteration == 2
        else:
            assert error.errno == code
        if not failed:
            break
        kinds |= {failed[0]}
        clean_directory(directory)
        found = newest_valid(directory)
        assert found.manifest is not None
        assert found.manifest.iteration in (1, 2)
        assert not found.rejected
        assert {path.name for path in directory.iterdir()} <= {
            "latest",
            checkpoint_name(1),
            checkpoint_name(2),
        }
        _commit(directory, 2)  # space has returned
        assert verify_checkpoint(directory / checkpoint_name(2)).iteration == 2
    assert number > 12
    assert kinds >= {"write", "fsync", "rename", "replace", "mkdir"}


def test_everything_is_synced_before_it_becomes_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut keeps only what was fsynced before: the order is the guarantee (A.4)."""
    trace: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(descriptor: int) -> None:
        trace.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def record_rename(source, target, **options) -> None:
        trace.append(("rename", str(target)))
        rename(source, target, **options)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    final = _commit(tmp_path / "checkpoints", 3)
    renamed = trace.index(("rename", str(final)))
    before = {
        path.split(".tmp-")[1].partition("/")[2] for kind, path in trace[:renamed] if ".tmp-" in path
    }
    assert before == {
        "weights.bin",
        "loop/state.json",
        "manifest.json",
        "loop",
        "",
    }  # files and directories
    names = [path.rpartition("/")[2] for _, path in trace[:renamed]]
    assert names.index("manifest.json") > max(names.index("weights.bin"), names.index("state.json"))
    assert trace[renamed + 1] == ("fsync", str(final.parent))
    assert ("fsync", str(tmp_path)) in trace[:renamed]  # the new folder of checkpoints itself


# retention ---------------------------------------------------------------------------------


def test_retention_keeps_the_newest_valid_ones(tmp_path: Path) -> None:
    for iteration in (1, 2, 3, 4):
        _commit(tmp_path, iteration)
    (tmp_path / checkpoint_name(3) / "weights.bin").unlink()
    assert retire_checkpoints(tmp_path, keep=2) == [checkpoint_name(1)]  # 3 does not count as kept
    _commit(tmp_path, 5)
    assert retire_checkpoints(tmp_path, keep=2) == [checkpoint_name(3), checkpoint_name(2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        checkpoint_name(4),
        checkpoint_name(5),
        "latest",
    ]
    with pytest.raises(ValueError, match="at least 1"):
        retire_checkpoints(tmp_path, keep=0)


def test_a_checkpoint_loses_its_name_before_it_loses_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    rmtree = shutil.rmtree
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, **o: (removed.append(path.name), rmtree(path, **o))
    )
    for iteration in (1, 2):
        _commit(tmp_path, iteration)
    retire_checkpoints(tmp_path, keep=1)
    assert [name.startswith(f".trash-{checkpoint_name(1)}-") for name in removed] == [True]


def test_a_rejected_checkpoint_never_comes_back_and_goes_with_its_age(tmp_path: Path) -> None:
    for iteration in (1, 2):
        _commit(tmp_path, iteration)
    reject_checkpoint(tmp_path / checkpoint_name(2))
    found = newest_valid(tmp_path)
    assert found.manifest is not None
    assert found.manifest.iteration == 1
    retire_checkpoints(tmp_path, keep=1)
    assert (tmp_path / f".rejected-{checkpoint_name(2)}").exists()
    _commit(tmp_path, 3)
    retire_checkpoints(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint_name(3), "latest"]


def test_a_kill_between_the_two_renames_of_an_exchange_is_made_good(tmp_path: Path) -> None:
    path = _commit(tmp_path, 1)
    path.rename(tmp_path / f".replaced-{checkpoint_name(1)}")
    clean_directory(tmp_path)
    assert verify_checkpoint(path).iteration == 1


# REL-10 ------------------------------------------------------------------------------------


def test_a_reader_never_sees_an_invalid_checkpoint(tmp_path: Path) -> None:
    reader = subprocess.Popen(
        [sys.executable, CHILD, "read", tmp_path], stdout=subprocess.PIPE, text=True
    )
    for iteration in range(1, 201):
        _commit(tmp_path, iteration, size=3000)
        retire_checkpoints(tmp_path, keep=3)
        numbers = [
            name for name in os.listdir(tmp_path) if name.startswith("iteration_") and "." not in name
        ]
        assert 1 <= len(numbers) <= 4
    time.sleep(0.2)
    (tmp_path / "stop").touch()
    output, _ = reader.communicate(timeout=20)
    assert reader.returncode == 0
    loads, last = map(int, output.split())
    assert last == 200
    assert loads >= 20  # it did read all the while

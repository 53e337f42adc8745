"""The journal of segments: whole records come back exactly, anything else is not believed (REL-12)."""

import errno
import math
import os
import random
import signal
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from k15 import crashpoints
from k15.rollout.journal import Journal, read_journal, read_journals
from k15.types import Segment, StopReason

STOPS = (None, *StopReason)


def _segment(number: int) -> Segment:
    noise = random.Random(number)
    count = noise.randrange(1, 40)
    logprobs = [struct.unpack("<f", struct.pack("<f", -noise.expovariate(1.0)))[0] for _ in range(count)]
    return Segment(
        ordinal=number // 4,
        sample_index=number % 4,
        start=noise.randrange(1000),
        token_ids=tuple(noise.randrange(200_000) for _ in range(count)),
        logprobs=tuple(logprobs),
        policy_version=noise.randrange(50),
        fingerprint=f"{noise.getrandbits(128):032x}",
        stop=noise.choice(STOPS),
    )


SEGMENTS = [_segment(number) for number in range(20)]


def _write(path: Path, segments: list[Segment]) -> list[int]:
    """Write a journal; the file's size after each record comes back."""
    journal = Journal(path, fsync_seconds=100.0)
    ends = []
    for segment in segments:
        assert journal.append(segment)
        ends.append(path.stat().st_size)
    journal.close()
    return ends


@pytest.fixture
def path() -> Iterator[Path]:
    """A journal in memory where that is possible: a kill does not need a real fsync."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder) / "000012.journal"


def test_segments_come_back_bit_for_bit(path: Path) -> None:
    extreme = replace(
        SEGMENTS[0],
        ordinal=2**40,
        token_ids=(0, 2**32 - 1, 7, 8, 9),
        logprobs=(-0.0, -math.inf, 5e-324, -1 / 3, -1.1754943508222875e-38),
    )
    _write(path, [*SEGMENTS, extreme])
    assert Journal.read(path) == [*SEGMENTS, extreme]
    assert (
        math.copysign(1.0, Journal.read(path)[-1].logprobs[0]) == -1.0
    )  # == does not tell -0.0 from 0.0


def test_a_missing_an_empty_and_a_just_begun_journal_hold_nothing(path: Path) -> None:
    assert Journal.read(path) == []
    path.write_bytes(b"")
    assert Journal.read(path) == []
    path.write_bytes(b"k15-jou")  # killed while the file was made
    _write(path, SEGMENTS[:1])
    assert Journal.read(path) == SEGMENTS[:1]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_torn_at_any_byte_the_whole_records_come_back_and_appending_goes_on(path: Path) -> None:
    ends = _write(path, SEGMENTS)
    data = path.read_bytes()
    noise = random.Random(0)
    for _ in range(1000):
        cut = noise.randrange(14, len(data))
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        journal = Journal(path)
        assert list(journal.recovered.segments) == SEGMENTS[:whole]
        assert read_journal(path).num_dropped_bytes == 0  # cut off at once, before anything is appended
        assert journal.recovered.num_dropped_bytes == cut - (ends[whole - 1] if whole else 14)
        assert journal.append(SEGMENTS[-1])
        journal.close()
        assert Journal.read(path) == [*SEGMENTS[:whole], SEGMENTS[-1]]


def test_a_flipped_bit_ends_the_reading_there_and_is_counted(path: Path) -> None:
    ends = _write(path, SEGMENTS)
    data = path.read_bytes()
    noise = random.Random(1)
    for _ in range(1000):
        at = noise.randrange(14, len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << noise.randrange(8))]) + data[at + 1 :])
        whole = sum(end <= at for end in ends)
        found = read_journal(path)
        assert list(found.segments) == SEGMENTS[:whole]
        assert found.num_dropped_bytes == len(data) - (ends[whole - 1] if whole else 14) > 0


def test_zeros_after_a_power_cut_are_no_records(path: Path) -> None:
    _write(path, SEGMENTS[:3])
    path.write_bytes(path.read_bytes() + bytes(4096))
    found = read_journal(path)
    assert list(found.segments) == SEGMENTS[:3]
    assert found.num_dropped_bytes == 4096


def test_a_file_that_is_no_journal_is_moved_aside_not_overwritten(path: Path) -> None:
    path.write_bytes(b"something precious, perhaps of a newer version")
    journal = Journal(path)
    assert journal.recovered.num_dropped_bytes == 46
    assert journal.append(SEGMENTS[0])
    journal.close()
    assert Journal.read(path) == SEGMENTS[:1]
    assert path.with_name("000012.journal.damaged").read_bytes().startswith(b"something precious")


def test_of_records_with_one_key_the_last_counts(path: Path) -> None:
    again = replace(SEGMENTS[0], fingerprint="f" * 32)
    _write(path, [SEGMENTS[0], SEGMENTS[1], SEGMENTS[0], again])
    found = read_journal(path)
    assert list(found.segments) == [SEGMENTS[1], again]
    assert found.num_duplicates == 2


def test_several_journals_are_read_as_one(path: Path) -> None:
    later = path.with_name("000015.journal")
    again = replace(SEGMENTS[1], fingerprint="f" * 32)
    _write(path, SEGMENTS[:3])
    _write(later, [again, SEGMENTS[3]])
    assert read_journals([path, later]) == [SEGMENTS[0], SEGMENTS[2], again, SEGMENTS[3]]


# a failing disk, a killed process, the clock ---------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("written", [0, 1, 11, 60])
def test_a_refused_append_leaves_the_journal_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, written: int
) -> None:
    journal = Journal(path)
    assert journal.append(SEGMENTS[0])
    write, room = os.write, [written]

    def full(descriptor: int, data) -> int:
        if room[0] == 0:
            raise OSError(code, os.strerror(code))
        room[0] = max(0, room[0] - len(data))
        return write(descriptor, data[:written])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert not journal.append(SEGMENTS[1])
    assert journal.num_failed == 1
    assert journal.last_error is not None
    assert journal.last_error.errno == code
    assert Journal.read(path) == SEGMENTS[:1]
    assert journal.append(SEGMENTS[2])  # space has returned
    journal.close()
    assert Journal.read(path) == [SEGMENTS[0], SEGMENTS[2]]
    assert read_journal(path).num_dropped_bytes == 0


def test_a_refused_sync_is_counted_and_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path, fsync_seconds=100.0)
    journal.append(SEGMENTS[0])
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.EIO, "broken"))
        )
        assert not journal.sync()
    assert journal.num_failed == 1
    assert journal.sync()
    journal.close()


def test_syncs_keep_their_distance_on_a_clock_of_their_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, synced = [0.0], []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(now[0]), fsync(descriptor))[1])
    journal = Journal(path, fsync_seconds=0.5, clock=lambda: now[0])
    synced.clear()
    for tick, segment in enumerate(SEGMENTS[:20]):
        now[0] = tick / 8
        journal.append(segment)
    assert synced == [0.5, 1.0, 1.5, 2.0]
    assert journal.sync()  # on demand
    assert journal.sync()  # nothing new: no call
    assert synced == [0.5, 1.0, 1.5, 2.0, 19 / 8]
    journal.close()
    eager = Journal(path, fsync_seconds=0.0, clock=lambda: now[0])
    synced.clear()
    for segment in SEGMENTS[:3]:
        eager.append(segment)
    assert len(synced) == 3
    eager.close()


def _die_in_append(path: Path, written: int) -> int:
    """A process that is killed after `written` bytes of its second record; its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            journal = Journal(path)
            journal.append(SEGMENTS[0])
            write = os.write

            def die(descriptor: int, data) -> int:
                write(descriptor, data[:written])
                os.kill(os.getpid(), signal.SIGKILL)
                return written

            os.write = die
            journal.append(SEGMENTS[1])
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_sigkill_in_the_middle_of_an_append(tmp_path: Path) -> None:
    length = _write(tmp_path / "length", [SEGMENTS[1]])[0] - 14
    for written in (0, 1, 7, 8, 9, 50, length - 1, length):
        path = tmp_path / str(written)
        assert _die_in_append(path, written) == -signal.SIGKILL
        expected = SEGMENTS[: 2 if written == length else 1]
        journal = Journal(path)
        assert list(journal.recovered.segments) == expected
        journal.append(SEGMENTS[2])
        journal.close()
        assert Journal.read(path) == [*expected, SEGMENTS[2]]


@pytest.mark.parametrize(
    ("point", "survivors"),
    [
        ("journal.before_append", 2),
        ("journal.after_append", 3),
        ("journal.before_fsync", 3),
        ("journal.after_fsync", 3),
        ("journal.before_truncate", 0),
    ],
)
def test_sigkill_at_every_crash_point(path: Path, point: str, survivors: int) -> None:
    _write(path, [])
    pid = os.fork()
    if pid == 0:
        try:
            crashpoints._passed.clear()
            os.environ["K15_CRASH"] = f"{point}:{1 if 'truncate' in point else 3}"
            journal = Journal(path, fsync_seconds=0.0)
            for segment in SEGMENTS[:4]:
                journal.append(segment)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert Journal.read(path) == SEGMENTS[:survivors]

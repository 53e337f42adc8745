"""Finished segments on disk before the next checkpoint, so that a kill does not cost their generation.

One record per segment, appended and framed: length, CRC-32 of length and payload, payload. Numbers are
little-endian; log-probabilities are stored as float64, so they come back bit for bit. A kill can tear only
the last record, and reading stops at the first one that is not whole: what follows is generated again.

Segments may appear that a checkpoint already has (a kill just after one): generation is
at-least-once, and the buffer drops what it knows. Training is exactly-once.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from k15.crashpoints import crashpoint
from k15.types import Segment, StopReason

_MAGIC = b"k15-journal-1\n"
_FRAME = struct.Struct("<II")  # payload bytes, CRC-32 of those four bytes and the payload
_HEAD = struct.Struct(
    "<qIIqIIBB"
)  # ordinal, sample, start, version, tokens, logprobs, stop, fingerprint bytes
_STOPS: tuple[StopReason | None, ...] = (None, StopReason.END, StopReason.REPEAT, StopReason.LENGTH)


@dataclass(frozen=True, slots=True)
class JournalContents:
    """What a journal file holds.

    Attributes:
        segments: whole records in the order they were written; of records with the same ordinal,
            sample_index and start, the last one (they differ only if weights differed).
        num_duplicates: records dropped for that.
        num_valid_bytes: where the whole records end.
        num_dropped_bytes: bytes after that: a torn record, or everything behind a damaged one.
    """

    segments: tuple[Segment, ...] = ()
    num_duplicates: int = 0
    num_valid_bytes: int = 0
    num_dropped_bytes: int = 0


def read_journal(path: Path) -> JournalContents:
    """The whole records of a journal; a missing file is an empty journal. Changes nothing on disk."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return JournalContents()
    if _MAGIC.startswith(data):
        return JournalContents(
            num_valid_bytes=len(data) if data == _MAGIC else 0
        )  # killed while it was made
    if not data.startswith(_MAGIC):
        return JournalContents(num_dropped_bytes=len(data))
    by_key: dict[tuple[int, int, int], Segment] = {}
    position, num_records = len(_MAGIC), 0
    while (record := _next_record(data, position)) is not None:
        segment, position = record
        by_key.pop(_key(segment), None)
        by_key[_key(segment)] = segment
        num_records += 1
    return JournalContents(
        tuple(by_key.values()), num_records - len(by_key), position, len(data) - position
    )


def read_journals(paths: Iterable[Path]) -> list[Segment]:
    """The segments of several journals, oldest first; of records with the same key the last one."""
    by_key = {}
    for path in paths:
        for segment in read_journal(path).segments:
            by_key.pop(_key(segment), None)
            by_key[_key(segment)] = segment
    return list(by_key.values())


class Journal:
    """An append-only file of segments; opening it cuts off what is not whole.

    A disk that refuses a record does not stop the run: the record is missing after a kill and is
    generated again. `num_failed` counts them.

    Args:
        path: the file, made if missing. One that is no journal is moved to `path`.damaged, not overwritten.
        fsync_seconds: `append` syncs at most this often; 0 = every record.
        clock: a clock that never goes back, in seconds.

    Attributes:
        recovered: what was in the file when it was opened.
        num_failed: records and syncs that the disk refused.
        last_error: the latest refusal.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(
        self, path: Path, *, fsync_seconds: float = 0.2, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.recovered = read_journal(path)
        self.num_failed = 0
        self.last_error: OSError | None = None
        self._fsync_seconds = fsync_seconds
        self._clock = clock
        self._synced_at = clock()
        self._is_dirty = False
        self._size = self.recovered.num_valid_bytes
        if self.recovered.num_dropped_bytes and self._size == 0:
            os.replace(path, path.with_name(path.name + ".damaged"))
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o644)
        try:
            self._begin(path)
        except BaseException:
            os.close(self._descriptor)
            raise

    @staticmethod
    def read(path: Path) -> list[Segment]:
        """The segments of a journal, see `read_journal`."""
        return list(read_journal(path).segments)

    def append(self, segment: Segment) -> bool:
        """Write one segment. It survives a kill at once, a power cut after the next sync.

        Returns:
            False if the disk refused; the file is as it was before.
        """
        frame = _encode(segment)
        crashpoint("journal.before_append")
        try:
            if os.fstat(self._descriptor).st_size != self._size:
                os.ftruncate(self._descriptor, self._size)  # what a refused append left
            _write_all(self._descriptor, frame)
        except OSError as error:
            return self._refused(error)
        self._size += len(frame)
        self._is_dirty = True
        crashpoint("journal.after_append")
        return self.sync() if self._clock() - self._synced_at >= self._fsync_seconds else True

    def sync(self) -> bool:
        """Make all records durable; returns False if the disk refused."""
        if not self._is_dirty:
            return True
        crashpoint("journal.before_fsync")
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            return self._refused(error)
        self._synced_at = self._clock()
        self._is_dirty = False
        crashpoint("journal.after_fsync")
        return True

    def close(self) -> None:
        """Sync and close. Doing it twice is fine."""
        if self._descriptor >= 0:
            self.sync()
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin(self, path: Path) -> None:
        if self._size == 0:
            os.ftruncate(self._descriptor, 0)
            _write_all(self._descriptor, _MAGIC)
            self._size = len(_MAGIC)
        else:
            crashpoint("journal.before_truncate")
            os.ftruncate(self._descriptor, self._size)
        os.fsync(self._descriptor)
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _refused(self, error: OSError) -> bool:
        self.num_failed += 1
        self.last_error = error
        return False


def _key(segment: Segment) -> tuple[int, int, int]:
    return segment.ordinal, segment.sample_index, segment.start


def _encode(segment: Segment) -> bytes:
    fingerprint = segment.fingerprint.encode()
    head = _HEAD.pack(
        segment.ordinal,
        segment.sample_index,
        segment.start,
        segment.policy_version,
        len(segment.token_ids),
        len(segment.logprobs),
        _STOPS.index(segment.stop),
        len(fingerprint),
    )
    tokens = struct.pack(f"<{len(segment.token_ids)}I", *segment.token_ids)
    logprobs = struct.pack(f"<{len(segment.logprobs)}d", *segment.logprobs)
    payload = head + fingerprint + tokens + logprobs
    length = len(payload).to_bytes(4, "little")
    return _FRAME.pack(len(payload), zlib.crc32(payload, zlib.crc32(length))) + payload


def _next_record(data: bytes, position: int) -> tuple[Segment, int] | None:
    """The record at `position` and where it ends, or None if it is torn or damaged."""
    begin = position + _FRAME.size
    if begin > len(data):
        return None
    length, crc = _FRAME.unpack_from(data, position)
    payload = data[begin : begin + length]
    if (
        len(payload) < length
        or length < _HEAD.size
        or crc != zlib.crc32(payload, zlib.crc32(data[position : position + 4]))
    ):
        return None
    ordinal, sample_index, start, version, num_tokens, num_logprobs, stop, name_bytes = (
        _HEAD.unpack_from(payload)
    )
    tokens_at = _HEAD.size + name_bytes
    logprobs_at = tokens_at + 4 * num_tokens
    if length != logprobs_at + 8 * num_logprobs or stop >= len(_STOPS):
        return None
    segment = Segment(
        ordinal=ordinal,
        sample_index=sample_index,
        start=start,
        token_ids=struct.unpack_from(f"<{num_tokens}I", payload, tokens_at),
        logprobs=struct.unpack_from(f"<{num_logprobs}d", payload, logprobs_at),
        policy_version=version,
        fingerprint=payload[_HEAD.size : tokens_at].decode(),
        stop=_STOPS[stop],
    )
    return segment, begin + length


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]

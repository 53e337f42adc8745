"""What the sandbox and its supervisor say to each other: frames of JSON and bytes over one socket.

A frame is two lengths, a JSON object, and blobs one after another. Both ends are ours; nothing from a
box is ever parsed as a frame.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from k15.sandbox.base import Limits

_LENGTHS = struct.Struct("<IQ")
Stopper = Literal["", "cpu", "wall", "memory", "output"]


@dataclass(frozen=True, slots=True)
class BoxSpec:
    """One box to start.

    Attributes:
        argv: program and arguments, as paths in the box.
        limits: what its processes may use together.
        env: its whole environment.
        files: read-only in /box, by name.
        executable: which of them are programs.
        stdin: what it reads on standard input.
        root: folder of the image's root file system; None = the host's /usr.
        host_paths: more of the host that is shown read-only, where it exists.
        may_lock: files may be locked (build tools); for programs that would be a channel between boxes.
        result_bytes: file descriptor 3 is read up to so many bytes; 0 = there is none.
        limit_address_space: without control groups: limit the address space of each process. Not for
            runtimes that reserve far more than they use; their data segment is limited instead.
        is_linked: it talks to another box, on file descriptors 3 (reads) and 4 (writes).
        is_warm: a prepared box may be taken: `argv` is Python with the name of one of `files`.
    """

    argv: tuple[str, ...]
    limits: Limits
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    executable: tuple[str, ...] = ()
    stdin: bytes = b""
    root: str | None = None
    host_paths: tuple[str, ...] = ()
    may_lock: bool = False
    result_bytes: int = 0
    limit_address_space: bool = True
    is_warm: bool = False
    is_linked: bool = False


@dataclass(frozen=True, slots=True)
class RawRun:
    """What the supervisor saw of one box; `judge` makes a verdict of it.

    Attributes:
        fault: why the box did not run, if that was ours; then nothing else counts.
        stopped_by: the limit at which the supervisor ended it, "" if it ended by itself.
        exit_code: of the program; None if a signal ended it.
        signal: that signal, or None.
        stdout, stderr, result: what it wrote, up to the caps.
        cpu_seconds, wall_seconds, memory_bytes: what it took.
        num_oom_kills: processes the kernel killed for memory.
        starved_seconds: when the wall clock ran out: for how long its processes waited for a core.
    """

    fault: str = ""
    stopped_by: Stopper = ""
    exit_code: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    result: bytes = b""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    memory_bytes: int = 0
    num_oom_kills: int = 0
    starved_seconds: float = 0.0


def pack(message: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """A frame; `message` must not have a key "blobs"."""
    header = json.dumps({**message, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join([_LENGTHS.pack(len(header), sum(map(len, blobs))), header, *blobs])


class FrameReader:
    """Cuts a stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
        """The frames that are complete now, as messages and their blobs."""
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            header_length, blob_length = _LENGTHS.unpack_from(self._buffer)
            end = _LENGTHS.size + header_length + blob_length
            if len(self._buffer) < end:
                return
            at = _LENGTHS.size + header_length
            message = json.loads(self._buffer[_LENGTHS.size : at])
            blobs = []
            for length in message.pop("blobs"):
                blobs.append(bytes(self._buffer[at : at + length]))
                at += length
            del self._buffer[:end]
            yield message, blobs


def spec_to_wire(spec: BoxSpec) -> tuple[dict[str, Any], list[bytes]]:
    """A message and its blobs: standard input, then the files in order."""
    message = asdict(spec)
    del message["stdin"]
    message["files"] = list(spec.files)
    return message, [spec.stdin, *spec.files.values()]


def spec_from_wire(message: Mapping[str, Any], blobs: Sequence[bytes]) -> BoxSpec:
    """The inverse of `spec_to_wire`; takes as many blobs as it needs."""
    fields = dict(message)
    fields["files"] = dict(zip(fields["files"], blobs[1:], strict=False))
    fields["limits"] = Limits(**fields["limits"])
    for name in ("argv", "executable", "host_paths"):
        fields[name] = tuple(fields[name])
    return BoxSpec(**fields, stdin=blobs[0])


def run_to_wire(run: RawRun) -> tuple[dict[str, Any], list[bytes]]:
    """A message and its blobs: standard output, standard error, result."""
    message = asdict(run)
    return message, [message.pop(name) for name in ("stdout", "stderr", "result")]


def run_from_wire(message: Mapping[str, Any], blobs: Sequence[bytes]) -> RawRun:
    """The inverse of `run_to_wire`."""
    return RawRun(**message, stdout=blobs[0], stderr=blobs[1], result=blobs[2])

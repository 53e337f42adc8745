"""Frames between the sandbox and its supervisor."""

import random

from k15.sandbox.base import Limits
from k15.sandbox.wire import (
    BoxSpec,
    FrameReader,
    RawRun,
    pack,
    run_from_wire,
    run_to_wire,
    spec_from_wire,
    spec_to_wire,
)

SPEC = BoxSpec(
    ("python3", "/box/main.py"),
    Limits(cpu_seconds=0.5, wall_seconds=None),
    env={"PATH": "/usr/bin"},
    files={"main.py": b"\x00\xff" * 1000, "empty": b""},
    executable=("main.py",),
    stdin=b"12\n",
    host_paths=("/etc/ld.so.cache",),
    result_bytes=5,
    is_linked=True,
)
RUN = RawRun(
    stopped_by="cpu",
    signal=9,
    stdout=b"\xff\n",
    stderr=b"",
    result=b"\x00",
    cpu_seconds=0.1,
    num_oom_kills=2,
)


def test_specs_and_runs_come_out_as_they_went_in():
    message, blobs = spec_to_wire(SPEC)
    [(read, parts)] = FrameReader().feed(pack({"box": message}, blobs))
    assert spec_from_wire(read["box"], parts) == SPEC
    message, blobs = run_to_wire(RUN)
    [(read, parts)] = FrameReader().feed(pack(message, blobs))
    assert run_from_wire(read, parts) == RUN


def test_a_stream_cut_anywhere_gives_the_same_frames():
    chance = random.Random(0)
    frames = [({"id": n, "text": "é" * n}, [b"x" * n, b"", b"\x00" * (n * 7)]) for n in range(20)]
    stream = b"".join(pack(message, blobs) for message, blobs in frames)
    reader, read = FrameReader(), []
    while stream:
        cut = chance.randint(1, 60)
        read += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert read == frames

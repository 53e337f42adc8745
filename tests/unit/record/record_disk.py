"""A disk that begins to refuse, for the tests of the record room."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CALLS = ("write", "fsync", "rename", "replace", "mkdir", "ftruncate", "unlink")


@contextmanager
def refusing(number: int, code: int, *, once: bool) -> Iterator[list[str]]:
    """Within the block the `number`-th call that changes the disk fails (and, if not `once`, all after it).

    The list names the calls that failed.
    """
    calls, failed = 0, []

    def wrap(name: str):
        original = getattr(os, name)

        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls == number or (calls > number and not once):
                failed.append(name)
                raise OSError(code, os.strerror(code))
            return original(*args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrap(name))
        yield failed

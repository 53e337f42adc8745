"""Folders of these tests lie in memory where that is possible: a kill does not need a real fsync."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import k15


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="k15-test-", dir=memory if os.access(memory, os.W_OK) else None))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def _child_processes_find_k15(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(k15.__file__).parent.parent))

"""A sandbox for the tests that need real boxes; they skip where this host has none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k15.config.sandbox import SandboxConfig
from k15.errors import SandboxError
from k15.sandbox.base import Job, Program, RunVerdict, StdinTest
from k15.sandbox.isolated import IsolatedSandbox


@pytest.fixture(scope="session")
def boxes() -> Iterator[IsolatedSandbox]:
    """Bubblewrap, or a skip that says why not."""
    sandbox = IsolatedSandbox(SandboxConfig())
    try:
        result = sandbox.run(Job(Program("python", "print(1)"), (StdinTest("", "1"),)))
    except (SandboxError, ValueError) as error:
        pytest.skip(f"this host cannot isolate: {error}")
    if result.verdict is RunVerdict.XX:
        sandbox.close()
        pytest.skip(f"this host cannot isolate: {result.reason}")
    yield sandbox
    sandbox.close()

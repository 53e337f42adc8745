"""The sandbox of a config."""

from __future__ import annotations

from k15.config.sandbox import SandboxConfig
from k15.sandbox.base import Sandbox


def make_sandbox(config: SandboxConfig | None = None) -> Sandbox:
    """A sandbox; its boxes are started by the first job.

    Raises:
        SandboxError: the back end cannot be used on this host, or `strict` asks for more than it can do.
        ConfigError: a setting that the back end needs is missing.
    """
    config = config or SandboxConfig()
    from k15.sandbox.isolated import IsolatedSandbox

    return IsolatedSandbox(config)

"""The sandbox of a config."""

from __future__ import annotations

from k15.config.sandbox import SandboxConfig
from k15.sandbox.base import Sandbox


def make_sandbox(config: SandboxConfig | None = None) -> Sandbox:
    """A sandbox; its boxes are started by the first job, or now where `strict` has to see them.

    Raises:
        SandboxError: the back end cannot be used on this host, or `strict` asks for more than it can do.
        ConfigError: a setting that the back end needs is missing.
    """
    config = config or SandboxConfig()
    if config.backend == "fusion":
        from k15.sandbox.fusion import FusionSandbox

        return FusionSandbox(config)
    from k15.sandbox.isolated import IsolatedSandbox

    sandbox = IsolatedSandbox(config)
    if config.strict:
        from k15.sandbox.doctor import require_strict

        try:
            require_strict(config, sandbox)
        except BaseException:
            sandbox.close()
            raise
    return sandbox

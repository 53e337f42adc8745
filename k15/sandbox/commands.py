"""What `k15 sandbox run`, `serve` and `doctor` do."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from k15.config.sandbox import SandboxConfig
from k15.errors import ConfigError
from k15.sandbox.base import COMPILE_LIMITS, Job, Limits, Program, RunVerdict, StdinTest
from k15.sandbox.build import make_sandbox
from k15.sandbox.rows import check_job, result_row

TOKEN_VARIABLE = "K15_SANDBOX_TOKEN"


def run_program(options: Namespace, config: SandboxConfig) -> int:
    """Run the program on standard input once; verdict and outputs as one JSON object."""
    limits = Limits(cpu_seconds=options.time_limit, memory_mb=options.memory_mb)
    if options.time_limit <= 0 or options.memory_mb <= 0:
        raise ConfigError(
            f"--time-limit and --memory-mb must be above 0; got {options.time_limit:g} and {options.memory_mb}."
        )
    code = sys.stdin.buffer.read().decode(errors="surrogateescape")
    given = _input(options.input)
    job = Job(
        Program(options.language, code),
        (StdinTest(given),),
        limits=limits,
        compile_limits=replace(
            COMPILE_LIMITS, cpu_seconds=max(COMPILE_LIMITS.cpu_seconds, options.time_limit)
        ),
    )
    check_job(job)
    with make_sandbox(config) as sandbox:
        result = sandbox.run(job)
    row = result_row(result, with_outputs=True)
    runs, compilation = row["tests"], row.get("compilation")
    answer = {**(runs[0] if runs else {}), "verdict": row["verdict"]}
    answer["reason"] = runs[0]["reason"] if runs else row["reason"]
    if compilation is not None:
        answer["compilation"] = compilation
    print(json.dumps(answer))
    return 1 if result.verdict is RunVerdict.XX else 0


def serve(options: Namespace, config: SandboxConfig) -> int:
    """The HTTP service, until SIGINT or SIGTERM."""
    from k15.sandbox.service import ServiceSettings, run_service

    if options.token_file is not None:
        try:
            token = options.token_file.read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"cannot read --token-file {options.token_file}: {error.strerror}."
            ) from None
        if not token:
            raise ConfigError(f"--token-file {options.token_file} is empty; write the token into it.")
    else:
        token = os.environ.get(TOKEN_VARIABLE) or None
    settings = ServiceSettings(options.host, options.port, token, options.max_queued)
    run_service(make_sandbox(config), settings)
    return 0


def doctor(options: Namespace, config: SandboxConfig) -> int:
    """What this host isolates; 1 if it falls short and `strict` is asked for, or no box starts."""
    from k15.sandbox.doctor import describe, diagnose

    diagnosis = diagnose(config)
    print(json.dumps(diagnosis.as_dict()) if options.json else describe(diagnosis))
    has_boxes = any(finding.name == "boxes" and finding.is_enough for finding in diagnosis.findings)
    return 1 if not has_boxes or (config.strict and diagnosis.shortfalls) else 0


def _input(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"cannot read --input {path}: {error.strerror}.") from None

"""IFEval, prompt-strict: did the reply follow every instruction? Judged by lm-evaluation-harness's own checkers.

That package is the kept implementation of the published rules; k15 does not copy them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from k15.errors import ConfigError
from k15.types import Outcome, Verdict


def require_ifeval() -> Any:
    """The module with the checkers.

    Raises:
        ConfigError: the package, or something it needs, is not installed.
    """
    try:
        with redirect_stdout(sys.stderr):  # it prints while it loads; standard output belongs to results
            return importlib.import_module("lm_eval.tasks.ifeval.utils")
    except ImportError as error:
        raise ConfigError(
            f"IFEval is judged by lm-evaluation-harness, and {error.name} is not installed. Install it with "
            "pip install 'lm-eval[ifeval]', or leave ifeval out of --benchmarks."
        ) from None


def judge_ifeval(question: str, details: Mapping[str, Any], reply: str) -> Verdict:
    """Right if the reply follows every instruction of its prompt, in the strict reading.

    Args:
        question: the prompt as published; some instructions ask for it to be repeated.
        details: "instructions", a list of {"id", "arguments"}.
        reply: what follows the thought.
    """
    checkers = require_ifeval()
    if not reply.strip():
        return Verdict(Outcome.NO_ANSWER, "no answer: the reply is empty")
    instructions = details["instructions"]
    example = checkers.InputExample(
        key=0,
        instruction_id_list=[i["id"] for i in instructions],
        prompt=question,
        kwargs=[dict(i["arguments"]) for i in instructions],
    )
    followed = checkers.test_instruction_following_strict(example, reply).follow_instruction_list
    broken = [i["id"] for i, is_followed in zip(instructions, followed, strict=True) if not is_followed]
    if broken:
        return Verdict(Outcome.WRONG, f"not followed: {', '.join(broken)}", f"{len(broken)} broken")
    return Verdict(Outcome.RIGHT, "every instruction is followed", "all followed")

"""The code reward: the program in a reply is run against its problem's tests, in the sandbox.

All tests or nothing: a program that passes nine of ten scores 0 (section 2.3.5 keeps problems whose
tests a right program passes whole). A program that is too slow is a timeout, what went wrong on our
side is a fault, and neither the tests nor what they expect ever enter the program's box.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from k15.config.sandbox import SandboxConfig
from k15.errors import ConfigError
from k15.rewards.extract import THINK_CLOSE, THINK_OPEN
from k15.sandbox.base import Job, JobResult, RunVerdict, Sandbox
from k15.sandbox.build import make_sandbox
from k15.sandbox.languages import get_language
from k15.sandbox.rows import read_job, result_row
from k15.types import Outcome, Verdict

# A line of three or more backquotes or tildes opens a block; one of at least as many closes it.
_FENCE = re.compile(r"[ ]{0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^`\n]*")
MAX_PROGRAM_CHARS = 100_000


@dataclass(frozen=True, slots=True)
class CodeItem:
    """One reply to judge.

    Attributes:
        tests: the problem's tests as a JSON object, in the form of `sandbox.rows` without "code"; its
            "language" is python if it does not say.
        reply: the whole completion.
        in_thought: the prompt ended with `<think>`, so the reply begins inside a thought.
    """

    tests: str
    reply: str
    in_thought: bool = False


def extract_program(reply: str, *, in_thought: bool = False) -> str:
    """The code of the last complete fenced block after the thought; "" if there is none.

    A thought that is opened and never closed has no program; a block that is never closed is none, and a
    fence inside a block of longer fences is text.
    """
    _, closing, tail = reply.rpartition(THINK_CLOSE)
    if THINK_OPEN in tail or (in_thought and not closing):
        return ""
    program, block, fence = "", [], ""
    for line in tail.split("\n"):
        found = _FENCE.fullmatch(line.rstrip())
        if not fence:
            if found:
                fence, block = found[1], []
        elif found and not found[2] and found[1].startswith(fence):
            program, fence = "\n".join(block) + "\n", ""
        else:
            block.append(line)
    return program


class CodeVerifier:
    """Judges replies by running them.

    Args:
        sandbox: where; closed with this verifier.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def judge(self, items: Iterable[CodeItem]) -> Iterator[Verdict]:
        """One verdict an item, in order, a few items ahead of the reader."""
        waiting: list[Verdict | None] = []  # None: its job is under way

        def jobs() -> Generator[Job, None, None]:
            for item in items:
                job = _job(item)
                waiting.append(job if isinstance(job, Verdict) else None)
                if isinstance(job, Job):
                    yield job

        results = self._sandbox.run_many(jobs())
        for result in results:
            while waiting and (verdict := waiting[0]) is not None:
                waiting.pop(0)
                yield verdict
            waiting.pop(0)
            yield code_verdict(result)
        yield from (verdict for verdict in waiting if verdict is not None)

    def close(self) -> None:
        """End the sandbox."""
        self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def code_verdict(result: JobResult) -> Verdict:
    """A job's result as the reward's verdict; the reason never contains what was expected."""
    seconds = round(sum(test.wall_seconds for test in result.tests), 6)
    said = f"{result.verdict}: {result.reason}" if result.reason else f"{result.verdict}"
    if result.verdict is RunVerdict.OK:
        return Verdict(Outcome.RIGHT, "all tests pass", "OK", seconds)
    if result.verdict is RunVerdict.XX:
        return Verdict(Outcome.FAULT, said, "", seconds)
    outcome = Outcome.TIMEOUT if result.verdict is RunVerdict.TLE else Outcome.WRONG
    return Verdict(outcome, said, result.verdict.value, seconds)


def check_tests(tests: str, where: str) -> None:
    """Refuse a problem's tests that cannot be read, or whose language is not known.

    Raises:
        ConfigError: says what is wrong.
    """
    row = _tests(tests)
    if isinstance(row, str):
        raise ConfigError(
            f'the answer of a prompt with the verifier "code" must be its tests; got, for {where}: {row}.'
        )
    get_language(row["language"])


def grade_code_lines(
    lines: Iterable[str], config: SandboxConfig | None = None, *, with_outputs: bool = False
) -> Iterator[dict[str, Any]]:
    """One dict {id, verdict, correct, reason, seconds, tests} a line, in the order of the lines.

    A line is a job as `sandbox.rows` reads it, with an "id" that comes back as it is; "reply" may stand in
    place of "code", and the program is then the last complete fenced block. A malformed line becomes XX
    with what is wrong with it; blank lines are passed over.
    """
    with make_sandbox(config) as sandbox:
        yield from _grade_lines(lines, sandbox, with_outputs)


def _grade_lines(lines: Iterable[str], sandbox: Sandbox, with_outputs: bool) -> Iterator[dict[str, Any]]:
    waiting: list[tuple[Any, JobResult | None]] = []

    def jobs() -> Generator[Job, None, None]:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row_id, job = _read_line(line, number)
                waiting.append((row_id, job if isinstance(job, JobResult) else None))
                if isinstance(job, Job):
                    yield job

    def row(row_id: Any, result: JobResult) -> dict[str, Any]:
        return {"id": row_id, **result_row(result, with_outputs=with_outputs)}

    for result in sandbox.run_many(jobs()):
        while waiting and (known := waiting[0][1]) is not None:
            yield row(waiting.pop(0)[0], known)
        yield row(waiting.pop(0)[0], result)
    for row_id, known in waiting:
        if known is not None:
            yield row(row_id, known)


def _read_line(line: str, number: int) -> tuple[Any, Job | JobResult]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, _fault(f"line {number} is not JSON ({error}); give one object a line")
    if not isinstance(row, dict):
        return None, _fault(f"line {number} must be a JSON object; got {line.strip()[:40]!r}")
    row_id = row.get("id")
    reply = row.pop("reply", None)
    if (reply is None) == ("code" not in row):
        return row_id, _fault(f'line {number} must have either "code" or "reply", and not both')
    code = None
    if reply is not None:
        code = extract_program(reply) if isinstance(reply, str) else ""
        if not code:
            return row_id, JobResult(RunVerdict.CE, "no program: no complete fenced block in the reply")
        row.setdefault("language", "python")
    try:
        return row_id, read_job(row, code)
    except ValueError as error:
        return row_id, _fault(f"line {number}: {error}")


def _fault(reason: str) -> JobResult:
    return JobResult(RunVerdict.XX, reason)


def _job(item: CodeItem) -> Job | Verdict:
    tests = _tests(item.tests)
    if isinstance(tests, str):
        return Verdict(Outcome.FAULT, f"the problem's tests cannot be read: {tests}"[:300])
    program = extract_program(item.reply, in_thought=item.in_thought)
    if not program.strip():
        return Verdict(Outcome.NO_ANSWER, "no program: no complete fenced block after the thought")
    if len(program) > MAX_PROGRAM_CHARS:
        return Verdict(Outcome.WRONG, f"the program is longer than {MAX_PROGRAM_CHARS} characters")
    return read_job({"stop_at_first_failure": True, **tests}, program)


@lru_cache(maxsize=1024)
def _tests(text: str) -> Mapping[str, Any] | str:
    """The tests as an object that `read_job` takes, or what is wrong with them."""
    try:
        row = json.loads(text)
        row = {"language": "python", **row} if isinstance(row, dict) else row
        read_job(row, "")
    except (ValueError, RecursionError) as error:
        return str(error)
    return row

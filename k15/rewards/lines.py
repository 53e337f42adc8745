"""`k15 grade math`: answer pairs or replies as JSON lines in, verdicts as JSON lines out."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from k15.config.answers import read_rules
from k15.config.rl import RewardsConfig
from k15.errors import DataError
from k15.rewards.math import MathItem, MathVerifier
from k15.rewards.strict import audit_reply
from k15.types import Outcome


def grade_math_lines(
    lines: Iterable[str],
    config: RewardsConfig | None = None,
    *,
    with_audit: bool = False,
    read_ahead: int = 0,
) -> Iterator[dict[str, Any]]:
    """One dict {id, verdict, correct, reason, span, seconds} a line, in the order of the lines.

    A line is a JSON object with "gold" and either "answer" (a final answer) or "reply" (a whole
    completion, from which the answer is extracted), an "id" that comes back as it is, and perhaps
    "rules" (docs/rewards.md). "correct" is true, false, or null where the verdict is "fault": such an
    item says nothing about the answer. "span" is where the answer stands in a reply, [start, end) in
    characters, or null. A malformed line becomes a "fault" that says what is wrong with it; blank
    lines are passed over. With `with_audit`, "audit" is what the second grader says of it.

    Each dict comes as soon as it is known; `num_workers` lines are read ahead of it, or `read_ahead` if that
    is more.
    """
    config = config or RewardsConfig()
    waiting: deque[tuple[Any, MathItem | str]] = deque()

    def items() -> Iterator[MathItem | str]:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                item_id, item = _read(line, number)
                waiting.append((item_id, item))
                yield item

    with MathVerifier(
        timeout_seconds=config.timeout_seconds, num_workers=config.num_workers
    ) as verifier:
        for verdict in verifier.judge(items(), read_ahead=read_ahead):
            item_id, item = waiting.popleft()
            row = {
                "id": item_id,
                "verdict": verdict.outcome.value,
                "correct": bool(verdict.correct) if verdict.outcome is not Outcome.FAULT else None,
                "reason": verdict.reason,
                "span": verdict.span,
                "seconds": round(verdict.seconds, 6),
            }
            yield row | {"audit": _audit(item)} if with_audit else row


def _read(line: str, number: int) -> tuple[Any, MathItem | str]:
    """A line's id, and its item or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, f"line {number} is not JSON ({error}); give one object a line"
    if not isinstance(row, dict):
        return None, f"line {number} must be a JSON object; got {line.strip()[:40]!r}"
    row_id = row.get("id")
    if ("answer" in row) == ("reply" in row):
        return (
            row_id,
            f'line {number} must have either "answer" or "reply", and not both; got {sorted(row)}'[:300],
        )
    field = "reply" if "reply" in row else "answer"
    texts: list[str] = []
    for name in ("gold", field):
        value = row.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or (name == "gold" and not value.strip()):
            return (
                row_id,
                f'line {number}: "{name}" must be a text; got {json.dumps(row.get(name))[:40]}',
            )
        texts.append(value)
    try:
        rules = read_rules(row.get("rules"))
    except DataError as error:
        return row_id, f"line {number}: {error}"
    return row_id, MathItem(texts[0], texts[1], is_reply=field == "reply", rules=rules)


def _audit(item: MathItem | str) -> str | None:
    if isinstance(item, str):
        return None
    reply = item.text if item.is_reply else rf"\boxed{{{item.text}}}"
    return audit_reply(item.gold, reply, rules=item.rules).value

"""Demonstrations for supervised fine-tuning: written by the families' solvers, or read from a file.

A file holds JSON lines with "prompt" (or "question") and "completion" (or "response", "answer"), or
with "messages" in the chat format whose last message is the assistant's. "system" is optional.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k15.config.sft import SFTDataConfig
from k15.errors import DataError
from k15.prompts.rows import BadRowError, read_rows
from k15.tasks import get_family
from k15.tasks.demonstrations import build_demonstrations

_QUESTION_FIELDS = ("prompt", "question")
_COMPLETION_FIELDS = ("completion", "response", "answer")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A question and the completion that the model learns to write.

    Attributes:
        source: where it comes from, for error messages.
    """

    question: str
    completion: str
    system: str = ""
    source: str = ""


@dataclass(frozen=True)
class Demonstrations:
    """Demonstrations in the order of their source; `skipped` counts malformed rows by the rule they broke."""

    items: tuple[Demonstration, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_skipped(self) -> int:
        return sum(self.skipped.values())


def load_demonstrations(config: SFTDataConfig) -> Demonstrations:
    """The demonstrations of a config.

    Raises:
        DataError: a row is malformed and `skip_bad_rows` is not set, or no row is left.
        ConfigError: a family or level does not exist, or has too few problems.
    """
    if config.path is None:
        return Demonstrations(tuple(_generated(config)))
    items: list[Demonstration] = []
    skipped: Counter[str] = Counter()
    for line, value in read_rows(config.path, setting="data.path"):
        try:
            items.append(_read(value, config.path, line, config.system))
        except BadRowError as error:
            if not config.skip_bad_rows:
                raise error.at(config.path, line, setting="data.skip_bad_rows") from None
            skipped[error.rule] += 1
    if not items:
        raise DataError(
            f"{config.path} has no usable row to learn from; {dict(skipped)} were skipped. Each row needs a "
            '"prompt" and a "completion".'
        )
    return Demonstrations(tuple(items), dict(skipped))


def _generated(config: SFTDataConfig) -> Iterator[Demonstration]:
    for task in config.tasks:
        made = build_demonstrations(
            get_family(task.family),
            levels=task.levels,
            count=task.num_train,
            seed=config.seed,
            style=config.style,
            keep=config.keep,
        )
        for index, (question, completion) in enumerate(made.pairs):
            yield Demonstration(question, completion, config.system, f"{task.family} {index}")


def _read(value: Any, path: Path, line: int, system: str) -> Demonstration:
    if isinstance(value, BadRowError):
        raise value
    if not isinstance(value, dict):
        raise BadRowError("", "must be a JSON object", value, "Write one object a line")
    if "messages" in value:
        value = _from_messages(value["messages"])
    question, completion = (_text(value, fields) for fields in (_QUESTION_FIELDS, _COMPLETION_FIELDS))
    own_system = _text(value, ("system",)) if value.get("system") else system
    return Demonstration(question, completion, own_system, f"{path}, line {line}")


def _from_messages(messages: Any) -> dict[str, Any]:
    cure = "Give one user message and then one assistant message, with an optional system message before them"
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadRowError("messages", "must be a list of objects with role and content", messages, cure)
    roles = [m.get("role") for m in messages]
    if roles[-2:] != ["user", "assistant"] or roles[:-2] not in ([], ["system"]):
        raise BadRowError("messages", "must be one question and one answer", roles, cure)
    if not all(isinstance(m.get("content"), str) for m in messages):
        raise BadRowError("messages", "must have texts as content", messages, cure)
    system = messages[0]["content"] if roles[0] == "system" else ""
    return {"prompt": messages[-2]["content"], "completion": messages[-1]["content"], "system": system}


def _text(row: dict[str, Any], fields: tuple[str, ...]) -> str:
    name = next((f for f in fields if f in row), None)
    if name is None:
        named = " or ".join(f'"{f}"' for f in fields)
        raise BadRowError(fields[0], f"is missing: a row needs {named}", sorted(row)[:8], "Add it")
    if not isinstance(row[name], str) or not row[name].strip():
        raise BadRowError(name, "must be a text that is not empty", row[name], "Fill it in")
    if any("\ud800" <= char <= "\udfff" for char in row[name]):
        shown = row[name].encode(errors="backslashreplace").decode()
        raise BadRowError(name, "holds half a surrogate pair, which is no character", shown, "Repair it")
    return row[name]

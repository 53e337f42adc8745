"""Rows of a prompt file: read one by one, checked field by field.

A file holds JSON lines, or one JSON array of objects, plain or gzipped. A row needs a question
("question", "prompt" or "problem") and an answer ("answer", "gold" or "solution"). GSM8K's own rows
work: their answer is a worked solution that ends in "#### N", and N is the gold answer. A "solution"
ends in "#### N" or has a \\boxed{} answer. A row may also set "id", "difficulty" (or "level"),
"family", "verifier", "system" and "rules", how its answers are judged (docs/rewards.md). Where the verifier
is "code", the answer is an object with the problem's tests (`k15.sandbox.rows`).
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k15.config.answers import read_rules
from k15.errors import DataError
from k15.types import DEFAULT_RULES, AnswerRules

QUESTION_FIELDS = ("question", "prompt", "problem")
ANSWER_FIELDS = ("answer", "gold", "solution")
DIFFICULTY_FIELDS = ("difficulty", "level")
_LEVEL = re.compile(r"(?:level\s*)?(-?\d+(?:\.\d+)?)", re.IGNORECASE | re.ASCII)


class BadRowError(Exception):
    """A row that cannot be used.

    Attributes:
        field: the field at fault, or "" for the whole row.
        rule: what is wrong with it; rows are counted by this text.
        value: what stands there.
        cure: what to do.
    """

    def __init__(self, field: str, rule: str, value: object, cure: str) -> None:
        super().__init__(rule)
        self.field, self.rule, self.value, self.cure = field, rule, value, cure

    def at(self, path: Path, line: int, *, setting: str = "prompts.skip_bad_rows") -> DataError:
        """The error that stops a run, with file, line, field, value and cure; `setting` skips such rows."""
        where = f'field "{self.field}" ' if self.field else ""
        shown = self.value if isinstance(self.value, str) else json.dumps(self.value, default=str)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return DataError(
            f"{path}, line {line}: {where}{self.rule}; got {shown!r}. {self.cure}, "
            f"or set {setting} to skip and count such rows."
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A usable row; None or "" where the file says nothing."""

    question: str
    answer: str
    row_id: str | None
    difficulty: float | None
    family: str
    verifier: str
    system: str
    rules: AnswerRules = DEFAULT_RULES


def read_rows(path: Path, *, setting: str = "prompts.path") -> Iterator[tuple[int, Any]]:
    """(line, value) of every row that is not blank; the value is a BadRowError where it is no JSON.

    In a file with one JSON array, "line" is the number of the element. `setting` named the file.

    Raises:
        DataError: the file is missing, unreadable or empty.
    """
    content = _read_bytes(path, setting).removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise DataError(f"{path} is empty; {setting} must be a file with one JSON object a line.")
    if content.lstrip()[:1] == b"[":
        array = _parse(content)
        if isinstance(array, list):
            yield from enumerate(array, start=1)
            return
    for line, text in enumerate(content.split(b"\n"), start=1):
        if text.strip():
            yield line, _parse(text)


def read_row(value: Any) -> Row:
    """The fields of a row.

    Raises:
        BadRowError: the row, or one of its fields, cannot be used.
    """
    if isinstance(value, BadRowError):
        raise value
    if not isinstance(value, dict):
        raise BadRowError("", "must be a JSON object", value, "Write one object a line")
    question_field = _first_field(value, QUESTION_FIELDS)
    answer_field = _first_field(value, ANSWER_FIELDS)
    row_id = value.get("id")
    return Row(
        question=_text(value, question_field),
        answer=_gold(value, answer_field),
        row_id=_text(value, "id", allow_numbers=True) if row_id is not None else None,
        difficulty=_difficulty(value),
        family=_optional(value, "family"),
        verifier=_optional(value, "verifier"),
        system=_optional(value, "system"),
        rules=_rules(value),
    )


def _rules(row: dict[str, Any]) -> AnswerRules:
    try:
        return read_rules(row.get("rules"))
    except DataError as error:
        rule = str(error).partition("; got ")[0]
        raise BadRowError("rules", f"cannot be used: {rule}", row["rules"], "Correct it") from None


def _read_bytes(path: Path, setting: str) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError:
        raise DataError(f"{setting} must be a file; {path} does not exist. Check the path.") from None
    except (OSError, EOFError, zlib.error) as error:  # a bad gzip file is an OSError, too
        raise DataError(
            f"cannot read the file {path}: {error}. Give {setting} a readable JSON lines file."
        ) from None


def _parse(text: bytes) -> Any:
    """The JSON value, or the BadRowError that says why there is none."""
    cure = "Write one JSON object a line, in UTF-8"
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        shown = text[max(0, error.start - 20) : error.start + 20].decode(errors="backslashreplace")
        return BadRowError("", "is not valid UTF-8", shown, cure)
    except (ValueError, RecursionError) as error:
        shown = text[:80].decode(errors="backslashreplace").strip()
        return BadRowError("", "is not valid JSON", shown, f"{str(error)[:80]}. {cure}")


def _first_field(row: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if row.get(name) is not None:
            return name
    named = " or ".join(f'"{name}"' for name in names)
    present = next((name for name in names if name in row), None)
    if present is not None:
        raise BadRowError(present, "must be a text", row[present], "Fill it in")
    raise BadRowError(names[0], f"is missing: a row needs {named}", sorted(row)[:8], "Add it")


def _text(row: dict[str, Any], name: str, *, allow_numbers: bool = False) -> str:
    value = row[name]
    if allow_numbers and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadRowError(name, "must be a text", value, "Write it as a JSON string")
    if not value.strip():
        raise BadRowError(name, "must not be empty", value, "Fill it in")
    shown = value.encode(errors="backslashreplace").decode()
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise BadRowError(
            name, "holds half a surrogate pair, which is no character", shown, "Repair the encoding"
        )
    return value.strip()


def _optional(row: dict[str, Any], name: str) -> str:
    return _text(row, name) if row.get(name) not in (None, "") else ""


def _gold(row: dict[str, Any], name: str) -> str:
    if row.get("verifier") == "code":  # the tests, as an object or as its JSON text
        return json.dumps(row[name]) if isinstance(row[name], dict) else _text(row, name)
    text = _text(row, name, allow_numbers=True)
    _, mark, final = text.rpartition("####")
    if mark:
        if not final.strip():
            raise BadRowError(
                name, 'must have the gold answer after "####"', text[-60:], "Write it there"
            )
        return final.strip()
    if name != "solution":
        return text
    boxed = _last_boxed(text)
    if not boxed:
        cure = 'Add an "answer" with the gold answer alone'
        raise BadRowError(name, 'must end in "#### N" or have its answer in \\boxed{}', text[-60:], cure)
    return boxed


def _last_boxed(text: str) -> str:
    r"""What stands in the last \boxed{...}; "" if there is none, or its braces are not balanced."""
    _, box, rest = text.rpartition(r"\boxed{")
    if not box:
        return ""
    depth = 1
    for token in re.finditer(r"\\.|[{}]", rest, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return rest[: token.start()].strip()
    return ""


def _difficulty(row: dict[str, Any]) -> float | None:
    for name in DIFFICULTY_FIELDS:
        value = row.get(name)
        if value is None:
            continue
        match = _LEVEL.fullmatch(value.strip()) if isinstance(value, str) else None
        number = match[1] if match else value
        if (
            isinstance(value, bool)
            or not (match or isinstance(value, (int, float)))
            or not abs(float(number)) < 1e9
        ):
            raise BadRowError(
                name, 'must be a number, or a text such as "Level 3"', value, "Correct or remove it"
            )
        return float(number)
    return None

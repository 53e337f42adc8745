"""From a row as it is published to a problem: one reader a format.

A reader gets a JSON object (of a file, or of the hub, whose rows have the same fields) and the row's number,
and raises BadRowError for a row that cannot be used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from k15.config.answers import rules_as_row
from k15.eval.choice import ask
from k15.eval.problem import Problem
from k15.prompts.rows import BadRowError, read_row
from k15.prompts.rows import Row as CheckedRow
from k15.rewards.choice import LETTERS
from k15.sandbox.base import StdinTest
from k15.sandbox.rows import read_job

Row = Mapping[str, Any]
Reader = Callable[[Row, int], Problem]

# In these sets 58,500 is a number; the grader, which does not know the set, would also accept the list 500, 58.
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+", re.ASCII)


def read_math(row: Row, number: int) -> Problem:
    """MATH-500, AIME and GSM8K: a question, its gold answer, a worked solution."""
    known = {key.lower(): value for key, value in row.items()}  # one AIME set writes "Problem"
    read = read_row(known)
    solution = known.get("solution") or known.get("answer")
    return Problem(
        problem_id=str(known.get("unique_id") or known.get("id") or number),
        question=read.question,
        gold=read.answer.replace(",", "") if _THOUSANDS.fullmatch(read.answer) else read.answer,
        verifier="math",
        difficulty=_label(known, "level"),
        solution=str(solution),
    )


def read_humaneval(row: Row, number: int) -> Problem:
    """HumanEval: the head of a function, hidden tests, a reference body."""
    head, name = _text(row, "prompt"), _text(row, "entry_point")
    question = (
        f"Complete this Python function. Write the whole function, with the imports it needs, in one "
        f"```python block.\n\n```python\n{head}```"
    )
    return Problem(
        problem_id=_text(row, "task_id"),
        question=question,
        gold="",
        verifier="code",
        details={"kind": "assert", "head": head, "entry_point": name, "tests": _text(row, "test")},
        solution=f"```python\n{head}{_text(row, 'canonical_solution')}\n```",
    )


def read_choice(row: Row, number: int) -> Problem:
    """MMLU ("choices", "answer" as a number or letter) and C-Eval ("A" to "D", "answer" as a letter)."""
    if row.get("choices") is not None:
        options = row["choices"]
        if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
            raise BadRowError("choices", "must be a list of two to 26 texts", options, "Correct it")
        options = [str(option) for option in options]
    else:
        options = [str(row[letter]) for letter in LETTERS if row.get(letter) is not None]
        if len(options) < 2:
            raise BadRowError(
                "choices", 'is missing: give a list, or columns "A", "B", ...', sorted(row)[:8], "Add it"
            )
    gold = _letter(row.get("answer"), len(options))
    question = _text(row, "question")
    return Problem(
        problem_id=str(
            row.get("id") if row.get("id") is not None else f"{row.get('subject') or 'row'}/{number}"
        ),
        question=ask(question, options),
        gold=gold,
        verifier="choice",
        difficulty=_label(row, "subject"),
        details={"options": options},
        solution=f"\\boxed{{{gold}}}",
    )


def read_cluewsc(row: Row, number: int) -> Problem:
    """CLUEWSC: whether a pronoun in a Chinese sentence means a name. "label" is true, "true", or the hub's 0."""
    target = row.get("target")
    if not isinstance(target, dict):
        raise BadRowError("target", "must be an object with span1_text and span2_text", target, "Add it")
    label = row.get("label")
    truths = {True: True, "true": True, "false": False, False: False}
    if isinstance(label, int) and not isinstance(label, bool):
        label = {0: True, 1: False}.get(label)  # a ClassLabel: its first name is "true"
    if label not in truths:
        raise BadRowError("label", 'must be "true" or "false"', row.get("label"), "Correct it")
    name, pronoun = _text(target, "span1_text"), _text(target, "span2_text")
    options = ["是", "否"]
    question = f"{_text(row, 'text')}\n\n上文中的“{pronoun}”指的是“{name}”吗？"
    gold = "A" if truths[label] else "B"
    return Problem(
        problem_id=str(row.get("idx", number)),
        question=ask(question, options),
        gold=gold,
        verifier="choice",
        details={"options": options},
        solution=f"\\boxed{{{gold}}}",
    )


def read_ifeval(row: Row, number: int) -> Problem:
    """IFEval: a prompt and the instructions in it that can be checked."""
    names, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments):
        raise BadRowError("instruction_id_list", "must be a list as long as kwargs", names, "Correct it")
    return Problem(
        problem_id=str(row.get("key", number)),
        question=_text(row, "prompt"),
        gold="",
        verifier="ifeval",
        details={
            "instructions": [
                {"id": name, "arguments": {k: v for k, v in (given or {}).items() if v is not None}}
                for name, given in zip(names, arguments, strict=True)
            ]
        },
    )


def read_livecodebench(row: Row, number: int) -> Problem:
    """LiveCodeBench: a programming problem with public and packed private tests, decoded when they are run."""
    try:
        metadata = json.loads(row.get("metadata") or "{}")
    except ValueError:
        raise BadRowError("metadata", "must be JSON", row.get("metadata"), "Correct it") from None
    starter, function = str(row.get("starter_code") or ""), metadata.get("func_name")
    if function:
        how = f"Complete this code, and give all of it in one ```python block.\n\n```python\n{starter}\n```"
    else:
        how = "Write a Python program that reads standard input and prints the answer, in one ```python block."
    return Problem(
        problem_id=_text(row, "question_id"),
        question=f"{_text(row, 'question_content')}\n\n{how}",
        gold="",
        verifier="code",
        difficulty=_label(row, "difficulty"),
        details={
            "kind": "call" if function else "stdin",
            "entry_point": function or "",
            "statement": "" if function else _text(row, "question_content"),
            "public": _text(row, "public_test_cases"),
            "private": _text(row, "private_test_cases"),
            "date": str(row.get("contest_date") or "")[:10],
        },
    )


def read_own(row: Row, number: int) -> Problem:
    """A user's own row: "question" and "answer", and "rules" how to judge it; with "choices" it is multiple choice."""
    if row.get("choices") is not None or {"A", "B"} <= row.keys():
        return read_choice(row, number)
    checked = read_row(row)
    named = checked.verifier or "math"
    if named == "code":
        return _own_code(checked, number)
    if named != "math" and not named.startswith("task:"):
        cure = 'Write "math", "code" or "task:NAME"'
        raise BadRowError("verifier", "must be one that k15 eval knows", named, cure)
    plain = (
        "\\boxed{{{}}}" if named == "math" else "</think>\nAnswer: {}"
    )  # families have a form of their own
    solution = row.get("solution") or (row.get("answer") if "####" in str(row.get("answer")) else None)
    return Problem(
        problem_id=checked.row_id or f"line {number}",
        question=checked.question,
        gold=checked.answer,
        verifier=named,
        difficulty=_level(checked),
        details={"rules": rules} if (rules := rules_as_row(checked.rules)) else {},
        solution=str(solution or plain.format(checked.answer)),
    )


def _own_code(row: CheckedRow, number: int) -> Problem:
    """A programming problem of one's own, whose answer is its tests in the form of `k15.sandbox.rows`."""
    try:
        job = read_job({"language": "python", **json.loads(row.answer)}, "")
    except (ValueError, TypeError) as error:
        cure = "Write an object with tests, as for k15 grade code"
        raise BadRowError("answer", f"must hold tests: {error}"[:200], row.answer, cure) from None
    return Problem(
        problem_id=row.row_id or f"line {number}",
        question=row.question,
        gold="",
        verifier="code",
        difficulty=_level(row),
        details={
            "kind": "tests",
            "tests": row.answer,
            "statement": row.question if all(isinstance(t, StdinTest) for t in job.tests) else "",
        },
    )


def _level(row: CheckedRow) -> str:
    return f"{row.difficulty:g}" if row.difficulty is not None else ""


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(name, "must be a text", value, "Fill it in")
    return value


def _label(row: Row, name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value)


def _letter(answer: Any, count: int) -> str:
    if isinstance(answer, str) and answer.strip().isdigit():
        answer = int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < count:
        return LETTERS[answer]
    letter = answer.strip().upper() if isinstance(answer, str) else ""
    if len(letter) == 1 and letter in LETTERS[:count]:
        return letter
    raise BadRowError(
        "answer", "must be the letter or the number (from 0) of an option", answer, "Correct it"
    )

"""Run folders as the report sees them: rows of metrics and completions, checked value by value.

A run folder may come from a crashed process, an older version or another program. Whatever is missing or
of the wrong kind becomes None or "" here, once, so that no drawing code has to ask again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from k15.record.reader import RunReader
from k15.report.statistics import Point

Row = Mapping[str, object]

LARGEST = 1e100
"""A number from here on is no measurement; sums of it would overflow."""


def number(row: Row, key: str) -> float | None:
    """The finite number under a key; None if it is missing, NaN, infinite or something else."""
    value = row.get(key)
    if not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:  # JSON allows whole numbers of any size
        return None
    return value if abs(value) < LARGEST else None


def integer(row: Row, key: str) -> int | None:
    """The whole number under a key, or None."""
    value = number(row, key)
    return None if value is None else int(value)


def text(row: Row, key: str) -> str:
    """The value under a key as text; "" if it is missing or None."""
    value = row.get(key)
    return "" if value is None else str(value)


def table(row: Row, key: str) -> Row:
    """The table under a key; empty if it is missing or something else."""
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True, slots=True)
class SegmentSpan:
    """One segment of a completion, in tokens."""

    start: int
    num_tokens: int
    policy_version: int | None
    num_chars: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One line of a rollouts file. `outcome` and `stop` keep the words of the record."""

    iteration: int
    ordinal: int
    sample_index: int
    prompt_id: str
    family: str
    difficulty: float | None
    question: str
    answer: str
    text: str
    segments: tuple[SegmentSpan, ...]
    stop: str
    length: int
    outcome: str
    reason: str
    extracted: str
    reward: float | None
    length_reward: float | None
    advantage: float | None
    trained_tokens: int | None

    @property
    def is_right(self) -> bool:
        return self.outcome == "right"

    @property
    def is_fault(self) -> bool:
        return self.outcome == "fault"


def read_completion(record: Row, iteration: int) -> Completion | None:
    """The completion of one line, or None if the line does not say which trajectory it is."""
    ordinal, sample_index = integer(record, "ordinal"), integer(record, "sample_index")
    if ordinal is None or sample_index is None:
        return None
    tokens = record.get("token_ids")
    length = integer(record, "length")
    outcome = text(record, "outcome")
    if not outcome:
        outcome = "right" if number(record, "correct") == 1.0 else "wrong"
    return Completion(
        iteration=iteration,
        ordinal=ordinal,
        sample_index=sample_index,
        prompt_id=text(record, "prompt_id"),
        family=text(record, "family"),
        difficulty=number(record, "difficulty"),
        question=text(record, "question"),
        answer=text(record, "answer"),
        text=text(record, "completion"),
        segments=_read_segments(record.get("segments")),
        stop=text(record, "stop"),
        length=length if length is not None else (len(tokens) if isinstance(tokens, list) else 0),
        outcome=outcome,
        reason=text(record, "reason"),
        extracted=text(record, "extracted"),
        reward=number(record, "reward"),
        length_reward=number(record, "length_reward"),
        advantage=number(record, "advantage"),
        trained_tokens=integer(record, "trained_tokens"),
    )


def _read_segments(value: object) -> tuple[SegmentSpan, ...]:
    if not isinstance(value, list):
        return ()
    spans = []
    for item in value:
        num_tokens = integer(item, "num_tokens") if isinstance(item, Mapping) else None
        if num_tokens is None or num_tokens < 0:
            continue
        spans.append(
            SegmentSpan(
                start=integer(item, "start") or 0,
                num_tokens=num_tokens,
                policy_version=integer(item, "policy_version"),
                num_chars=integer(item, "num_chars"),
            )
        )
    return tuple(spans)


@dataclass(frozen=True)
class Stage:
    """One run folder in a report.

    Attributes:
        name: what the page calls it.
        kind: "rl" (rows have an iteration), "sft" (rows have a step), "empty" (no usable rows).
        rows: one row per iteration or step, in order; of two rows with one number the later wins.
        offset: added to the iteration on the axis that all RL stages of a page share.
    """

    name: str
    kind: Literal["rl", "sft", "empty"]
    rows: tuple[Row, ...]
    offset: int
    reader: RunReader
    notices: tuple[str, ...] = ()

    @property
    def config(self) -> Row:
        return self.reader.config

    @property
    def iterations(self) -> list[int]:
        """The iterations that have a row of metrics."""
        return [int(number(row, "iteration") or 0) for row in self.rows] if self.kind == "rl" else []

    def completions(self, iteration: int) -> Iterator[Completion]:
        """The completions trained in an iteration, one at a time; none if there is no such file."""
        for record in self.reader.rollouts(iteration):
            completion = read_completion(record, iteration) if isinstance(record, Mapping) else None
            if completion is not None:
                yield completion


def open_stage(name: str, path: Path, offset: int = 0) -> Stage:
    """The run folder at `path`, as one stage of a report."""
    reader = RunReader(path)
    rows = [row for row in reader.metrics if isinstance(row, Mapping)]
    kind, key = _kind_of(rows)
    numbered = {place: row for row in rows if (place := integer(row, key)) is not None}
    if not numbered:
        return Stage(name, "empty", (), offset, reader, ("There is no line of metrics yet.",))
    notices = []
    if len(numbered) < len(rows):
        notices.append(
            f"{len(rows) - len(numbered)} lines of metrics repeat another line's {key} or have none; "
            "the last line of each counts."
        )
    ordered = tuple(numbered[place] for place in sorted(numbered))
    return Stage(name, kind, ordered, offset, reader, tuple(notices))


def _kind_of(rows: Sequence[Row]) -> tuple[Literal["rl", "sft"], str]:
    """What wrote these rows, and the key that numbers them."""
    if any(key.startswith(("train/", "update/", "rollout/")) for row in rows for key in row):
        return "rl", "iteration"
    if any("step" in row for row in rows):
        return "sft", "step"
    return ("sft" if any("loss" in row for row in rows) else "rl"), "iteration"


@dataclass(frozen=True)
class Timeline:
    """The RL stages of a page, one after the other on one axis of iterations."""

    stages: tuple[Stage, ...]

    @property
    def boundaries(self) -> tuple[tuple[float, str], ...]:
        """Where each stage starts, with its name; empty when there is one stage only."""
        if len(self.stages) < 2:
            return ()
        return tuple((float(s.offset + s.iterations[0]), s.name) for s in self.stages)

    def points(self, key: str) -> list[Point]:
        """(iteration on the common axis, value) wherever the key holds a finite number."""
        found = []
        for stage in self.stages:
            for row in stage.rows:
                value = number(row, key)
                if value is not None:
                    found.append((stage.offset + (number(row, "iteration") or 0.0), value))
        return found

    def suffixes(self, prefix: str) -> list[str]:
        """What follows `prefix` in the keys of any row, as in levels; numbers in numeric order."""
        found = {
            key[len(prefix) :]
            for s in self.stages
            for row in s.rows
            for key in row
            if key.startswith(prefix)
        }
        return sorted(
            found, key=lambda name: (not _is_number(name), float(name) if _is_number(name) else 0, name)
        )

    def not_finite(self) -> Counter[str]:
        """How often each metric was NaN or infinite, which a record stores as null."""
        return Counter(
            key
            for stage in self.stages
            for row in stage.rows
            for key, value in row.items()
            if "/" in key and (value is None or (isinstance(value, float) and not math.isfinite(value)))
        )


def build_timeline(stages: list[Stage]) -> tuple[Timeline, list[Stage]]:
    """RL stages placed one after the other, and all stages with their offsets."""
    placed, offset = [], 0
    for stage in stages:
        if stage.kind == "rl":
            first, last = stage.iterations[0], stage.iterations[-1]
            start = offset - first if placed and offset else 0
            stage = Stage(stage.name, stage.kind, stage.rows, start, stage.reader, stage.notices)
            offset = start + last + 1
        placed.append(stage)
    return Timeline(tuple(s for s in placed if s.kind == "rl")), placed


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False

"""Run folders as the report sees them: rows of metrics and completions, checked value by value.

A run folder may come from a crashed process, an older version or another program. Whatever is missing or
of the wrong kind becomes None or "" here, once, so that no drawing code has to ask again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from k15.record.reader import RunReader

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

    @property
    def num_iterations_done(self) -> int:
        """Iterations with a line of metrics; the line of the last evaluation alone is none."""
        worked = ("rollout/", "train/", "update/")
        return sum(any(key.startswith(worked) for key in row) for row in self.rows)

    @property
    def length_reward_from(self) -> int | None:
        """The iteration in which the length reward switched on, if it was off before."""
        weighed = [(number(row, "iteration"), number(row, "length_weight")) for row in self.rows]
        known = [(int(at), weight) for at, weight in weighed if at is not None and weight is not None]
        switch = next((at for at, weight in known if weight > 0), None)
        return switch if known and switch != known[0][0] else None

    def metric(self, iteration: int, key: str) -> float | None:
        """One metric of one iteration."""
        return next(
            (number(row, key) for row in self.rows if number(row, "iteration") == iteration), None
        )

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

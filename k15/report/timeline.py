"""The common axis: RL stages one after the other, each in one phase or two."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from k15.report.axes import Boundary
from k15.report.runs import Stage, number
from k15.report.statistics import Point


@dataclass(frozen=True)
class Phase:
    """A stretch of the common axis: a stage, or the part of one with or without the length reward.

    Attributes:
        stage: index of the stage.
        first, last: the iterations it covers, on the common axis.
        is_new_run: a run folder begins here; else the same policy goes on.
    """

    name: str
    stage: int
    first: int
    last: int
    is_new_run: bool


@dataclass(frozen=True)
class Timeline:
    """The RL stages of a page, one after the other on one axis of iterations."""

    stages: tuple[Stage, ...]

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All phases in order; a stage in which the length reward switches on has two."""
        found = []
        for index, stage in enumerate(self.stages):
            name = stage.name if len(self.stages) > 1 else ""
            first, last = (stage.offset + stage.iterations[i] for i in (0, -1))
            switch = stage.length_reward_from
            if switch is None:
                found.append(Phase(stage.name, index, first, last, True))
            else:
                before, after = (
                    f"{name}, {part}".removeprefix(", ")
                    for part in ("no length reward", "length reward")
                )
                found.append(Phase(name or before, index, first, stage.offset + switch - 1, True))
                found.append(Phase(after, index, stage.offset + switch, last, False))
        return tuple(found)

    @property
    def boundaries(self) -> tuple[Boundary, ...]:
        """Where each phase starts; empty when there is one only."""
        phases = self.phases
        return tuple(Boundary(p.first, p.name, p.is_new_run) for p in phases) if len(phases) > 1 else ()

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


def build_timeline(stages: Sequence[Stage]) -> tuple[Timeline, list[Stage]]:
    """RL stages placed one after the other, and all stages with their offsets."""
    placed: list[Stage] = []
    free: int | None = None  # the first iteration after the stages so far
    for stage in stages:
        if stage.kind == "rl":
            stage = replace(stage, offset=0 if free is None else free - stage.iterations[0])
            free = stage.offset + stage.iterations[-1] + 1
        placed.append(stage)
    return Timeline(tuple(s for s in placed if s.kind == "rl")), placed


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False

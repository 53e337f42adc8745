"""One streaming pass over the recorded completions: counts per iteration, and a short summary of each group.

Texts are not kept. The few that the page shows are read a second time, from the iterations they are in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from k15.report.runs import Completion, Stage, number
from k15.report.statistics import Mean, mean_of, spread

MOST_COMPLETIONS = 120_000
"""Of longer runs evenly spread iterations are read, so that a report takes seconds, not minutes."""


@dataclass(frozen=True, slots=True)
class Member:
    """One completion of a group, without its text."""

    sample_index: int
    length: int
    outcome: str
    stop: str
    num_versions: int
    advantage: float | None
    reward: float | None
    length_reward: float | None

    @property
    def is_right(self) -> bool:
        return self.outcome == "right"


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """A group, without its texts. `x` is its iteration on the page's axis, `stage` an index of the stages."""

    stage: int
    iteration: int
    x: int
    ordinal: int
    prompt_id: str
    difficulty: float | None
    members: tuple[Member, ...]

    @property
    def num_right(self) -> int:
        return sum(m.is_right for m in self.members)

    @property
    def right_lengths(self) -> list[int]:
        return [m.length for m in self.members if m.is_right]


@dataclass(frozen=True, slots=True)
class IterationTally:
    """What was trained in one iteration. `accuracy` is over groups, whose members share a prompt."""

    stage: int
    iteration: int
    x: int
    accuracy: Mean | None
    stops: Counter[str]
    difficulties: Counter[float]
    resumed_share: float


@dataclass(frozen=True)
class Scan:
    """Everything one pass over the rollouts of all stages found."""

    tallies: tuple[IterationTally, ...]
    groups: tuple[GroupSummary, ...]
    notices: tuple[str, ...]


def scan_rollouts(stages: Sequence[Stage], most_completions: int = MOST_COMPLETIONS) -> Scan:
    """Read the rollouts of all RL stages once, in order."""
    tallies: list[IterationTally] = []
    groups: list[GroupSummary] = []
    notices: list[str] = []
    expected = sum(number(row, "train/num_completions") or 0.0 for stage in stages for row in stage.rows)
    for index, stage in enumerate(stages):
        prefix = f"{stage.name}: " if len(stages) > 1 else ""
        stored = list(stage.reader.iterations)
        chosen = spread(
            stored, max(2, int(len(stored) * min(1.0, most_completions / max(expected, 1.0))))
        )
        if len(chosen) < len(stored):
            notices.append(
                f"{prefix}the completions of {len(chosen)} of {len(stored)} iterations were read, evenly spread, "
                "because the run is long. Curves made from metrics show every iteration."
            )
        missing = {
            int(number(row, "iteration") or 0)
            for row in stage.rows
            if number(row, "train/num_completions")
        }
        missing -= set(stored)
        if missing:
            notices.append(
                f"{prefix}the completions of {len(missing)} of {stage.num_iterations_done} iterations are not stored."
            )
        for iteration in chosen:
            found = summarize_groups(stage.completions(iteration), index, stage.offset)
            groups.extend(found)
            if found:
                tallies.append(_tally(found))
    return Scan(tuple(tallies), tuple(groups), tuple(notices))


def summarize_groups(completions: Iterable[Completion], stage: int, offset: int) -> list[GroupSummary]:
    """Summaries of the groups of one iteration, in the order in which they first appear."""
    firsts: dict[int, Completion] = {}
    members: dict[int, dict[int, Member]] = {}
    for c in completions:
        firsts.setdefault(c.ordinal, c)
        members.setdefault(c.ordinal, {})[c.sample_index] = Member(
            c.sample_index,
            c.length,
            c.outcome,
            c.stop,
            len({s.policy_version for s in c.segments}),
            c.advantage,
            c.reward,
            c.length_reward,
        )
    return [
        GroupSummary(
            stage=stage,
            iteration=first.iteration,
            x=first.iteration + offset,
            ordinal=ordinal,
            prompt_id=first.prompt_id,
            difficulty=first.difficulty,
            members=tuple(members[ordinal][i] for i in sorted(members[ordinal])),
        )
        for ordinal, first in firsts.items()
    ]


def _tally(groups: Sequence[GroupSummary]) -> IterationTally:
    members = [m for group in groups for m in group.members]
    shares = []
    for group in groups:
        valid = [m for m in group.members if m.outcome != "fault"]
        if valid:
            shares.append(sum(m.is_right for m in valid) / len(valid))
    return IterationTally(
        stage=groups[0].stage,
        iteration=groups[0].iteration,
        x=groups[0].x,
        accuracy=mean_of(shares),
        stops=Counter(m.stop or "unknown" for m in members),
        difficulties=Counter(g.difficulty for g in groups if g.difficulty is not None),
        resumed_share=sum(m.num_versions > 1 for m in members) / len(members),
    )

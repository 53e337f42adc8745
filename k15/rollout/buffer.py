"""The rollout buffer: groups of trajectories that grow by one segment an iteration (section 2.6.2).

A group is opened once, by a draw of the sampler; each of its k trajectories gains segments until
it stops; when all k have stopped the group leaves, once. What is unfinished goes first in the
next iteration, also after a crash: between two checkpoints every segment stands in a journal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from k15.config.answers import read_rules, rules_as_row
from k15.crashpoints import crashpoint
from k15.errors import RolloutBufferError
from k15.rollout.journal import Journal, read_journals
from k15.types import Group, Prompt, Segment, StopReason, Trajectory, Weights, Work


class RolloutBuffer:
    """Groups that are open, oldest first.

    Args:
        group_size: k, trajectories per group.
        journal_folder: where finished segments are written down at once; None = nowhere (tests, evaluation).
        fsync_seconds: the journal is fsynced at most this often, and by `sync`.
    """

    def __init__(
        self, group_size: int, journal_folder: Path | None = None, fsync_seconds: float = 0.0
    ) -> None:
        self.group_size = group_size
        self._groups: dict[int, Group] = {}
        self._folder = journal_folder
        self._fsync_seconds = fsync_seconds
        self._journal: Journal | None = None
        self._recovered: dict[tuple[int, int, int], Segment] = {}
        self.num_recovered = 0
        if journal_folder is not None:
            self._start_journal(0)

    def __len__(self) -> int:
        """Groups that are open."""
        return len(self._groups)

    @property
    def prompt_ids(self) -> set[str]:
        """The prompts of the open groups: they are not drawn a second time meanwhile."""
        return {group.prompt.prompt_id for group in self._groups.values()}

    @property
    def num_unfinished(self) -> int:
        """Trajectories that have not stopped."""
        return sum(not t.is_finished for group in self._groups.values() for t in group.trajectories)

    @property
    def num_failed_writes(self) -> int:
        """Segments that the disk refused; they are safe in memory, and sampled again after a kill."""
        return self._journal.num_failed if self._journal is not None else 0

    def segments_of(self, version: int) -> list[Segment]:
        """The segments that open trajectories gained from this policy version."""
        return [
            trajectory.segments[-1]
            for group in self._groups.values()
            for trajectory in group.trajectories
            if self._has_grown(trajectory, version)
        ]

    def open(self, draws: Iterable[tuple[int, Prompt]], iteration: int) -> None:
        """Open a group of k empty trajectories for each draw (ordinal, prompt).

        Raises:
            RolloutBufferError: the ordinal is not new, or the prompt was not rendered to tokens.
        """
        for ordinal, prompt in draws:
            if self._groups and ordinal <= max(self._groups):
                raise RolloutBufferError(
                    f"draws have increasing ordinals; got {ordinal} after {max(self._groups)}."
                )
            if not prompt.token_ids:
                raise RolloutBufferError(
                    f"prompt {prompt.prompt_id} has no tokens; render it before it is opened."
                )
            trajectories = tuple(Trajectory(ordinal, index) for index in range(self.group_size))
            self._groups[ordinal] = Group(ordinal, prompt, iteration, trajectories)

    def unfinished(self, weights: Weights) -> Iterator[Work]:
        """Work for the engine: every trajectory that has not stopped, oldest group first.

        A segment that the journal of a killed process holds, sampled from just these weights, is
        taken over and not sampled again.
        """
        for ordinal in list(self._groups):
            group = self._groups[ordinal]
            for trajectory in group.trajectories:
                if trajectory.is_finished or self._has_grown(trajectory, weights.version):
                    continue
                saved = self._recovered.pop((ordinal, trajectory.sample_index, trajectory.length), None)
                if saved is not None and self._is_from(saved, weights):
                    self._add(saved)
                    self.num_recovered += 1
                else:
                    yield Work(
                        ordinal, trajectory.sample_index, group.prompt.token_ids, trajectory.token_ids
                    )

    @staticmethod
    def _has_grown(trajectory: Trajectory, version: int) -> bool:
        """One segment an iteration: true if this one's was sampled before a stop in the middle of the phase."""
        return bool(trajectory.segments) and trajectory.segments[-1].policy_version == version

    @staticmethod
    def _is_from(segment: Segment, weights: Weights) -> bool:
        return segment.fingerprint == weights.fingerprint and segment.policy_version == weights.version

    def append(self, segment: Segment) -> None:
        """Add one segment to its trajectory and write it to the journal.

        Raises:
            RolloutBufferError: the trajectory is unknown, has stopped, or has another length than `start`.
        """
        self._add(segment)
        if self._journal is not None:
            self._journal.append(segment)

    def _add(self, segment: Segment) -> None:
        group = self._groups.get(segment.ordinal)
        if group is None or not 0 <= segment.sample_index < self.group_size:
            raise RolloutBufferError(
                f"a segment belongs to an open trajectory; got ordinal {segment.ordinal}, sample "
                f"{segment.sample_index}. Open are {sorted(self._groups)[:5]}..."
            )
        old = group.trajectories[segment.sample_index]
        if old.is_finished or segment.start != old.length:
            raise RolloutBufferError(
                f"a segment continues an unfinished trajectory at its end; {segment.ordinal}/{segment.sample_index} "
                f"has {old.length} tokens and stop {old.stop}, the segment starts at {segment.start}."
            )
        if len(segment.token_ids) != len(segment.logprobs) or not segment.token_ids:
            raise RolloutBufferError(
                f"a segment has at least one token and one log-probability for each; got {len(segment.token_ids)} "
                f"tokens and {len(segment.logprobs)} log-probabilities."
            )
        new = replace(old, segments=(*old.segments, segment))
        at = segment.sample_index
        self._groups[segment.ordinal] = replace(
            group, trajectories=(*group.trajectories[:at], new, *group.trajectories[at + 1 :])
        )

    def sync(self) -> None:
        """Everything appended so far is on the disk after this."""
        if self._journal is not None:
            self._journal.sync()

    def take_finished(self) -> list[Group]:
        """The groups whose trajectories have all stopped, oldest first; they leave the buffer."""
        finished = [group for group in self._groups.values() if group.is_finished]
        for group in finished:
            del self._groups[group.ordinal]
        return finished

    # -- state ---------------------------------------------------------------------------------

    def save_to(self, directory: Path) -> None:
        """Write the open groups, one JSON line each."""
        with open(directory / "groups.jsonl", "w") as file:
            for group in self._groups.values():
                file.write(json.dumps(_group_as_row(group)) + "\n")

    def load_from(self, directory: Path) -> None:
        """Take over the groups that `save_to` wrote."""
        self._groups = {}
        for line in (directory / "groups.jsonl").read_text().splitlines():
            group = _group_from_json(json.loads(line))
            if len(group.trajectories) != self.group_size:
                raise RolloutBufferError(
                    f"group_size must be {len(group.trajectories)}, as it was when the buffer was saved; "
                    f"got {self.group_size}."
                )
            self._groups[group.ordinal] = group

    def start_journal(self, iteration: int) -> None:
        """From here on segments go to the journal of the checkpoint just written."""
        if self._folder is not None:
            self._start_journal(iteration)

    def recover(self, iteration: int) -> int:
        """Read the segments written since the checkpoint of `iteration`; the number found.

        They are taken over by `unfinished` where the weights are the same, and sampled again otherwise.
        """
        if self._folder is None:
            return 0
        found = read_journals(
            p for p in sorted(self._folder.glob("*.journal")) if int(p.stem) >= iteration
        )
        self._recovered = {(s.ordinal, s.sample_index, s.start): s for s in found}
        self._start_journal(iteration)
        return len(self._recovered)

    def forget_before(self, iteration: int) -> None:
        """Delete the journals that no checkpoint on the disk needs any more."""
        if self._folder is not None:
            for path in self._folder.glob("*.journal"):
                if int(path.stem) < iteration:
                    path.unlink()

    def _start_journal(self, iteration: int) -> None:
        assert self._folder is not None
        crashpoint("buffer.before_journal_switch")
        if self._journal is not None:
            self._journal.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(
            self._folder / f"{iteration:06d}.journal", fsync_seconds=self._fsync_seconds
        )
        crashpoint("buffer.after_journal_switch")

    def close(self) -> None:
        """Sync and close the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def _group_as_row(group: Group) -> dict:
    row = asdict(group)
    row["prompt"]["rules"] = rules_as_row(group.prompt.rules)
    return row


def _group_from_json(data: dict) -> Group:
    row = data["prompt"]
    prompt = Prompt(
        **{**row, "token_ids": tuple(row["token_ids"]), "rules": read_rules(row.get("rules"))}
    )
    trajectories = tuple(
        Trajectory(t["ordinal"], t["sample_index"], tuple(_segment_from_json(s) for s in t["segments"]))
        for t in data["trajectories"]
    )
    return Group(data["ordinal"], prompt, data["opened_at"], trajectories)


def _segment_from_json(data: dict) -> Segment:
    stop = None if data["stop"] is None else StopReason(data["stop"])
    return Segment(
        **{
            **data,
            "token_ids": tuple(data["token_ids"]),
            "logprobs": tuple(data["logprobs"]),
            "stop": stop,
        }
    )

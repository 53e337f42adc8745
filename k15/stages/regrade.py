"""Judge a run's stored completions again: after a change of the grader, of its settings, or of a rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from k15.config.answers import read_rules
from k15.config.base import load_config
from k15.config.rl import RewardsConfig, RLConfig
from k15.errors import RunFolderError
from k15.models.load import load_tokenizer
from k15.prompts.render import render_prompt
from k15.record.reader import RunReader
from k15.rewards.grader import Grader
from k15.stages.launch import FINAL_MODEL
from k15.types import Group, Outcome, Prompt, Segment, StopReason, Trajectory, Verdict

Row = Mapping[str, Any]

_SECTION = "--rewards."


@dataclass(frozen=True)
class Regraded:
    """What came of judging a run again.

    Attributes:
        num_completions: completions judged.
        num_right_before, num_right: those that were right in the run, and now.
        changes: one object for each completion with another outcome: iteration, ordinal, sample_index, prompt_id,
            answer, extracted, was, now, reason.
    """

    num_completions: int
    num_right_before: int
    num_right: int
    changes: tuple[dict[str, Any], ...]

    def describe(self) -> str:
        """One sentence for a person."""
        return (
            f"{self.num_completions} completions judged again: {len(self.changes)} verdicts changed, "
            f"{self.num_right_before} were right and {self.num_right} are"
        )


def regrade(path: Path, flags: Sequence[str] = ()) -> Regraded:
    """Judge every stored completion of an RL run again, with the run's settings and `--rewards.KEY VALUE` flags.

    Nothing in the folder changes; the policy is not loaded, only its tokenizer. With equal settings and an
    unchanged grader every verdict is what it was.

    Raises:
        RunFolderError: the folder holds no completions.
        ConfigError: a setting is wrong.
    """
    reader = RunReader(path)
    if not reader.config or not reader.iterations:
        raise RunFolderError(
            f"a run folder of k15 rl with stored completions is needed; {path} has none. Check the path."
        )
    config = RLConfig.model_validate(reader.config)
    rewards = _with_flags(config.rewards, flags)
    final = path / FINAL_MODEL
    tokenizer = load_tokenizer(str(final if final.exists() else config.model.path))
    num_completions = num_before = num_right = 0
    changes: list[dict[str, Any]] = []
    with Grader(rewards, tokenizer, seed=config.run.seed) as grader:
        for iteration in reader.iterations:
            rows = reader.rollouts(iteration)
            groups = [_group(list(members), config, tokenizer) for members in _by_group(rows)]
            verdicts = [verdict for row in grader.grade(groups) for verdict in row]
            num_completions += len(rows)
            num_before += sum(row["outcome"] == Outcome.RIGHT for row in rows)
            num_right += sum(verdict.outcome is Outcome.RIGHT for verdict in verdicts)
            changes += [
                _change(row, verdict)
                for row, verdict in zip(rows, verdicts, strict=True)
                if row["outcome"] != verdict.outcome
            ]
    return Regraded(num_completions, num_before, num_right, tuple(changes))


def _with_flags(rewards: RewardsConfig, flags: Sequence[str]) -> RewardsConfig:
    """The run's settings, and what is given; how many faults there are is for the reader to judge."""
    given = [flag.replace(_SECTION, "--", 1) if flag.startswith(_SECTION) else flag for flag in flags]
    asked = load_config(RewardsConfig, None, given)
    changed = {key: value for key, value in asked if key in asked.model_fields_set}
    return rewards.model_copy(update={**changed, "max_fault_share": 1.0, "audit_share": 0.0})


def _by_group(rows: Sequence[Row]) -> Iterator[Iterator[Row]]:
    return (members for _, members in groupby(rows, key=lambda row: row["ordinal"]))


def _group(rows: Sequence[Row], config: RLConfig, tokenizer: Any) -> Group:
    first = rows[0]
    prompt = Prompt(
        first["prompt_id"],
        first["question"],
        first["answer"],
        first.get("verifier") or _verifier_of_old(first, config),
        first["family"],
        system=first.get("system", ""),
        token_ids=render_prompt(tokenizer, first["question"], first.get("system", "")),
        rules=read_rules(first.get("rules")),
    )
    return Group(first["ordinal"], prompt, first["iteration"], tuple(_trajectory(row) for row in rows))


def _verifier_of_old(row: Row, config: RLConfig) -> str:
    """Rows of earlier versions do not name it."""
    return config.prompts.verifier if config.prompts.path is not None else f"task:{row['family']}"


def _trajectory(row: Row) -> Trajectory:
    token_ids = tuple(row["token_ids"])
    segment = Segment(
        row["ordinal"],
        row["sample_index"],
        0,
        token_ids,
        (0.0,) * len(token_ids),
        row["iteration"],
        "",
        StopReason(row["stop"]),
    )
    return Trajectory(row["ordinal"], row["sample_index"], (segment,))


def _change(row: Row, verdict: Verdict) -> dict[str, Any]:
    kept = ("iteration", "ordinal", "sample_index", "prompt_id", "answer")
    return {
        **{key: row[key] for key in kept},
        "extracted": verdict.extracted,
        "was": row["outcome"],
        "now": verdict.outcome.value,
        "reason": verdict.reason,
    }

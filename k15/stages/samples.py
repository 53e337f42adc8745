"""Several completions of every prompt, on disk: what shortest rejection sampling and DPO learn from (2.4)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from k15.algo.derive import derived_seed
from k15.algo.preference import Sample, negatives, shortest_right
from k15.config.base import StrictModel
from k15.config.long2short import Long2ShortConfig, SampleConfig
from k15.config.parts import EngineConfig, ModelConfig, PromptsConfig, RunSettings
from k15.config.rl import RewardsConfig
from k15.errors import DataError
from k15.eval.heldout import Evaluation, evaluate
from k15.models.load import Policy, load_policy
from k15.prompts.load import PromptSet, load_prompts
from k15.record.drift import UNSAFE_KEYS
from k15.record.reader import RunReader
from k15.record.rows import GradedGroup, rollout_rows
from k15.record.run import Run
from k15.rewards.grader import Grader
from k15.stages.engines import make_engine
from k15.stages.launch import LaunchOptions
from k15.stages.watch import Watch
from k15.train.packing import Example
from k15.types import Outcome, Prompt, RepetitionRule, SamplingParams, StopReason
from k15.weights.fingerprint import snapshot

CHUNK = 64
"""Prompts between two saves: a killed run loses the samples of at most so many."""


class SamplingRunConfig(StrictModel):
    """What the run folder of the sampling phase keeps."""

    model: ModelConfig
    prompts: PromptsConfig
    samples: SampleConfig
    engine: EngineConfig
    rewards: RewardsConfig
    run: RunSettings


@dataclass(frozen=True)
class PromptSamples:
    """A prompt with its graded completions, as they were stored (`record.schema.CompletionRow`)."""

    prompt: Prompt
    rows: tuple[Mapping[str, Any], ...]

    def valid(self) -> list[Mapping[str, Any]]:
        """The rows without those whose verdict was our fault."""
        return [row for row in self.rows if row["outcome"] != Outcome.FAULT]


@dataclass(frozen=True)
class Preference:
    """A pair of completions of one prompt for DPO."""

    preferred: Example
    other: Example

    def __len__(self) -> int:
        return len(self.preferred) + len(self.other)


@dataclass(frozen=True)
class Learned:
    """What samples teach.

    Attributes:
        examples: the shortest right completion of each prompt that has one.
        preferences: pairs, in the order of the prompts.
        num_unsolved: prompts without a right completion: skipped.
        num_without_pair: prompts with a right completion, but with nothing to prefer it to.
    """

    examples: tuple[Example, ...]
    preferences: tuple[Preference, ...]
    num_unsolved: int
    num_without_pair: int


def params_of(config: SampleConfig, policy: Policy, seed: int) -> SamplingParams:
    """How completions are sampled and measured here."""
    return SamplingParams(
        seed=seed,
        max_tokens=config.max_tokens,
        segment_tokens=None,
        temperature=config.temperature,
        stop_ids=policy.stop_ids,
        banned_ids=policy.banned_ids,
        repetition=RepetitionRule(),
    )


def draw_samples(
    config: Long2ShortConfig, folder: Path, options: LaunchOptions
) -> tuple[PromptSamples, ...] | None:
    """n completions of every training prompt from `config.model`, in a run folder of their own; None if stopped.

    Called again it goes on with the prompts that are left, and samples what the unbroken run would have.
    """
    assert config.prompts is not None, "checked when the config was made"
    policy = load_policy(config.model)
    prompts = load_prompts(config.prompts, policy.tokenizer)
    chosen = prompts.train[: config.samples.num_prompts or None]
    chunks = [chosen[i : i + CHUNK] for i in range(0, len(chosen), CHUNK)]
    watch = Watch("prompts", len(chosen), quiet=options.is_quiet)
    what = f"{config.samples.num_samples} completions of each of {len(chosen)} prompts from {config.model.path}"
    watch.line(f"samples: {what}")
    if options.dry_run:
        return ()
    run = _open(config, prompts, folder, options, len(chunks), watch)
    with run, run.catch_signals(), Grader(config.rewards, policy.tokenizer) as grader:
        if run.is_complete:
            watch.line(f"they are in {folder} already")
        else:
            grader.check(chosen)
            _sample(config, policy, chunks, run, grader, watch)
        if not run.is_complete:
            watch.line(f"stopped before the end; everything is saved in {folder}")
            return None
    return read_samples(folder, chosen)


def _open(
    config: Long2ShortConfig,
    prompts: PromptSet,
    folder: Path,
    options: LaunchOptions,
    total: int,
    watch: Watch,
) -> Run:
    own = {name: getattr(config, name) for name in SamplingRunConfig.model_fields}
    return Run.open(
        folder,
        SamplingRunConfig(**own),
        command=shlex.join(options.command),
        total=total,
        data_fingerprints={"prompts": prompts.fingerprint},
        fresh=options.fresh,
        allow_drift=options.allow_drift,
        unsafe=(*UNSAFE_KEYS, "samples"),
        notify=watch.line,
    )


def _sample(
    config: Long2ShortConfig,
    policy: Policy,
    chunks: Sequence[Sequence[Prompt]],
    run: Run,
    grader: Grader,
    watch: Watch,
) -> None:
    done = run.restore({})
    watch.advance(min(done * CHUNK, sum(map(len, chunks))))
    engine = make_engine(config.engine, policy)
    try:
        engine.load_weights(snapshot(policy.model, 0))
        with watch.showing():
            for number in range(done, len(chunks)):
                seed = derived_seed(config.run.seed, "long2short samples", number)
                found = evaluate(
                    engine,
                    chunks[number],
                    grader,
                    params_of(config.samples, policy, seed),
                    num_samples=config.samples.num_samples,
                )
                run.record(number, {"length_weight": 0.0}, _rows(found, number, policy))
                done = number + 1
                run.save(done, {})
                watch.advance(len(chunks[number]))
                if run.stop_requested:
                    break
    finally:
        engine.close()
    run.finish(done=done)


def _rows(found: Evaluation, number: int, policy: Policy) -> list[dict[str, Any]]:
    graded = [
        GradedGroup(
            replace(group, ordinal=number * CHUNK + group.ordinal),
            verdicts,
            rewards=[v.correct for v in verdicts],
            length_rewards=[0.0] * len(verdicts),
            advantages=[0.0] * len(verdicts),
            trained_tokens=[0] * len(verdicts),
        )
        for group, verdicts in zip(found.groups, found.verdicts, strict=True)
    ]
    return list(rollout_rows(number, graded, policy.decode))


def read_samples(folder: Path, prompts: Sequence[Prompt]) -> tuple[PromptSamples, ...]:
    """The stored samples of a run folder, by prompt, in the order of the prompts.

    Raises:
        DataError: a file is damaged, or a prompt has no samples.
    """
    reader = RunReader(folder)
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for iteration in reader.iterations:
        for row in reader.rollouts(iteration):
            by_prompt.setdefault(row["prompt_id"], []).append(row)
    missing = [prompt.prompt_id for prompt in prompts if prompt.prompt_id not in by_prompt]
    if missing or reader.notices:
        raise DataError(
            f"every prompt needs its samples; {folder} lacks those of {len(missing)} prompts. "
            f"{' '.join(reader.notices)} Sample again with --fresh."
        )
    return tuple(PromptSamples(prompt, tuple(by_prompt[prompt.prompt_id])) for prompt in prompts)


def learn_from(samples: Sequence[PromptSamples], *, length_ratio: float, max_pairs: int) -> Learned:
    """The shortest right completions, and what they are preferred to (section 2.4).

    Args:
        length_ratio: a right completion is a negative from so many times the shortest one's tokens on.
        max_pairs: pairs of a prompt at most, the first in the order of sampling; 0 = all.
    """
    examples: list[Example] = []
    preferences: list[Preference] = []
    num_unsolved = num_without_pair = 0
    for entry in samples:
        rows = entry.valid()
        facts = [
            Sample(row["length"], row["correct"] == 1.0, row["stop"] == StopReason.END) for row in rows
        ]
        positive = shortest_right(facts)
        if positive is None:
            num_unsolved += 1
            continue
        others = negatives(facts, positive, ratio=length_ratio)[: max_pairs or None]
        num_without_pair += not others
        examples.append(_example(entry.prompt, rows[positive]))
        preferences += [
            Preference(_example(entry.prompt, rows[positive]), _example(entry.prompt, rows[i]))
            for i in others
        ]
    return Learned(tuple(examples), tuple(preferences), num_unsolved, num_without_pair)


def _example(prompt: Prompt, row: Mapping[str, Any]) -> Example:
    """The very tokens that were sampled: text is never tokenized again."""
    completion = tuple(row["token_ids"])
    return Example(prompt.token_ids, completion, (True,) * len(completion))

"""Long2short (section 2.4): a short thinker made of a long one, by merging, fine-tuning, DPO or RL."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from k15.algo.merge import average, slerp, ties
from k15.config.long2short import Long2ShortConfig, MergeConfig
from k15.errors import DataError
from k15.record import schema
from k15.record.durable import make_directory
from k15.record.folder import finish_moving_aside, move_aside
from k15.record.lock import RunLock
from k15.stages.balance import candidates_of, select_checkpoint, with_model
from k15.stages.card import write_merge_card
from k15.stages.launch import FINAL_MODEL, LaunchOptions, launch_rl, launch_sft
from k15.stages.preference import launch_dpo
from k15.stages.samples import PromptSamples, draw_samples, learn_from
from k15.stages.sft import Examples
from k15.stages.watch import Watch
from k15.train.packing import Example
from k15.weights.merge import Combine, merge_checkpoints

# What a comparison, a merge, or a run that was killed while sampling leaves in a folder that is no run yet.
_OWN = re.compile(
    r"samples|start\.json|merge(\.json)?|model|measured|seed-\d+|comparison\.\w+|report\.html"
)
SAMPLES = "samples"  # run folder of the sampling phase, inside the run folder


def launch_long2short(config: Long2ShortConfig, run_folder: Path, options: LaunchOptions) -> bool:
    """Run one method in a run folder, new or resumed; whether all of it is done.

    The model is in `run_folder / "model"`, whatever the method.

    Raises:
        K15Error: see `k15.errors`.
    """
    watch = Watch("long2short", 1, quiet=options.is_quiet)
    if options.fresh and not options.dry_run:
        start_over(run_folder)
    if config.method == "merge":
        return merge_models(config, run_folder, options, watch)
    config = with_model(config, start_of(config, run_folder, options, watch))
    if config.method == "rl":
        return launch_rl(config.rl_config(), run_folder, _going_on(options))
    samples = draw_samples(config, run_folder / SAMPLES, options)
    if samples is None:
        return False
    if options.dry_run:
        return True
    train = train_on_shortest if config.method == "rejection" else train_on_preferences
    return train(config, samples, run_folder / SAMPLES, run_folder, _going_on(options), watch)


def merge_models(
    config: Long2ShortConfig, run_folder: Path, options: LaunchOptions, watch: Watch
) -> bool:
    """Write the merged model of `model.path` and `merge.short`; always done."""
    settings = config.merge
    assert config.model.path is not None, "a merge starts from a checkpoint"
    assert settings.short is not None, "checked when the config was made"
    names = [config.model.path, settings.short, *([settings.base] if settings.base else [])]
    watch.line(f"merging {' and '.join(names)}: {settings.kind}, {settings.weight:g} of the short model")
    if options.dry_run:
        return True
    record = run_folder / "merge.json"
    record.unlink(missing_ok=True)  # it says what the model is: it comes last
    merge_checkpoints([Path(name) for name in names], run_folder / FINAL_MODEL, combine_of(settings))
    write_merge_card(merge_record(config), run_folder / FINAL_MODEL)
    record.write_text(json.dumps(merge_record(config), indent=2) + "\n", encoding="utf-8")
    watch.line(f"done: the model is in {run_folder / FINAL_MODEL}")
    return True


def merge_record(config: Long2ShortConfig) -> dict[str, Any]:
    """What `merge.json` says of a merged model."""
    return {"long": config.model.path, **config.merge.model_dump()}


def combine_of(settings: MergeConfig) -> Combine:
    """The formula that a merge's settings name."""
    if settings.kind == "ties":
        return partial(ties, weight=settings.weight, density=settings.density)
    return partial(average if settings.kind == "average" else slerp, weight=settings.weight)


def train_on_shortest(
    config: Long2ShortConfig,
    samples: Sequence[PromptSamples],
    source: Path,
    run_folder: Path,
    options: LaunchOptions,
    watch: Watch,
) -> bool:
    """Shortest rejection sampling: fine-tune on the shortest right sample of each prompt.

    Args:
        samples: stored in the folder `source`.

    Raises:
        DataError: no prompt has a right sample.
    """
    learned = learn_from(samples, length_ratio=config.dpo.length_ratio, max_pairs=0)
    watch.line(
        f"{len(learned.examples)} prompts have a right completion; {learned.num_unsolved} have none and are "
        "skipped"
    )
    if not learned.examples:
        raise _nothing_to_learn(samples)
    data = Examples(learned.examples, learned.num_unsolved, _fingerprint(learned.examples))
    return launch_sft(config.sft_config(source), run_folder, options, data=data)


def train_on_preferences(
    config: Long2ShortConfig,
    samples: Sequence[PromptSamples],
    source: Path,
    run_folder: Path,
    options: LaunchOptions,
    watch: Watch,
) -> bool:
    """DPO on pairs of the shortest right sample with longer wrong ones and much longer right ones.

    Args:
        samples: stored in the folder `source`.

    Raises:
        DataError: no prompt has a pair.
    """
    settings = config.dpo
    learned = learn_from(samples, length_ratio=settings.length_ratio, max_pairs=settings.max_pairs)
    watch.line(
        f"{len(learned.preferences)} pairs of {len(samples)} prompts; {learned.num_unsolved} prompts have no "
        f"right completion, {learned.num_without_pair} none to prefer it to"
    )
    if not learned.preferences:
        raise _nothing_to_learn(samples)
    return launch_dpo(config.dpo_config(source), run_folder, options, learned.preferences)


def start_of(config: Long2ShortConfig, run_folder: Path, options: LaunchOptions, watch: Watch) -> str:
    """The checkpoint to start from; chosen once, and kept for when the run goes on."""
    if not config.selection.candidates or options.dry_run:
        return candidates_of(config)[0]
    kept, asked = run_folder / "start.json", config.selection.model_dump(mode="json")
    if kept.is_file():
        choice = json.loads(kept.read_text(encoding="utf-8"))
        if choice["selection"] == asked:
            return choice["start"]
    start = select_checkpoint(config, watch)
    make_directory(run_folder)
    kept.write_text(json.dumps({"start": start, "selection": asked}, indent=2) + "\n", encoding="utf-8")
    return start


def start_over(run_folder: Path) -> None:
    """Move an earlier run aside, samples and all; the phases below then find an empty folder."""
    make_directory(run_folder)
    lock = RunLock.acquire(run_folder / schema.LOCK)
    try:
        finish_moving_aside(run_folder)
        move_aside(run_folder)  # a run, with everything in it
        left = [run_folder / name for name in sorted(os.listdir(run_folder)) if _OWN.fullmatch(name)]
        if left:
            aside = run_folder / f".old-{time.time_ns()}"
            aside.mkdir()
            for path in left:
                path.rename(aside / path.name)
    finally:
        lock.release()


def _going_on(options: LaunchOptions) -> LaunchOptions:
    """For the phase after the samples: what was there has been moved aside already."""
    return LaunchOptions(
        command=options.command,
        allow_drift=options.allow_drift,
        dry_run=options.dry_run,
        is_quiet=options.is_quiet,
    )


def _nothing_to_learn(samples: Sequence[PromptSamples]) -> DataError:
    num_right = sum(row["correct"] == 1.0 for entry in samples for row in entry.rows)
    return DataError(
        f"learning from samples needs right ones, and for DPO longer ones beside them; of {len(samples)} prompts "
        f"{num_right} completions are right. Take easier prompts, raise samples.max_tokens or "
        "samples.num_samples, or start from a better model."
    )


def _fingerprint(examples: Sequence[Example]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(json.dumps([example.prompt_ids, example.completion_ids]).encode())
    return digest.hexdigest()

"""Direct preference optimization for shorter right completions (section 2.4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from k15.algo.preference import dpo_loss
from k15.config.long2short import DPORunConfig
from k15.models.load import Policy, load_policy
from k15.record.run import Run
from k15.stages.launch import LaunchOptions, run_steps
from k15.stages.samples import Preference
from k15.stages.sft import Plan, plan_steps, train_planned
from k15.stages.watch import Watch
from k15.train.forward import LogprobModel
from k15.train.packing import Example, Microbatch, Minibatch, pack_minibatch
from k15.train.trainer import Reference


def launch_dpo(
    config: DPORunConfig,
    run_folder: Path,
    options: LaunchOptions,
    preferences: Sequence[Preference],
) -> bool:
    """Train `config.model` on preferences in a run folder, new or resumed; whether all planned steps are done."""
    policy = load_policy(config.model)
    plan = plan_steps(config, preferences)
    watch = Watch("steps", plan.num_steps, quiet=options.is_quiet)
    watch.line(f"DPO: {len(preferences)} pairs, {plan.num_steps} steps, beta {config.beta:g}")
    for number, stage in enumerate(plan.stages, start=1):
        if stage.num_left_out:
            watch.line(
                f"stage {number} leaves out {stage.num_left_out} pairs that are longer than its rows"
            )
    if options.dry_run:
        return True
    return run_steps(
        config,
        policy,
        plan,
        run_folder,
        options,
        watch,
        fingerprint=_fingerprint(preferences),
        train=lambda run: train_dpo(config, policy, preferences, plan, run, watch),
    )


def train_dpo(
    config: DPORunConfig,
    policy: Policy,
    preferences: Sequence[Preference],
    plan: Plan,
    run: Run,
    watch: Watch,
) -> int:
    """Minimise the DPO loss; the number of steps done comes back.

    The reference is the policy as it comes in. Its log-probabilities are written down before the first
    step, so that no second model is held; a resumed run comes in with the same policy and writes down the
    same ones.
    """
    minibatches = [
        pack_pairs(
            [preferences[i] for i in batch],
            row_tokens=stage.config.row_tokens,
            microbatch_tokens=config.microbatch_tokens,
        )
        for stage in plan.stages
        for batch in stage.batches
    ]
    references = _references(policy, minibatches)
    return train_planned(
        config,
        policy,
        plan,
        run,
        watch,
        batch_of=lambda step: (minibatches[step], references[step]),
        loss=partial(dpo_loss, beta=config.beta),
    )


def pack_pairs(
    preferences: Sequence[Preference], *, row_tokens: int, microbatch_tokens: int
) -> Minibatch:
    """The pairs of one optimizer step; both members of a pair are in one micro-batch, marked +p and -p.

    Args:
        row_tokens: length of a row, in tokens.
        microbatch_tokens: about so many tokens in a forward pass, but at least one pair.
    """
    chunks: list[list[Example]] = []
    size = microbatch_tokens + 1
    for number, pair in enumerate(preferences, start=1):
        if size + len(pair) > microbatch_tokens:
            chunks.append([])
            size = 0
        chunks[-1] += [
            replace(pair.preferred, advantage=float(number)),
            replace(pair.other, advantage=-float(number)),
        ]
        size += len(pair)
    microbatches: list[Microbatch] = []
    for chunk in chunks:
        # no limit here: the chunk is to stay one micro-batch
        microbatches += pack_minibatch(
            chunk, row_tokens=row_tokens, microbatch_tokens=1 << 62
        ).microbatches
    num_tokens = sum(m.num_loss_tokens for m in microbatches)
    return Minibatch(tuple(microbatches), 2 * len(preferences), num_tokens)


@torch.no_grad()
def _references(policy: Policy, minibatches: Sequence[Minibatch]) -> list[Reference]:
    model, device = LogprobModel.build(policy.model), policy.model.device
    return [tuple(model(m.to(device)).logprobs for m in batch.microbatches) for batch in minibatches]


def _fingerprint(preferences: Sequence[Preference]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for pair in preferences:
        row = [pair.preferred.prompt_ids, pair.preferred.completion_ids, pair.other.completion_ids]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()

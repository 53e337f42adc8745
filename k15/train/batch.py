"""From finished groups to the minibatches of one iteration."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from k15.config.rl import TrainerConfig
from k15.train.packing import Example, Minibatch, pack_minibatch, split_minibatches
from k15.train.trainer import Reference
from k15.types import Group, Trajectory


def loss_mask(trajectory: Trajectory, *, iteration: int, max_staleness: int | None) -> tuple[bool, ...]:
    """Which tokens of a completion carry loss (section 2.6.2): those of segments that were sampled at
    most `max_staleness` iterations ago. None: all; 0: only this iteration's segment."""
    return tuple(
        max_staleness is None or iteration - segment.policy_version <= max_staleness
        for segment in trajectory.segments
        for _ in segment.token_ids
    )


def examples_of(
    groups: Sequence[Group],
    advantages: Float[Tensor, "groups k"],
    valid: Bool[Tensor, "groups k"],
    *,
    iteration: int,
    max_staleness: int | None,
) -> list[Example]:
    """One example a completion; those whose verdict was our fault are left out."""
    return [
        Example(
            prompt_ids=group.prompt.token_ids,
            completion_ids=trajectory.token_ids,
            loss_mask=loss_mask(trajectory, iteration=iteration, max_staleness=max_staleness),
            advantage=float(advantages[row, column]),
            engine_logprobs=_own_logprobs(trajectory, iteration),
            group=group.ordinal,
            sample_index=trajectory.sample_index,
        )
        for row, group in enumerate(groups)
        for column, trajectory in enumerate(group.trajectories)
        if valid[row, column]
    ]


def _own_logprobs(trajectory: Trajectory, iteration: int) -> tuple[float, ...]:
    """The engine's log-probabilities where this iteration's policy sampled, NaN elsewhere."""
    return tuple(
        value if segment.policy_version == iteration else math.nan
        for segment in trajectory.segments
        for value in segment.logprobs
    )


def engine_gap(
    minibatches: Sequence[Minibatch], references: Sequence[Reference]
) -> Float[Tensor, "tokens"]:
    """|log pi by the trainer - log pi by the engine|, in nats, of the loss tokens that the reference itself
    sampled. Both see the same weights, so what is left is numerics, or a bug."""
    gaps = [
        (ours.cpu() - batch.engine_logprobs).abs()
        for minibatch, reference in zip(minibatches, references, strict=True)
        for batch, ours in zip(minibatch.microbatches, reference, strict=True)
    ]
    gap = torch.cat(gaps) if gaps else torch.zeros(0)
    return gap[~gap.isnan()]


def pack(examples: Sequence[Example], config: TrainerConfig, *, seed: int) -> list[Minibatch]:
    """The minibatches of one pass over an iteration's examples; the shuffle is derived from the seed."""
    generator = torch.Generator().manual_seed(seed)
    parts = split_minibatches(examples, config.num_minibatches, generator)
    packed = [
        pack_minibatch(part, row_tokens=config.row_tokens, microbatch_tokens=config.microbatch_tokens)
        for part in parts
    ]
    return [minibatch for minibatch in packed if minibatch.num_completions]

"""Preferences for shorter right completions (section 2.4): who is preferred, and the loss of DPO."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from k15.algo.policy import LossTerms, Normalizer


@dataclass(frozen=True, slots=True)
class Sample:
    """What matters of one of a prompt's completions.

    Attributes:
        length: tokens.
        is_right: the verifier found the answer right. A wrong one is anything else: a wrong answer, none,
            a timeout.
        has_ended: the policy ended it itself. One that was cut at the cap or stopped for repetition
            teaches nobody to stop, and is never the one to imitate.
    """

    length: int
    is_right: bool
    has_ended: bool = True


def shortest_right(samples: Sequence[Sample]) -> int | None:
    """Index of the shortest right completion, the first of several; None if there is none.

    The example of shortest rejection sampling and the positive of DPO (section 2.4).
    """
    candidates = [i for i, s in enumerate(samples) if s.is_right and s.has_ended]
    return min(candidates, key=lambda i: samples[i].length, default=None)


def negatives(samples: Sequence[Sample], positive: int, *, ratio: float) -> list[int]:
    """Indices of the completions that `positive` is preferred to (section 2.4), in their order.

    Wrong ones that are longer, and right ones with at least `ratio` times its tokens (1.5 in the paper). A
    shorter wrong one is no negative: the model must not learn to avoid being short.

    Args:
        positive: index of the shortest right one.
        ratio: above 1, taken as the decimal number it is written as: 1.1 times 10 is 11.
    """
    shortest = samples[positive].length
    bound = Fraction(str(ratio)) * shortest
    return [
        i
        for i, sample in enumerate(samples)
        if (sample.length >= bound if sample.is_right else sample.length > shortest) and i != positive
    ]


def dpo_losses(
    preferred: Float[Tensor, "pairs"], other: Float[Tensor, "pairs"], *, beta: float
) -> Float[Tensor, "pairs"]:
    """-log sigmoid(beta * (Delta_preferred - Delta_other)) of each pair (Rafailov et al., arXiv 2305.18290).

    Args:
        preferred: Delta = log pi_theta - log pi_ref of the preferred completion, summed over its tokens, in
            nats,
        other: and of the other one.
        beta: strength of the pull towards the reference.
    """
    return -torch.nn.functional.logsigmoid(beta * (preferred - other))


def dpo_loss(
    logprobs: Float[Tensor, "n t"],
    reference: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    advantages: Float[Tensor, "n"],
    *,
    normalizer: Normalizer,
    beta: float,
) -> LossTerms:
    """The mean of `dpo_losses` over a minibatch's pairs, with the signature of a policy loss.

    Args:
        advantages: who belongs to whom: +p for the preferred completion of pair p = 1, 2, ..., -p for the
            other one. Both must be in the same micro-batch.
        normalizer: two completions a pair.
        beta: strength of the pull towards the reference.
    """
    precise = torch.promote_types(logprobs.dtype, torch.float32)
    change = logprobs.to(precise) - reference.detach().to(precise)
    delta = torch.where(mask, change, 0.0).sum(dim=-1)
    pairs = advantages.abs()
    order = pairs.argsort(stable=True)
    is_preferred = advantages[order] > 0
    chosen, others = order[is_preferred], order[~is_preferred]
    assert torch.equal(pairs[chosen], pairs[others]), "a pair was split over two micro-batches"
    losses = dpo_losses(delta[chosen], delta[others], beta=beta)
    return LossTerms(losses.sum() / (normalizer.num_completions // 2), delta.detach())

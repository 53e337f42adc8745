"""Policy losses (Kimi k1.5, section 2.3.2): Eq. 3 and the baselines it is compared with.

All have the signature `Loss`, so that a trainer takes any of them. They return the share of a
minibatch's loss that the given completions contribute: a minibatch split into micro-batches, each
given the same `Normalizer`, sums to the same loss and the same gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from k15.errors import ConfigError


@dataclass(frozen=True)
class Normalizer:
    """What a minibatch's loss is divided by; counted over the whole minibatch, not a micro-batch.

    Attributes:
        num_completions: completions with a loss.
        num_tokens: their loss tokens. Only GRPO divides by it.
    """

    num_completions: int
    num_tokens: int


@dataclass(frozen=True)
class LossTerms:
    """A loss and what it was made of.

    Attributes:
        loss: these completions' share of the minibatch loss; call `backward` on it.
        log_ratio: Delta of each completion in nats, detached.
    """

    loss: Float[Tensor, ""]
    log_ratio: Float[Tensor, "n"]


@runtime_checkable
class Loss(Protocol):
    """A policy loss of n completions padded to t tokens.

    Args (all losses):
        logprobs: log pi_theta of each token. Carries the gradient.
        reference: log pi_theta_i of each token, from the trainer. A constant.
        mask: True for loss tokens. Elsewhere (prompt, padding, stale segments) the other tensors
            may hold anything, NaN included.
        advantages: A of each completion. A constant.
        normalizer: counts of the whole minibatch.
    """

    def __call__(
        self,
        logprobs: Float[Tensor, "n t"],
        reference: Float[Tensor, "n t"],
        mask: Bool[Tensor, "n t"],
        advantages: Float[Tensor, "n"],
        *,
        normalizer: Normalizer,
    ) -> LossTerms: ...


def mirror_descent_loss(
    logprobs: Float[Tensor, "n t"],
    reference: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    advantages: Float[Tensor, "n"],
    *,
    normalizer: Normalizer,
    tau: float,
    loss_constant: float = 1.0,
) -> LossTerms:
    """Loss whose descent direction is Eq. 3: -A * log pi + tau/2 * Delta^2 for each completion.

    log pi and Delta = log pi_theta - log pi_theta_i are sums over the completion's loss tokens
    (one ratio for the whole sequence). Nothing is divided by the completion's own length.

    Args:
        tau: strength of the regulariser. Delta is 0 in an iteration's first step, so tau acts from
            the second step on.
        loss_constant: divides every completion's loss.
    """
    logprob, delta = _sequence_terms(logprobs, reference, mask)
    losses = -advantages.detach() * logprob + 0.5 * tau * delta.square()
    return LossTerms(losses.sum() / (loss_constant * normalizer.num_completions), delta.detach())


def squared_loss(
    logprobs: Float[Tensor, "n t"],
    reference: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    advantages: Float[Tensor, "n"],
    *,
    normalizer: Normalizer,
    tau: float,
    loss_constant: float = 1.0,
) -> LossTerms:
    """The surrogate before Eq. 3, on Eq. 3's scale: (A - tau * Delta)^2 / (2 * tau).

    The plain square has the gradient of `mirror_descent_loss` times 2 tau, so that its learning
    rate would depend on tau; the division takes this out. Same arguments as `mirror_descent_loss`.
    """
    _, delta = _sequence_terms(logprobs, reference, mask)
    losses = (advantages.detach() - tau * delta).square() / (2.0 * tau)
    return LossTerms(losses.sum() / (loss_constant * normalizer.num_completions), delta.detach())


def reinforce_loss(
    logprobs: Float[Tensor, "n t"],
    reference: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    advantages: Float[Tensor, "n"],
    *,
    normalizer: Normalizer,
    loss_constant: float = 1.0,
) -> LossTerms:
    """Plain REINFORCE: -A * log pi for each completion, no regulariser."""
    logprob, delta = _sequence_terms(logprobs, reference, mask)
    losses = -advantages.detach() * logprob
    return LossTerms(losses.sum() / (loss_constant * normalizer.num_completions), delta.detach())


def grpo_loss(
    logprobs: Float[Tensor, "n t"],
    reference: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    advantages: Float[Tensor, "n"],
    *,
    normalizer: Normalizer,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> LossTerms:
    """GRPO: -min(ratio * A, clip(ratio) * A) for each token, averaged over the minibatch's tokens.

    Args:
        clip_low: the ratio of a token is clipped from below at 1 - clip_low,
        clip_high: and from above at 1 + clip_high.
    """
    log_ratio = _masked(logprobs, mask) - _masked(reference.detach(), mask)
    ratio = log_ratio.exp()
    advantage = advantages.detach().unsqueeze(-1)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    losses = torch.where(mask, -torch.minimum(ratio * advantage, clipped * advantage), 0.0)
    return LossTerms(losses.sum() / normalizer.num_tokens, log_ratio.sum(dim=-1).detach())


@runtime_checkable
class LossSettings(Protocol):
    """The settings a loss is made from; `config.rl.AlgorithmConfig` has them."""

    @property
    def loss(self) -> str: ...
    @property
    def tau(self) -> float: ...
    @property
    def loss_constant(self) -> float: ...
    @property
    def clip_low(self) -> float: ...
    @property
    def clip_high(self) -> float: ...


def make_loss(config: LossSettings) -> Loss:
    """The loss that the config names, with its constants filled in.

    Raises:
        ConfigError: no loss has that name.
    """
    regularised = {"tau": config.tau, "loss_constant": config.loss_constant}
    losses: dict[str, Callable[..., LossTerms]] = {
        "mirror_descent": partial(mirror_descent_loss, **regularised),
        "squared": partial(squared_loss, **regularised),
        "reinforce": partial(reinforce_loss, loss_constant=config.loss_constant),
        "grpo": partial(grpo_loss, clip_low=config.clip_low, clip_high=config.clip_high),
    }
    if config.loss not in losses:
        raise ConfigError(f"algorithm.loss must be one of {', '.join(losses)}; got {config.loss!r}.")
    return losses[config.loss]


def _sequence_terms(
    logprobs: Float[Tensor, "n t"], reference: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """log pi_theta and Delta of each completion: sums over its loss tokens, in fp32 or better."""
    logprob = _masked(logprobs, mask)
    # Delta sums differences, not the difference of two large sums: less cancellation in fp32.
    delta = logprob - _masked(reference.detach(), mask)
    return logprob.sum(dim=-1), delta.sum(dim=-1)


def _masked(values: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Values at loss tokens and 0 elsewhere. A product with the mask would keep NaN alive."""
    return torch.where(mask, values.to(torch.promote_types(values.dtype, torch.float32)), 0.0)

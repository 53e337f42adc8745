"""What to watch while a policy trains: distance from the reference, entropy, balance of forces.

Nothing here carries a gradient.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class KLEstimate:
    """Divergence of the policy from the reference over loss tokens; estimates of parts add up.

    Attributes:
        k3_sum: sum of ratio - 1 - log ratio, in nats. Never negative.
        log_ratio_sum: sum of log ratio, in nats.
        num_tokens: loss tokens.
    """

    k3_sum: float
    log_ratio_sum: float
    num_tokens: int

    def __add__(self, other: "KLEstimate") -> "KLEstimate":
        return KLEstimate(
            self.k3_sum + other.k3_sum,
            self.log_ratio_sum + other.log_ratio_sum,
            self.num_tokens + other.num_tokens,
        )

    @property
    def k3(self) -> float:
        """KL(pi_theta_i || pi_theta) per token in nats, by the k3 estimator; 0 without tokens."""
        return self.k3_sum / self.num_tokens if self.num_tokens else 0.0

    @property
    def mean_log_ratio(self) -> float:
        """Mean of log pi_theta - log pi_theta_i per token in nats; its negative is the k1 estimator."""
        return self.log_ratio_sum / self.num_tokens if self.num_tokens else 0.0


@torch.no_grad()
def kl_estimate(
    logprobs: Float[Tensor, "n t"], reference: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> KLEstimate:
    """Sampled divergence KL(pi_theta_i || pi_theta), for tokens that pi_theta_i sampled.

    Args:
        logprobs: log pi_theta of each token.
        reference: log pi_theta_i of each token.
        mask: True for loss tokens; elsewhere the others may hold anything.
    """
    log_ratio = torch.where(mask, logprobs.double() - reference.double(), 0.0)
    k3 = torch.expm1(log_ratio) - log_ratio
    return KLEstimate(float(k3.sum()), float(log_ratio.sum()), int(mask.sum()))


@torch.no_grad()
def token_entropy(
    logprobs: Float[Tensor, "*positions vocabulary"],
) -> Float[Tensor, "*positions"]:
    """Entropy of the next token in nats, at each position. A banned token (log-probability -inf) adds nothing."""
    finite = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)  # 0 * -inf would be NaN
    return -(logprobs.exp() * finite).sum(dim=-1)


@torch.no_grad()
def force_ratio(
    log_ratio: Float[Tensor, "n"], advantages: Float[Tensor, "n"], tau: float
) -> float | None:
    """median tau |Delta| / median |A| over completions with A != 0; None if there are none.

    The gradient of Eq. 3 weighs a completion by A - tau Delta: this is the regulariser's pull
    against the reward's push. Near 0 the regulariser does nothing, near 1 it stops the policy.

    Args:
        log_ratio: Delta of each completion, in nats, at the end of an iteration.
        advantages: A of each completion.
        tau: strength of the regulariser.
    """
    is_pushed = advantages != 0
    if not bool(is_pushed.any()):
        return None
    pull = log_ratio[is_pushed].double().abs().quantile(0.5) * tau
    return float(pull / advantages[is_pushed].double().abs().quantile(0.5))


@torch.no_grad()
def effective_sample_share(log_ratio: Float[Tensor, "n"]) -> float:
    """(sum w)^2 / (n sum w^2) with w = exp(Delta): 1 on the policy's own samples, 1/n at worst.

    How many of the completions still speak for the policy after its updates; 1 without completions.

    Args:
        log_ratio: Delta of each completion, in nats.
    """
    if log_ratio.numel() == 0:
        return 1.0
    log_weights = log_ratio.double()
    log_share = 2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)
    return float(log_share.exp() / log_ratio.numel())


@torch.no_grad()
def zero_advantage_share(
    advantages: Float[Tensor, "groups k"], valid: Bool[Tensor, "groups k"]
) -> float:
    """Share of valid completions with A = 0: they feel the regulariser alone; 0 without valid ones."""
    num_valid = int(valid.sum())
    return int((valid & (advantages == 0)).sum()) / num_valid if num_valid else 0.0


@torch.no_grad()
def synchronous_length(
    starts: Int[Tensor, "segments"], ends: Int[Tensor, "segments"], finished: Bool[Tensor, "segments"]
) -> float:
    """Mean length that completions of one policy have if all of them are sampled to their end.

    Partial rollouts finish short completions first, so that what is trained on in an iteration has other
    lengths than what a synchronous rollout of the same policy would give. One iteration's segments
    still tell the latter: of all that sampled a token at position t, the share d_t / n_t that
    stopped there is the policy's chance to stop at t, whoever wrote the tokens before. The product of
    1 - d_t / n_t is the share that goes on (Kaplan and Meier's estimator), its sum the mean length. Positions that
    no segment reached add nothing: the mean is then a lower bound.

    Args:
        starts: position of each segment's first token in its completion.
        ends: position after its last token.
        finished: whether the completion stopped with it.

    Returns:
        Tokens; 0 without segments.
    """
    if starts.numel() == 0:
        return 0.0
    horizon = int(ends.max())
    change = torch.bincount(starts, minlength=horizon + 1) - torch.bincount(ends, minlength=horizon + 1)
    at_risk = change.cumsum(0)[:horizon]
    stopped = torch.bincount(ends[finished] - 1, minlength=horizon)
    is_reached = (at_risk > 0).cumprod(0)
    goes_on = 1.0 - stopped.double() / at_risk.clamp(min=1)
    share = torch.cat([torch.ones(1, dtype=torch.float64), goes_on.cumprod(0)[:-1]])
    return float((share * is_reached).sum())

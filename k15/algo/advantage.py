"""Advantages: what a completion's reward is worth against its group (section 2.3.2).

Rewards are total rewards, the length term included: only then do a group's advantages sum to zero.
A completion that is not valid (its verdict was our fault) is left out of every mean and gets 0.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from k15.algo.derive import derived_uniform
from k15.errors import ConfigError


@runtime_checkable
class Advantage(Protocol):
    """Advantages of groups of k completions.

    Args (all of them):
        rewards: total reward of each completion.
        valid: False where the verdict was our fault; the reward may then be anything.
        lengths: tokens in each completion. Only `best_of_group` looks at it,
        correct: and at this: 1.0 where the answer is right, else 0.0.
    """

    def __call__(
        self,
        rewards: Float[Tensor, "groups k"],
        valid: Bool[Tensor, "groups k"],
        *,
        lengths: Int[Tensor, "groups k"],
        correct: Float[Tensor, "groups k"],
    ) -> Float[Tensor, "groups k"]: ...


def mean_advantages(
    rewards: Float[Tensor, "groups k"], valid: Bool[Tensor, "groups k"]
) -> Float[Tensor, "groups k"]:
    """r - r_bar, with the mean over the group's valid members (Eq. 3).

    There is no division by the standard deviation. Equal rewards give exactly 0.
    """
    return torch.where(valid, rewards - _group_mean(rewards, valid), 0.0)


def leave_one_out(
    rewards: Float[Tensor, "groups k"], valid: Bool[Tensor, "groups k"]
) -> Float[Tensor, "groups k"]:
    """r minus the mean of the *other* valid members; 0 for a completion without any.

    With n valid members this is n / (n - 1) times `mean_advantages`.
    """
    num_valid = valid.sum(dim=-1, keepdim=True)
    return mean_advantages(rewards, valid) * num_valid / (num_valid - 1).clamp(min=1)


def log_partition(
    rewards: Float[Tensor, "groups k"], valid: Bool[Tensor, "groups k"], *, tau: float
) -> Float[Tensor, "groups k"]:
    """r - tau log Z, with tau log Z estimated by tau log (1/k) sum_j exp(r_j / tau) (section 2.3.2).

    Stable for every r / tau; tends to `mean_advantages` as tau grows.
    """
    highest = torch.where(valid, rewards, -math.inf).amax(dim=-1, keepdim=True)
    highest = torch.where(highest.isfinite(), highest, 0.0)
    # log1p of the mean of expm1: exact to rounding both for r / tau = 1e4 and for tau = 1e4.
    mean_tilt = _group_mean(torch.expm1((rewards - highest) / tau), valid)
    return torch.where(valid, rewards - (highest + tau * torch.log1p(mean_tilt)), 0.0)


def standardized(
    rewards: Float[Tensor, "groups k"], valid: Bool[Tensor, "groups k"], *, eps: float = 1e-4
) -> Float[Tensor, "groups k"]:
    """(r - r_bar) / (std + eps), GRPO's advantage; the sample deviation, with n - 1."""
    centred = mean_advantages(rewards, valid)
    num_valid = valid.sum(dim=-1, keepdim=True)
    variance = centred.square().sum(dim=-1, keepdim=True) / (num_valid - 1).clamp(min=1)
    return centred / (variance.sqrt() + eps)


def best_of_group(
    rewards: Float[Tensor, "groups k"],
    valid: Bool[Tensor, "groups k"],
    *,
    lengths: Int[Tensor, "groups k"],
    correct: Float[Tensor, "groups k"],
) -> Float[Tensor, "groups k"]:
    """ReST (section 3.5, Fig. 10): 1 for the group's best right completion, 0 for all others.

    Best is the highest reward, then the fewest tokens, then the lowest index. A group without a
    right completion gets zeros: there is nothing to imitate.
    """
    candidates = valid & (correct > 0)
    candidates = candidates & (rewards == _highest(rewards, candidates))
    candidates = candidates & (lengths == -_highest(-lengths, candidates))
    is_first = candidates & (candidates.cumsum(dim=-1) == 1)
    return is_first.to(rewards.dtype)


def drop_negatives(
    advantages: Float[Tensor, "groups k"],
    probability: float,
    *,
    seed: int,
    ordinals: Int[Tensor, "groups"],
) -> Bool[Tensor, "groups k"]:
    """True for completions that stay in the loss: all but a share of those with A < 0.

    Which ones are left out depends on the seed, the group's ordinal and the completion's index
    only, so that a resumed run leaves out the same ones.

    Args:
        probability: with which a completion with a negative advantage is left out.
        ordinals: number of the draw that opened each group.
    """
    if probability == 0.0:
        return torch.ones_like(advantages, dtype=torch.bool)
    num_samples = advantages.shape[1]
    uniforms = [
        [derived_uniform(seed, "drop_negatives", ordinal, index) for index in range(num_samples)]
        for ordinal in ordinals.tolist()
    ]
    survives = torch.tensor(uniforms, dtype=torch.float64).reshape(advantages.shape) >= probability
    return (advantages >= 0) | survives.to(advantages.device)


@runtime_checkable
class AdvantageSettings(Protocol):
    """The settings an advantage is made from; `config.rl.AlgorithmConfig` has them."""

    @property
    def baseline(self) -> str: ...
    @property
    def tau(self) -> float: ...


def make_advantage(config: AdvantageSettings) -> Advantage:
    """The advantage whose baseline the config names.

    Raises:
        ConfigError: no baseline has that name.
    """
    by_reward: dict[str, Callable[..., Tensor]] = {
        "mean": mean_advantages,
        "leave_one_out": leave_one_out,
        "log_partition": partial(log_partition, tau=config.tau),
        "standardized": standardized,
    }
    if config.baseline == "best_of_group":
        return best_of_group
    if config.baseline not in by_reward:
        names = ", ".join((*by_reward, "best_of_group"))
        raise ConfigError(f"algorithm.baseline must be one of {names}; got {config.baseline!r}.")
    return partial(_from_rewards, formula=by_reward[config.baseline])


def _from_rewards(
    rewards: Float[Tensor, "groups k"],
    valid: Bool[Tensor, "groups k"],
    *,
    lengths: Int[Tensor, "groups k"],
    correct: Float[Tensor, "groups k"],
    formula: Callable[..., Tensor],
) -> Float[Tensor, "groups k"]:
    """An advantage that looks at rewards alone, with the signature of all."""
    return formula(rewards, valid)


def _group_mean(
    values: Float[Tensor, "groups k"], valid: Bool[Tensor, "groups k"]
) -> Float[Tensor, "groups 1"]:
    """Mean over the valid members, 0 where there are none; exact when they are all equal."""
    lowest = torch.where(valid, values, math.inf).amin(dim=-1, keepdim=True)
    lowest = torch.where(lowest.isfinite(), lowest, 0.0)
    above = torch.where(valid, values - lowest, 0.0).sum(dim=-1, keepdim=True)
    return lowest + above / valid.sum(dim=-1, keepdim=True).clamp(min=1)


def _highest(values: Tensor, candidates: Bool[Tensor, "groups k"]) -> Tensor:
    """Highest value among the candidates of each group; undefined where there are none."""
    floor = (
        torch.finfo(values.dtype).min if values.is_floating_point() else torch.iinfo(values.dtype).min
    )
    return torch.where(candidates, values, floor).amax(dim=-1, keepdim=True)

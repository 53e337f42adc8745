"""Five arms, sampled, with the real loss: the policy goes where theory says.

An arm is a completion of two tokens, so that log-ratios are sums. The optimum of one iteration is
known for both baselines; over many iterations the policy must find the best arm.
"""

import math

import pytest
import torch
from torch import Tensor

from k15.algo.advantage import make_advantage
from k15.algo.diagnostics import force_ratio
from k15.algo.policy import Normalizer, make_loss
from k15.config.rl import AlgorithmConfig

REFERENCE = torch.tensor([0.40, 0.25, 0.20, 0.10, 0.05], dtype=torch.float64)
REWARDS = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
TAU = 0.3
GROUPS, GROUP_SIZE = 8, 128  # large groups, so that a group's mean is near the true one
SEEDS = (0, 1, 2)


def token_logprobs(logits: Tensor, arms: Tensor) -> Tensor:
    """Two tokens an arm: the first tells the arm's half (0-1 or 2-4), the second the arm within it."""
    logprobs = logits.log_softmax(-1)
    halves = torch.tensor([0, 0, 1, 1, 1])
    half = torch.stack([logprobs[halves == h].logsumexp(0) for h in (0, 1)])[halves]
    return torch.stack([half, logprobs - half], dim=-1)[arms]


def minibatch_loss(
    logits: Tensor, reference: Tensor, arms: Tensor, config: AlgorithmConfig
) -> tuple[Tensor, Tensor]:
    """The real loss of sampled groups [groups, k], and their advantages."""
    rewards = REWARDS[arms]
    advantages = make_advantage(config)(
        rewards,
        torch.ones_like(arms, dtype=torch.bool),
        lengths=torch.full_like(arms, 2),
        correct=rewards,
    )
    logprobs = token_logprobs(logits, arms.flatten())
    terms = make_loss(config)(
        logprobs,
        token_logprobs(reference, arms.flatten()),
        torch.ones_like(logprobs, dtype=torch.bool),
        advantages.flatten(),
        normalizer=Normalizer(arms.numel(), 2 * arms.numel()),
    )
    return terms.loss, advantages


def sample(logits: Tensor, groups: int, group_size: int, generator: torch.Generator) -> Tensor:
    draws = torch.multinomial(
        logits.softmax(-1), groups * group_size, replacement=True, generator=generator
    )
    return draws.reshape(groups, group_size)


def optimise_one_iteration(config: AlgorithmConfig, seed: int, num_steps: int = 200) -> Tensor:
    """The policy after many steps on fresh samples of one fixed reference; the last half averaged."""
    generator = torch.Generator().manual_seed(seed)
    reference = REFERENCE.log()
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    mean = torch.zeros_like(REFERENCE)
    for step in range(num_steps):
        loss, _ = minibatch_loss(
            logits, reference, sample(reference, GROUPS, GROUP_SIZE, generator), config
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= num_steps // 2:
            mean += logits.detach().softmax(-1) / (num_steps - num_steps // 2)
    return mean


def exponential_tilt() -> Tensor:
    return (REFERENCE.log() + REWARDS / TAU).softmax(-1)


def lambert_w_optimum() -> Tensor:
    """pi_ref * rho with log rho + c rho = A / tau, c by bisection, log rho by Newton's method."""
    scaled = (REWARDS - (REFERENCE * REWARDS).sum()) / TAU

    def policy(c: float) -> Tensor:
        log_rho = torch.zeros_like(scaled)
        for _ in range(100):
            log_rho = log_rho - (log_rho + c * log_rho.exp() - scaled) / (1 + c * log_rho.exp())
        return REFERENCE * log_rho.exp()

    low, high = 0.0, 50.0
    for _ in range(100):
        c = (low + high) / 2
        low, high = (c, high) if policy(c).sum() > 1 else (low, c)
    return policy(low)


def total_variation(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().sum() / 2)


def test_the_two_optima_are_far_apart() -> None:
    assert lambert_w_optimum().sum().item() == pytest.approx(1.0)
    assert total_variation(exponential_tilt(), lambert_w_optimum()) > 0.1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", ["mirror_descent", "squared"])
def test_with_the_partition_function_sampling_leads_to_the_exponential_tilt(
    loss: str, seed: int
) -> None:
    config = AlgorithmConfig(loss=loss, baseline="log_partition", tau=TAU)  # type: ignore[arg-type]
    assert total_variation(optimise_one_iteration(config, seed), exponential_tilt()) < 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_with_the_mean_sampling_leads_to_the_lambert_w_optimum(seed: int) -> None:
    config = AlgorithmConfig(baseline="mean", tau=TAU)
    assert total_variation(optimise_one_iteration(config, seed), lambert_w_optimum()) < 0.02


def train_online(
    config: AlgorithmConfig, seed: int, *, iterations: int, staleness: int = 0
) -> tuple[Tensor, list[float]]:
    """Iterations of the whole algorithm: sample, fix the reference, fresh optimizer, four steps.

    With `staleness`, the samples come from a policy so many iterations old, while the reference is
    the present one: the paper's identity holds for samples of any policy.
    """
    generator = torch.Generator().manual_seed(seed)
    history = [REFERENCE.log()]
    ratios = []
    for _ in range(iterations):
        reference = history[-1]
        arms = sample(history[max(0, len(history) - 1 - staleness)], 16, 8, generator)
        logits = reference.clone().requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.05)
        for _ in range(4):
            loss, _ = minibatch_loss(logits, reference, arms, config)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        history.append(logits.detach())
        ratios.append(force(logits.detach(), reference, arms, config))
    return history[-1].softmax(-1), ratios


def force(logits: Tensor, reference: Tensor, arms: Tensor, config: AlgorithmConfig) -> float:
    _, advantages = minibatch_loss(logits, reference, arms, config)
    delta = (token_logprobs(logits, arms.flatten()) - token_logprobs(reference, arms.flatten())).sum(-1)
    return force_ratio(delta, advantages.flatten(), config.tau) or 0.0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", ["mirror_descent", "reinforce", "grpo"])
def test_over_iterations_the_policy_finds_the_best_arms(loss: str, seed: int) -> None:
    config = AlgorithmConfig(loss=loss, tau=0.1)  # type: ignore[arg-type]
    policy, _ = train_online(config, seed, iterations=60)
    before, after = float((REFERENCE * REWARDS).sum()), float((policy * REWARDS).sum())
    assert before == pytest.approx(0.29)
    assert after > 0.95


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("staleness", [1, 2, 4])
def test_samples_of_older_policies_still_improve_the_reward(staleness: int, seed: int) -> None:
    policy, _ = train_online(AlgorithmConfig(tau=0.1), seed, iterations=60, staleness=staleness)
    assert bool(policy.isfinite().all())
    assert float((policy * REWARDS).sum()) > 0.9


def test_a_larger_tau_means_a_stronger_regulariser_and_a_slower_policy() -> None:
    rewards, forces = [], []
    for tau in (0.03, 0.3, 3.0):
        runs = [train_online(AlgorithmConfig(tau=tau), seed, iterations=20) for seed in SEEDS]
        rewards.append(math.fsum(float((policy * REWARDS).sum()) for policy, _ in runs) / len(runs))
        forces.append(math.fsum(sum(ratios) / len(ratios) for _, ratios in runs) / len(runs))
    assert rewards == sorted(rewards, reverse=True)
    assert forces == sorted(forces)

"""Where the loss leads, in a world that can be solved: tables of two and five outcomes.

A group whose members stand in exact proportion to the reference policy is the whole population: its
mean reward is the true mean, its log-mean-exp the true tau log Z. Minimising the real loss over it
must lead to the known optima: the exponential tilt with the log-partition baseline, and with the
mean baseline a Lambert-W function of the advantage.
"""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from k15.algo.advantage import make_advantage
from k15.algo.policy import Normalizer, make_loss
from k15.config.rl import AlgorithmConfig

# Share of right answers p, tau, optimum with the partition function, with the mean, and tau log Z.
TWO_OUTCOMES = [
    (0.05, 0.1, 0.9991, 0.5666, 0.7005),
    (0.05, 0.4, 0.3907, 0.2537, 0.1776),
    (0.10, 0.1, 0.9996, 0.7459, 0.7698),
    (0.10, 0.4, 0.5751, 0.3957, 0.3002),
    (0.25, 0.4, 0.8024, 0.6572, 0.5335),
    (0.50, 0.4, 0.9241, 0.8708, 0.7543),
    (0.75, 0.4, 0.9734, 0.9633, 0.8957),
    (0.10, 1.0, 0.2320, 0.2203, 0.1586),
    (0.10, 4.0, 0.1249, 0.1248, 0.1120),
]
FIVE_COUNTS, FIVE_REWARDS = (8, 5, 4, 2, 1), (0.0, 0.2, 0.5, 0.9, 1.0)


def population_loss(
    logits: Tensor, counts: Sequence[int], rewards: Sequence[float], config: AlgorithmConfig
) -> Tensor:
    """The real loss of a group that holds each outcome as often as the reference policy says."""
    arms = torch.tensor([arm for arm, count in enumerate(counts) for _ in range(count)])
    reward = torch.tensor(rewards, dtype=torch.float64)[arms].unsqueeze(0)
    advantages = make_advantage(config)(
        reward, torch.ones_like(reward, dtype=torch.bool),
        lengths=torch.ones_like(reward, dtype=torch.int64), correct=reward,
    )  # fmt: skip
    reference = torch.tensor(counts, dtype=torch.float64).log().log_softmax(-1)[arms]
    mask = torch.ones(len(arms), 1, dtype=torch.bool)
    logprobs = logits.log_softmax(-1)[arms]
    normalizer = Normalizer(num_completions=len(arms), num_tokens=len(arms))
    return make_loss(config)(
        logprobs.unsqueeze(-1),
        reference.unsqueeze(-1),
        mask,
        advantages.squeeze(0),
        normalizer=normalizer,
    ).loss


def minimiser(counts: Sequence[int], rewards: Sequence[float], **settings: object) -> Tensor:
    """The policy with the least population loss, starting from the reference."""
    config = AlgorithmConfig(**settings)  # type: ignore[arg-type]
    logits = torch.tensor(counts, dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=300,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = population_loss(logits, counts, rewards, config)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return logits.detach().softmax(-1)


def bisect(function, low: float, high: float) -> float:
    """Root of an increasing function."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2


def exponential_tilt(counts: Sequence[int], rewards: Sequence[float], tau: float) -> list[float]:
    """pi_ref exp(r / tau) / Z."""
    weights = [count * math.exp(reward / tau) for count, reward in zip(counts, rewards, strict=True)]
    return [weight / sum(weights) for weight in weights]


def mean_baseline_optimum(counts: Sequence[int], rewards: Sequence[float], tau: float) -> list[float]:
    """pi_ref W(c exp(A / tau)) / c, with c such that it sums to 1; by root finding alone.

    Stationarity of E_ref (A - tau log rho)^2 under E_ref rho = 1 reads log rho + c rho = A / tau.
    """
    reference = [count / sum(counts) for count in counts]
    mean = sum(p * r for p, r in zip(reference, rewards, strict=True))

    def ratio(c: float, reward: float) -> float:
        log_rho = bisect(lambda x: x + c * math.exp(x) - (reward - mean) / tau, -100.0, 20.0)
        return math.exp(log_rho)

    def total(c: float) -> float:
        return sum(p * ratio(c, r) for p, r in zip(reference, rewards, strict=True))

    c = bisect(lambda c: 1 - total(c), 0.0, 100.0)
    return [p * ratio(c, r) for p, r in zip(reference, rewards, strict=True)]


@pytest.mark.parametrize(("p", "tau", "tilt", "with_mean", "tau_log_z"), TWO_OUTCOMES)
def test_the_table_agrees_with_root_finding(p, tau, tilt, with_mean, tau_log_z) -> None:
    counts = (round(20 * p), round(20 * (1 - p)))
    assert exponential_tilt(counts, (1.0, 0.0), tau)[0] == pytest.approx(tilt, abs=6e-5)
    assert mean_baseline_optimum(counts, (1.0, 0.0), tau)[0] == pytest.approx(with_mean, abs=6e-5)
    assert tau * math.log(1 - p + p * math.exp(1 / tau)) == pytest.approx(tau_log_z, abs=6e-5)


@pytest.mark.parametrize("loss", ["mirror_descent", "squared"])
@pytest.mark.parametrize(("p", "tau", "tilt", "with_mean", "tau_log_z"), TWO_OUTCOMES)
def test_both_baselines_lead_to_their_optimum(loss, p, tau, tilt, with_mean, tau_log_z) -> None:
    counts = (round(20 * p), round(20 * (1 - p)))
    policy = minimiser(counts, (1.0, 0.0), loss=loss, baseline="mean", tau=tau)
    assert policy[0].item() == pytest.approx(with_mean, abs=1e-4)
    policy = minimiser(counts, (1.0, 0.0), loss=loss, baseline="log_partition", tau=tau)
    assert policy[0].item() == pytest.approx(tilt, abs=1e-4)


@pytest.mark.parametrize("tau", [0.15, 0.3, 1.0])
def test_five_outcomes_with_the_partition_function_reach_the_exponential_tilt(tau: float) -> None:
    policy = minimiser(FIVE_COUNTS, FIVE_REWARDS, baseline="log_partition", tau=tau)
    expected = torch.tensor(exponential_tilt(FIVE_COUNTS, FIVE_REWARDS, tau), dtype=torch.float64)
    torch.testing.assert_close(policy, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("tau", [0.15, 0.3, 1.0])
def test_five_outcomes_with_the_mean_reach_the_lambert_w_optimum(tau: float) -> None:
    policy = minimiser(FIVE_COUNTS, FIVE_REWARDS, baseline="mean", tau=tau)
    expected = torch.tensor(mean_baseline_optimum(FIVE_COUNTS, FIVE_REWARDS, tau), dtype=torch.float64)
    torch.testing.assert_close(policy, expected, atol=1e-3, rtol=0)


def test_a_larger_tau_keeps_the_policy_nearer_to_its_reference() -> None:
    squares = []
    reference = torch.tensor(FIVE_COUNTS, dtype=torch.float64).log().log_softmax(-1)
    for tau in (0.01, 0.03, 0.1, 0.4):
        logits = reference.clone().requires_grad_()
        optimizer = torch.optim.SGD([logits], lr=1.0)
        for _ in range(60):
            optimizer.zero_grad()
            population_loss(logits, FIVE_COUNTS, FIVE_REWARDS, AlgorithmConfig(tau=tau)).backward()
            optimizer.step()
        delta = logits.detach().log_softmax(-1) - reference
        squares.append(float((reference.exp() * delta.square()).sum()))
    assert squares == sorted(squares, reverse=True)
    assert squares[0] > 1.2 * squares[-1]

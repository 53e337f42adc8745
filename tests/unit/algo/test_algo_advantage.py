"""Baselines of section 2.3.2 against hand-computed values and slow, exact arithmetic."""

import math
import statistics
from decimal import Decimal, getcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from k15.algo.advantage import (
    best_of_group,
    drop_negatives,
    leave_one_out,
    log_partition,
    make_advantage,
    mean_advantages,
    standardized,
)
from k15.config.rl import AlgorithmConfig
from k15.errors import ConfigError


def all_valid(rewards: Tensor) -> Tensor:
    return torch.ones_like(rewards, dtype=torch.bool)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def flags(*values: int) -> Tensor:
    return torch.tensor([values], dtype=torch.bool)


def test_mean_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[0.5, -0.5, -0.5, 0.5], [0.75, -0.25, -0.25, -0.25]])
    torch.testing.assert_close(mean_advantages(rewards, all_valid(rewards)), expected)


def test_there_is_no_division_by_the_deviation() -> None:
    rewards = row(1.0, 0.0, 0.5)
    torch.testing.assert_close(
        mean_advantages(10 * rewards, all_valid(rewards)),
        10 * mean_advantages(rewards, all_valid(rewards)),
    )


@given(
    rewards=st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=16),
    invalid=st.sets(st.integers(0, 15)),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_advantages_of_a_group_sum_to_zero_and_leave_invalid_members_out(rewards, invalid) -> None:
    valid = torch.tensor([[i not in invalid for i in range(len(rewards))]])
    values = torch.tensor([rewards], dtype=torch.float64)
    advantages = mean_advantages(torch.where(valid, values, math.nan), valid)
    assert abs(float(advantages.sum())) < 1e-12
    assert bool((advantages[~valid] == 0).all())
    kept = [r for i, r in enumerate(rewards) if i not in invalid]
    mean = statistics.fmean(kept) if kept else 0.0
    torch.testing.assert_close(
        advantages[valid], torch.tensor([r - mean for r in kept], dtype=torch.float64)
    )


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -0.3, 1 / 3])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out", "log_partition", "standardized"])
def test_equal_rewards_give_exactly_zero(baseline: str, reward: float) -> None:
    rewards = torch.full((1, 7), reward)
    advantage = make_advantage(AlgorithmConfig(baseline=baseline))  # type: ignore[arg-type]
    result = advantage(
        rewards,
        all_valid(rewards),
        lengths=torch.ones(1, 7, dtype=torch.int64),
        correct=torch.ones(1, 7),
    )
    assert bool((result == 0).all())


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    rewards, valid = row(1.0, 0.0, 0.3, 99.0), flags(1, 1, 1, 0)
    expected = row(1.0 - 0.15, 0.0 - 0.65, 0.3 - 0.5, 0.0)
    torch.testing.assert_close(leave_one_out(rewards, valid), expected)
    # The mean baseline, which holds the own sample too, shrinks it by (n - 1) / n.
    torch.testing.assert_close(mean_advantages(rewards, valid), expected * 2 / 3)


def test_a_lone_valid_member_has_nothing_to_compare_with() -> None:
    rewards, valid = row(5.0, 1.0), flags(1, 0)
    for advantages in (
        mean_advantages(rewards, valid),
        leave_one_out(rewards, valid),
        standardized(rewards, valid),
        log_partition(rewards, valid, tau=0.1),
    ):
        assert bool((advantages == 0).all())


def exact_tau_log_z(rewards: list[float], tau: float) -> float:
    """tau log (1/k) sum exp(r / tau) with 60 digits."""
    getcontext().prec = 60
    mean = sum(((Decimal(r) / Decimal(tau)).exp() for r in rewards), Decimal(0)) / len(rewards)
    return float(Decimal(tau) * mean.ln())


@pytest.mark.parametrize("tau", [1e-4, 1e-2, 0.1, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_partition_is_the_log_mean_exp_at_every_scale(tau: float, dtype: torch.dtype) -> None:
    rewards = [1.0, 0.25, 0.0, 0.25, -0.5]  # exact in binary; r / tau reaches 1e4
    values = torch.tensor([rewards], dtype=dtype)
    advantages = log_partition(values, all_valid(values), tau=tau)
    expected = torch.tensor([[r - exact_tau_log_z(rewards, tau) for r in rewards]], dtype=dtype)
    torch.testing.assert_close(
        advantages, expected, atol=3e-7 if dtype == torch.float32 else 1e-11, rtol=0
    )


def test_log_partition_tends_to_the_mean_and_to_the_maximum() -> None:
    rewards = row(1.0, 0.0, 0.3, 0.0)
    mean = mean_advantages(rewards, all_valid(rewards))
    torch.testing.assert_close(
        log_partition(rewards, all_valid(rewards), tau=1e6), mean, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        log_partition(rewards, all_valid(rewards), tau=1e-6), rewards - 1.0, atol=1e-5, rtol=0
    )


def test_log_partition_counts_valid_members_only() -> None:
    rewards, valid = row(1.0, 0.0, math.nan), flags(1, 1, 0)
    z = exact_tau_log_z([1.0, 0.0], 0.5)
    torch.testing.assert_close(log_partition(rewards, valid, tau=0.5), row(1.0 - z, 0.0 - z, 0.0))


def test_standardized_divides_by_the_sample_deviation() -> None:
    rewards, valid = row(1.0, 0.0, 0.0, 0.5, 77.0), flags(1, 1, 1, 1, 0)
    kept = [1.0, 0.0, 0.0, 0.5]
    deviation = statistics.stdev(kept) + 1e-4
    expected = row(*((r - statistics.fmean(kept)) / deviation for r in kept), 0.0)
    torch.testing.assert_close(standardized(rewards, valid), expected)


@pytest.mark.parametrize(
    ("rewards", "correct", "valid", "lengths", "best"),
    [
        ((0.2, 1.1, 1.0), (0, 1, 1), (1, 1, 1), (5, 9, 7), 1),  # highest reward
        ((1.0, 1.0, 1.0), (1, 1, 1), (1, 1, 1), (9, 5, 7), 1),  # then shortest
        ((0.0, 1.0, 1.0), (0, 1, 1), (1, 1, 1), (5, 7, 7), 1),  # then first
        ((9.0, 1.0, 0.5), (0, 0, 1), (1, 1, 1), (1, 1, 9), 2),  # only right ones count
        ((9.0, 1.0, 0.5), (1, 1, 1), (0, 0, 1), (1, 1, 9), 2),  # only valid ones count
        ((1.0, 0.0, 0.5), (0, 0, 0), (1, 1, 1), (1, 2, 3), None),  # none right
        ((1.0, 1.0, 1.0), (1, 1, 1), (0, 0, 0), (1, 2, 3), None),  # none valid
    ],
)
def test_best_of_group_chooses_one_right_completion(rewards, correct, valid, lengths, best) -> None:
    weights = best_of_group(
        row(*rewards), flags(*valid), lengths=torch.tensor([lengths]), correct=row(*map(float, correct))
    )
    torch.testing.assert_close(weights, row(*(float(i == best) for i in range(3))))


def test_dropping_negatives_spares_all_others() -> None:
    advantages = torch.tensor([[0.5, -0.5, 0.0, -0.1]] * 50)
    ordinals = torch.arange(50)
    everything = drop_negatives(advantages, 0.0, seed=1, ordinals=ordinals)
    nothing = drop_negatives(advantages, 1.0, seed=1, ordinals=ordinals)
    assert bool(everything.all())
    torch.testing.assert_close(nothing, advantages >= 0)
    half = drop_negatives(advantages, 0.5, seed=1, ordinals=ordinals)
    assert bool(half[:, [0, 2]].all())
    assert 0 < half[:, 1].sum() < 50


def test_negatives_are_dropped_with_the_stated_probability() -> None:
    kept = drop_negatives(-torch.ones(1000, 8), 0.3, seed=5, ordinals=torch.arange(1000)).sum().item()
    deviation = math.sqrt(8000 * 0.3 * 0.7)
    assert abs(kept - 5600) < 3 * deviation


def test_a_dropped_completion_is_the_same_in_any_batch() -> None:
    advantages, ordinals = -torch.ones(40, 8), torch.arange(40)
    whole = drop_negatives(advantages, 0.5, seed=5, ordinals=ordinals)
    backwards = drop_negatives(advantages, 0.5, seed=5, ordinals=ordinals.flip(0)).flip(0)
    alone = drop_negatives(advantages[17:18], 0.5, seed=5, ordinals=ordinals[17:18])
    torch.testing.assert_close(whole, backwards)
    torch.testing.assert_close(whole[17:18], alone)
    assert bool((whole != drop_negatives(advantages, 0.5, seed=6, ordinals=ordinals)).any())


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("mean", mean_advantages(row(1.0, 0.0, 0.5), flags(1, 1, 1))),
        ("leave_one_out", leave_one_out(row(1.0, 0.0, 0.5), flags(1, 1, 1))),
        ("log_partition", log_partition(row(1.0, 0.0, 0.5), flags(1, 1, 1), tau=0.7)),
        ("standardized", standardized(row(1.0, 0.0, 0.5), flags(1, 1, 1))),
        ("best_of_group", row(0.0, 0.0, 1.0)),
    ],
)
def test_make_advantage_gives_the_named_baseline(baseline: str, expected: Tensor) -> None:
    advantage = make_advantage(AlgorithmConfig(baseline=baseline, tau=0.7))  # type: ignore[arg-type]
    result = advantage(
        row(1.0, 0.0, 0.5), flags(1, 1, 1), lengths=torch.tensor([[1, 2, 3]]), correct=row(0.0, 0.0, 1.0)
    )
    torch.testing.assert_close(result, expected)


def test_make_advantage_refuses_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match=r"one of mean, .*; got 'critic'"):
        make_advantage(AlgorithmConfig().model_copy(update={"baseline": "critic"}))

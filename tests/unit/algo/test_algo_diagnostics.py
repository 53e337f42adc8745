"""Diagnostics against exact sums over small distributions and values worked by hand."""

import math

import pytest
import torch

from k15.algo.diagnostics import (
    KLEstimate,
    effective_sample_share,
    force_ratio,
    kl_estimate,
    token_entropy,
    zero_advantage_share,
)


def test_kl_estimators_agree_with_the_exact_divergence() -> None:
    # 1000 tokens in exact proportion to the reference, so that the sample mean is the expectation.
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    policy = torch.tensor([0.4, 0.25, 0.35], dtype=torch.float64)
    tokens = torch.tensor([0] * 500 + [1] * 300 + [2] * 200).reshape(10, 100)
    estimate = kl_estimate(
        policy.log()[tokens], reference.log()[tokens], torch.ones(10, 100, dtype=torch.bool)
    )
    exact = float((reference * (reference / policy).log()).sum())
    assert estimate.num_tokens == 1000
    assert estimate.k3 == pytest.approx(exact)
    assert estimate.mean_log_ratio == pytest.approx(-exact)


def test_kl_is_zero_on_the_reference_and_blind_to_masked_tokens() -> None:
    logprobs = torch.full((2, 3), -1.0)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    dirty = torch.where(mask, logprobs, math.nan)
    assert kl_estimate(dirty, logprobs, mask) == KLEstimate(0.0, 0.0, 3)
    assert kl_estimate(dirty, logprobs, torch.zeros_like(mask)).k3 == 0.0


def test_kl_of_parts_adds_up() -> None:
    logprobs, reference = -torch.rand(4, 5), -torch.rand(4, 5)
    mask = torch.rand(4, 5) < 0.6
    whole = kl_estimate(logprobs, reference, mask)
    parts = kl_estimate(logprobs[:1], reference[:1], mask[:1]) + kl_estimate(
        logprobs[1:], reference[1:], mask[1:]
    )
    assert parts.k3 == pytest.approx(whole.k3)
    assert parts.mean_log_ratio == pytest.approx(whole.mean_log_ratio)
    assert whole.k3 > 0


def test_entropy_in_nats() -> None:
    logits = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -math.inf, -math.inf], [500.0, 0.0, 0.0, 0.0]]
    )
    expected = torch.tensor([math.log(4), math.log(2), 0.0])
    torch.testing.assert_close(token_entropy(logits.log_softmax(-1)), expected)


def test_force_ratio_compares_medians_over_completions_with_an_advantage() -> None:
    log_ratio = torch.tensor([3.0, -1.0, 2.0, 100.0])
    advantages = torch.tensor([0.5, -0.25, 0.5, 0.0])
    assert force_ratio(log_ratio, advantages, tau=0.1) == pytest.approx(0.1 * 2.0 / 0.5)


def test_force_ratio_of_no_advantages_is_none() -> None:
    assert force_ratio(torch.ones(3), torch.zeros(3), tau=0.1) is None
    assert force_ratio(torch.ones(0), torch.zeros(0), tau=0.1) is None


def test_effective_sample_share() -> None:
    assert effective_sample_share(torch.full((6,), 0.7)) == pytest.approx(1.0)
    assert effective_sample_share(torch.tensor([1000.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert effective_sample_share(torch.tensor([0.0, math.log(3.0)])) == pytest.approx(16 / 20)
    assert effective_sample_share(torch.zeros(0)) == 1.0


def test_zero_advantage_share_counts_valid_completions() -> None:
    advantages = torch.tensor([[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    assert zero_advantage_share(advantages, valid) == pytest.approx(3 / 5)
    assert zero_advantage_share(advantages, torch.zeros_like(valid)) == 0.0

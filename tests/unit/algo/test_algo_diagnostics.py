"""Diagnostics against exact sums over small distributions and values worked by hand."""

import math
import random

import pytest
import torch

from k15.algo.diagnostics import (
    KLEstimate,
    effective_sample_share,
    force_ratio,
    kl_estimate,
    synchronous_length,
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


def test_synchronous_length_by_hand() -> None:
    """Three start anew: one stops after 1 token, two go on after 2; a resumed one stops at 4 in all."""
    starts, ends = torch.tensor([0, 0, 0, 2]), torch.tensor([1, 2, 2, 4])
    finished = torch.tensor([True, False, False, True])
    # P(L > 0) = 1, P(L > 1) = 2/3, P(L > 2) = 2/3, P(L > 3) = 2/3, and nobody lives beyond 4
    assert synchronous_length(starts, ends, finished) == pytest.approx(1 + 3 * 2 / 3)
    none = torch.zeros(0, dtype=torch.long)
    assert synchronous_length(none, none, none.bool()) == 0.0
    whole = torch.tensor([3, 5, 10])
    assert synchronous_length(torch.zeros_like(whole), whole, whole > 0) == pytest.approx(6.0)


def test_synchronous_length_of_partial_rollouts_is_that_of_whole_ones() -> None:
    """Row 65: a heavy-tailed policy, cut into segments of 20 tokens, seen at one moment of a steady stream."""
    rng = random.Random(0)
    lengths = [
        min(1 + int(rng.expovariate(1 / (12 if rng.random() < 0.8 else 120))), 400)
        for _ in range(200_000)
    ]
    segments = []
    for opened, length in enumerate(
        lengths
    ):  # the k-th is opened at iteration k mod 20, looked at in iteration 19
        start = 20 * (19 - opened % 20)
        if start < length:
            segments.append((start, min(start + 20, length), length <= start + 20))
    starts, ends, finished = (torch.tensor(column) for column in zip(*segments, strict=True))
    expected = sum(lengths) / len(lengths)
    assert synchronous_length(starts, ends, finished) == pytest.approx(expected, rel=0.05)
    assert expected > 20
    first = [(s, e, f) for s, e, f in segments if s == 0]
    early = [e for _, e, f in first if f]
    assert sum(early) / len(early) < 0.5 * expected  # what a first iteration would train on

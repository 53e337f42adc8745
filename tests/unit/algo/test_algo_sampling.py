"""Weights, success rates and the draw of section 2.3.4."""

import math

import numpy as np
import pytest
import torch

from k15.algo.derive import derived_uniform
from k15.algo.sampling import (
    draw_without_replacement,
    hard_prompts,
    prioritized_weights,
    updated_success_rate,
)


def chi_square_p(observed: np.ndarray, expected: np.ndarray) -> float:
    """Probability of so large a chi-square statistic if the expected counts are right."""
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return float(
        torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2), torch.tensor(statistic / 2))
    )


def test_priority_is_one_minus_success_rate_with_a_floor() -> None:
    weights = prioritized_weights(np.array([0.0, 0.25, 0.98, 1.0]), 0.05)
    np.testing.assert_allclose(weights, [1.0, 0.75, 0.05, 0.05])


def test_hard_by_label_includes_the_threshold_and_leaves_unlabelled_prompts_out() -> None:
    hard = hard_prompts(
        np.array([1.0, 2.0, 3.0, math.nan]), np.zeros(4), hard_difficulty=2.0, hard_success_rate=0.5
    )
    assert hard.tolist() == [False, True, True, False]


def test_hard_by_success_rate_excludes_the_threshold() -> None:
    hard = hard_prompts(
        np.array([9.0, 9.0, 9.0]), np.array([0.4, 0.5, 0.6]), hard_difficulty=None, hard_success_rate=0.5
    )
    assert hard.tolist() == [True, False, False]


def test_success_rate_is_the_share_at_the_first_visit_and_a_moving_average_after() -> None:
    rate = updated_success_rate(None, 0.75, decay=0.5)
    assert rate == 0.75
    rate = updated_success_rate(rate, 0.25, decay=0.5)
    assert rate == 0.5
    assert updated_success_rate(rate, 1.0, decay=0.8) == pytest.approx(0.6)
    assert updated_success_rate(rate, 1.0, decay=0.0) == 1.0


def test_draws_are_in_proportion_to_the_weights() -> None:
    weights = np.array([1.0, 0.0, 0.3, 0.05, 0.7, 0.9])
    draws = [draw_without_replacement(weights, [derived_uniform(0, "test", i)])[0] for i in range(20000)]
    counts = np.bincount(draws, minlength=6)
    assert counts[1] == 0
    positive = weights > 0
    assert chi_square_p(counts[positive], 20000 * weights[positive] / weights.sum()) > 0.01


def test_the_second_draw_is_in_proportion_to_what_is_left() -> None:
    weights = np.array([0.5, 0.3, 0.2])
    pairs = np.zeros((3, 3))
    for i in range(20000):
        first, second = draw_without_replacement(
            weights, [derived_uniform(1, "test", i, j) for j in range(2)]
        )
        pairs[first, second] += 1
    expected = np.array(
        [[weights[a] * weights[b] / (1 - weights[a]) for b in range(3)] for a in range(3)]
    )
    off_diagonal = ~np.eye(3, dtype=bool)
    assert pairs.trace() == 0
    assert chi_square_p(pairs[off_diagonal], 20000 * expected[off_diagonal]) > 0.01


def test_nothing_is_drawn_twice_and_the_draw_ends_with_the_weights() -> None:
    weights = np.array([1.0, 0.0, 2.0, 3.0])
    assert sorted(draw_without_replacement(weights, [0.1, 0.9, 0.5, 0.3])) == [0, 2, 3]
    assert draw_without_replacement(np.zeros(3), [0.5]) == []
    assert weights.tolist() == [1.0, 0.0, 2.0, 3.0]


@pytest.mark.parametrize("total", [1.0, 3.0, 0.05 * 7, 1e-300, 1e300, 1 / 3])
@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-53])
def test_extreme_uniforms_hit_prompts_with_a_weight(uniform: float, total: float) -> None:
    weights = np.array([0.0, total / 2, 0.0, total / 2, 0.0])
    assert draw_without_replacement(weights, [uniform])[0] == (1 if uniform == 0.0 else 3)

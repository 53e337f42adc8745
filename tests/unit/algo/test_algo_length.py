"""The length reward of section 2.3.3: values worked by hand, and what must hold for all groups."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from k15.algo.length import length_reward


def reward_of(lengths: list[int], correct: list[int], valid: list[int] | None = None) -> list[float]:
    mask = torch.tensor([valid if valid is not None else [1] * len(lengths)], dtype=torch.bool)
    return length_reward(torch.tensor([lengths]), torch.tensor([correct], dtype=torch.float32), mask)[
        0
    ].tolist()


@pytest.mark.parametrize(
    ("lengths", "correct", "expected"),
    [
        ([100, 200, 300, 400, 500], [1, 1, 0, 0, 1], [0.5, 0.25, 0, -0.25, -0.5]),
        ([100, 200, 300, 400, 500], [0, 0, 0, 0, 0], [0, 0, 0, -0.25, -0.5]),
        ([100, 200, 300, 400, 500], [1, 1, 1, 1, 1], [0.5, 0.25, 0, -0.25, -0.5]),
        ([300, 300, 300], [1, 0, 1], [0, 0, 0]),
        ([42], [1], [0]),
        ([7, 9], [0, 1], [0, -0.5]),
        ([5, 5, 9], [1, 0, 1], [0.5, 0, -0.5]),
    ],
)
def test_values_worked_by_hand(lengths, correct, expected) -> None:
    assert reward_of(lengths, correct) == expected


def test_each_group_is_measured_against_itself() -> None:
    lengths = torch.tensor([[10, 20], [1000, 3000]])
    both = length_reward(lengths, torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(both, torch.tensor([[0.5, -0.5], [0.5, -0.5]]))


def test_invalid_members_count_neither_as_shortest_nor_as_longest() -> None:
    rewards = reward_of([1, 100, 200, 300, 9999], [1, 1, 1, 0, 1], [0, 1, 1, 1, 0])
    assert rewards == [0, 0.5, 0, -0.5, 0]
    assert reward_of([1, 100, 9999], [1, 1, 1], [0, 1, 0]) == [0, 0, 0]
    assert reward_of([1, 100], [1, 1], [0, 0]) == [0, 0]


groups = st.integers(1, 12).flatmap(
    lambda k: st.tuples(
        st.lists(st.integers(1, 100_000), min_size=k, max_size=k),
        st.lists(st.integers(0, 1), min_size=k, max_size=k),
        st.lists(st.integers(0, 1), min_size=k, max_size=k),
    )
)
examples = settings(derandomize=True, deadline=None, max_examples=150)


@given(groups)
@examples
def test_equals_a_plain_loop(group) -> None:
    lengths, correct, valid = group
    kept = [n for n, v in zip(lengths, valid, strict=True) if v]
    expected = []
    for length, is_right, is_valid in zip(lengths, correct, valid, strict=True):
        if not is_valid or max(kept) == min(kept):
            expected.append(0.0)
            continue
        bonus = 0.5 - (length - min(kept)) / (max(kept) - min(kept))
        expected.append(bonus if is_right else min(0.0, bonus))
    assert reward_of(lengths, correct, valid) == pytest.approx(expected, abs=1e-6)


@given(groups, st.floats(0, 2, width=32))
@examples
def test_right_scores_at_least_as_much_as_wrong_for_weights_up_to_two(group, weight) -> None:
    lengths, correct, _ = group
    totals = torch.tensor(correct) + weight * torch.tensor(reward_of(lengths, correct))
    right, wrong = totals[torch.tensor(correct) == 1], totals[torch.tensor(correct) == 0]
    if len(right) and len(wrong):
        assert right.min() >= wrong.max()


def test_beyond_a_weight_of_two_wrong_can_overtake_right() -> None:
    totals = torch.tensor([0.0, 1.0]) + 2.1 * torch.tensor(reward_of([10, 20], [0, 1]))
    assert totals[1] < totals[0]


@given(groups, st.integers(1, 20), st.integers(0, 1000))
@examples
def test_shifting_and_stretching_all_lengths_changes_nothing(group, factor, shift) -> None:
    lengths, correct, valid = group
    stretched = [factor * length + shift for length in lengths]
    assert reward_of(stretched, correct, valid) == pytest.approx(
        reward_of(lengths, correct, valid), abs=1e-6
    )


@given(groups)
@examples
def test_shorter_never_scores_less_and_bounds_hold(group) -> None:
    lengths, correct, _ = group
    rewards = reward_of(lengths, correct)
    assert all(
        -0.5 <= reward <= (0.5 if right else 0.0) for reward, right in zip(rewards, correct, strict=True)
    )
    for kind in (0, 1):
        ranked = sorted(
            (n, -r) for n, r, right in zip(lengths, rewards, correct, strict=True) if right == kind
        )
        assert [r for _, r in ranked] == sorted(r for _, r in ranked)


def test_the_shape_and_dtype_of_the_rewards_are_those_of_correct() -> None:
    correct: Tensor = torch.ones(3, 4, dtype=torch.float64)
    rewards = length_reward(torch.arange(12).reshape(3, 4), correct, torch.ones(3, 4, dtype=torch.bool))
    assert rewards.shape == correct.shape
    assert rewards.dtype == correct.dtype

"""Toggle's reward and phases against cases worked by hand (Kimi K2.5)."""

import math

import pytest
import torch

from k15.algo.toggle import has_budget, toggle_reward

LENGTHS = torch.tensor([[10, 20, 21, 40]])
ALL = torch.ones(1, 4, dtype=torch.bool)


def reward(correct, *, budget=20.0, threshold=0.5, valid=ALL):
    found = toggle_reward(
        torch.tensor([correct], dtype=torch.float32),
        LENGTHS,
        valid,
        torch.tensor([budget]),
        threshold=threshold,
    )
    return found[0].tolist()


def test_a_mastered_prompts_right_answers_count_up_to_the_budget_only():
    assert reward([1, 1, 1, 0]) == [1, 1, 0, 0]


def test_a_prompt_below_the_threshold_may_think_as_long_as_it_likes():
    assert reward([0, 0, 0, 1]) == [0, 0, 0, 1]


def test_an_accuracy_of_just_the_threshold_counts_as_mastered():
    assert reward([1, 0, 0, 1], threshold=0.5) == [1, 0, 0, 0]
    assert reward([1, 0, 0, 1], threshold=0.51) == [1, 0, 0, 1]


def test_wrong_answers_earn_nothing_within_the_budget():
    assert reward([0, 1, 1, 1]) == [0, 1, 0, 0]


def test_without_a_budget_everything_counts():
    assert reward([1, 1, 1, 1], budget=math.inf) == [1, 1, 1, 1]


def test_our_faults_have_no_part_in_the_accuracy():
    valid = torch.tensor([[True, True, False, True]])
    assert reward([1, 0, 0, 1], threshold=0.6, valid=valid) == [1, 0, 0, 0]  # 2 of 3, not 2 of 4


@pytest.mark.parametrize(
    ("every", "expected"),
    [(1, [1, 0, 1, 0, 1, 0]), (2, [1, 1, 0, 0, 1, 1]), (3, [1, 1, 1, 0, 0, 0]), (0, [0] * 6)],
)
def test_phases_take_turns_and_the_budget_comes_first(every, expected):
    assert [int(has_budget(i, every=every)) for i in range(6)] == expected

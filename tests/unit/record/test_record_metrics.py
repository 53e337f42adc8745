"""Metrics against hand-counted rows, numpy and published intervals."""

import re
from pathlib import Path

import numpy as np
import pytest

from k15.record.metrics import completion_metrics, quantile, wilson_interval


def _row(ordinal: int, outcome: str, length: int, **changes) -> dict:
    right = outcome == "right"
    return {
        "iteration": 7,
        "ordinal": ordinal,
        "difficulty": float(ordinal),
        "outcome": outcome,
        "correct": 1.0 if right else 0.0,
        "reward": 1.5 if right else 0.0,
        "advantage": 0.0,
        "length": length,
        "stop": "end",
        "segments": [{"start": 0, "num_tokens": length, "policy_version": 7, "stop": "end"}],
        "trained_tokens": length,
        **changes,
    }


ROWS = [
    _row(1, "right", 10, advantage=0.5),
    _row(1, "wrong", 20, advantage=-0.5, stop="repeat"),
    _row(2, "right", 30),
    _row(2, "right", 40),
    _row(2, "fault", 100, advantage=None, reward=0.0, trained_tokens=0),
    _row(
        3,
        "no_answer",
        200,
        stop="length",
        trained_tokens=150,
        segments=[
            {"start": 0, "num_tokens": 50, "policy_version": 4, "stop": None},
            {"start": 50, "num_tokens": 50, "policy_version": 6, "stop": None},
            {"start": 100, "num_tokens": 100, "policy_version": 7, "stop": "length"},
        ],
    ),
]


def test_completion_metrics_are_what_a_person_counts() -> None:
    assert completion_metrics(ROWS) == pytest.approx(
        {
            "train/num_groups": 3,
            "train/num_completions": 6,
            "train/num_faults": 1,
            "train/share_end": 4 / 6,
            "train/share_repeat": 1 / 6,
            "train/share_length": 1 / 6,
            "train/accuracy": 3 / 5,  # the fault is no wrong answer
            "train/reward_mean": 4.5 / 5,
            "train/length_mean": 400 / 6,
            "train/length_p50": 35,
            "train/length_p95": 175,
            "train/length_max": 200,
            "train/length_right": 80 / 3,
            "train/length_wrong": 110,
            "train/zero_advantage_share": 3 / 5,
            "train/accuracy_level/1": 1 / 2,
            "train/accuracy_level/2": 1.0,
            "train/accuracy_level/3": 0.0,
            "train/length_level/1": 15,
            "train/length_level/2": 170 / 3,
            "train/length_level/3": 200,
            "rollout/segments_per_completion": 8 / 6,
            "rollout/stale_token_share": 100 / 400,
            "rollout/mean_staleness": (3 * 50 + 1 * 50) / 400,
            "rollout/max_staleness": 3,
            "rollout/masked_token_share": 150 / 400,
        }
    )


def test_what_has_nothing_to_average_is_left_out() -> None:
    assert completion_metrics([]) == {
        "train/num_groups": 0,
        "train/num_completions": 0,
        "train/num_faults": 0,
    }
    faults = completion_metrics([_row(1, "fault", 5, difficulty=None)])
    assert faults["train/num_faults"] == 1
    assert faults["train/length_mean"] == 5
    absent = {"train/accuracy", "train/reward_mean", "train/length_right", "train/length_wrong"}
    assert not absent & faults.keys()
    assert not [key for key in faults if "level" in key]
    right = completion_metrics([_row(1, "right", 5)])
    assert "train/length_wrong" not in right


def test_a_level_that_is_no_whole_number_keeps_its_digits() -> None:
    metrics = completion_metrics([_row(1, "right", 5, difficulty=2.5)])
    assert metrics["train/accuracy_level/2.5"] == 1.0


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_against_published_values(
    successes: int, total: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("total", [1, 3, 17, 256])
def test_wilson_interval_solves_its_defining_equation(total: int) -> None:
    """Both ends p satisfy (share - p)^2 = z^2 p (1 - p) / n: the score test just does not reject them."""
    z = 1.959963984540054
    for successes in range(total + 1):
        low, high = wilson_interval(successes, total)
        assert low < high
        for end in (low, high):
            assert (successes / total - end) ** 2 == pytest.approx(
                z * z * end * (1 - end) / total, abs=1e-12
            )


def test_wilson_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).binomial(50, 0.3, size=4000)
    covered = [low <= 0.3 <= high for low, high in (wilson_interval(int(k), 50) for k in draws)]
    assert 0.935 < np.mean(covered) < 0.97
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_quantiles_are_those_of_numpy() -> None:
    noise = np.random.default_rng(1)
    for size in (1, 2, 3, 10, 101):
        values = noise.normal(size=size).tolist()
        for level in (0.0, 0.05, 0.5, 0.95, 1.0):
            assert quantile(values, level) == pytest.approx(np.quantile(values, level))
    with pytest.raises(ValueError, match="at least one"):
        quantile([], 0.5)


def test_every_metric_is_explained() -> None:
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    explained = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(explained) == len(set(explained))
    computed = {re.sub(r"(_level)/.*", r"\1/<L>", key) for key in completion_metrics(ROWS)}
    assert computed <= set(explained)
    assert {
        key for key in explained if key.startswith("train/")
    } <= computed  # and none is explained that is not there

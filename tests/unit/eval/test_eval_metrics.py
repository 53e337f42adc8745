"""The numbers of an evaluation, against brute force, numpy and simulation."""

import itertools
import math
import random
from statistics import fmean

import numpy as np
import pytest
from eval_samples import make_sample, make_samples

from k15.eval.metrics import majority_is_right, mean_interval, pass_at_k, pass_at_powers, score
from k15.record.metrics import wilson_interval


def by_text(one, other):
    return one.extracted == other.extracted


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(fmean(max(draw) for draw in draws)), (n, c, k)


def test_pass_at_k_is_unbiased_and_the_plain_estimate_is_not():
    """The mean over all outcomes of n trials is 1 - (1 - p)^k exactly."""
    n, k, p = 6, 3, 0.3
    weights = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    truth = 1 - (1 - p) ** k
    assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(weights)) == pytest.approx(truth, abs=1e-12)
    plain = sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(weights))
    assert plain < truth - 0.02


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="k = 4 and n = 3"):
        pass_at_k(3, 1, 4)


def test_pass_at_powers_goes_as_far_as_every_problem_has_samples():
    assert list(pass_at_powers([(6, 1), (8, 0)])) == ["1", "2", "4", "6"]
    assert pass_at_powers([(2, 1), (2, 0)]) == {"1": 0.25, "2": 0.5}


def test_pass_at_1_is_the_mean_over_problems_of_the_mean_over_samples():
    scores = score(make_samples(a="rrrw", b="wwwn", c="rr"), same=by_text)
    assert scores["pass@1"] == pytest.approx((0.75 + 0.0 + 1.0) / 3)  # not 5 of 10
    assert scores["no_answer_share"] == pytest.approx(1 / 10)
    assert (scores["num_problems"], scores["num_samples"]) == (3, 10)


def test_our_faults_are_left_out_and_counted():
    with_faults = score(make_samples(a="rwff", b="ffff", c="wwww"), same=by_text)
    assert with_faults["pass@1"] == pytest.approx((0.5 + 0.0) / 2)
    assert with_faults["invalid_share"] == pytest.approx(6 / 12)
    assert with_faults["num_scored_problems"] == 2
    only_faults = score(make_samples(a="ff"), same=by_text)
    assert only_faults["invalid_share"] == 1.0
    assert "pass@1" not in only_faults


def test_tokens_and_endings():
    lengths = [3, 5, 7, 50, 9, 11, 2, 40]
    stops = ["end", "length", "end", "length", "end", "repeat", "end", "end"]
    samples = [
        make_sample(f"p{i // 2}", i % 2, num_tokens=n, stop=stop)
        for i, (n, stop) in enumerate(zip(lengths, stops, strict=True))
    ]
    scores = score(samples, same=by_text)
    assert scores["tokens_mean"] == pytest.approx(np.mean(lengths))
    assert scores["tokens_p95"] == pytest.approx(np.quantile(lengths, 0.95))
    means = [4, 28.5, 10, 21]
    half = 1.96 * np.std(means, ddof=1) / 2
    assert scores["tokens_high"] - scores["tokens_mean"] == pytest.approx(half)
    assert (scores["truncated_share"], scores["repeated_share"]) == (2 / 8, 1 / 8)


def test_scores_by_difficulty():
    samples = [
        make_sample(
            f"{level}{i}", 0, "r" if i < rights else "w", difficulty=level, num_tokens=len(level)
        )
        for level, rights in (("1", 3), ("10", 1), ("2", 2))
        for i in range(4)
    ]
    split = score(samples, same=by_text)["by_difficulty"]
    assert list(split) == ["1", "2", "10"]
    assert [split[level]["pass@1"] for level in split] == [0.75, 0.5, 0.25]


def test_with_one_sample_a_problem_the_interval_is_wilsons():
    rates = [1.0] * 7 + [0.0] * 23
    assert mean_interval(rates, num_samples=30) == pytest.approx(wilson_interval(7, 30))
    assert mean_interval([0.0] * 30, num_samples=30) == pytest.approx(wilson_interval(0, 30))


def test_more_samples_narrow_the_interval_and_equal_problems_do_not_make_it_vanish():
    coarse = mean_interval([1.0, 0.0] * 15, num_samples=30)
    fine = mean_interval([0.75, 0.25] * 15, num_samples=120)
    assert fine.high - fine.low < 0.6 * (coarse.high - coarse.low)
    alike = mean_interval([0.5] * 30, num_samples=60)
    assert alike == pytest.approx(wilson_interval(30, 60))
    # many samples of problems that are all solved are still only so many problems
    assert mean_interval([1.0] * 30, num_samples=3000).low < 0.9


@pytest.mark.parametrize(("num_problems", "num_samples"), [(30, 8), (100, 1), (100, 8)])
@pytest.mark.parametrize("shape", [(0.5, 0.5), (6, 2)])
def test_the_interval_covers_the_truth_nineteen_times_in_twenty(num_problems, num_samples, shape):
    """Problems are drawn from many of their kind; counted over 400 evaluations."""
    rng = np.random.default_rng(1)
    truth = shape[0] / sum(shape)
    hits = 0
    for _ in range(400):
        chances = rng.beta(*shape, size=num_problems)
        rates = rng.binomial(num_samples, chances) / num_samples
        interval = mean_interval(list(rates), num_samples=num_problems * num_samples)
        hits += interval.low <= truth <= interval.high
    assert 0.915 <= hits / 400 <= 0.985


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ("7r 7r 3w", 1.0),
        ("7r 3w 3w", 0.0),
        ("7r 3w", 0.5),
        ("7r 3w 4w", 1 / 3),
        ("7r n n n", 1.0),
        ("n n t", 0.0),
        ("7r 7r 3w 3w 4w", 0.5),
    ],
)
def test_the_commonest_answer_wins_and_a_tie_pays_its_share(votes, expected):
    samples = [
        make_sample(index=i, outcome=vote[-1], answer=vote[:-1]) for i, vote in enumerate(votes.split())
    ]
    for order in (samples, samples[::-1]):
        assert majority_is_right(order, by_text) == pytest.approx(expected)


def test_the_vote_beats_the_single_sample_where_errors_differ():
    rng = random.Random(0)
    samples = []
    for problem in range(60):
        for index in range(8):
            right = rng.random() < 0.45
            answer = "7" if right else str(rng.randrange(100, 120))
            samples.append(make_sample(f"p{problem}", index, "r" if right else "w", answer))
    scores = score(samples, same=by_text)
    assert scores["majority"] > scores["pass@1"] + 0.3
    assert scores["pass@k"]["8"] >= scores["majority"]


def test_there_is_no_vote_where_answers_cannot_be_equal():
    assert "majority" not in score([make_sample(verifier="code")], same=by_text)

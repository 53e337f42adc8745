"""Who is preferred in DPO, at the very boundaries, and its loss against TRL's numbers (rows 46 and 47)."""

import math

import pytest
import torch

from k15.algo.policy import Normalizer
from k15.algo.preference import Sample, dpo_loss, dpo_losses, negatives, shortest_right

R, W = True, False


def samples(*facts):
    return [Sample(length, is_right) for length, is_right in facts]


def test_the_shortest_right_completion_is_the_example():
    assert shortest_right(samples((30, R), (10, W), (20, R), (25, R))) == 2


def test_of_equally_short_ones_the_first_is_taken():
    assert shortest_right(samples((30, R), (20, R), (20, R))) == 1


def test_without_a_right_completion_there_is_no_example():
    assert shortest_right(samples((10, W), (20, W))) is None
    assert shortest_right([]) is None


def test_a_completion_that_was_cut_is_never_the_one_to_imitate():
    cut = Sample(10, True, has_ended=False)
    assert shortest_right([cut, Sample(20, True)]) == 1
    assert shortest_right([cut]) is None


@pytest.mark.parametrize(
    ("length", "is_right", "is_negative"),
    [
        (101, W, True),  # a longer wrong one
        (100, W, False),  # as long: not longer
        (99, W, False),  # a shorter wrong one is never a negative
        (1, W, False),
        (150, R, True),  # exactly 1.5 times
        (149, R, False),
        (151, R, True),
        (100, R, False),
    ],
)
def test_boundaries_of_the_negatives(length, is_right, is_negative):
    found = negatives(samples((100, R), (length, is_right)), 0, ratio=1.5)
    assert found == ([1] if is_negative else [])


@pytest.mark.parametrize(("length", "is_negative"), [(10, False), (11, True)])
def test_one_and_a_half_times_an_odd_length_is_not_rounded(length, is_negative):
    assert bool(negatives(samples((7, R), (length, R)), 0, ratio=1.5)) is is_negative  # 10.5 tokens


def test_the_ratio_is_the_decimal_number_that_was_written():
    assert 1.1 * 50 > 55  # in floating point
    assert negatives(samples((50, R), (55, R)), 0, ratio=1.1) == [1]


def test_negatives_keep_the_order_of_sampling_and_cut_wrong_ones_count():
    group = [Sample(9, False), Sample(40, True), Sample(10, True), Sample(64, False, has_ended=False)]
    assert negatives(group, 2, ratio=1.5) == [1, 3]


# beta; log-probabilities of preferred and other under the policy, then under the reference; the loss. All
# by DPOTrainer of TRL 1.16.0 (torch 2.13.0, float32) on tiny models: see test_stages_dpo.py for the run.
_REFERENCE = (
    [-16.74332, -22.20975, -27.54673, -33.44831, -39.34417],
    [-33.80193, -45.11411, -56.94367, -68.19074, -78.88319],
)
_NEAR = (
    [-17.41769, -22.78987, -28.46090, -34.34160, -38.99149],
    [-34.04199, -44.98749, -57.15771, -66.42188, -78.87910],
)
_FAR = (
    [-19.47571, -27.88949, -31.06504, -31.74854, -45.55713],
    [-34.28049, -45.95867, -65.38738, -71.86718, -89.82920],
)
TRL_GOLDEN = [
    (0.1, _NEAR, _REFERENCE, 0.7367862),
    (0.5, _NEAR, _REFERENCE, 0.9503390),
    (0.1, _FAR, _REFERENCE, 0.6394405),
]


@pytest.mark.parametrize(("beta", "policy", "reference", "loss"), TRL_GOLDEN)
def test_the_loss_is_trls(beta, policy, reference, loss):
    delta = torch.tensor(policy) - torch.tensor(reference)
    losses = dpo_losses(delta[0], delta[1], beta=beta)
    assert float(losses.mean()) == pytest.approx(loss, abs=1e-5)


def test_at_the_reference_every_pair_costs_log_two():
    losses = dpo_losses(torch.zeros(3), torch.zeros(3), beta=0.7)
    assert losses.tolist() == pytest.approx([math.log(2)] * 3)


def _padded(rows):
    width = max(map(len, rows))
    matrix, mask = (
        torch.full((len(rows), width), math.nan),
        torch.zeros((len(rows), width), dtype=torch.bool),
    )
    for i, row in enumerate(rows):
        matrix[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
    return matrix, mask


ROWS = [[-1.0, -2.0], [-0.5, -0.5, -3.0], [-4.0], [-1.5, -0.25]]
REFERENCE = [[-1.5, -2.0], [-1.0, -0.25, -2.0], [-3.0], [-1.0, -1.0]]


def test_pairs_are_found_by_their_numbers_whatever_their_order():
    logprobs, mask = _padded(ROWS)
    reference, _ = _padded(REFERENCE)
    who = torch.tensor([2.0, -1.0, 1.0, -2.0])  # pair 1: rows 2 over 1; pair 2: rows 0 over 3
    found = dpo_loss(logprobs, reference, mask, who, normalizer=Normalizer(4, 8), beta=0.5)
    deltas = [sum(a) - sum(b) for a, b in zip(ROWS, REFERENCE, strict=True)]
    margins = (deltas[2] - deltas[1], deltas[0] - deltas[3])
    expected = sum(math.log1p(math.exp(-0.5 * margin)) for margin in margins) / 2
    assert float(found.loss) == pytest.approx(expected, abs=1e-6)
    assert found.log_ratio.tolist() == pytest.approx(deltas)


def test_microbatches_of_whole_pairs_add_up_to_the_minibatch():
    reference, _ = _padded(REFERENCE)
    logprobs, mask = _padded(ROWS)
    who = torch.tensor([1.0, -1.0, 2.0, -2.0])
    whole = dpo_loss(logprobs, reference, mask, who, normalizer=Normalizer(4, 8), beta=0.5).loss
    parts = [
        dpo_loss(logprobs[i], reference[i], mask[i], who[i], normalizer=Normalizer(4, 8), beta=0.5).loss
        for i in (slice(0, 2), slice(2, 4))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), abs=1e-6)


def test_the_gradient_lifts_the_preferred_and_lowers_the_other_by_the_same():
    logprobs, mask = _padded(ROWS[:2])
    logprobs = logprobs.nan_to_num(0.0).requires_grad_()
    reference, _ = _padded(REFERENCE[:2])
    who = torch.tensor([1.0, -1.0])
    dpo_loss(logprobs, reference, mask, who, normalizer=Normalizer(2, 5), beta=0.5).loss.backward()
    margin = 0.5 * ((-3.0 - -3.5) - (-4.0 - -3.25))
    force = 0.5 / (1.0 + math.exp(margin))
    assert logprobs.grad is not None
    assert logprobs.grad[0, :2].tolist() == pytest.approx([-force] * 2, abs=1e-6)
    assert logprobs.grad[1].tolist() == pytest.approx([force] * 3, abs=1e-6)


def test_a_pair_split_over_two_microbatches_is_refused():
    logprobs, mask = _padded(ROWS[:2])
    with pytest.raises(AssertionError, match="split"):
        dpo_loss(
            logprobs, logprobs, mask, torch.tensor([1.0, -2.0]), normalizer=Normalizer(2, 5), beta=0.5
        )

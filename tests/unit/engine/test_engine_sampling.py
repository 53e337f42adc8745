"""From logits to tokens: frequencies follow the softmax; bans, top-k and top-p cut exactly what they should."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.engine.sampling import TokenSampler
from k15.errors import EngineError
from k15.types import SamplingParams

CPU = torch.device("cpu")
ALMOST_ONE = 1.0 - 2.0**-53


def sampler(vocab_size: int = 8, **options) -> TokenSampler:
    return TokenSampler(SamplingParams(seed=0, max_tokens=8, **options), vocab_size, CPU)


def draw(logits: torch.Tensor, n: int = 20000, **options) -> np.ndarray:
    """How often each token is sampled from one row of logits by n evenly spaced numbers in random order."""
    u = torch.from_numpy((np.random.default_rng(0).permutation(n) + 0.5) / n)
    ids, _ = sampler(len(logits), **options).sample(logits.expand(n, -1).contiguous(), u)
    return np.bincount(ids.numpy(), minlength=len(logits)) / n


LOGITS = torch.tensor([0.0, 2.0, -1.0, 0.5, 3.0, -3.0, 1.0, 1.0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_random_draws_follow_the_tempered_softmax(temperature: float) -> None:
    n = 20000
    u = torch.from_numpy(np.random.default_rng(3).random(n))
    ids, _ = sampler(temperature=temperature).sample(LOGITS.expand(n, -1).contiguous(), u)
    expected = torch.softmax(LOGITS.double() / temperature, -1).numpy() * n
    chi_square = ((np.bincount(ids.numpy(), minlength=8) - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # 99.9 % of 7 degrees of freedom


def test_inversion_gives_each_token_its_share_exactly() -> None:
    assert np.abs(draw(LOGITS) - torch.softmax(LOGITS.double(), -1).numpy()).max() <= 1 / 20000


def test_logprob_is_that_of_the_tempered_distribution_without_bans_and_cuts() -> None:
    options = {"temperature": 0.7, "banned_ids": (4,), "top_k": 3, "top_p": 0.9}
    ids, logprobs = sampler(**options).sample(LOGITS[None], torch.tensor([0.3], dtype=torch.float64))
    expected = torch.log_softmax(LOGITS / 0.7, -1)[ids[0]]
    assert torch.allclose(logprobs[0], expected, atol=1e-6)
    assert logprobs.dtype == torch.float32


def test_temperature_zero_takes_the_likeliest_allowed_token() -> None:
    ids, logprobs = sampler(temperature=0.0).sample(
        LOGITS[None], torch.tensor([0.99], dtype=torch.float64)
    )
    assert ids.tolist() == [4]
    assert torch.allclose(logprobs, torch.log_softmax(LOGITS, -1)[4])
    ids, _ = sampler(temperature=0.0, banned_ids=(4, 1)).sample(
        LOGITS[None], torch.tensor([0.0]).double()
    )
    assert ids.tolist() == [6]  # 6 and 7 are equally likely; the first is taken


def test_banned_ids_never_come_and_the_others_keep_their_ratios() -> None:
    shares = draw(LOGITS, banned_ids=(4, 0))
    expected = torch.softmax(LOGITS.double(), -1).numpy()
    expected[[4, 0]] = 0
    assert shares[4] == shares[0] == 0
    assert np.abs(shares - expected / expected.sum()).max() < 1e-3


def test_a_ban_holds_when_the_model_wants_nothing_else() -> None:
    wants = torch.full((6,), -200.0)
    wants[2] = 200.0
    shares = draw(wants, n=100, banned_ids=(2,))
    assert shares[2] == 0
    assert np.abs(shares[[0, 1, 3, 4, 5]] - 0.2).max() < 0.01


def test_banning_every_id_is_an_error() -> None:
    with pytest.raises(EngineError, match="all 8 ids are banned"):
        sampler(banned_ids=tuple(range(8)))
    sampler(banned_ids=(*range(7), 100, -1))  # ids outside the vocabulary do not count


def test_top_k_keeps_the_k_likeliest_and_smaller_ids_among_equals() -> None:
    assert set(np.flatnonzero(draw(LOGITS, top_k=3))) == {4, 1, 6}
    shares = draw(LOGITS, top_k=2)
    assert shares[4] / shares[1] == pytest.approx(np.e, rel=1e-2)
    assert set(np.flatnonzero(draw(LOGITS, top_k=3, banned_ids=(4,)))) == {1, 6, 7}


def test_top_p_keeps_the_smallest_set_with_at_least_that_probability() -> None:
    p = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    assert set(np.flatnonzero(draw(p, top_p=0.5 - 1e-6))) == {0}
    assert set(np.flatnonzero(draw(p, top_p=0.5 + 1e-6))) == {0, 1}
    assert set(np.flatnonzero(draw(p, top_p=0.8))) == {0, 1, 2}
    assert set(np.flatnonzero(draw(p, top_p=1e-9))) == {0}
    assert draw(p, top_p=0.75 - 1e-6)[0] == pytest.approx(2 / 3, abs=1e-3)


def test_top_p_looks_at_what_top_k_left() -> None:
    p = torch.tensor([0.4, 0.2, 0.2, 0.2]).log()
    # After top-k 2: 0.667 and 0.333; 0.6 of that is the first alone. Of the whole, 0.6 would be two.
    assert set(np.flatnonzero(draw(p, top_k=2, top_p=0.6))) == {0}


@pytest.mark.parametrize("u", [0.0, ALMOST_ONE])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_k": 2}, {"banned_ids": (0, 7)}])
def test_the_ends_of_the_unit_interval_give_allowed_tokens(u: float, options: dict) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(500, 8, generator=generator) * 5
    logits[:, 7] = -200.0  # no probability at the end of the table
    ids, _ = sampler(**options).sample(logits, torch.full((500,), u, dtype=torch.float64))
    assert (ids < 7).all()
    if "banned_ids" in options:
        assert (ids > 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([{}, {"top_p": 0.8}, {"top_k": 5}, {"temperature": 0.6}]))
def test_a_row_does_not_see_the_other_rows(seed: int, options: dict) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(16, 50, generator=generator) * 3
    u = torch.rand(16, generator=generator, dtype=torch.float64)
    ids, logprobs = sampler(50, **options).sample(logits, u)
    order = torch.randperm(16, generator=generator)[:7]
    some_ids, some_logprobs = sampler(50, **options).sample(logits[order], u[order])
    assert torch.equal(some_ids, ids[order])
    assert torch.equal(some_logprobs, logprobs[order])


def test_logits_that_are_not_finite_give_a_nan_logprob() -> None:
    logits = LOGITS.repeat(2, 1)
    logits[1, 3] = torch.nan
    ids, logprobs = sampler().sample(logits, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert torch.isfinite(logprobs[0])
    assert torch.isnan(logprobs[1])
    assert (ids < 8).all()

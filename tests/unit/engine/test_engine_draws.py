"""Rows of somebody else's batch: each gets the token that k15's sampler takes for it, and only that one."""

import numpy as np
import pytest
import torch

from k15.engine.draws import Draw, RowSampler
from k15.engine.sampling import TokenSampler
from k15.engine.seeds import token_uniforms
from k15.types import SamplingParams

VOCAB = 40
SAMPLING = SamplingParams(seed=3, max_tokens=9, temperature=0.7, top_k=12, top_p=0.95, banned_ids=(0, 7))


def draw(ordinal: int) -> Draw:
    return Draw(SAMPLING, token_uniforms(SAMPLING.seed, ordinal, 0, 0, 9))


def expected(logits: torch.Tensor, one: Draw, position: int) -> tuple[int, float]:
    sampler = TokenSampler(SAMPLING, VOCAB, torch.device("cpu"))
    ids, logprobs = sampler.sample(logits[None], torch.tensor([one.uniforms[position]]))
    return int(ids), float(logprobs)


def test_every_row_gets_its_own_number_wherever_it_stands():
    logits = 3 * torch.randn(6, VOCAB)
    before = logits.clone()
    rows = {5: (draw(1), [1, 2, 3]), 0: (draw(2), []), 3: (draw(3), [4] * 8)}

    forced = RowSampler().force(logits, rows)

    for place, (one, ids) in rows.items():
        token, logprob = expected(before[place], one, len(ids))
        assert forced[place].argmax() == token
        assert torch.isfinite(forced[place]).sum() == 1
        assert one.logprobs[len(ids)] == pytest.approx(logprob, abs=1e-7)
        assert np.isnan(np.delete(one.logprobs, len(ids))).all()
    others = [1, 2, 4]
    assert torch.equal(forced[others], before[others])


def test_a_position_that_is_computed_twice_gives_the_token_of_the_last_time():
    """Prefill in chunks samples from logits in the middle of the prompt; nobody takes that token."""
    sampler, one, ids = RowSampler(), draw(1), []
    sampler.force(torch.randn(1, VOCAB), {0: (one, ids)})
    logits = torch.randn(1, VOCAB)
    token, logprob = expected(logits[0], one, 0)

    forced = sampler.force(logits.clone(), {0: (one, ids)})

    assert forced[0].argmax() == token
    assert one.logprobs[0] == pytest.approx(logprob, abs=1e-7)


def test_a_row_that_is_complete_may_be_computed_once_more():
    one = Draw(SAMPLING, token_uniforms(3, 1, 0, 0, 2))
    forced = RowSampler().force(torch.randn(1, VOCAB), {0: (one, [5, 6])})
    assert torch.isfinite(forced).sum() == 1


def test_new_settings_are_noticed():
    greedy = Draw(SamplingParams(seed=3, max_tokens=9, temperature=0.0), np.full(9, 0.999))
    sampler, logits = RowSampler(), torch.randn(1, VOCAB)
    sampler.force(logits.clone(), {0: (draw(1), [])})
    assert sampler.force(logits.clone(), {0: (greedy, [])})[0].argmax() == logits[0].argmax()


def test_logits_that_are_not_finite_leave_a_log_probability_that_is_not():
    one = draw(1)
    RowSampler().force(torch.full((1, VOCAB), torch.nan), {0: (one, [])})
    assert np.isnan(one.logprobs[0])

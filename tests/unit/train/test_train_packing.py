"""Packing: rows without cross-talk, loss on completion tokens only, groups whole (rows 9 and 30)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from k15.algo.likelihood import likelihood_loss
from k15.algo.policy import Normalizer
from k15.train.forward import LogprobModel
from k15.train.packing import Example, Minibatch, pack_minibatch, split_minibatches


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
    )
    return Qwen3ForCausalLM(config).eval()


def example(prompt, completion, mask=None, **kwargs):
    return Example(tuple(prompt), tuple(completion), tuple(mask or [True] * len(completion)), **kwargs)


def examples(count=9, seed=0):
    rng = torch.Generator().manual_seed(seed)
    result = []
    for group in range(count):
        prompt_length, length = (int(torch.randint(1, 12, (1,), generator=rng)) for _ in range(2))
        tokens = torch.randint(1, 64, (prompt_length + length,), generator=rng).tolist()
        result.append(
            example(tokens[:prompt_length], tokens[prompt_length:], group=group, advantage=group / 10)
        )
    return result


def plain_logprobs(model, one: Example) -> list[float]:
    """The completion's log-probabilities by the model's own forward on this sequence alone."""
    token_ids = torch.tensor([one.prompt_ids + one.completion_ids])
    with torch.no_grad():
        log_p = model(token_ids).logits[0].double().log_softmax(-1)
    first = len(one.prompt_ids) - 1
    return [float(log_p[first + i, token]) for i, token in enumerate(one.completion_ids)]


def packed_logprobs(model, minibatch: Minibatch) -> dict[float, list[float]]:
    """Log-probabilities of each completion, found again by its advantage, which is unique in `examples`."""
    found = {}
    for batch in minibatch.microbatches:
        with torch.no_grad():
            matrix, mask = batch.scatter(LogprobModel(model)(batch).logprobs)
        for row, advantage in enumerate(batch.advantages.tolist()):
            found[round(advantage, 3)] = matrix[row][mask[row]].tolist()
    return found


@pytest.mark.parametrize(
    ("row_tokens", "microbatch_tokens"), [(64, 1000), (24, 48), (1, 1), (512, 8192)]
)
def test_packed_rows_give_each_sequence_what_it_gets_alone(model, row_tokens, microbatch_tokens):
    data = examples()
    minibatch = pack_minibatch(data, row_tokens=row_tokens, microbatch_tokens=microbatch_tokens)
    found = packed_logprobs(model, minibatch)
    assert len(found) == len(data)
    for one in data:
        assert found[round(one.advantage, 3)] == pytest.approx(plain_logprobs(model, one), abs=1e-5)


def test_packed_loss_is_the_sum_of_unpacked_losses(model):
    data = examples(12, seed=3)
    packed = pack_minibatch(data, row_tokens=64, microbatch_tokens=128)
    normalizer = Normalizer(packed.num_completions, packed.num_tokens)
    total = 0.0
    for batch in packed.microbatches:
        with torch.no_grad():
            matrix, mask = batch.scatter(LogprobModel(model)(batch).logprobs)
        total += float(
            likelihood_loss(matrix, matrix, mask, batch.advantages, normalizer=normalizer).loss
        )
    alone = sum(-sum(plain_logprobs(model, one)) for one in data) / sum(
        len(e.completion_ids) for e in data
    )
    assert len(packed.microbatches) > 1
    assert total == pytest.approx(alone, abs=1e-5)


def test_a_neighbour_in_the_row_changes_nothing(model):
    first = example([1, 2, 3], [4, 5, 6], advantage=0.1)

    def beside(neighbour):
        pair = [first, example(*neighbour, advantage=0.2)]
        return packed_logprobs(model, pack_minibatch(pair, row_tokens=32, microbatch_tokens=99))

    one, other = beside(([9], [8, 7])), beside(([30], [31, 33]))
    assert one[0.1] == other[0.1]
    assert one[0.2] != other[0.2]


def test_masked_tokens_carry_no_loss_and_keep_their_context(model):
    whole = example([1, 2], [3, 4, 5, 6], advantage=0.5)
    newest_only = example([1, 2], [3, 4, 5, 6], [False, False, True, True], advantage=0.5)
    all_tokens = packed_logprobs(model, pack_minibatch([whole], row_tokens=8, microbatch_tokens=8))[0.5]
    masked = packed_logprobs(model, pack_minibatch([newest_only], row_tokens=8, microbatch_tokens=8))[
        0.5
    ]
    assert masked == pytest.approx(all_tokens[2:], abs=1e-6)


def test_a_completion_without_loss_tokens_is_left_out():
    minibatch = pack_minibatch(
        [example([1], [2, 3], [False, False]), example([1], [2, 3])], row_tokens=8, microbatch_tokens=8
    )
    assert (minibatch.num_completions, minibatch.num_tokens) == (1, 2)


def test_engine_logprobs_follow_their_tokens():
    data = [
        example([1], [2, 3, 4], [True, False, True], engine_logprobs=(-0.1, -0.2, -0.3)),
        example([1, 1, 1, 1, 1], [9]),
    ]
    (batch,) = pack_minibatch(data, row_tokens=16, microbatch_tokens=16).microbatches
    by_target = dict(zip(batch.targets.tolist(), batch.engine_logprobs.tolist(), strict=True))
    assert by_target[2] == pytest.approx(-0.1)
    assert by_target[4] == pytest.approx(-0.3)
    assert math.isnan(by_target[9])


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=25),
    row_tokens=st.integers(1, 80),
    microbatch_tokens=st.integers(1, 300),
)
def test_packing_loses_and_doubles_nothing(sizes, row_tokens, microbatch_tokens):
    data = [example([1] * p, range(100 * i, 100 * i + c)) for i, (p, c) in enumerate(sizes)]
    minibatch = pack_minibatch(data, row_tokens=row_tokens, microbatch_tokens=microbatch_tokens)
    targets = sorted(t for batch in minibatch.microbatches for t in batch.targets.tolist())
    assert targets == sorted(t for one in data for t in one.completion_ids)
    longest = max(p + c for p, c in sizes)
    for batch in minibatch.microbatches:
        rows, width = batch.token_ids.shape
        assert width <= max(row_tokens, longest)
        assert rows * width <= microbatch_tokens or rows == 1
        assert batch.token_ids.flatten()[batch.predicted_at + 1].tolist() == batch.targets.tolist()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 99))
def test_a_group_is_never_split_over_minibatches(groups, count, seed):
    data = [example([1], [2], group=g, sample_index=i) for i, g in enumerate(groups)]
    parts = split_minibatches(data, count, torch.Generator().manual_seed(seed))
    homes = [{e.group for e in part} for part in parts]
    assert sum(len(home) for home in homes) == len(set(groups))
    assert sorted(e.sample_index for part in parts for e in part) == list(range(len(groups)))
    assert all(part for part in parts)

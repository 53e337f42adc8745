"""The paged cache: attention equals torch's over each row's own keys, whatever happened to the pages."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.engine.cache import PAGE, KVCache

KV_HEADS, DIM = 2, 16


class Mirror:
    """What the rows hold, as plain tensors [kv_heads, length, dim]."""

    def __init__(self, num_rows: int) -> None:
        self.keys = [torch.zeros(KV_HEADS, 0, DIM) for _ in range(num_rows)]
        self.values = [torch.zeros(KV_HEADS, 0, DIM) for _ in range(num_rows)]

    def attend(self, row: int, query: torch.Tensor) -> torch.Tensor:
        """[heads, dim] attention of one query [heads, dim] over all positions of the row."""
        out = F.scaled_dot_product_attention(
            query[None, :, None], self.keys[row][None], self.values[row][None], enable_gqa=True
        )
        return out[0, :, 0]


def decode_all(cache: KVCache, mirror: Mirror, *, heads: int = 4) -> None:
    """Append one token to every row of both, and compare the attention of every row."""
    rows = cache.num_rows
    positions = torch.tensor([[keys.shape[1]] for keys in mirror.keys])
    for row in range(rows):
        cache.fit(row, int(positions[row]) + 1)
    keys, values = torch.randn(2, rows, 1, KV_HEADS, DIM)
    query = torch.randn(rows, heads, 1, DIM)
    reads = cache.plan_all(positions)
    cache.write(0, reads, keys, values)
    out = cache.attend(0, reads, query, scaling=DIM**-0.5)
    dense = cache.dense(0, reads)
    for row in range(rows):
        mirror.keys[row] = torch.cat((mirror.keys[row], keys[row, 0][:, None]), 1)
        mirror.values[row] = torch.cat((mirror.values[row], values[row, 0][:, None]), 1)
        expected = mirror.attend(row, query[row, :, 0])
        assert torch.allclose(out[row, 0], expected, atol=2e-6)
        length = mirror.keys[row].shape[1]
        assert torch.equal(dense[0][row, :, :length], mirror.keys[row])
        stored = cache.row(row, length)
        assert torch.equal(stored[0], mirror.keys[row])
        assert torch.equal(stored[1], mirror.values[row])
    assert reads.mask().eq(0).sum(-1).flatten().tolist() == (positions + 1).flatten().tolist()


def prefill(cache: KVCache, mirror: Mirror, row: int, length: int) -> None:
    """Replace a row's content by `length` tokens, 32 at a time, in one pass."""
    cache.fit(row, max(length, 1))
    count = -(-length // 32)
    keys, values = torch.randn(2, count * 32, KV_HEADS, DIM)
    mirror.keys[row] = keys[:length].transpose(0, 1)
    mirror.values[row] = values[:length].transpose(0, 1)
    if not count:
        return
    positions = torch.arange(count * 32).view(count, 32)
    reads = cache.plan([row] * count, positions)
    query = torch.randn(count, 4, 32, DIM)
    cache.write(0, reads, keys.view(count, 32, KV_HEADS, DIM), values.view(count, 32, KV_HEADS, DIM))
    out = cache.attend(0, reads, query, scaling=DIM**-0.5)
    expected = F.scaled_dot_product_attention(
        query.transpose(0, 1).reshape(1, 4, -1, DIM),
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
        is_causal=True,
        enable_gqa=True,
    )
    expected = expected[0].transpose(0, 1).reshape(count, 32, 4, DIM)
    assert torch.allclose(out, expected, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_attention_is_right_after_any_history(data) -> None:
    """Rows are filled, refilled, extended, copied, dropped and reordered; pages move and come back."""
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    rows = data.draw(st.integers(1, 6))
    cache, mirror = KVCache(rows), Mirror(rows)
    lengths = st.integers(0, 3 * PAGE)
    for row in range(rows):
        prefill(cache, mirror, row, data.draw(lengths))
    for _ in range(data.draw(st.integers(1, 6))):
        action = data.draw(st.sampled_from(["decode", "refill", "select", "copy", "shrink"]))
        row = data.draw(st.integers(0, cache.num_rows - 1))
        if action == "refill":
            prefill(cache, mirror, row, data.draw(lengths))
        elif action == "select":
            kept = data.draw(st.permutations(range(cache.num_rows)))[
                : data.draw(st.integers(1, cache.num_rows))
            ]
            cache.select(list(kept))
            mirror.keys = [mirror.keys[r] for r in kept]
            mirror.values = [mirror.values[r] for r in kept]
        elif action == "copy":
            source = data.draw(st.integers(0, cache.num_rows - 1))
            length = data.draw(st.integers(0, mirror.keys[source].shape[1]))
            if source != row:
                cache.fit(row, max(length, 1))
                cache.copy_prefix(source, row, length)
                mirror.keys[row] = mirror.keys[source][:, :length]
                mirror.values[row] = mirror.values[source][:, :length]
        elif action == "shrink":
            length = data.draw(st.integers(0, mirror.keys[row].shape[1]))
            cache.fit(row, max(length, 1))
            mirror.keys[row], mirror.values[row] = (
                mirror.keys[row][:, :length],
                mirror.values[row][:, :length],
            )
        decode_all(cache, mirror)


@pytest.mark.parametrize("heads", [2, 4, 8])
def test_grouped_query_heads(heads: int) -> None:
    cache, mirror = KVCache(3), Mirror(3)
    for row, length in enumerate((5, PAGE, PAGE + 1)):
        prefill(cache, mirror, row, length)
    decode_all(cache, mirror, heads=heads)


def test_pages_that_nobody_uses_do_not_count_even_if_they_hold_large_numbers() -> None:
    cache, mirror = KVCache(4), Mirror(4)
    for row in range(4):
        prefill(cache, mirror, row, PAGE + 10)
    for pair in cache._layers:
        for tensor in pair:
            tensor[cache._rows[1][1]] = 1e6  # a page that row 1 is about to give back
    cache.fit(1, 5)
    mirror.keys[1], mirror.values[1] = mirror.keys[1][:, :5], mirror.values[1][:, :5]
    decode_all(cache, mirror)


def test_pages_move_together_when_many_are_unused() -> None:
    cache, mirror = KVCache(8), Mirror(8)
    for row in range(8):
        prefill(cache, mirror, row, 3 * PAGE)
    cache.select([7, 6])
    mirror.keys, mirror.values = mirror.keys[7:5:-1], mirror.values[7:5:-1]
    decode_all(cache, mirror)
    assert sorted(page for pages in cache._rows for page in pages) == list(range(8))


def test_softcap_is_applied_to_the_scores() -> None:
    cache = KVCache(1)
    cache.fit(0, 32)
    keys, values = torch.randn(2, 1, 32, KV_HEADS, DIM)
    query = torch.randn(1, 2, 32, DIM)
    reads = cache.plan([0], torch.arange(32)[None])
    cache.write(0, reads, keys, values)
    out = cache.attend(0, reads, query, scaling=2.0, softcap=3.0)
    scores = 3.0 * torch.tanh(query @ keys.permute(0, 2, 3, 1) * 2.0 / 3.0)
    scores = scores.masked_fill(torch.ones(32, 32).triu(1).bool(), -torch.inf)
    expected = (scores.softmax(-1) @ values.transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(out, expected, atol=2e-6)

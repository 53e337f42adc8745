"""Decision 6: the same tokens and log-probabilities, to the last bit, whatever runs beside them."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from engine_support import VOCAB, by_key, make_work, tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from k15.engine import generic
from k15.engine.embedded import EmbeddedEngine
from k15.engine.fused import FusedDecoder
from k15.engine.shapes import PassShapes, choose_shapes
from k15.types import RepetitionRule, SamplingParams, Work
from k15.weights.fingerprint import snapshot

SAMPLING = SamplingParams(
    seed=9,
    max_tokens=70,
    stop_ids=(0, 1, 3),
    banned_ids=(2,),
    repetition=RepetitionRule(max_period=8, min_repeats=3, min_tokens=12),
)


def llama() -> LlamaForCausalLM:
    """Odd sizes: 3 query heads on one key head, widths that are no multiples of a vector."""
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "hidden_size": 42, "intermediate_size": 52, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": 512}
    return LlamaForCausalLM(LlamaConfig(**shape, **heads, initializer_range=0.3)).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512}
    return GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.3)).eval()


MODELS = {"qwen3": tiny_model(), "llama": llama(), "gpt2": gpt2()}
ENGINES: dict[tuple[str, int], EmbeddedEngine] = {}


def engine_for(name: str, num_slots: int, **options) -> EmbeddedEngine:
    key = (name, num_slots, *options.values())
    if key not in ENGINES:
        ENGINES[key] = EmbeddedEngine(MODELS[name], num_slots=num_slots, **options)
        ENGINES[key].load_weights(snapshot(MODELS[name], version=0))
    return ENGINES[key]


def pool_of_work(rng: np.random.Generator) -> list[Work]:
    """Fresh and resumed trajectories, shared and own prompts, short and long."""
    work = make_work(6, 4, seed=int(rng.integers(1000)), longest_prompt=100)
    resumed = []
    for piece in work:
        saved = int(rng.choice([0, 0, 0, 1, 15, 40, 69]))
        ids = tuple(rng.integers(4, VOCAB, saved).tolist())
        resumed.append(dataclasses.replace(piece, token_ids=ids))
    return resumed


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
@pytest.mark.parametrize("name", MODELS)
def test_neighbours_slots_and_order_change_no_bit(name: str, data) -> None:
    """Any subset of the work, in any order, on any number of slots, gives each trajectory the same segment."""
    rng = np.random.default_rng(data.draw(st.integers(0, 5), label="world"))
    work = pool_of_work(rng)
    segment_tokens = data.draw(st.sampled_from([None, 5, 32]))
    sampling = dataclasses.replace(SAMPLING, segment_tokens=segment_tokens)
    reference = by_key(engine_for(name, 32).extend(work, sampling))
    slots = data.draw(st.sampled_from([1, 2, 3, 7, 16, 32, 40]), label="slots")
    some = data.draw(st.permutations(work))[: data.draw(st.integers(1, len(work)))]
    engine = engine_for(name, slots)
    assert engine.shapes.is_reproducible
    found = by_key(engine.extend(some, sampling))
    assert found.keys() == {(w.ordinal, w.sample_index) for w in some}
    for key, segment in found.items():
        assert segment == reference[key]


def test_a_prompt_that_comes_back_is_read_from_a_slot_that_waited_unchanged() -> None:
    """With 64 slots a free one waits until four are free; until then its prompt stays readable for others."""
    work = make_work(12, 25, seed=8, longest_prompt=90)
    random.Random(4).shuffle(work)
    sampling = dataclasses.replace(SAMPLING, stop_ids=(0, 1, 3, 4, 5), repetition=None)
    wide = engine_for("qwen3", 64)
    found = by_key(wide.extend(work, sampling))
    num_read = wide.stats.num_prefill_tokens
    assert num_read < 0.3 * sum(len(w.prompt_token_ids) - 1 for w in work)
    assert found == by_key(engine_for("qwen3", 3).extend(work, sampling))


def test_the_fixed_shapes_alone_are_reproducible_too() -> None:
    """Where no other shape than the full one can be trusted, results are still the same, only slower."""
    work = pool_of_work(np.random.default_rng(1))
    fixed = PassShapes(widths=(32,), prefill_rows=(8,), is_reproducible=True)
    engine = engine_for("qwen3", 32, shapes=fixed)
    reference = by_key(engine_for("qwen3", 32).extend(work, SAMPLING))
    for seed in range(3):
        random.Random(seed).shuffle(work)
        assert by_key(engine.extend(work, SAMPLING)) == reference


def test_two_threads_keep_the_promise() -> None:
    work = pool_of_work(np.random.default_rng(2))[:8]
    engine = engine_for("qwen3", 16, num_threads=2)
    assert engine.shapes.is_reproducible
    reference = by_key(engine.extend(work, SAMPLING))
    assert by_key(engine.extend(work[::-1], SAMPLING)) == reference


def test_partial_rollouts_give_the_same_run_however_they_are_scheduled() -> None:
    """Segments of 8 tokens, resumed in a new order, from other slots, until all have stopped."""

    def rollout(seed: int, num_slots: int) -> dict:
        order = random.Random(seed)
        open_work = {(w.ordinal, w.sample_index): w for w in make_work(5, 3, seed=11)}
        done = {}
        while open_work:
            batch = list(open_work.values())
            order.shuffle(batch)
            batch = batch[: order.randint(1, len(batch))]
            sampling = dataclasses.replace(SAMPLING, segment_tokens=8)
            for s in engine_for("qwen3", num_slots).extend(batch, sampling):
                key = (s.ordinal, s.sample_index)
                piece = open_work[key]
                open_work[key] = dataclasses.replace(piece, token_ids=piece.token_ids + s.token_ids)
                done[key] = (*done.get(key, ()), (s.token_ids, s.logprobs, s.stop))
                if s.stop is not None:
                    del open_work[key]
        return done

    reference = rollout(0, 32)
    assert rollout(1, 3) == reference
    assert rollout(2, 16) == reference


class _Unsteady(FusedDecoder):
    """A decoder whose rounding depends on what a test chooses."""

    def __init__(self, depends_on: str) -> None:
        steady = engine_for("qwen3", 16).decoder
        super().__init__(steady.shape)
        self.copy_weights(steady.tensors())
        self.depends_on = depends_on

    def stand_in(self):
        return self

    def decode(self, token_ids, positions, cache):
        logits = super().decode(token_ids, positions, cache)
        if self.depends_on == "width" and len(token_ids) < 64:
            return torch.nextafter(logits, torch.tensor(torch.inf))
        if self.depends_on == "place":
            logits[20:] = torch.nextafter(logits[20:], torch.tensor(torch.inf))
        if self.depends_on == "neighbours":
            return logits + 1e-7 * logits.mean()
        return logits

    def prefill(self, token_ids, positions, rows, cache):
        super().prefill(token_ids, positions, rows, cache)
        if self.depends_on == "prefill rows" and len(rows) < 4:
            for keys, _ in cache._layers:
                keys.mul_(1.0000001)


@pytest.mark.parametrize(
    ("depends_on", "expected"),
    [
        ("nothing", PassShapes((64, 32, 16), (1, 2, 4, 8, 16), True)),
        ("width", PassShapes((64,), (1, 2, 4, 8, 16), True)),
        ("prefill rows", PassShapes((64, 32, 16), (4, 8, 16), True)),
        ("place", PassShapes((64,), (8,), False)),
        ("neighbours", PassShapes((64,), (8,), False)),
    ],
)
def test_shapes_that_change_a_bit_are_found_and_not_used(depends_on: str, expected: PassShapes) -> None:
    assert choose_shapes(_Unsteady(depends_on), 64) == expected


def test_an_engine_that_is_not_reproducible_says_so() -> None:
    engine = EmbeddedEngine(_Unsteady("place"), num_slots=64)
    assert "last bits" in engine.take_notices()[0]
    assert engine.take_notices() == ()  # said once
    assert engine_for("qwen3", 16).take_notices() == ()


def test_shapes_are_tried_on_a_model_of_two_layers() -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "hidden_size": 42, "intermediate_size": 52, "num_hidden_layers": 5}
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": 128}
    deep = EmbeddedEngine(LlamaForCausalLM(LlamaConfig(**shape, **heads)).eval(), num_slots=16)
    stand_in = deep.decoder.stand_in()
    assert stand_in is not None
    later = ("model.layers.2", "model.layers.3", "model.layers.4")
    names = {name for name in deep.decoder.tensors() if not name.startswith(later)}
    assert stand_in.tensors().keys() == names
    assert all(torch.equal(stand_in.tensors()[name], deep.decoder.tensors()[name]) for name in names)
    assert len(deep.shapes.widths) == 1
    assert deep.shapes.is_reproducible


def test_a_large_model_that_cannot_be_tried_makes_no_promise(monkeypatch) -> None:
    monkeypatch.setattr(generic, "_LARGEST_TRIED", 10)
    engine = EmbeddedEngine(MODELS["gpt2"], num_slots=20)
    assert engine.shapes == PassShapes((32,), (8,), is_reproducible=False)
    assert "last bits" in engine.take_notices()[0]

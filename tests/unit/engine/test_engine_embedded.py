"""The embedded engine against a plain forward without cache; stops, segments, weights, limits."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from engine_support import VOCAB, by_key, make_work

from k15.engine.embedded import EmbeddedEngine
from k15.errors import EngineError, StaleWeightsError
from k15.types import RepetitionRule, SamplingParams, StopReason, Work
from k15.weights.fingerprint import fingerprint, snapshot

SAMPLING = SamplingParams(seed=5, max_tokens=40, stop_ids=(0, 1), banned_ids=(2, 95))


def assert_same(segment, expected) -> None:
    ids, logprobs, stop = expected
    assert list(segment.token_ids) == ids
    assert np.allclose(segment.logprobs, logprobs, atol=1e-4)
    assert segment.stop is stop


@pytest.mark.parametrize("kind", ["fused", "generic"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7, "top_p": 0.9},
        {"top_k": 3},
        {"temperature": 0.0},
        {"temperature": 1.5, "segment_tokens": 7},
    ],
)
def test_tokens_and_logprobs_are_those_of_a_plain_forward(make_engine, naive, kind, options) -> None:
    sampling = dataclasses.replace(SAMPLING, **options)
    work = make_work(3, 2, seed=1)
    segments = by_key(make_engine(num_slots=3, decoder_type=kind).extend(work, sampling))
    for piece in work:
        assert_same(segments[piece.ordinal, piece.sample_index], naive.extend(piece, sampling))


def test_a_resumed_trajectory_goes_on_as_a_plain_forward_would(make_engine, naive) -> None:
    rng = np.random.default_rng(0)
    work = [
        dataclasses.replace(piece, token_ids=tuple(rng.integers(2, VOCAB, saved).tolist()))
        for piece, saved in zip(make_work(3, 2, seed=2), [0, 1, 31, 32, 33, 39], strict=True)
    ]
    segments = by_key(make_engine().extend(work, SAMPLING))
    for piece in work:
        segment = segments[piece.ordinal, piece.sample_index]
        assert segment.start == len(piece.token_ids)
        assert_same(segment, naive.extend(piece, SAMPLING))


def test_frequencies_follow_the_models_softmax(make_engine, model) -> None:
    prompt = (7, 8, 9)
    n = 3000
    sampling = SamplingParams(seed=1, max_tokens=1)
    ids = [
        s.token_ids[0] for s in make_engine(64).extend([Work(i, 0, prompt) for i in range(n)], sampling)
    ]
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([prompt])).logits[0, -1].double(), -1).numpy() * n
    common = expected >= 5
    observed = np.bincount(ids, minlength=VOCAB)
    chi_square = ((observed - expected)[common] ** 2 / expected[common]).sum()
    degrees = common.sum() - 1
    assert degrees > 5
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5


def test_segments_carry_their_weights_and_places(make_engine, weights) -> None:
    work = make_work(2, 2)
    segments = list(make_engine().extend(work, dataclasses.replace(SAMPLING, segment_tokens=4)))
    assert {(s.policy_version, s.fingerprint) for s in segments} == {(3, weights.fingerprint)}
    for segment in segments:
        assert 1 <= len(segment.token_ids) == len(segment.logprobs) <= 4
        assert segment.start == 0
        assert all(type(i) is int for i in segment.token_ids)
        assert all(type(x) is float for x in segment.logprobs)


def test_a_slot_that_falls_free_takes_the_next_work_at_once(make_engine) -> None:
    """Work is drawn lazily, and short trajectories leave while a long one is still running."""
    drawn = []

    def lazy():
        for piece in make_work(40, 1, seed=3):
            drawn.append(piece.ordinal)
            yield piece

    sampling = dataclasses.replace(SAMPLING, max_tokens=400, stop_ids=tuple(range(30)), banned_ids=())
    engine = make_engine(num_slots=4)
    segments = engine.extend(lazy(), sampling)
    first = next(segments)
    assert len(drawn) <= 5
    rest = list(segments)
    assert len(rest) == 39
    order = [first.ordinal, *(s.ordinal for s in rest)]
    assert sorted(order) == list(range(40))
    assert order != sorted(order)
    stats = engine.stats
    assert stats.num_tokens == sum(len(s.token_ids) for s in [first, *rest])
    assert stats.busy_slot_steps == stats.num_tokens
    assert stats.slot_steps % 4 == 0
    assert 0.5 < stats.occupancy <= 1
    assert stats.seconds > 0


def test_every_stop_reason_is_right(make_engine) -> None:
    rule = RepetitionRule(max_period=4, min_repeats=3, min_tokens=9)
    sampling = dataclasses.replace(SAMPLING, max_tokens=64, temperature=0.1, repetition=rule)
    segments = list(make_engine(16).extend(make_work(60, 1, seed=4), sampling))
    reasons = {s.stop for s in segments}
    assert reasons == {StopReason.END, StopReason.REPEAT, StopReason.LENGTH}
    for s in segments:
        ended = s.token_ids[-1] in sampling.stop_ids
        assert ended == (s.stop is StopReason.END)
        assert not any(t in sampling.stop_ids for t in s.token_ids[:-1])
        if s.stop is StopReason.LENGTH:
            assert len(s.token_ids) == 64
        if s.stop is StopReason.REPEAT:
            assert len(s.token_ids) % 8 == 0
            assert any(s.token_ids[-3 * p :] == s.token_ids[-p:] * 3 for p in range(1, 5)), s.token_ids


def test_repetition_is_seen_across_segments(make_engine) -> None:
    """All ids but one are banned, so the completion is one long loop: it ends at the first multiple of 8 past 20."""
    rule = RepetitionRule(max_period=4, min_repeats=3, min_tokens=20)
    banned = tuple(i for i in range(VOCAB) if i != 9)
    sampling = SamplingParams(
        seed=1, max_tokens=100, segment_tokens=7, banned_ids=banned, repetition=rule
    )
    engine = make_engine()
    completion, stops = (), []
    while not stops or stops[-1] is None:
        (segment,) = engine.extend([Work(0, 0, (5, 6), completion)], sampling)
        completion += segment.token_ids
        stops.append(segment.stop)
    assert completion == (9,) * 24
    assert stops == [None, None, None, StopReason.REPEAT]


def test_a_cut_trajectory_resumed_with_unchanged_weights_equals_the_uncut_one(make_engine) -> None:
    work = make_work(4, 2, seed=6)
    rule = RepetitionRule(max_period=4, min_repeats=3, min_tokens=9)
    sampling = dataclasses.replace(SAMPLING, max_tokens=90, stop_ids=(0,), repetition=rule)
    engine = make_engine(num_slots=5)
    whole = by_key(engine.extend(work, sampling))
    cut = dataclasses.replace(sampling, segment_tokens=13)
    pieces = {(w.ordinal, w.sample_index): w for w in work}
    logprobs = {key: [] for key in pieces}
    stops = {}
    while len(stops) < len(pieces):
        for s in engine.extend([w for key, w in pieces.items() if key not in stops], cut):
            key = (s.ordinal, s.sample_index)
            pieces[key] = dataclasses.replace(
                pieces[key], token_ids=(*pieces[key].token_ids, *s.token_ids)
            )
            logprobs[key] += s.logprobs
            assert len(s.token_ids) == 13 or s.stop is not None
            if s.stop is not None:
                stops[key] = s.stop
    for key, piece in pieces.items():
        assert piece.token_ids == whole[key].token_ids
        assert tuple(logprobs[key]) == whole[key].logprobs  # even to the last bit: shapes do not matter
        assert stops[key] is whole[key].stop


def test_segments_as_long_as_the_cap_are_plain_rollouts(make_engine) -> None:
    work = make_work(3, 2, seed=7)
    engine = make_engine()
    plain = by_key(engine.extend(work, SAMPLING))
    for segment_tokens in (40, 1000):
        sampling = dataclasses.replace(SAMPLING, segment_tokens=segment_tokens)
        assert by_key(engine.extend(work, sampling)) == plain


def test_a_banned_id_that_the_model_wants_is_never_sampled(model, make_engine) -> None:
    work = make_work(8, 4, seed=8)
    free = list(make_engine().extend(work, SamplingParams(seed=1, max_tokens=30)))
    wanted = np.bincount([t for s in free for t in s.token_ids], minlength=VOCAB).argsort()[-5:].tolist()
    banned = SamplingParams(seed=1, max_tokens=30, banned_ids=tuple(wanted))
    tokens = {t for s in make_engine().extend(work, banned) for t in s.token_ids}
    assert set(wanted) <= {t for s in free for t in s.token_ids}
    assert not set(wanted) & tokens


def test_a_trajectory_at_its_cap_gains_an_empty_segment(make_engine) -> None:
    work = [Work(0, 0, (5,), tuple(range(10, 50))), Work(1, 0, (5,), tuple(range(10, 20)))]
    segments = by_key(make_engine().extend(work, SAMPLING))
    assert segments[0, 0].token_ids == ()
    assert segments[0, 0].stop is StopReason.LENGTH
    assert segments[0, 0].start == 40
    assert len(segments[1, 0].token_ids) > 0


def test_the_models_positions_are_a_cap_too(make_engine, naive) -> None:
    prompt = tuple(np.random.default_rng(1).integers(2, VOCAB, 500).tolist())
    sampling = dataclasses.replace(SAMPLING, max_tokens=100, stop_ids=())
    (segment,) = make_engine().extend([Work(0, 0, prompt)], sampling)
    assert len(segment.token_ids) == 12
    assert segment.stop is StopReason.LENGTH
    ids, logprobs, _ = naive.extend(Work(0, 0, prompt), dataclasses.replace(sampling, max_tokens=12))
    assert list(segment.token_ids) == ids
    assert np.allclose(segment.logprobs, logprobs, atol=1e-4)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (Work(4, 1, ()), r"ordinal 4, sample 1\) has none"),
        (Work(4, 1, (5,) * 512), "512 tokens, the model reads 512"),
        (Work(4, 1, (5, VOCAB)), f"vocabulary of {VOCAB}.* has {VOCAB}"),
        (Work(4, 1, (5,), (VOCAB + 3,)), f"has {VOCAB + 3}"),
        (Work(4, 1, (-1,)), "has -1"),
        (Work(4, 1, (5,), (6, -2)), "has -2"),
    ],
)
def test_work_that_cannot_be_run_is_named(make_engine, work, message) -> None:
    with pytest.raises(EngineError, match=message):
        list(make_engine().extend([work], SAMPLING))


def test_no_work_gives_no_segments(make_engine) -> None:
    engine = make_engine()
    assert list(engine.extend([], SAMPLING)) == []
    assert engine.stats.num_tokens == 0
    assert engine.stats.occupancy == 0


def test_without_weights_nothing_is_sampled(model, weights) -> None:
    engine = EmbeddedEngine(model, num_slots=2)
    assert engine.fingerprint is None
    with pytest.raises(StaleWeightsError, match="none were loaded"):
        engine.extend([], SAMPLING)
    engine.load_weights(weights)
    assert engine.fingerprint == weights.fingerprint


def test_weights_that_changed_on_the_way_are_refused_and_nothing_is_sampled_after(
    model, weights
) -> None:
    engine = EmbeddedEngine(model, num_slots=2)
    engine.load_weights(weights)
    tensors = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    tensors["model.norm.weight"][0] += 1e-6
    with pytest.raises(StaleWeightsError, match=weights.fingerprint):
        engine.load_weights(dataclasses.replace(weights, tensors=tensors))
    assert engine.fingerprint is None
    with pytest.raises(StaleWeightsError):
        engine.extend([], SAMPLING)


def test_training_the_model_does_not_change_the_engine(make_engine, model) -> None:
    work = make_work(2, 1)
    engine = make_engine()
    before = by_key(engine.extend(work, SAMPLING))
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        assert by_key(engine.extend(work, SAMPLING)) == before
        engine.load_weights(snapshot(model, version=4))
        after = by_key(engine.extend(work, SAMPLING))
    finally:
        model.load_state_dict(original)
    assert {s.policy_version for s in after.values()} == {4}
    assert [s.logprobs for s in after.values()] != [s.logprobs for s in before.values()]


def test_weights_that_are_not_finite_are_an_error_and_leave_no_trace(
    make_engine, model, weights
) -> None:
    engine = make_engine()
    before = by_key(engine.extend(make_work(2, 1), SAMPLING))
    broken = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    broken["model.norm.weight"][0] = torch.nan
    engine.load_weights(dataclasses.replace(weights, tensors=broken, fingerprint=fingerprint(broken)))
    with pytest.raises(EngineError, match="NaN or infinity"):
        list(engine.extend(make_work(2, 1), SAMPLING))
    engine.load_weights(weights)
    assert by_key(engine.extend(make_work(2, 1), SAMPLING)) == before


def test_one_extend_at_a_time_and_an_abandoned_one_frees_the_engine(make_engine, weights) -> None:
    engine = make_engine()
    work = make_work(20, 1)
    running = engine.extend(work, SAMPLING)
    next(running)
    with pytest.raises(EngineError, match="one extend at a time"):
        next(engine.extend(work, SAMPLING))
    with pytest.raises(EngineError, match="cannot change under a running extend"):
        engine.load_weights(weights)
    running.close()
    fresh = by_key(engine.extend(work, SAMPLING))
    assert fresh == by_key(make_engine().extend(work, SAMPLING))


def test_samples_of_one_prompt_read_it_once(make_engine) -> None:
    prompt = tuple(range(10, 60))
    engine = make_engine(num_slots=4)
    together = by_key(engine.extend([Work(0, k, prompt) for k in range(12)], SAMPLING))
    assert engine.stats.num_prefill_tokens == 49
    for k in range(12):
        (alone,) = engine.extend([Work(0, k, prompt)], SAMPLING)
        assert alone == together[0, k]


def test_the_callers_threads_and_grad_mode_are_left_alone(make_engine) -> None:
    torch.set_num_threads(2)
    try:
        seen = []
        for _ in make_engine(num_threads=1).extend(make_work(3, 1), SAMPLING):
            seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        assert set(seen) == {(2, False)}
    finally:
        torch.set_num_threads(1)


def test_negative_and_huge_keys_are_numbers_too(make_engine, naive) -> None:
    sampling = dataclasses.replace(SAMPLING, seed=-3, max_tokens=6)
    work = [Work(ordinal, 0, (5, 6)) for ordinal in (0, -1, 2**50)]
    tokens = [by_key(make_engine().extend([w], sampling)) for w in work]
    assert len({next(iter(t.values())).token_ids for t in tokens}) == 3
    for piece, found in itertools.zip_longest(work, tokens):
        assert_same(next(iter(found.values())), naive.extend(piece, sampling))

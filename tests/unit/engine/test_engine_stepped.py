"""An engine of another library under k15's rules, with a library of forty lines in place of a real one.

The truth is `Naive`: one sequence, no cache, plain forward.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from engine_support import VOCAB, by_key, make_work

from k15.engine.draws import RowSampler
from k15.engine.slots import Limits
from k15.engine.source import IterableSource
from k15.engine.stepped import Gain, Request, SteppedEngine, Stepper
from k15.errors import EngineError, StaleWeightsError
from k15.types import RepetitionRule, SamplingParams, StopReason, Work
from k15.weights.fingerprint import fingerprint, named_weights

SAMPLING = SamplingParams(seed=5, max_tokens=40, stop_ids=(0, 1), banned_ids=(2, 95))


class Library(Stepper):
    """Runs `room` requests at a time, in an order of its own, several tokens a step.

    Args:
        burst: most tokens a request gains in a step; a library may run ahead of who drives it.
    """

    def __init__(self, model: torch.nn.Module, *, room: int = 3, burst: int = 1) -> None:
        self._model, self._room, self._burst = model, room, burst
        self._sampler, self._order = RowSampler(), random.Random(1)
        self.waiting: dict[str, Request] = {}
        self.gained: dict[str, list[int]] = {}
        self.aborted: list[str] = []
        self.num_asleep = 0
        self.scale = 1.0

    @property
    def limits(self) -> Limits:
        return Limits(VOCAB, 512)

    def load(self, weights) -> str:
        return fingerprint(named_weights(self._model))

    def add(self, request: Request) -> None:
        self.waiting[request.key] = request
        self.gained[request.key] = []

    def abort(self, keys: Sequence[str]) -> None:
        self.aborted += keys
        for key in keys:
            self.waiting.pop(key, None)

    def sleep(self) -> None:
        self.num_asleep += 1

    def step(self) -> list[Gain]:
        running = list(self.waiting)[: self._room]
        self._order.shuffle(running)
        return [self._run(self.waiting[key]) for key in running]

    @torch.no_grad()
    def _run(self, request: Request) -> Gain:
        ids, new = self.gained[request.key], []
        num_read = 0 if ids else len(request.token_ids)
        for _ in range(self._burst):
            logits = self._model(torch.tensor([[*request.token_ids, *ids]])).logits[0, -1:].clone()
            token = int(self._sampler.force(self.scale * logits, {0: (request.draw, ids)}).argmax())
            ids.append(token)
            new.append(token)
            if token in request.stop_ids or len(ids) == request.quota:
                del self.waiting[request.key]
                break
        return Gain(request.key, new, num_read)


@pytest.fixture
def library(model) -> Library:
    return Library(model)


def engine_of(library: Library, weights, num_slots: int = 4) -> SteppedEngine:
    engine = SteppedEngine(library, num_slots=num_slots)
    engine.load_weights(weights)
    return engine


def run(engine: SteppedEngine, work: Sequence[Work], sampling: SamplingParams = SAMPLING):
    batches = engine.extend_in_batches(IterableSource(work), sampling)
    return [segment for batch in batches for segment in batch]


@pytest.mark.parametrize("burst", [1, 5])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 1.3, "top_k": 9, "top_p": 0.8, "segment_tokens": 7},
        {"repetition": RepetitionRule(8, 2, 4), "temperature": 0.3},
    ],
    ids=["plain", "greedy", "cut", "loops"],
)
def test_segments_are_those_of_the_rules(model, weights, naive, changes, burst):
    sampling = replace(SAMPLING, **changes)
    work = make_work(4, 2, longest_prompt=12)
    segments = by_key(run(engine_of(Library(model, burst=burst), weights), work, sampling))
    assert len(segments) == len(work)
    for piece in work:
        segment = segments[piece.ordinal, piece.sample_index]
        ids, logprobs, stop = naive.extend(piece, sampling)
        assert (list(segment.token_ids), segment.stop) == (ids, stop)
        assert segment.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert (segment.policy_version, segment.fingerprint) == (weights.version, weights.fingerprint)
    if sampling.repetition:
        assert any(s.stop is StopReason.REPEAT for s in segments.values())


def test_a_resumed_trajectory_goes_on_as_if_it_had_not_stopped(library, weights):
    engine, work = engine_of(library, weights), make_work(3, 2, longest_prompt=12)
    whole = by_key(run(engine, work))
    sampling = replace(SAMPLING, segment_tokens=6)
    open_work, joined = {(w.ordinal, w.sample_index): w for w in work}, {}
    while open_work:
        for segment in run(engine, list(open_work.values()), sampling):
            key = (segment.ordinal, segment.sample_index)
            joined[key] = (*joined.get(key, ()), *segment.token_ids)
            assert segment.start + len(segment.token_ids) == len(joined[key])
            open_work[key] = replace(open_work[key], token_ids=joined[key])
            if segment.stop is not None:
                del open_work[key]
    assert joined == {key: segment.token_ids for key, segment in whole.items()}


def test_what_is_at_its_cap_comes_back_empty(library, weights):
    work = Work(1, 0, (5, 6), token_ids=(7,) * 40)
    (segment,) = run(engine_of(library, weights), [work])
    assert (segment.token_ids, segment.stop, segment.start) == ((), StopReason.LENGTH, 40)


def test_work_is_drawn_when_there_is_room(library, weights):
    drawn = []

    def lazily():
        for work in make_work(20, 1, longest_prompt=6):
            drawn.append(work)
            yield work

    batches = engine_of(library, weights, num_slots=2).extend_in_batches(
        IterableSource(lazily()), SAMPLING
    )
    next(batches)
    assert len(drawn) <= 4
    batches.close()
    assert not library.waiting  # what was not finished is dropped


def test_a_looping_completion_is_taken_from_the_library(model, weights):
    sampling = replace(SAMPLING, repetition=RepetitionRule(8, 2, 4), temperature=0.3)
    library = Library(model)
    segments = run(engine_of(library, weights), make_work(4, 2, longest_prompt=12), sampling)
    looping = [s for s in segments if s.stop is StopReason.REPEAT]
    assert looping
    assert len(library.aborted) == len(looping)
    assert not library.waiting


def test_stats_say_what_it_cost(model, weights):
    engine, work = engine_of(Library(model, room=4), weights, num_slots=4), make_work(4, 1)
    segments = run(engine, work)
    stats = engine.stats
    assert stats.num_tokens == sum(len(s.token_ids) for s in segments) == stats.busy_slot_steps
    assert stats.num_prefill_tokens == sum(len(w.prompt_token_ids) for w in work)
    assert stats.slot_steps == 4 * max(len(s.token_ids) for s in segments)
    assert stats.seconds > 0


def test_a_library_that_holds_other_weights_is_not_sampled_from(library, weights):
    engine = SteppedEngine(library, num_slots=2)
    with pytest.raises(StaleWeightsError, match="none were loaded"):
        engine.extend_in_batches(IterableSource([]), SAMPLING)
    engine.load_weights(weights)
    with pytest.raises(StaleWeightsError, match=f"now holds {weights.fingerprint}"):
        engine.load_weights(replace(weights, fingerprint="0" * 32))
    with pytest.raises(StaleWeightsError, match="none were loaded"):
        engine.extend_in_batches(IterableSource([]), SAMPLING)


def test_logits_that_are_not_finite_are_an_error(library, weights):
    engine = engine_of(library, weights)
    library.scale = float("nan")
    with pytest.raises(EngineError, match="Training has diverged"):
        run(engine, make_work(1, 1))
    assert not library.waiting


@pytest.mark.parametrize("work", [Work(0, 0, ()), Work(0, 0, (VOCAB,)), Work(0, 0, (3,) * 512)])
def test_work_that_the_model_cannot_run_is_an_error(library, weights, work):
    with pytest.raises(EngineError, match=r"ordinal 0, sample 0"):
        run(engine_of(library, weights), [work])


def test_sleep_is_passed_on(library, weights):
    engine_of(library, weights).sleep()
    assert library.num_asleep == 1

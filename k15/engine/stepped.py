"""An engine of another library, driven step by step, so that it keeps k15's rules.

The library holds the model and its keys and values, and schedules. What a segment is, when a completion
stops, which number decides a token, and which weights were really loaded is decided here. A library takes
part by a class of `Stepper`: `engine/vllm.py` is one.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from k15.algo.repetition import is_repeating
from k15.engine.draws import Draw
from k15.engine.seeds import token_uniforms
from k15.engine.slots import REPETITION_EVERY, Limits, Stamp, look_back, segment_of
from k15.engine.source import WorkSource
from k15.errors import EngineError, StaleWeightsError
from k15.types import EngineStats, SamplingParams, Segment, StopReason, Weights, Work

_PATIENCE = 32
"""Steps after which whoever drives the engine gets to look for news, even if no segment finished."""


@dataclass(frozen=True)
class Request:
    """What the library is asked for: at most `quota` more tokens.

    Attributes:
        key: unique in the life of the engine.
        token_ids: prompt and completion so far.
        quota: the library ends the request by itself after so many tokens, or at a stop id.
        stop_ids: the stop ids; the sampled one is part of what comes back.
        draw: how its tokens are sampled; the library's sampler must use it.
    """

    key: str
    token_ids: list[int]
    quota: int
    stop_ids: tuple[int, ...]
    draw: Draw


@dataclass(frozen=True)
class Gain:
    """Tokens that a request gained in a step.

    Attributes:
        num_read: tokens of prompt and completion that were read for it, not found in a cache of this policy;
            counted once, with the first gain.
    """

    key: str
    token_ids: Sequence[int]
    num_read: int = 0


class Stepper(ABC):
    """Another library's engine, as little of it as k15 needs."""

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """What the model can read."""

    @abstractmethod
    def load(self, weights: Weights) -> str:
        """Copy the weights in, forget what was computed with older ones; fingerprint of what is now held."""

    @abstractmethod
    def add(self, request: Request) -> None:
        """Take a request; it runs when there is room."""

    @abstractmethod
    def step(self) -> list[Gain]:
        """One pass of the model over what runs; the tokens sampled in it, each request at most once."""

    @abstractmethod
    def abort(self, keys: Sequence[str]) -> None:
        """Forget these requests."""

    @abstractmethod
    def sleep(self) -> None:
        """Give device memory back. `load` and `add` wake it up."""


@dataclass
class _Open:
    """A segment that is being sampled.

    Attributes:
        cap: longest completion, in tokens.
        ids: tokens gained so far.
        past: end of the completion before them, as long as repetition detection looks back.
    """

    work: Work
    cap: int
    draw: Draw
    past: tuple[int, ...]
    ids: list[int] = field(default_factory=list)

    @property
    def quota(self) -> int:
        return len(self.draw.uniforms)


class SteppedEngine:
    """Extends trajectories by means of a `Stepper`. It runs in a worker of an `EnginePool`.

    Args:
        stepper: the library's engine.
        num_slots: trajectories at the same time; a few more wait inside the library.
    """

    def __init__(self, stepper: Stepper, *, num_slots: int) -> None:
        self._stepper = stepper
        self._num_slots = num_slots
        self._stamp: Stamp | None = None
        self._stats = EngineStats()
        self._number = 0  # of requests

    @property
    def stats(self) -> EngineStats:
        return self._stats

    def load_weights(self, weights: Weights) -> None:
        """Hand weights over and prove it.

        Raises:
            EngineError: the library cannot take these tensors.
            StaleWeightsError: the library holds other bytes than `weights.fingerprint` promises.
        """
        self._stamp = None  # until proven, it holds nothing that may be sampled from
        held = self._stepper.load(weights)
        if held != weights.fingerprint:
            raise StaleWeightsError(
                f"An engine samples only from the weights it was handed: version {weights.version} has the "
                f"fingerprint {weights.fingerprint}, the engine now holds {held}. Its model does not load these "
                "tensors whole; use the embedded engine."
            )
        self._stamp = Stamp(weights.version, weights.fingerprint)

    def sleep(self) -> None:
        """Give device memory back until the next load or extension."""
        self._stepper.sleep()

    def extend_in_batches(
        self, source: WorkSource, sampling: SamplingParams
    ) -> Generator[list[Segment], None, None]:
        """One segment for each piece of work; those that finish together come together.

        Raises:
            StaleWeightsError: no weights were loaded.
            EngineError: the work cannot be run, or logits are not finite.
        """
        if self._stamp is None:
            raise StaleWeightsError(
                "An engine needs weights before it samples; none were loaded. Call load_weights."
            )
        return self._batches(source, sampling, self._stamp)

    def _batches(
        self, source: WorkSource, sampling: SamplingParams, stamp: Stamp
    ) -> Generator[list[Segment], None, None]:
        running: dict[str, _Open] = {}
        self._stats = EngineStats()
        try:
            while running or not source.is_exhausted:
                new = source.take(max(0, self._num_slots + self._num_slots // 8 - len(running)))
                if not running and not new:
                    source.wait()
                    continue
                started = time.perf_counter()
                segments = self._admit(new, sampling, stamp, running)
                for _ in range(_PATIENCE):
                    if segments or not running:
                        break
                    segments = self._step(running, sampling, stamp)
                self._count(seconds=time.perf_counter() - started)
                yield segments
        finally:
            self._stepper.abort(list(running))

    def _admit(
        self, new: list[Work], sampling: SamplingParams, stamp: Stamp, running: dict[str, _Open]
    ) -> list[Segment]:
        """Ask for what was taken; what is at its cap already comes back at once."""
        finished = []
        for work in new:
            job = self._open(work, sampling)
            if job.quota == 0:
                finished.append(segment_of(work, [], [], StopReason.LENGTH, stamp))
                continue
            self._number += 1
            key = str(self._number)
            running[key] = job
            ids = [*work.prompt_token_ids, *work.token_ids]
            self._stepper.add(Request(key, ids, job.quota, sampling.stop_ids, job.draw))
        return finished

    def _open(self, work: Work, sampling: SamplingParams) -> _Open:
        limits, saved = self._stepper.limits, len(work.token_ids)
        limits.check(work)
        cap = min(sampling.max_tokens, limits.max_positions - len(work.prompt_token_ids))
        quota = max(0, cap - saved)
        if sampling.segment_tokens is not None:
            quota = min(quota, sampling.segment_tokens)
        uniforms = token_uniforms(sampling.seed, work.ordinal, work.sample_index, saved, quota)
        span = look_back(sampling.repetition)
        return _Open(work, cap, Draw(sampling, uniforms), work.token_ids[-span:] if span else ())

    def _step(self, running: dict[str, _Open], sampling: SamplingParams, stamp: Stamp) -> list[Segment]:
        """One step; the segments that it finishes."""
        segments, looping, num_tokens = [], [], 0
        for gain in self._stepper.step():
            job = running.get(gain.key)
            if job is None:
                continue  # it was dropped just now
            num_tokens += len(gain.token_ids)
            self._count(num_prefill_tokens=gain.num_read)
            for token in gain.token_ids:
                job.ids.append(token)
                stop = _stop(job, sampling)
                if stop is not None or len(job.ids) == job.quota:
                    segments.append(_segment(job, stop, stamp))
                    del running[gain.key]
                    if stop is StopReason.REPEAT:
                        looping.append(gain.key)  # the library does not know of this rule
                    break
        if looping:
            self._stepper.abort(looping)
        self._count(
            num_tokens=num_tokens,
            busy_slot_steps=min(num_tokens, self._num_slots),
            slot_steps=self._num_slots if num_tokens else 0,
        )
        return segments

    def _count(self, **amounts: float) -> None:
        """Add to the counters of `stats`."""
        now = self._stats
        self._stats = replace(
            now, **{name: getattr(now, name) + amount for name, amount in amounts.items()}
        )


def _stop(job: _Open, sampling: SamplingParams) -> StopReason | None:
    """Why the completion stops at its last token, if it does: the embedded engine's rules in its order."""
    length = len(job.work.token_ids) + len(job.ids)
    if job.ids[-1] in sampling.stop_ids:
        return StopReason.END
    rule = sampling.repetition
    if rule is not None and length % REPETITION_EVERY == 0:
        tail = [*job.past, *job.ids][-look_back(rule) :]
        if is_repeating(tail, rule):
            return StopReason.REPEAT
    return StopReason.LENGTH if length >= job.cap else None


def _segment(job: _Open, stop: StopReason | None, stamp: Stamp) -> Segment:
    logprobs = job.draw.logprobs[: len(job.ids)]
    if not np.isfinite(logprobs).all():
        raise EngineError(
            f"Logits must be finite; the policy with weights of version {stamp.version} gave NaN or infinity. "
            "Training has diverged: lower the learning rate."
        )
    return segment_of(job.work, job.ids, logprobs.tolist(), stop, stamp)

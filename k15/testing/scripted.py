"""A fake engine that plays a script and checks what it receives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from k15.engine.base import Engine
from k15.errors import StaleWeightsError
from k15.types import EngineStats, SamplingParams, Segment, StopReason, Weights, Work

Script = Callable[[Work], Sequence[int]]


class ScriptedEngine(Engine):
    """Extends trajectories along a script: the whole completion of a piece of work, as token ids.

    The segments obey the contract of `Engine`: at most `segment_tokens` tokens, a stop at the first
    stop id or at `max_tokens`. Every call is kept in `received`.

    Args:
        script: gives the whole completion for a piece of work, whatever was sampled so far.
        logprob: the log-probability of every token, in nats.
    """

    def __init__(self, script: Script, *, logprob: float = -1.0) -> None:
        self._script = script
        self._logprob = logprob
        self._weights: Weights | None = None
        self._stats = EngineStats()
        self.received: list[list[Work]] = []

    def load_weights(self, weights: Weights) -> None:
        self._weights = weights

    @property
    def fingerprint(self) -> str | None:
        return self._weights.fingerprint if self._weights else None

    @property
    def stats(self) -> EngineStats:
        return self._stats

    def extend(self, work: Iterable[Work], sampling: SamplingParams) -> Iterator[Segment]:
        if self._weights is None:
            raise StaleWeightsError(
                "the engine needs weights before it samples; call load_weights first."
            )
        received: list[Work] = []
        self.received.append(received)
        num_tokens = 0
        for item in work:
            received.append(item)
            segment = self._segment(item, sampling, self._weights)
            num_tokens += len(segment.token_ids)
            self._stats = EngineStats(num_tokens, 0, num_tokens, num_tokens, 0.0)
            yield segment

    def _segment(self, item: Work, sampling: SamplingParams, weights: Weights) -> Segment:
        start = len(item.token_ids)
        whole = list(self._script(item))
        end = next((i for i, token in enumerate(whole) if token in sampling.stop_ids), None)
        whole = (
            whole[: sampling.max_tokens] if end is None else whole[: min(end + 1, sampling.max_tokens)]
        )
        assert whole[:start] == list(item.token_ids), (
            "resumed tokens must be those that were sampled before"
        )
        assert start < len(whole), (
            f"a script must go on past the {start} tokens of {item.ordinal}/{item.sample_index}"
        )
        tokens = whole[start:][: sampling.segment_tokens]
        stop = None
        if start + len(tokens) == len(whole):
            stop = StopReason.END if whole[-1] in sampling.stop_ids else StopReason.LENGTH
        logprobs = (self._logprob,) * len(tokens)
        return Segment(
            item.ordinal,
            item.sample_index,
            start,
            tuple(tokens),
            logprobs,
            weights.version,
            weights.fingerprint,
            stop,
        )

    def close(self) -> None:
        self._weights = None

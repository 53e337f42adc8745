"""What is in each slot of the engine: bookkeeping of one call of `extend`, no tensors of the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from k15.algo.repetition import is_repeating
from k15.engine.seeds import token_uniforms
from k15.errors import EngineError
from k15.types import RepetitionRule, SamplingParams, Segment, StopReason, Work

REPETITION_EVERY = 8
"""Repetition is looked for where the completion's length is a multiple of it: a rule of positions, so that
where segments begin and end does not matter."""


@dataclass(frozen=True)
class Stamp:
    """What a segment says of the weights that sampled it."""

    version: int
    fingerprint: str


@dataclass(frozen=True)
class Limits:
    """What the model can read: ids below `vocab_size`, sequences up to `max_positions`."""

    vocab_size: int
    max_positions: int

    def check(self, work: Work) -> None:
        """Raise EngineError for work that the model cannot run."""
        name = f"the trajectory (ordinal {work.ordinal}, sample {work.sample_index})"
        if not work.prompt_token_ids:
            raise EngineError(f"A prompt needs at least one token; {name} has none. Render it first.")
        if len(work.prompt_token_ids) >= self.max_positions:
            raise EngineError(
                f"A prompt must leave room for the completion; that of {name} has "
                f"{len(work.prompt_token_ids)} tokens, the model reads {self.max_positions}. Shorten it, or lower "
                "prompts.max_prompt_tokens."
            )
        ids = (*work.prompt_token_ids, *work.token_ids)
        wrong = [i for i in (min(ids), max(ids)) if not 0 <= i < self.vocab_size]
        if wrong:
            raise EngineError(
                f"Token ids must be in the model's vocabulary of {self.vocab_size}; {name} has {wrong[0]}. Render the "
                "prompts with the model's own tokenizer."
            )


@dataclass(frozen=True)
class Job:
    """A piece of work in a slot.

    Attributes:
        work: the trajectory.
        cap: longest completion, in tokens: `max_tokens`, or less where the model has no more positions.
        quota: most tokens of this segment.
        uniforms: [quota] the number that decides each token.
        past: end of the completion so far, as long as repetition detection looks back.
    """

    work: Work
    cap: int
    quota: int
    uniforms: NDArray[np.float64]
    past: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of prompt and completion before this segment."""
        return len(self.work.prompt_token_ids) + len(self.work.token_ids)


class Slots:
    """The trajectories being extended, one a row; the rows' next tokens as arrays.

    Attributes:
        jobs: what each row holds; None for a free row.
        tokens: [rows] the token each row is fed next.
        positions: [rows] its position in the sequence. A free row writes where its prompt ended.
    """

    def __init__(self, num_slots: int, num_rows: int, sampling: SamplingParams, limits: Limits) -> None:
        self._num_slots = num_slots
        self._sampling = sampling
        self._limits = limits
        self._is_stop = np.zeros(limits.vocab_size, dtype=bool)
        self._is_stop[[i for i in sampling.stop_ids if 0 <= i < limits.vocab_size]] = True
        self.jobs: list[Job | None] = [None] * num_rows
        self.tokens = np.zeros(num_rows, dtype=np.int64)
        self.positions = np.zeros(num_rows, dtype=np.int64)
        self._is_busy = np.zeros(num_rows, dtype=bool)
        self._counts = np.zeros(num_rows, dtype=np.int64)
        self._quotas = np.zeros(num_rows, dtype=np.int64)
        self._lengths = np.zeros(num_rows, dtype=np.int64)
        longest = min(sampling.max_tokens, limits.max_positions)
        if sampling.segment_tokens is not None:
            longest = min(longest, sampling.segment_tokens)
        self._ids = np.zeros((num_rows, longest), dtype=np.int64)
        self._logprobs = np.zeros((num_rows, longest), dtype=np.float32)
        self._uniforms = np.zeros((num_rows, longest), dtype=np.float64)

    @property
    def num_rows(self) -> int:
        return len(self.jobs)

    @property
    def num_busy(self) -> int:
        return int(self._is_busy.sum())

    @property
    def busy_rows(self) -> list[int]:
        return np.flatnonzero(self._is_busy).tolist()

    @property
    def free_rows(self) -> list[int]:
        return np.flatnonzero(~self._is_busy[: self._num_slots]).tolist()

    def make_job(self, work: Work) -> Job:
        """Check a piece of work and derive its random numbers. A quota of 0 means that it is at its cap.

        Raises:
            EngineError: no prompt, no room for a single token, or an id that the model does not have.
        """
        self._limits.check(work)
        sampling, saved = self._sampling, len(work.token_ids)
        cap = min(sampling.max_tokens, self._limits.max_positions - len(work.prompt_token_ids))
        quota = max(0, cap - saved)
        if sampling.segment_tokens is not None:
            quota = min(quota, sampling.segment_tokens)
        uniforms = token_uniforms(sampling.seed, work.ordinal, work.sample_index, saved, quota)
        span = look_back(sampling.repetition)
        past = tuple(work.token_ids[-span:]) if span else ()
        return Job(work, cap, quota, uniforms, past)

    def put(self, row: int, job: Job) -> None:
        """Begin a job in a row; its tokens but the last must be in the cache before the next step."""
        last = job.work.token_ids or job.work.prompt_token_ids
        self.jobs[row] = job
        self._is_busy[row] = True
        self.tokens[row] = last[-1]
        self.positions[row] = job.length - 1
        self._counts[row] = 0
        self._quotas[row] = job.quota
        self._lengths[row] = len(job.work.token_ids)
        self._uniforms[row, : job.quota] = job.uniforms

    def next_uniforms(self) -> NDArray[np.float64]:
        """[rows] the numbers that decide the next tokens; free rows get any."""
        column = np.minimum(self._counts, self._uniforms.shape[1] - 1)
        return self._uniforms[np.arange(self.num_rows), column]

    def advance(
        self, ids: NDArray[np.int64], logprobs: NDArray[np.float32], stamp: Stamp
    ) -> list[Segment]:
        """Record one sampled token in every busy row; the segments that this finishes leave their rows.

        Raises:
            EngineError: a log-probability is not finite.
        """
        busy = np.flatnonzero(self._is_busy)
        if not np.isfinite(logprobs[busy]).all():
            raise EngineError(
                "Logits must be finite; the policy with weights of version "
                f"{stamp.version} gave NaN or infinity. Training has diverged: lower the learning rate."
            )
        counts = self._counts[busy]
        self._ids[busy, counts] = ids[busy]
        self._logprobs[busy, counts] = logprobs[busy]
        self._counts[busy] += 1
        self._lengths[busy] += 1
        self.tokens[busy] = ids[busy]
        self.positions[busy] += 1
        ended = self._is_stop[ids[busy]] | (self._counts[busy] >= self._quotas[busy])
        if self._sampling.repetition is not None:
            ended |= self._lengths[busy] % REPETITION_EVERY == 0
        segments: list[Segment] = []
        for row in busy[ended].tolist():
            stop = self._stop(row)
            if stop is not None or self._counts[row] == self._quotas[row]:
                segments.append(self._finish(row, stop, stamp))
        return segments

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order."""
        self.jobs = [self.jobs[row] for row in rows]
        self.tokens, self.positions, self._is_busy = (
            self.tokens[rows],
            self.positions[rows],
            self._is_busy[rows],
        )
        self._counts, self._quotas, self._lengths = (
            self._counts[rows],
            self._quotas[rows],
            self._lengths[rows],
        )
        self._ids, self._logprobs, self._uniforms = (
            self._ids[rows],
            self._logprobs[rows],
            self._uniforms[rows],
        )

    def _stop(self, row: int) -> StopReason | None:
        job, length = self.jobs[row], int(self._lengths[row])
        assert job is not None
        if self._is_stop[self.tokens[row]]:
            return StopReason.END
        rule = self._sampling.repetition
        if rule is not None and length % REPETITION_EVERY == 0:
            tail = [*job.past, *self._ids[row, : self._counts[row]].tolist()][-look_back(rule) :]
            if is_repeating(tail, rule):
                return StopReason.REPEAT
        return StopReason.LENGTH if length >= job.cap else None

    def _finish(self, row: int, stop: StopReason | None, stamp: Stamp) -> Segment:
        job, count = self.jobs[row], int(self._counts[row])
        assert job is not None
        self.jobs[row] = None
        self._is_busy[row] = False
        # The free row goes on writing, at the prompt's last place. What lies before it stays readable for others,
        # and the last token of a prompt is always read anew.
        self.positions[row] = len(job.work.prompt_token_ids) - 1
        return segment_of(
            job.work, self._ids[row, :count].tolist(), self._logprobs[row, :count].tolist(), stop, stamp
        )


def look_back(rule: RepetitionRule | None) -> int:
    """The most tokens that decide whether a completion is repeating; 0 without a rule."""
    if rule is None:
        return 0
    return max(rule.max_period * rule.min_repeats, rule.min_tokens + rule.max_period)


def segment_of(
    work: Work, ids: list[int], logprobs: list[float], stop: StopReason | None, stamp: Stamp
) -> Segment:
    """The segment that a trajectory gained from these weights."""
    return Segment(
        ordinal=work.ordinal,
        sample_index=work.sample_index,
        start=len(work.token_ids),
        token_ids=tuple(ids),
        logprobs=tuple(logprobs),
        policy_version=stamp.version,
        fingerprint=stamp.fingerprint,
        stop=stop,
    )

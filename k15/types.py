"""Frozen records that cross folders: prompt, segment, trajectory, group, verdict.

Nothing here imports torch: the report and the command line read these records on a laptop.
One word per idea; `docs/structure.md` shows which room makes which record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class StopReason(StrEnum):
    """Why a trajectory stopped (Kimi k1.5, Fig. 3b). An unfinished one has no stop reason."""

    END = "end"  # the policy wrote its end-of-text token
    REPEAT = "repeat"  # repetition was detected, generation ended early
    LENGTH = "length"  # `max_tokens`, the cap on the whole completion, was reached


class Outcome(StrEnum):
    """What a verifier found. `FAULT` means *our fault*: it is never turned into a reward."""

    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    FAULT = "fault"


class Audit(StrEnum):
    """What a second, independent grader says of a completion (`rewards.strict`)."""

    RIGHT = "right"
    WRONG = "wrong"
    UNSURE = "unsure"  # outside what it can read


class AnswerKind(StrEnum):
    """What the ground truth is, and so what may be equal to it."""

    AUTO = "auto"  # told from how the ground truth is written
    NUMBER = "number"  # one number, with or without a unit
    CHOICE = "choice"  # letters of options
    TEXT = "text"  # words
    LIST = "list"  # each element as often as it stands there, in any order unless "order" is required
    SET = "set"  # each element once, in any order
    TUPLE = "tuple"  # elements in their order, whatever the brackets
    INTERVAL = "interval"  # a set of real numbers: brackets, a union of them, or an inequality


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """How one prompt wants its answers judged, where that differs from the rules for all (docs/rewards.md).

    Attributes:
        kind: what the ground truth is.
        accept: further ground truths; an answer equal to any of them is right.
        choices: the options' texts, in the order of their letters A, B, ...
        require: what an answer must also have: "order" of a list, the same "unit", the same "percent" sign,
            the "base" of a numeral, lowest terms ("reduced"), the "case" of words.
        convert_units: another unit of the same quantity is right after conversion.
        log: what a logarithm without base is: "e" or "10"; None reads it as Math-Verify does.
        decimals: a number is right if it is the ground truth when rounded to so many decimal places.
        significant_digits: the same, for so many significant digits.
        absolute_tolerance: a number is right if it is at most so far from the ground truth.
        relative_tolerance: the same, as a share of the ground truth.
    """

    kind: AnswerKind = AnswerKind.AUTO
    accept: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    require: frozenset[str] = frozenset()
    convert_units: bool = False
    log: str | None = None
    decimals: int | None = None
    significant_digits: int | None = None
    absolute_tolerance: float | None = None
    relative_tolerance: float | None = None

    @property
    def has_tolerance(self) -> bool:
        """Whether a number may differ from the ground truth."""
        limits = (
            self.decimals,
            self.significant_digits,
            self.absolute_tolerance,
            self.relative_tolerance,
        )
        return any(limit is not None for limit in limits)


DEFAULT_RULES = AnswerRules()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem x with its ground truth y*.

    Attributes:
        prompt_id: stable name, unique in its prompt set.
        question: what the user asks, as text.
        answer: the ground truth y*, as text.
        verifier: who judges an answer: "math", or "task:NAME" for a generated family.
        family: the task family or data set it belongs to; reports split by it.
        difficulty: a level, higher is harder; None when nobody labelled it.
        system: a system message put before the question, or "".
        token_ids: the prompt rendered by the model's chat template; empty until rendered.
        rules: how its answers are judged, for the verifier "math".
    """

    prompt_id: str
    question: str
    answer: str
    verifier: str
    family: str
    difficulty: float | None = None
    system: str = ""
    token_ids: tuple[int, ...] = ()
    rules: AnswerRules = DEFAULT_RULES


@dataclass(frozen=True, slots=True)
class Segment:
    """What a trajectory gained in one iteration, from one policy version (section 2.6.2).

    Attributes:
        ordinal: number of the draw that opened the group; unique in a run.
        sample_index: which of the group's k trajectories, from 0.
        start: position of the first token in the completion; earlier segments end there.
        token_ids: the tokens sampled, end-of-text included.
        logprobs: the engine's log-probability of each token, in nats. Recorded to measure the
            gap between engine and trainer; never used as the reference (decision 2).
        policy_version: the iteration whose weights theta_i sampled these tokens.
        fingerprint: fingerprint of those weights.
        stop: why the trajectory stopped here, or None if it goes on.
    """

    ordinal: int
    sample_index: int
    start: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy_version: int
    fingerprint: str
    stop: StopReason | None


@dataclass(frozen=True)
class Trajectory:
    """One of a group's k samples: its segments so far. Finished once the last one has a stop."""

    ordinal: int
    sample_index: int
    segments: tuple[Segment, ...] = ()

    @property
    def stop(self) -> StopReason | None:
        return self.segments[-1].stop if self.segments else None

    @property
    def is_finished(self) -> bool:
        return self.stop is not None

    @cached_property
    def token_ids(self) -> tuple[int, ...]:
        """The completion so far, all segments joined."""
        return tuple(chain.from_iterable(s.token_ids for s in self.segments))

    @cached_property
    def logprobs(self) -> tuple[float, ...]:
        """The engine's log-probability of each token of the completion, in nats."""
        return tuple(chain.from_iterable(s.logprobs for s in self.segments))

    @cached_property
    def policy_versions(self) -> tuple[int, ...]:
        """The policy version that sampled each token of the completion."""
        return tuple(s.policy_version for s in self.segments for _ in s.token_ids)

    @property
    def length(self) -> int:
        """Tokens in the completion so far."""
        return sum(len(s.token_ids) for s in self.segments)


@dataclass(frozen=True)
class Group:
    """The k trajectories of one drawn prompt. It leaves the buffer once, when all have stopped."""

    ordinal: int
    prompt: Prompt
    opened_at: int  # iteration of the draw
    trajectories: tuple[Trajectory, ...]

    @property
    def is_finished(self) -> bool:
        return all(t.is_finished for t in self.trajectories)


@dataclass(frozen=True, slots=True)
class Work:
    """One trajectory for the engine to extend by one segment: token ids travel, never text."""

    ordinal: int
    sample_index: int
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...] = ()  # the completion so far


@dataclass(frozen=True, slots=True)
class RepetitionRule:
    """When a completion counts as looping: its last block, repeated (section 2.6.2).

    Attributes:
        max_period: longest repeated block that is looked for, in tokens.
        min_repeats: the block must stand so many times in a row.
        min_tokens: the repeats together must cover at least so many tokens.
    """

    max_period: int = 64
    min_repeats: int = 4
    min_tokens: int = 48


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the engine samples. Every token depends on (seed, ordinal, sample_index, position) only.

    Attributes:
        seed: the run's seed, or one derived from it for another purpose (evaluation).
        max_tokens: cap on the whole completion over all segments, L_max, in tokens.
        segment_tokens: at most so many new tokens per trajectory and call; None = up to max_tokens.
        temperature: divides the logits; 0 picks the likeliest token.
        top_p: keep the smallest set of tokens with at least this probability; 1 keeps all.
        top_k: keep so many of the likeliest tokens; 0 keeps all.
        stop_ids: sampling one of these ends the completion (it is part of the completion).
        banned_ids: never sampled: reserved ids and placeholders.
        repetition: end a completion early when it loops (section 2.6.2); None = never.
    """

    seed: int
    max_tokens: int
    segment_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_ids: tuple[int, ...] = ()
    banned_ids: tuple[int, ...] = ()
    repetition: RepetitionRule | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one completion.

    Attributes:
        outcome: right, wrong, no answer, timeout, or our fault.
        reason: one short sentence a person can act on.
        extracted: the answer that was judged, as text; "" if none was found.
        seconds: wall time the judgement took.
        span: where that answer stands in the completion's text, as [start, end) in characters; None if
            there is none, or what was judged was no whole completion.
        audit: what the second grader says; None if it was not asked.
    """

    outcome: Outcome
    reason: str = ""
    extracted: str = ""
    seconds: float = 0.0
    span: tuple[int, int] | None = None
    audit: Audit | None = None

    @property
    def is_valid(self) -> bool:
        """False for our fault: such a completion is left out of mean, deviation and loss."""
        return self.outcome is not Outcome.FAULT

    @property
    def is_disputed(self) -> bool:
        """Whether the second grader is sure of the opposite."""
        return self.is_valid and (
            self.audit is (Audit.WRONG if self.outcome is Outcome.RIGHT else Audit.RIGHT)
        )

    @property
    def correct(self) -> float:
        """r in {0, 1} of Eq. 1. Meaningless, and 0, where `is_valid` is false."""
        return 1.0 if self.outcome is Outcome.RIGHT else 0.0


@dataclass(frozen=True)
class Weights:
    """A policy's weights as they are handed to an engine.

    Attributes:
        version: the iteration they are the reference of, i in theta_i.
        fingerprint: digest of all tensors in name order (`weights.fingerprint`).
        tensors: name -> tensor, in the naming of the model's `state_dict`.
    """

    version: int
    fingerprint: str
    tensors: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What one call of `Engine.extend` cost.

    Attributes:
        num_tokens: tokens sampled.
        num_prefill_tokens: tokens of prompts and resumed trajectories read again.
        slot_steps: decode steps times slots.
        busy_slot_steps: those in which the slot had a trajectory; the quotient is the occupancy.
        seconds: wall time, or the longest worker's.
    """

    num_tokens: int = 0
    num_prefill_tokens: int = 0
    slot_steps: int = 0
    busy_slot_steps: int = 0
    seconds: float = 0.0

    @property
    def occupancy(self) -> float:
        return self.busy_slot_steps / self.slot_steps if self.slot_steps else 0.0

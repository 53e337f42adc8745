"""Completions of a benchmark's problems, from an engine."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from k15.algo.derive import derived_seed
from k15.errors import ConfigError
from k15.eval.problem import Benchmark, Problem, Sample
from k15.models.load import Policy
from k15.prompts.render import render_prompt
from k15.rewards.extract import THINK_OPEN
from k15.types import Outcome, Segment, StopReason, Work

MOST_TOKENS = 32768
_PROMPT_TAIL = 16  # tokens of the prompt that are read for an opened thought


@dataclass(frozen=True)
class Question:
    """A problem as the model is asked it."""

    problem: Problem
    token_ids: tuple[int, ...]
    in_thought: bool
    ordinal: int


def ask(benchmark: Benchmark, policy: Policy, *, suffix: str, system: str) -> list[Question]:
    """The problems by the model's own chat template.

    The ordinal comes from a hash of the problem's name: which tokens are sampled does not depend on what
    other problems there are.

    Args:
        suffix: added to every question, on a line of its own; "" for none.
    """
    questions = []
    for problem in benchmark.problems:
        text = f"{problem.question}\n{suffix}" if suffix else problem.question
        token_ids = render_prompt(policy.tokenizer, text, system)
        in_thought = policy.decode(token_ids[-_PROMPT_TAIL:]).rstrip().endswith(THINK_OPEN)
        digest = hashlib.blake2b(problem.problem_id.encode(), digest_size=7).digest()
        questions.append(Question(problem, token_ids, in_thought, int.from_bytes(digest, "big")))
    return questions


def room_for_completion(questions: Iterable[Question], policy: Policy, max_tokens: int | None) -> int:
    """The cap on a completion. None takes all the room, at most 32768.

    Raises:
        ConfigError: a prompt and its completion do not fit the model. Refused, not scored as wrong.
    """
    longest = max(questions, key=lambda q: len(q.token_ids))
    room = policy.max_positions - len(longest.token_ids)
    if room <= 0 or (max_tokens or 1) > room:
        cure = f"Set --max-tokens {room} or less" if room > 0 else "Leave such problems out"
        raise ConfigError(
            f"prompt and completion must fit the model's {policy.max_positions} positions; the longest prompt "
            f"({longest.problem.problem_id}) has {len(longest.token_ids)} tokens and max_tokens is "
            f"{max_tokens or 'not given'}. {cure}."
        )
    return max_tokens or min(room, MOST_TOKENS)


def sampling_seed(seed: int, benchmark: str) -> int:
    """The seed of a benchmark's samples."""
    digest = hashlib.blake2b(benchmark.encode(), digest_size=6).digest()
    return derived_seed(seed, "evaluation", int.from_bytes(digest, "big"))


def missing_work(
    questions: Sequence[Question], num_samples: int, done: Container[tuple[str, int]]
) -> list[Work]:
    """Work for the engine: every sample that is not `done`, the samples of a problem one after the other."""
    return [
        Work(question.ordinal, index, question.token_ids)
        for question in questions
        for index in range(num_samples)
        if (question.problem.problem_id, index) not in done
    ]


def to_samples(
    segments: Iterable[Segment], benchmark: str, questions: Sequence[Question], policy: Policy
) -> Iterator[Sample]:
    """The engine's completions as samples that nobody has judged yet."""
    by_ordinal = {question.ordinal: question for question in questions}
    for segment in segments:
        question = by_ordinal[segment.ordinal]
        problem = question.problem
        has_end = segment.stop is StopReason.END
        assert segment.stop is not None, "an evaluation samples every completion to its end"
        yield Sample(
            benchmark=benchmark,
            problem=problem.problem_id,
            index=segment.sample_index,
            question=problem.question,
            gold=problem.gold,
            verifier=problem.verifier,
            difficulty=problem.difficulty,
            details=stored_details(problem),
            reply=_text(policy, segment.token_ids[:-1] if has_end else segment.token_ids),
            in_thought=question.in_thought,
            num_tokens=len(segment.token_ids),
            stop=segment.stop.value,
            outcome=Outcome.FAULT,
            extracted="",
            reason="not judged yet",
        )


def _text(policy: Policy, token_ids: Sequence[int]) -> str:
    """The completion as the grader reads it in training: special tokens kept, because think tags may be some."""
    text = policy.tokenizer.decode(
        list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text


def stored_details(problem: Problem) -> dict[str, object]:
    """What a row repeats of its problem: everything but tests."""
    return {} if problem.verifier == "code" else dict(problem.details)

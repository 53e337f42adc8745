"""The grader: sends each completion to the verifier that its prompt names.

    "math"        the final answer against the gold answer (`rewards.math`)
    "code"        the program in the reply against the problem's tests, in the sandbox (`rewards.code`)
    "task:NAME"   the generated family NAME judges the reply itself (`k15.tasks`), in this process

A completion that was stopped at its cap or for repetition is judged by the same rule as any other: if
it already states its final answer it can be right, otherwise it has no answer and scores 0. What goes
wrong on our side becomes a FAULT: it is judged again with fresh processes, then left out of mean and loss,
and never counts as a wrong answer; too many of them stop the run. A sample of the verdicts, drawn by the
run's seed, is audited by a second grader (`rewards.strict`), which changes none of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from k15.algo.derive import derived_uniform
from k15.config.rl import RewardsConfig
from k15.errors import ConfigError, GraderFaultError
from k15.rewards.code import CodeItem, CodeVerifier, check_tests
from k15.rewards.extract import THINK_OPEN
from k15.rewards.math import MathItem, MathVerifier, gold_problem
from k15.rewards.strict import audit_reply
from k15.rewards.strict_tasks import audit_task
from k15.sandbox.build import make_sandbox
from k15.types import Audit, Group, Outcome, Prompt, StopReason, Trajectory, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from k15.tasks.base import Family

_MATH = "math"
_CODE = "code"
_TASK = "task:"
_READ_AHEAD = 64  # completions; one that runs into the limit then holds up no other process
_PROMPT_TAIL = 16  # tokens of the prompt that are read for an opened thought


@dataclass(frozen=True, slots=True)
class _Case:
    """One completion to judge; `in_thought`: its prompt ended with `<think>`."""

    prompt: Prompt
    trajectory: Trajectory
    text: str
    in_thought: bool


class Grader:
    """Judges finished groups.

    Args:
        config: limits of the grading processes, how many faults are too many, how much is audited.
        tokenizer: the policy's; completions are decoded with their special tokens kept.
        seed: the run's; with a completion's number it decides whether that completion is audited.
    """

    def __init__(
        self, config: RewardsConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._seed = seed
        self._math = MathVerifier(timeout_seconds=config.timeout_seconds, num_workers=config.num_workers)
        self._code: CodeVerifier | None = None  # made for the first program

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Refuse prompts that nobody can judge, before anything is generated.

        Raises:
            ConfigError: a prompt names a verifier or a family that does not exist, or its tests cannot be read.
        """
        prompts = list(prompts)
        for prompt in prompts:
            if prompt.verifier == _CODE:
                check_tests(prompt.answer, f"prompt {prompt.prompt_id!r}")
        for verifier, prompt in {prompt.verifier: prompt for prompt in prompts}.items():
            if verifier in (_MATH, _CODE):
                continue
            if not verifier.startswith(_TASK):
                raise ConfigError(
                    f'the verifier of a prompt must be "math", "code" or "task:NAME"; got {verifier!r} for prompt '
                    f"{prompt.prompt_id!r}. Set prompts.verifier, or the row's verifier, to one of them."
                )
            _family(verifier)

    def completion_text(self, trajectory: Trajectory) -> str:
        """The completion as text: special tokens kept (the think tags may be some), the end token not."""
        token_ids = trajectory.token_ids
        if trajectory.stop is StopReason.END:
            token_ids = token_ids[:-1]
        return self._decode(token_ids)

    def grade(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """A verdict for every trajectory, as groups x k.

        Raises:
            ConfigError: a prompt's verifier does not exist.
            GraderFaultError: more than `max_fault_share` of the verdicts are our own faults.
        """
        self.check(group.prompt for group in groups)
        cases = [case for group in groups for case in self._cases(group)]
        verdicts = self._judge(cases)
        for _ in range(self._config.fault_retries):
            again = [i for i, verdict in enumerate(verdicts) if verdict.outcome is Outcome.FAULT]
            if not again:
                break
            self.close()  # fresh processes
            for i, verdict in zip(again, self._judge([cases[i] for i in again]), strict=True):
                verdicts[i] = verdict
        self._halt_on_faults(verdicts)
        audited = iter([self._audited(*pair) for pair in zip(cases, verdicts, strict=True)])
        return [[next(audited) for _ in group.trajectories] for group in groups]

    def without_refused(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], dict[str, str]]:
        """The prompts whose gold answer is judged right by its own rules, and why each other one is not, by id.

        A gold that does not equal itself can never be paid: it is a defect of the data.
        """
        refused = {
            prompt.prompt_id: problem
            for prompt in prompts
            if prompt.verifier == _MATH and (problem := gold_problem(prompt.answer, prompt.rules))
        }
        return [prompt for prompt in prompts if prompt.prompt_id not in refused], refused

    def close(self) -> None:
        """End the grading processes and the sandbox."""
        self._math.close()
        if self._code is not None:
            self._code.close()
            self._code = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _decode(self, token_ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def _cases(self, group: Group) -> list[_Case]:
        tail = self._decode(group.prompt.token_ids[-_PROMPT_TAIL:]).rstrip()
        in_thought = tail.endswith(THINK_OPEN)
        return [
            _Case(group.prompt, trajectory, self.completion_text(trajectory), in_thought)
            for trajectory in group.trajectories
        ]

    def _judge(self, cases: Sequence[_Case]) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        for verifier, judge in ((_MATH, self._judge_math), (_CODE, self._judge_code)):
            places = [i for i, case in enumerate(cases) if case.prompt.verifier == verifier]
            verdicts |= zip(places, judge([cases[i] for i in places]), strict=True)
        return [verdicts.get(i) or _judge_by_family(case) for i, case in enumerate(cases)]

    def _judge_math(self, cases: Sequence[_Case]) -> list[Verdict]:
        items = [
            MathItem(c.prompt.answer, c.text, in_thought=c.in_thought, rules=c.prompt.rules)
            for c in cases
        ]
        return list(self._math.judge(items, read_ahead=_READ_AHEAD))

    def _judge_code(self, cases: Sequence[_Case]) -> list[Verdict]:
        if not cases:
            return []
        if self._code is None:
            self._code = CodeVerifier(make_sandbox(self._config.sandbox))
        items = [CodeItem(c.prompt.answer, c.text, in_thought=c.in_thought) for c in cases]
        return list(self._code.judge(items))

    def _audited(self, case: _Case, verdict: Verdict) -> Verdict:
        """The verdict with the second grader's opinion, where the draw says so and there is one."""
        keys = case.trajectory.ordinal, case.trajectory.sample_index
        is_drawn = derived_uniform(self._seed, "audit", *keys) < self._config.audit_share
        return replace(verdict, audit=_audit(case)) if is_drawn and verdict.is_valid else verdict

    def _halt_on_faults(self, verdicts: list[Verdict]) -> None:
        reasons = Counter(verdict.reason for verdict in verdicts if verdict.outcome is Outcome.FAULT)
        num_faults = reasons.total()
        if num_faults <= self._config.max_fault_share * len(verdicts):
            return
        reason, count = reasons.most_common(1)[0]
        raise GraderFaultError(
            f"at most {self._config.max_fault_share:.0%} of the verdicts may be our own faults "
            f"(rewards.max_fault_share); got {num_faults} of {len(verdicts)}. The commonest, {count} times: "
            f"{reason}. Cure that, or raise rewards.max_fault_share if you accept the loss of data."
        )


def _judge_by_family(case: _Case) -> Verdict:
    prompt, start = case.prompt, time.monotonic()
    try:
        verdict = _family(prompt.verifier).verify(prompt.question, prompt.answer, case.text)
    except Exception as error:  # a defect of ours must not cost the policy its reward
        reason = f"{prompt.verifier} broke: {type(error).__name__}: {error}"[:200]
        verdict = Verdict(Outcome.FAULT, reason)
    return replace(verdict, seconds=time.monotonic() - start)


def _audit(case: _Case) -> Audit | None:
    prompt = case.prompt
    if prompt.verifier == _MATH:
        return audit_reply(prompt.answer, case.text, in_thought=case.in_thought, rules=prompt.rules)
    return audit_task(prompt.verifier.removeprefix(_TASK), prompt.question, case.text)


def _family(verifier: str) -> Family:
    from k15.tasks import get_family

    return get_family(verifier.removeprefix(_TASK))

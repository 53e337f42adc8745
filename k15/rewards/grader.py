"""The grader: sends each completion to the verifier that its prompt names.

    "math"        the final answer against the gold answer (`rewards.math`)
    "code"        the program in the reply against the problem's tests, in the sandbox (`rewards.code`)
    "task:NAME"   the generated family NAME judges the reply itself (`k15.tasks`), in this process

A completion that was stopped at its cap or for repetition is judged by the same rule as any other: if
it already states its final answer it can be right, otherwise it has no answer and scores 0. What goes
wrong on our side becomes a FAULT, is left out of mean and loss, and never counts as a wrong answer;
too many of them stop the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from k15.config.rl import RewardsConfig
from k15.errors import ConfigError, GraderFaultError
from k15.rewards.code import CodeItem, CodeVerifier, check_tests
from k15.rewards.extract import THINK_OPEN
from k15.rewards.math import MathItem, MathVerifier
from k15.sandbox.build import make_sandbox
from k15.types import Group, Outcome, Prompt, StopReason, Trajectory, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from k15.tasks.base import Family

_MATH = "math"
_CODE = "code"
_TASK = "task:"
_PROMPT_TAIL = 16  # tokens of the prompt that are read for an opened thought


class Grader:
    """Judges finished groups.

    Args:
        config: limits of the grading processes, and how many faults are too many.
        tokenizer: the policy's; completions are decoded with their special tokens kept.
    """

    def __init__(self, config: RewardsConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self._config = config
        self._tokenizer = tokenizer
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
        verdicts: list[list[Verdict]] = [[] for _ in groups]
        for verifier, judge in ((_MATH, self._judge_math), (_CODE, self._judge_code)):
            places = [i for i, group in enumerate(groups) if group.prompt.verifier == verifier]
            judged = iter(judge([groups[i] for i in places]))
            for i in places:
                verdicts[i] = [next(judged) for _ in groups[i].trajectories]
        for i, group in enumerate(groups):
            if group.prompt.verifier.startswith(_TASK):
                verdicts[i] = [self._judge_by_family(group.prompt, t) for t in group.trajectories]
        self._halt_on_faults([verdict for row in verdicts for verdict in row])
        return verdicts

    def close(self) -> None:
        """End the grading processes and the sandbox."""
        self._math.close()
        if self._code is not None:
            self._code.close()

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

    def _begins_in_thought(self, group: Group) -> bool:
        return self._decode(group.prompt.token_ids[-_PROMPT_TAIL:]).rstrip().endswith(THINK_OPEN)

    def _judge_math(self, groups: Sequence[Group]) -> list[Verdict]:
        items = [
            MathItem(
                group.prompt.answer, self.completion_text(t), in_thought=self._begins_in_thought(group)
            )
            for group in groups
            for t in group.trajectories
        ]
        return list(self._math.judge(items))

    def _judge_code(self, groups: Sequence[Group]) -> list[Verdict]:
        items = [
            CodeItem(
                group.prompt.answer, self.completion_text(t), in_thought=self._begins_in_thought(group)
            )
            for group in groups
            for t in group.trajectories
        ]
        if not items:
            return []
        if self._code is None:
            self._code = CodeVerifier(make_sandbox(self._config.sandbox))
        return list(self._code.judge(items))

    def _judge_by_family(self, prompt: Prompt, trajectory: Trajectory) -> Verdict:
        start = time.monotonic()
        try:
            family = _family(prompt.verifier)
            return family.verify(prompt.question, prompt.answer, self.completion_text(trajectory))
        except Exception as error:  # a defect of ours must not cost the policy its reward
            reason = f"{prompt.verifier} broke: {type(error).__name__}: {error}"[:200]
            return Verdict(Outcome.FAULT, reason, seconds=time.monotonic() - start)

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


def _family(verifier: str) -> Family:
    from k15.tasks import get_family

    return get_family(verifier.removeprefix(_TASK))

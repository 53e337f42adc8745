"""The grader: sends each completion to the verifier that its prompt names.

    "math"        the final answer against the gold answer (`rewards.math`)
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
from k15.rewards.extract import THINK_OPEN
from k15.rewards.math import MathItem, MathVerifier
from k15.types import Group, Outcome, Prompt, StopReason, Trajectory, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from k15.tasks.base import Family

_MATH = "math"
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

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Refuse prompts that nobody can judge, before anything is generated.

        Raises:
            ConfigError: a prompt names a verifier or a family that does not exist.
        """
        for verifier, prompt in {prompt.verifier: prompt for prompt in prompts}.items():
            if verifier == _MATH:
                continue
            if not verifier.startswith(_TASK):
                raise ConfigError(
                    f'the verifier of a prompt must be "math" or "task:NAME"; got {verifier!r} for prompt '
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
        math_groups = [(i, group) for i, group in enumerate(groups) if group.prompt.verifier == _MATH]
        items = [item for _, group in math_groups for item in self._math_items(group)]
        judged = iter(list(self._math.judge(items)))
        for i, group in math_groups:
            verdicts[i] = [next(judged) for _ in group.trajectories]
        for i, group in enumerate(groups):
            if group.prompt.verifier != _MATH:
                verdicts[i] = [self._judge_by_family(group.prompt, t) for t in group.trajectories]
        self._halt_on_faults([verdict for row in verdicts for verdict in row])
        return verdicts

    def close(self) -> None:
        """End the grading processes."""
        self._math.close()

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

    def _math_items(self, group: Group) -> list[MathItem]:
        in_thought = self._decode(group.prompt.token_ids[-_PROMPT_TAIL:]).rstrip().endswith(THINK_OPEN)
        return [
            MathItem(group.prompt.answer, self.completion_text(trajectory), in_thought=in_thought)
            for trajectory in group.trajectories
        ]

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

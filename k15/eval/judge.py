"""From replies to verdicts, one verifier a kind of benchmark. Text in, so that stored replies can be judged again.

    "math"        the final answer against the gold one, by the row's rules (`rewards.math`)
    "choice"      the option that is chosen
    "task:NAME"   the generated family judges the reply
    "ifeval"      lm-evaluation-harness's checkers
    "code"        tests in the sandbox
    "input"       whether there is an input for programs to vote on (`vote`)

Something that goes wrong on our side is a FAULT with its reason, never a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from k15.config.answers import read_rules
from k15.config.rl import RewardsConfig
from k15.errors import ConfigError
from k15.eval.choice import is_ambiguous, judge_choice
from k15.eval.code import code_job
from k15.eval.ifeval import judge_ifeval, require_ifeval
from k15.eval.problem import Problem, Sample
from k15.eval.vote import input_in
from k15.rewards.code import code_verdict, extract_program
from k15.rewards.extract import THINK_CLOSE, THINK_OPEN
from k15.rewards.math import MathItem, MathVerifier
from k15.sandbox.base import Job, Sandbox
from k15.sandbox.build import make_sandbox
from k15.tasks import get_family
from k15.types import AnswerRules, Outcome, Verdict

TASK = "task:"
MAX_REASON = 300
_WITHOUT_GOLD = ("code", "ifeval", "input")


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion as text; `in_thought` if its prompt ended with an opened thought."""

    text: str
    in_thought: bool = False


@dataclass(frozen=True, slots=True)
class RefusedGold:
    """A gold answer that its own verifier does not accept: no reply to that problem could be right."""

    problem: str
    gold: str
    reason: str


class Judge:
    """Judges replies to problems.

    Args:
        config: limits of the grading processes, and the sandbox.
    """

    def __init__(self, config: RewardsConfig) -> None:
        self._config = config
        self._math = MathVerifier(timeout_seconds=config.timeout_seconds, num_workers=config.num_workers)
        self._sandbox: Sandbox | None = None  # made for the first program

    def check(self, verifiers: Iterable[str]) -> None:
        """Refuse what cannot be judged here, before anything is generated.

        Raises:
            ConfigError: a verifier does not exist, or something that it needs is not installed.
            SandboxError: there is code to judge, and this host has no sandbox.
        """
        for verifier in sorted(set(verifiers)):
            if verifier.startswith(TASK):
                get_family(verifier.removeprefix(TASK))
            elif verifier == "ifeval":
                require_ifeval()
            elif verifier == "code":
                self.sandbox()
            elif verifier not in ("math", "choice"):
                raise ConfigError(
                    f'a verifier must be math, choice, code, ifeval or "task:NAME"; got {verifier!r}.'
                )

    def judge(self, pairs: Sequence[tuple[Problem, Reply]]) -> list[Verdict]:
        """One verdict a pair, in order."""
        verdicts: dict[int, Verdict] = {}
        math = [i for i, (problem, _) in enumerate(pairs) if problem.verifier == "math"]
        items = [_math_item(*pairs[i]) for i in math]
        verdicts |= zip(math, self._math.judge(items), strict=True)
        verdicts |= self._judge_code(
            [(i, p, r) for i, (p, r) in enumerate(pairs) if p.verifier == "code"]
        )
        for i, (problem, reply) in enumerate(pairs):
            if i not in verdicts:
                verdicts[i] = _guarded(lambda p=problem, r=reply: _judge_alone(p, r))
        return [verdicts[i] for i in range(len(pairs))]

    def refused_golds(self, problems: Sequence[Problem]) -> list[RefusedGold]:
        """The golds that do not equal themselves. Tests and instructions have no gold and are not asked."""
        math = [p for p in problems if p.verifier == "math"]
        golds = [MathItem(p.gold, p.gold, is_reply=False, rules=_rules(p)) for p in math]
        verdicts = self._math.judge(golds)
        found = list(zip(math, verdicts, strict=True))
        for problem in problems:
            if problem.verifier not in ("math", *_WITHOUT_GOLD):
                found.append((problem, _guarded(lambda p=problem: _judge_gold(p))))
        return [
            RefusedGold(problem.problem_id, problem.gold, verdict.reason)
            for problem, verdict in found
            if verdict.outcome is not Outcome.RIGHT
        ]

    def same(self, one: Sample, other: Sample) -> bool:
        """Whether two samples of a problem give the same answer, so that their votes go together."""
        if one.verifier.startswith(TASK):  # several answers may be right there
            return one.extracted.strip() == other.extracted.strip()
        if one.outcome is not other.outcome:
            return False
        if one.outcome is Outcome.RIGHT or one.extracted == other.extracted:
            return True
        return one.verifier == "math" and self._is_equal(one.extracted, other.extracted)

    def close(self) -> None:
        """End the grading processes and the sandbox."""
        self._math.close()
        if self._sandbox is not None:
            self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _is_equal(self, one: str, other: str) -> bool:
        (verdict,) = self._math.judge([MathItem(one, other, is_reply=False)])
        return verdict.outcome is Outcome.RIGHT

    def sandbox(self) -> Sandbox:
        """Where code is run; made when it is first needed."""
        if self._sandbox is None:
            self._sandbox = make_sandbox(self._config.sandbox)
        return self._sandbox

    def _judge_code(self, todo: Sequence[tuple[int, Problem, Reply]]) -> dict[int, Verdict]:
        verdicts: dict[int, Verdict] = {}
        jobs: list[tuple[int, Job]] = []
        for i, problem, reply in todo:
            code = extract_program(reply.text, in_thought=reply.in_thought)
            if not code.strip():
                reason = "no answer: no complete fenced block of code after the thought"
                verdicts[i] = Verdict(Outcome.NO_ANSWER, reason)
                continue
            try:
                jobs.append((i, code_job(problem.details, code)))
            except ValueError as error:
                verdicts[i] = Verdict(Outcome.FAULT, f"{problem.problem_id}: {error}"[:MAX_REASON])
        if jobs:
            results = self.sandbox().run_many(job for _, job in jobs)
            for (i, _), result in zip(jobs, results, strict=True):
                verdicts[i] = code_verdict(result)
        return verdicts


def after_thought(reply: Reply) -> str | None:
    """What follows the thought; None if the thought was never closed."""
    _, closing, tail = reply.text.rpartition(THINK_CLOSE)
    if THINK_OPEN in tail or (reply.in_thought and not closing):
        return None
    return tail


def _judge_alone(problem: Problem, reply: Reply) -> Verdict:
    """Verifiers that need no process of their own."""
    if problem.verifier.startswith(TASK):
        family = get_family(problem.verifier.removeprefix(TASK))
        return family.verify(problem.question, problem.gold, reply.text)
    if problem.verifier == "choice":
        return judge_choice(
            problem.gold, problem.details["options"], reply.text, in_thought=reply.in_thought
        )
    if problem.verifier == "input":
        if input_in(reply.text, in_thought=reply.in_thought) is None:
            return Verdict(Outcome.NO_ANSWER, "no input: no fenced block after the thought")
        return Verdict(Outcome.RIGHT, "an input; whether it is valid, the vote decides")
    tail = after_thought(reply)
    assert problem.verifier == "ifeval", problem.verifier
    if tail is None:
        return Verdict(Outcome.NO_ANSWER, "no answer: the thought is never closed")
    return judge_ifeval(problem.question, problem.details, tail.strip())


def _judge_gold(problem: Problem) -> Verdict:
    if problem.verifier == "choice":
        options = problem.details["options"]
        if is_ambiguous(problem.gold, options):
            return Verdict(Outcome.FAULT, "the text of the right option stands under another letter too")
        return judge_choice(problem.gold, options, f"\\boxed{{{problem.gold}}}")
    family = get_family(problem.verifier.removeprefix(TASK))
    return family.judge(problem.question, problem.gold, problem.gold)


def _math_item(problem: Problem, reply: Reply) -> MathItem:
    return MathItem(problem.gold, reply.text, in_thought=reply.in_thought, rules=_rules(problem))


def _rules(problem: Problem) -> AnswerRules:
    return read_rules(problem.details.get("rules"))


def _guarded(judge: Callable[[], Verdict]) -> Verdict:
    try:
        return judge()
    except ConfigError:
        raise
    except Exception as error:  # a defect of ours must not cost the model its score
        return Verdict(
            Outcome.FAULT, f"the verifier broke: {type(error).__name__}: {error}"[:MAX_REASON]
        )

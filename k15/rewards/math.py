"""The verifier "math": is the final answer of a reply the gold answer?

Most pairs are settled in this process by `compare` (text, exact fractions, types). Only where two
formulas have to be compared does the pair go to Math-Verify, in a process that is killed at the limit
(`pool`, `symbolic`). No process is started before the first such pair.

A pair's outcome is one of
    right, wrong    the comparison came to an end
    no_answer       the reply states no single final answer (`extract`)
    timeout         the comparison went past its limit of time or memory; scores as wrong
    fault           ours: the process died or the comparison broke, twice; never scored
"""

from __future__ import annotations

import time
import unicodedata
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

from k15.config.answers import rules_as_row
from k15.rewards.compare import Match
from k15.rewards.extract import MAX_ANSWER_CHARS, Extraction, extract_answer
from k15.rewards.notation import hidden_character
from k15.rewards.pool import JobResult, KillablePool
from k15.rewards.typed import Formulas, compare_by_rules
from k15.types import DEFAULT_RULES, AnswerRules, Outcome, Verdict

_CACHE_SIZE = 20_000
_MEMORY_MB = 512


@dataclass(frozen=True, slots=True)
class MathItem:
    """One thing to judge.

    Attributes:
        gold: the ground truth, without box.
        text: a whole reply, or only a final answer.
        is_reply: whether `text` is a whole reply, from which the answer is extracted first.
        in_thought: the reply continues a prompt that ended with `<think>`.
        rules: how the row wants it judged.
    """

    gold: str
    text: str
    is_reply: bool = True
    in_thought: bool = False
    rules: AnswerRules = DEFAULT_RULES


@dataclass(frozen=True, slots=True)
class _Pair:
    """What is compared, and the key of the cache; `span` says where the answer stood."""

    gold: str
    answer: str
    rules: AnswerRules
    span: tuple[int, int] | None = None

    @property
    def key(self) -> tuple[str, str, AnswerRules]:
        return self.gold, self.answer, self.rules

    @property
    def job(self) -> list[Any]:
        return [self.gold, self.answer, rules_as_row(self.rules)]


class _NeedsMathVerifyError(Exception):
    """Two formulas have to be compared, which this process does not do."""


class MathVerifier:
    """Judges answers to problems of mathematics.

    Args:
        timeout_seconds: wall time after which a grading process is killed.
        num_workers: grading processes at the same time.
    """

    def __init__(self, *, timeout_seconds: float = 2.0, num_workers: int = 1) -> None:
        self._pool = KillablePool(
            "k15.rewards.symbolic:compare_job",
            num_workers=num_workers,
            timeout_seconds=timeout_seconds,
            memory_mb=_MEMORY_MB,
        )
        self._cache: OrderedDict[tuple[str, str, AnswerRules], Verdict] = OrderedDict()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The grading processes alive now."""
        return self._pool.process_ids

    def judge(self, items: Iterable[MathItem | str], *, read_ahead: int = 0) -> Iterator[Verdict]:
        """One verdict an item, in order, each as soon as it and those before it are known.

        A text in the place of an item says why there is none: it becomes a fault with that reason. So many
        items are taken ahead as there are grading processes, or `read_ahead` if that is more.
        """
        pairs: deque[_Pair] = deque()

        def jobs() -> Iterator[JobResult | list[Any]]:
            for item in items:
                if isinstance(item, str):
                    pair, verdict = _Pair("", "", DEFAULT_RULES), Verdict(Outcome.FAULT, item)
                else:
                    pair, verdict = self._judge_here(item)
                pairs.append(pair)
                yield pair.job if verdict is None else JobResult("done", verdict)

        with closing(self._pool.run(jobs(), read_ahead=read_ahead)) as results:
            for result in results:
                pair = pairs.popleft()
                verdict = result.value if isinstance(result.value, Verdict) else _from_pool(pair, result)
                self._remember(pair, verdict)
                yield verdict

    def close(self) -> None:
        """End the grading processes."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _judge_here(self, item: MathItem) -> tuple[_Pair, Verdict | None]:
        """What is compared, and the verdict if this process can tell."""
        start = time.monotonic()
        gold = unicodedata.normalize("NFC", _without_box(item.gold)).strip()
        if item.is_reply or "boxed" in item.text:
            extraction = extract_answer(item.text, in_thought=item.in_thought)
        else:
            extraction = Extraction(item.text)
        answer = unicodedata.normalize("NFC", extraction.text).strip()
        pair = _Pair(gold, answer, item.rules, extraction.span)
        known = self._cache.get(pair.key)
        if known is not None:
            self._cache.move_to_end(pair.key)
            return pair, replace(known, seconds=time.monotonic() - start, span=pair.span)
        match = _match_here(pair, extraction.reason)
        if match is None:
            return pair, None
        return pair, Verdict(
            match.outcome, match.reason, answer, time.monotonic() - start, span=pair.span
        )

    def _remember(self, pair: _Pair, verdict: Verdict) -> None:
        if verdict.outcome is not Outcome.FAULT and verdict.extracted:
            self._cache[pair.key] = verdict
            if len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)


def gold_problem(gold: str, rules: AnswerRules) -> str:
    """Why a gold answer would never be paid, not even for itself; "" if all is well or only Math-Verify can tell."""
    text = unicodedata.normalize("NFC", _without_box(gold)).strip()
    match = _match_here(_Pair(text, text, rules), "it is empty")
    return "" if match is None or match.outcome is Outcome.RIGHT else match.reason


def _match_here(pair: _Pair, missing: str) -> Match | None:
    """What can be said without Math-Verify; None if it is needed."""
    gold, answer = pair.gold, pair.answer
    if not gold:
        return Match(Outcome.FAULT, "the gold answer is empty; correct or drop this prompt")
    if not answer:
        return Match(Outcome.NO_ANSWER, missing or "no answer: it is empty")
    if len(answer) > MAX_ANSWER_CHARS:
        return Match(Outcome.NO_ANSWER, f"no answer: it is longer than {MAX_ANSWER_CHARS} characters")
    hidden = hidden_character(answer)
    if hidden is not None and hidden_character(gold) is None:
        return Match(
            Outcome.NO_ANSWER, f"no answer: it holds {hidden}, a hidden character or foreign digit"
        )
    try:
        return compare_by_rules(gold, answer, pair.rules, Formulas(_send_away, _send_away))
    except _NeedsMathVerifyError:
        return None
    except Exception as error:  # a defect of ours must not cost the policy its reward, nor stop the run
        return Match(Outcome.FAULT, f"the comparison broke: {type(error).__name__}: {error}"[:200])


def _send_away(*_formulas: str) -> NoReturn:
    raise _NeedsMathVerifyError


def _from_pool(pair: _Pair, result: JobResult) -> Verdict:
    if result.status == "timeout":
        outcome, reason = Outcome.TIMEOUT, f"the comparison took {result.detail}"
    elif result.status == "fault":
        outcome, reason = Outcome.FAULT, result.detail
    else:
        value, reason = result.value
        outcome = Outcome(value)
    return Verdict(outcome, reason, pair.answer, result.seconds, span=pair.span)


def _without_box(gold: str) -> str:
    return extract_answer(gold).text or gold if "\\boxed{" in gold or "\\fbox{" in gold else gold

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
from typing import Self

from k15.rewards.compare import Match, compare
from k15.rewards.extract import MAX_ANSWER_CHARS, extract_answer
from k15.rewards.notation import hidden_character
from k15.rewards.pool import JobResult, KillablePool
from k15.types import Outcome, Verdict

_CACHE_SIZE = 20_000


@dataclass(frozen=True, slots=True)
class MathItem:
    """One thing to judge.

    Attributes:
        gold: the ground truth, without box.
        text: a whole reply, or only a final answer.
        is_reply: whether `text` is a whole reply, from which the answer is extracted first.
        in_thought: the reply continues a prompt that ended with `<think>`.
    """

    gold: str
    text: str
    is_reply: bool = True
    in_thought: bool = False


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
            "k15.rewards.symbolic:compare_job", num_workers=num_workers, timeout_seconds=timeout_seconds
        )
        self._cache: OrderedDict[tuple[str, str], Verdict] = OrderedDict()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The grading processes alive now."""
        return self._pool.process_ids

    def judge(self, items: Iterable[MathItem | str]) -> Iterator[Verdict]:
        """One verdict an item, in order, each as soon as it and those before it are known.

        A text in the place of an item says why there is none: it becomes a fault with that reason.
        """
        pairs: deque[tuple[str, str]] = deque()

        def jobs() -> Iterator[JobResult | list[str]]:
            for item in items:
                if isinstance(item, str):
                    pair, verdict = ("", ""), Verdict(Outcome.FAULT, item)
                else:
                    pair, verdict = self._judge_here(item)
                pairs.append(pair)
                yield list(pair) if verdict is None else JobResult("done", verdict)

        with closing(self._pool.run(jobs())) as results:
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

    def _judge_here(self, item: MathItem) -> tuple[tuple[str, str], Verdict | None]:
        """The pair (gold, answer), and its verdict if this process can tell."""
        start = time.monotonic()
        gold = unicodedata.normalize("NFC", _without_box(item.gold)).strip()
        if item.is_reply or "boxed" in item.text:
            extraction = extract_answer(item.text, in_thought=item.in_thought)
            answer, missing = extraction.text, extraction.reason
        else:
            answer, missing = item.text, ""
        answer = unicodedata.normalize("NFC", answer).strip()
        pair = (gold, answer)
        known = self._cache.get(pair)
        if known is not None:
            self._cache.move_to_end(pair)
            return pair, replace(known, seconds=time.monotonic() - start)
        match = _match_here(gold, answer, missing)
        if match is None:
            return pair, None
        return pair, Verdict(match.outcome, match.reason, answer, time.monotonic() - start)

    def _remember(self, pair: tuple[str, str], verdict: Verdict) -> None:
        if verdict.outcome is not Outcome.FAULT and verdict.extracted:
            self._cache[pair] = verdict
            if len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)


def _match_here(gold: str, answer: str, missing: str) -> Match | None:
    """What can be said without Math-Verify; None if it is needed."""
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
        return compare(gold, answer, _send_away)
    except _NeedsMathVerifyError:
        return None
    except Exception as error:  # a defect of ours must not cost the policy its reward, nor stop the run
        return Match(Outcome.FAULT, f"the comparison broke: {type(error).__name__}: {error}"[:200])


def _send_away(gold: str, answer: str) -> bool:
    raise _NeedsMathVerifyError


def _from_pool(pair: tuple[str, str], result: JobResult) -> Verdict:
    if result.status == "timeout":
        return Verdict(Outcome.TIMEOUT, f"the comparison took {result.detail}", pair[1], result.seconds)
    if result.status == "fault":
        return Verdict(Outcome.FAULT, result.detail, pair[1], result.seconds)
    outcome, reason = result.value
    return Verdict(Outcome(outcome), reason, pair[1], result.seconds)


def _without_box(gold: str) -> str:
    return extract_answer(gold).text or gold if "\\boxed{" in gold or "\\fbox{" in gold else gold

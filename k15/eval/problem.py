"""What an evaluation is made of: problems, benchmarks, samples. Frozen records that this room shares."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from k15.types import Outcome


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a benchmark.

    Attributes:
        problem_id: stable name, unique in its benchmark.
        question: what the user is asked, options included; the benchmark's suffix comes after it.
        gold: the right answer as text; "" where tests or rules decide.
        verifier: who judges a reply: "math", "choice", "exact", "code", "ifeval", or "task:NAME".
        difficulty: a level or a subject to split the score by; "" when nobody labelled it.
        details: what the verifier needs besides the gold: options, instructions, tests. JSON values only.
        solution: a reference reply; "" if the benchmark has none.
    """

    problem_id: str
    question: str
    gold: str
    verifier: str
    difficulty: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    solution: str = field(default="", repr=False)


@dataclass(frozen=True)
class Benchmark:
    """Problems under one name.

    Attributes:
        name: as it was asked for; scores stand under it.
        problems: in the order of the file.
        source: the file, the hub's name, or the family they come from.
        suffix: text added to every question, for instance how to format the answer.
    """

    name: str
    problems: tuple[Problem, ...]
    source: str
    suffix: str = ""

    @property
    def fingerprint(self) -> str:
        """Digest of all that decides a score: ids, questions, golds, verifiers, details."""
        return fingerprint(self.problems)


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of one problem, and what was found about it. A row of samples.jsonl.

    Attributes:
        benchmark: name of the benchmark.
        problem: id of the problem.
        index: which of the problem's n completions, from 0.
        question, gold, verifier, difficulty, details: the problem's, so that a row can be judged again alone.
            `details` of code is empty: its tests are too long to be repeated, and are loaded again.
        reply: the completion as text, without its end token.
        in_thought: the prompt ended with an opened thought.
        num_tokens: length of the completion.
        stop: "end", "length" or "repeat".
        outcome: what the verifier found.
        extracted: the answer that was judged; "" if none was found.
        reason: why, in a sentence.
    """

    benchmark: str
    problem: str
    index: int
    question: str
    gold: str
    verifier: str
    difficulty: str
    details: Mapping[str, Any]
    reply: str
    in_thought: bool
    num_tokens: int
    stop: str
    outcome: Outcome
    extracted: str
    reason: str

    @property
    def key(self) -> tuple[str, str, int]:
        return self.benchmark, self.problem, self.index

    @property
    def is_valid(self) -> bool:
        """False for our fault."""
        return self.outcome is not Outcome.FAULT

    @property
    def correct(self) -> float:
        """1 where the verdict is right, else 0."""
        return float(self.outcome is Outcome.RIGHT)


def fingerprint(problems: Iterable[Problem]) -> str:
    """Digest of all that decides a score."""
    digest = blake2b(digest_size=16)
    for p in problems:
        row = [p.problem_id, p.question, p.gold, p.verifier, p.difficulty, p.details]
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()

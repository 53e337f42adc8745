"""Choosing one of many programs without knowing the tests (Kimi k1.5, App. C, Codeforces).

The model writes programs for a problem, and inputs for it. Every program runs on every input; what most
programs print is taken for the right output, and the program that agrees with most of it is handed in. Wrong
programs are wrong in different ways, right ones agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from k15.eval.code import LIMITS, code_job
from k15.eval.metrics import mean_interval
from k15.eval.problem import Benchmark, Problem, Sample
from k15.rewards.code import extract_program
from k15.sandbox.base import Job, Limits, Program, RunVerdict, Sandbox, StdinTest

INPUTS = "/inputs"
"""After a benchmark's name: the samples that are inputs, not solutions."""

Outputs = Sequence[Sequence[str | None]]
ASK_FOR_INPUT = (
    "Do not solve this problem. Write one valid input for it, small but telling, exactly as a program would read it "
    "from standard input, in one ``` block and without any comment."
)
MAX_INPUT_CHARS = 10_000


def can_vote(problem: Problem) -> bool:
    """Whether its programs read standard input."""
    return problem.verifier == "code" and bool(problem.details.get("statement"))


def input_questions(benchmark: Benchmark) -> Benchmark:
    """The problems that read standard input, as questions for an input; their verifier is "input"."""
    asked = [
        replace(problem, question=problem.details["statement"], verifier="input", details={})
        for problem in benchmark.problems
        if can_vote(problem)
    ]
    return Benchmark(benchmark.name + INPUTS, tuple(asked), benchmark.source, ASK_FOR_INPUT)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which program was chosen.

    Attributes:
        index: of the program; None if none of them printed anything.
        agreements: for each program, on how many inputs it prints what most print.
        expected: for each input what most print; None where nobody printed, or no output is the commonest.
    """

    index: int | None
    agreements: tuple[int, ...]
    expected: tuple[str | None, ...]


def choose_by_vote(outputs: Outputs) -> Choice:
    """The program that most often prints what most programs print.

    Where several outputs of an input are as common, it has no majority and decides nothing. Of programs
    that agree with the majorities equally often, the one whose outputs have the most votes in sum is
    chosen, then the earliest. Outputs are compared word by word; a program that fails has none.

    Args:
        outputs: [programs, inputs], what each program printed, None where it failed.
    """
    words = [[None if text is None else " ".join(text.split()) for text in row] for row in outputs]
    if any(len(row) != len(words[0]) for row in words):
        raise ValueError(f"every program needs one output an input; got {[len(row) for row in words]}")
    votes = [Counter(text for text in column if text is not None) for column in zip(*words, strict=True)]
    expected = tuple(_majority(counter) for counter in votes)
    agreements = tuple(
        sum(text is not None and text == wanted for text, wanted in zip(row, expected, strict=True))
        for row in words
    )
    weights = [
        sum(counter[text] for text, counter in zip(row, votes, strict=True) if text is not None)
        for row in words
    ]
    running = [i for i, row in enumerate(words) if any(text is not None for text in row)]
    best = max(running, key=lambda i: (agreements[i], weights[i], -i), default=None)
    return Choice(best, agreements, expected)


def run_on_inputs(
    sandbox: Sandbox, programs: Sequence[Program], inputs: Sequence[str], *, limits: Limits
) -> list[list[str | None]]:
    """[programs, inputs]: what each program prints; None where it fails, is too slow, or the sandbox fails."""
    tests = tuple(StdinTest(text) for text in inputs)
    results = sandbox.run_many(Job(program, tests, limits=limits) for program in programs)
    return [
        [run.stdout if run.verdict is RunVerdict.OK else None for run in result.tests]
        or [None] * len(inputs)  # it did not compile
        for result in results
    ]


def input_in(reply: str, *, in_thought: bool = False) -> str | None:
    """The input that the model wrote: the last fenced block after its thought; None if there is none."""
    text = extract_program(reply, in_thought=in_thought)
    return text if text.strip() and len(text) <= MAX_INPUT_CHARS else None


def majority_choice(
    sandbox: Sandbox, programs: Sequence[Program | None], inputs: Sequence[str], *, limits: Limits
) -> int | None:
    """The index of the program to hand in; None if there is none that runs.

    Args:
        programs: the samples; None where a sample holds no program.
        inputs: those the model wrote for the problem; equal ones count once. Without any, the earliest
            program is taken, as if one had been sampled.
    """
    places = [i for i, program in enumerate(programs) if program is not None]
    candidates = [program for program in programs if program is not None]
    distinct = list(dict.fromkeys(inputs))
    if not candidates or not distinct:
        return places[0] if places else None
    choice = choose_by_vote(run_on_inputs(sandbox, candidates, distinct, limits=limits))
    return None if choice.index is None else places[choice.index]


def vote_scores(
    problems: Sequence[Problem], samples: Sequence[Sample], inputs: Sequence[Sample], sandbox: Sandbox
) -> dict[str, Any]:
    """The score of the samples that were chosen, one a problem, beside that of a single sample.

    Args:
        problems: those that read standard input.
        samples: of these problems, judged.
        inputs: samples whose replies hold inputs.
    """
    by_problem: dict[str, list[Sample]] = defaultdict(list)
    written: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        by_problem[sample.problem].append(sample)
    for sample in inputs:
        text = input_in(sample.reply, in_thought=sample.in_thought)
        if text is not None:
            written[sample.problem].append(text)
    chosen: dict[str, Sample | None] = {}
    for problem in problems:
        own = sorted(by_problem[problem.problem_id], key=lambda s: s.index)
        programs = [_program(problem, sample) for sample in own]
        place = majority_choice(sandbox, programs, written[problem.problem_id], limits=LIMITS)
        chosen[problem.problem_id] = own[place] if place is not None else None
    rates = [s.correct if s is not None else 0.0 for s in chosen.values() if s is None or s.is_valid]
    if not rates:
        return {"num_problems": 0}
    interval = mean_interval(rates, num_samples=len(rates))
    return {
        "num_problems": len(rates),
        "num_inputs": sum(len(set(texts)) for texts in written.values()),
        "pass@1": fmean(rates),
        "pass@1_low": interval.low,
        "pass@1_high": interval.high,
        "chosen": {name: s.index if s is not None else None for name, s in chosen.items()},
    }


def _program(problem: Problem, sample: Sample) -> Program | None:
    code = extract_program(sample.reply, in_thought=sample.in_thought)
    return code_job(problem.details, code).program if code.strip() else None


def _majority(votes: Counter[str]) -> str | None:
    ranked = votes.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]

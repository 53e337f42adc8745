"""The same replies, scored by k15 and by lm-evaluation-harness's own scorers; every difference is listed.

    python studies/cross_check.py --data DIR            # MATH-500, AIME 2024 and GSM8K from their public files
    python studies/cross_check.py runs/eval-NAME ...    # the stored replies of evaluations

With --data there is no model: the replies are the reference solutions, the solution of the next problem (wrong,
but for an equal answer), and the gold answer written in other ways. Needs a Python with k15 and with
lm-eval[math]; the two want different versions of antlr4, so give the harness an environment of its own and put k15
on its PYTHONPATH. Prints a table and the differences as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from k15.config.rl import RewardsConfig
from k15.eval.folder import read_samples
from k15.eval.judge import Judge, Reply
from k15.eval.load import load_benchmark
from k15.eval.problem import Problem

NAMES = ("math500", "aime2024", "gsm8k")
Scorer = Callable[[str, str], bool]  # (gold, reply)


@dataclass(frozen=True)
class Case:
    """A reply to a problem, and how it was made."""

    benchmark: str
    kind: str
    problem: Problem
    reply: str


def cases_of_data(data: Path) -> Iterator[Case]:
    """Reference solutions, those of the next problem, and golds written in other ways."""
    for name in NAMES:
        problems = load_benchmark(name, data).problems
        for problem, other in zip(problems, (*problems[1:], problems[0]), strict=True):
            yield Case(name, "reference", problem, problem.solution)
            yield Case(name, "next problem's", problem, other.solution)
            for kind, answer in rewritings(problem.gold):
                reply = f"<think>\nhm, 17?\n</think>\nThe answer is $\\boxed{{{answer}}}$."
                yield Case(name, kind, problem, reply)
            plain = f"Final Answer: The final answer is ${problem.gold}$. I hope it is correct."
            yield Case(name, "minerva's form", problem, plain)
            yield Case(name, "two boxes", problem, rf"First \boxed{{17}}. No: \boxed{{{problem.gold}}}")
            yield Case(
                name, "thought not closed", problem, rf"<think> it is \boxed{{{problem.gold}}}, or"
            )
            yield Case(name, "hedge", problem, rf"\boxed{{{problem.gold} \text{{ or }} 17}}")


def rewritings(gold: str) -> Iterator[tuple[str, str]]:
    """The gold in other words, where it can be written so."""
    yield "boxed", gold
    if re.fullmatch(r"-?\d{4,}", gold):
        yield "thousands", f"{int(gold):,}"
    if re.fullmatch(r"-?\d+", gold):
        yield "integer as decimal", f"{int(gold)}.0"
        yield "off by one", str(int(gold) + 1)
    if match := re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold):
        yield "slash", f"{match[1]}{match[2]}/{match[3]}"
        yield "dfrac", gold.replace(r"\frac", r"\dfrac")
        value = int(match[2]) / int(match[3])
        yield "rounded", f"{match[1]}{value:.2f}"
        yield "doubled fraction", rf"{match[1]}\frac{{{2 * int(match[2])}}}{{{2 * int(match[3])}}}"
    if re.fullmatch(r"[\d.]+", gold) is None and "," in gold and gold[0] not in "([{\\":
        yield "reversed list", ", ".join(reversed([part.strip() for part in gold.split(",")]))


def cases_of_folder(folder: Path) -> Iterator[Case]:
    """The stored replies of an evaluation, those that mathematics decides."""
    for s in read_samples(folder):
        if s.verifier == "math":
            yield Case(s.benchmark, "sample", Problem(s.problem, s.question, s.gold, "math"), s.reply)


def harness_scorers() -> dict[str, dict[str, Scorer]]:
    """The scorers of lm-evaluation-harness's tasks, by benchmark."""
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters.extraction import RegexFilter
    from lm_eval.tasks.aime import utils as aime
    from lm_eval.tasks.hendrycks_math import utils as hendrycks
    from lm_eval.tasks.minerva_math import utils as minerva

    def boxed(gold: str) -> dict[str, str]:
        return {
            "problem": "",
            "solution": rf"\boxed{{{gold}}}",
            "answer": minerva.normalize_final_answer(gold),
        }

    def gsm8k(pattern: str, group: int) -> Scorer:
        regex = RegexFilter(regex_pattern=pattern, group_select=group)

        def judge(gold: str, reply: str) -> bool:
            found = next(iter(regex.apply([[reply]], [{}])))[0]
            ignore = [",", r"\$", r"(?s).*#### ", r"\.$"]
            result = exact_match_fn(
                predictions=[found],
                references=[f"#### {gold}"],
                regexes_to_ignore=ignore,
                ignore_case=True,
            )
            return bool(result["exact_match"])

        return judge

    math: dict[str, Scorer] = {
        "hendrycks_math500": lambda g, r: bool(hendrycks.process_results(boxed(g), [r])["exact_match"]),
        "minerva_math500 exact_match": lambda g, r: bool(
            minerva.process_results(boxed(g), [r])["exact_match"]
        ),
        "minerva_math500 math_verify": lambda g, r: bool(
            minerva.process_results(boxed(g), [r])["math_verify"]
        ),
    }
    aime_task: Scorer = lambda g, r: bool(aime.process_results({"Answer": g}, [r])["exact_match"])  # noqa: E731
    grade_school: dict[str, Scorer] = {
        "gsm8k strict-match": gsm8k(r"#### (\-?[0-9\.\,]+)", 0),
        "gsm8k flexible-extract": gsm8k(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
    }
    return {"math500": math, "aime2024": {"aime24": aime_task} | math, "gsm8k": grade_school | math}


def main() -> None:
    """Score all cases by all scorers, print how often they agree, then the differences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, help="cases of each kind and benchmark")
    options = parser.parse_args()
    cases = [case for folder in options.folders for case in cases_of_folder(folder)]
    cases += list(cases_of_data(options.data)) if options.data else []
    if options.limit:
        cases = _first(cases, options.limit)
    with Judge(RewardsConfig()) as judge:
        ours = [v.outcome.value for v in judge.judge([(c.problem, Reply(c.reply)) for c in cases])]
    compare(cases, ours)


def compare(cases: Sequence[Case], ours: Sequence[str]) -> None:
    """Print the table and the differences."""
    scorers = harness_scorers()
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    differences = []
    for case, outcome in zip(cases, ours, strict=True):
        for scorer, judge in scorers.get(case.benchmark.partition(":")[0], {}).items():
            is_right = judge(case.problem.gold, case.reply)
            cell = counts[case.benchmark, scorer, case.kind]
            cell["cases"] += 1
            cell["both right"] += is_right and outcome == "right"
            cell["only k15"] += not is_right and outcome == "right"
            cell["only the harness"] += is_right and outcome != "right"
            if is_right != (outcome == "right"):
                differences.append(
                    {
                        "benchmark": case.benchmark,
                        "scorer": scorer,
                        "kind": case.kind,
                        "problem": case.problem.problem_id,
                        "gold": case.problem.gold,
                        "k15": outcome,
                        "harness": is_right,
                        "reply_end": case.reply[-160:],
                    }
                )
    columns = ("cases", "both right", "only k15", "only the harness")
    print("| benchmark | scorer | replies | " + " | ".join(columns) + " |")
    print("| --- " * (3 + len(columns)) + "|")
    for (benchmark, scorer, kind), cell in counts.items():
        print(f"| {benchmark} | {scorer} | {kind} | " + " | ".join(str(cell[c]) for c in columns) + " |")
    for row in differences:
        print(json.dumps(row, ensure_ascii=False))


def _first(cases: Sequence[Case], limit: int) -> list[Case]:
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for case in cases:
        seen[case.benchmark, case.kind] += 1
        if seen[case.benchmark, case.kind] <= limit:
            kept.append(case)
    return kept


if __name__ == "__main__":
    main()

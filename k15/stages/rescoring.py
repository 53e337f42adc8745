"""Scores without a model: stored replies judged again, and reference solutions judged as if they were replies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k15.config.eval import EvalConfig
from k15.errors import ConfigError, RunFolderError
from k15.eval.folder import EvaluationFolder, read_samples, read_scores, write_json
from k15.eval.judge import Judge
from k15.eval.load import load_benchmark, load_benchmarks
from k15.eval.problem import Problem, Sample
from k15.eval.sampling import stored_details
from k15.eval.scores import header, judge_samples, overall, summarize, table, versions
from k15.eval.vote import INPUTS, can_vote, vote_scores
from k15.stages.evaluation import EvaluationOptions
from k15.stages.watch import Watch
from k15.types import Outcome

RESCORED = "rescored.json"


def rescore(path: Path, *, data: Path | None = None, is_quiet: bool = False) -> dict[str, Any]:
    """Judge an evaluation's stored replies again and compute every number anew, without the model.

    Writes rescored.json beside scores.json: the same fields, and "changed_verdicts". Rows hold all that
    is needed, but for the tests of code, which are read from `data`, or from where they came from.

    Raises:
        RunFolderError: the folder's files are missing or damaged, or the tests are not those of then.
    """
    before = read_scores(path)
    config = EvalConfig.model_validate(before["settings"])
    if data is not None:
        config = config.model_copy(update={"data": data})
    stored = read_samples(path)
    watch = Watch("benchmarks", len(config.benchmarks), quiet=is_quiet)
    results: dict[str, Any] = {}
    changed: list[dict[str, Any]] = []
    with Judge(config.rewards) as judge:
        for name, known in before["benchmarks"].items():
            samples = [s for s in stored if s.benchmark == name and s.index < config.samples]
            problems = _problems(name, samples, known, config)
            judge.check(problem.verifier for problem in problems.values())
            refused = judge.refused_golds(list(problems.values()))
            judged = judge_samples(judge, problems, samples, refused)
            changed += [
                {
                    "benchmark": name,
                    "problem": old.problem,
                    "index": old.index,
                    "was": old.outcome,
                    "is": new.outcome,
                }
                for old, new in zip(samples, judged, strict=True)
                if old.outcome is not new.outcome
            ]
            again = summarize(judged, judge, config, num_problems=known["num_problems"], refused=refused)
            results[name] = known | again
            if "vote" in known:
                inputs = [
                    s for s in stored if s.benchmark == name + INPUTS and s.index < config.vote_inputs
                ]
                voting = [p for p in problems.values() if can_vote(p)]
                results[name]["vote"] = vote_scores(voting, judged, inputs, judge.sandbox())
    content = {**before, "benchmarks": results, "status": overall(results)}
    content |= {"versions": versions(), "changed_verdicts": changed}
    write_json(path / RESCORED, content)
    for line in (*table(results), f"{len(changed)} of {len(stored)} verdicts changed"):
        watch.line(line)
    return content


def score_references(config: EvalConfig, path: Path, options: EvaluationOptions) -> dict[str, Any]:
    """Judge the benchmarks' own reference solutions as if a model had written them.

    Benchmark and verifier agree where all are right; "not_right" lists the others with their reasons.

    Raises:
        ConfigError: a benchmark has no reference solutions.
    """
    watch = Watch("benchmarks", len(config.benchmarks), quiet=options.is_quiet)
    config = config.model_copy(update={"samples": 1})
    benchmarks = load_benchmarks(config)
    model = {"path": "reference solutions", "fingerprint": "reference solutions"}
    content = header(config, benchmarks, options.command, model)
    for benchmark in benchmarks:
        if not all(problem.solution for problem in benchmark.problems):
            raise ConfigError(
                f"{benchmark.name} has no reference solutions that could be scored. Leave it out of --benchmarks."
            )
    with Judge(config.rewards) as judge:
        judge.check(problem.verifier for b in benchmarks for problem in b.problems)
        with EvaluationFolder.open(path, content["identity"], fresh=True) as folder:
            for benchmark in benchmarks:
                refused = judge.refused_golds(benchmark.problems)
                problems = {problem.problem_id: problem for problem in benchmark.problems}
                samples = [_reference(benchmark.name, problem) for problem in benchmark.problems]
                judged = judge_samples(judge, problems, samples, refused)
                folder.append(judged)
                result = summarize(judged, judge, config, num_problems=len(judged), refused=refused)
                result["data"] = {"source": benchmark.source, "fingerprint": benchmark.fingerprint}
                result["not_right"] = _not_right(judged)
                content["benchmarks"][benchmark.name] = result
                _tell(watch, benchmark.name, len(judged), result["not_right"])
            content["status"] = overall(content["benchmarks"])
            folder.write_scores(content)
    return content


def _problems(
    name: str, samples: Sequence[Sample], known: dict[str, Any], config: EvalConfig
) -> dict[str, Problem]:
    """The problems of a benchmark by id: from the rows, or loaded again where tests decide."""
    if not any(sample.verifier == "code" for sample in samples):
        return {
            s.problem: Problem(s.problem, s.question, s.gold, s.verifier, s.difficulty, s.details)
            for s in samples
        }
    benchmark = load_benchmark(name, config.data, limit=config.limit, seed=config.seed)
    if benchmark.fingerprint != known["data"]["fingerprint"]:
        raise RunFolderError(
            f"the tests of {name} must be those that the replies were scored with; the data at {benchmark.source} has "
            "changed. Give the folder with the old files as --data."
        )
    return {problem.problem_id: problem for problem in benchmark.problems}


def _reference(benchmark: str, problem: Problem) -> Sample:
    return Sample(
        benchmark=benchmark,
        problem=problem.problem_id,
        index=0,
        question=problem.question,
        gold=problem.gold,
        verifier=problem.verifier,
        difficulty=problem.difficulty,
        details=stored_details(problem),
        reply=problem.solution,
        in_thought=False,
        num_tokens=len(problem.solution.split()),  # words: no model, no tokens
        stop="end",
        outcome=Outcome.FAULT,
        extracted="",
        reason="not judged yet",
    )


def _not_right(samples: Sequence[Sample]) -> list[dict[str, str]]:
    return [
        {
            "problem": s.problem,
            "gold": s.gold,
            "extracted": s.extracted,
            "outcome": s.outcome,
            "reason": s.reason,
        }
        for s in samples
        if s.outcome is not Outcome.RIGHT
    ]


def _tell(watch: Watch, name: str, count: int, not_right: list[dict[str, str]]) -> None:
    right = count - len(not_right)
    watch.line(f"{name}: {right} of {count} reference solutions are right ({right / count:.1%})")
    for row in not_right:
        watch.line(
            f"  {row['problem']}, gold {row['gold']!r}, answer {row['extracted']!r}: {row['outcome']}, {row['reason']}"
        )

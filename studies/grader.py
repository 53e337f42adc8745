"""How right the math grader is, on golds of real data sets: nothing that is equal is missed, nothing else is paid.

    python studies/grader.py math500.jsonl aime2024.jsonl gsm8k_test.jsonl --golden math_pairs.jsonl

Each FILE is a file of prompts as `k15 rl` reads it. Measured, and written to studies/grader.json:

    self        every gold against itself, in a box; a gold that is not right for itself is listed
    renderings  every gold written in up to 40 other ways (`k15.testing.answers`): all must be right
    near misses every gold changed in its last digit, sign, size, brackets, order, terms, or hedged: none may be
    cross       random pairs of different golds of one type: none may be equal; those that are, are listed
    golden      pairs that people labelled: {"gold", "answer" or "reply", "correct"}
    audit       of all pairs above, those where the second grader is sure, and those where it says the opposite

Seconds are CPU time of all processes, so that they mean the same on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from k15.prompts.rows import read_row, read_rows
from k15.record.checkpoint import library_versions
from k15.rewards.math import MathItem, MathVerifier
from k15.rewards.strict import audit_reply
from k15.testing.answers import near_misses, renderings
from k15.types import Audit, Outcome

RESULTS = Path(__file__).parent / "grader.json"
TYPES = (
    ("integer", re.compile(r"-?[0-9,]+")),
    ("decimal", re.compile(r"-?[0-9]*\.[0-9]+")),
    ("fraction", re.compile(r"-?\\[dt]?frac\{?-?[0-9]+\}?\{?[0-9]+\}?|-?[0-9]+/[0-9]+")),
    ("words", re.compile(r"\\text\{.*\}|[A-Za-z]{4,}")),
    ("pair or interval", re.compile(r"(?:\\left)?[(\[].*,.*[)\]]")),
    ("list", re.compile(r"[^()\[\]]*,[^()\[\]]*")),
)


@dataclass(frozen=True)
class Case:
    """A pair to judge, what it is, and whether it should be right."""

    gold: str
    reply: str
    name: str
    is_right: bool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files of prompts")
    parser.add_argument("--golden", type=Path, help="labelled pairs, JSON lines")
    parser.add_argument("--pairs", type=int, default=100_000, help="random pairs of different golds")
    parser.add_argument(
        "--golds", type=int, default=1500, help="golds that are rewritten, drawn at random"
    )
    parser.add_argument("--workers", type=int, default=2, help="grading processes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    golds, rng = _read(options.files), random.Random(options.seed)
    chosen = rng.sample(golds, min(options.golds, len(golds)))
    print(f"{len(golds)} different golds")
    parts = {
        "self": [Case(gold, rf"so \boxed{{{gold}}}", "itself", True) for gold in golds],
        "renderings": [
            Case(g, rf"\boxed{{{text}}}", name, True) for g in chosen for name, text in renderings(g)
        ],
        "near misses": [
            Case(g, rf"\boxed{{{text}}}", name, False) for g in chosen for name, text in near_misses(g)
        ],
        "cross": _cross(golds, options.pairs, rng),
        "golden": _golden(options.golden) if options.golden else [],
    }
    with MathVerifier(num_workers=options.workers) as verifier:
        measured = {name: _measure(name, cases, verifier) for name, cases in parts.items() if cases}
    result = {
        "measured": time.strftime("%Y-%m-%d"),
        "files": [path.name for path in options.files],
        "num_golds": len(golds),
        "versions": {**library_versions(), **{name: version(name) for name in ("math-verify", "sympy")}},
        "parts": measured,
    }
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {RESULTS}")


def _read(files: Iterable[Path]) -> list[str]:
    return sorted({read_row(value).answer for path in files for _, value in read_rows(path)})


def _type_of(gold: str) -> str:
    return next((name for name, pattern in TYPES if pattern.fullmatch(gold)), "formula")


def _cross(golds: Sequence[str], count: int, rng: random.Random) -> list[Case]:
    """Types take turns, so that the many integers do not crowd out the rest."""
    by_type: defaultdict[str, list[str]] = defaultdict(list)
    for gold in golds:
        by_type[_type_of(gold)].append(gold)
    types = sorted(name for name, members in by_type.items() if len(members) >= 5)
    pairs = [rng.sample(by_type[types[i % len(types)]], 2) for i in range(count)]
    return [Case(gold, rf"\boxed{{{other}}}", _type_of(gold), False) for gold, other in pairs]


def _golden(path: Path) -> list[Case]:
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [
        Case(r["gold"], r.get("reply", rf"\boxed{{{r.get('answer')}}}"), r["id"], r["correct"])
        for r in rows
    ]


def _measure(name: str, cases: Sequence[Case], verifier: MathVerifier) -> dict:
    before, started = _cpu_seconds(), time.monotonic()
    verdicts = list(verifier.judge(MathItem(case.gold, case.reply) for case in cases))
    verifier.close()  # so that the CPU time of its processes counts
    seconds, wall = _cpu_seconds() - before, time.monotonic() - started
    audits = [audit_reply(case.gold, case.reply) for case in cases]
    bad = [
        {
            "gold": c.gold,
            "reply": c.reply,
            "what": c.name,
            "verdict": v.outcome,
            "reason": v.reason,
            "audit": a,
        }
        for c, v, a in zip(cases, verdicts, audits, strict=True)
        if (v.outcome is Outcome.RIGHT) != c.is_right
    ]
    sure = [(v, a) for v, a in zip(verdicts, audits, strict=True) if a is not Audit.UNSURE]
    disputed = [
        {"gold": c.gold, "reply": c.reply, "what": c.name, "verdict": v.outcome, "audit": a}
        for c, v, a in zip(cases, verdicts, audits, strict=True)
        if a is not Audit.UNSURE and (a is Audit.RIGHT) != (v.outcome is Outcome.RIGHT)
    ]
    print(
        f"{name:12} {len(cases):7} pairs, {len(cases) - len(bad):7} as they should be "
        f"({1 - len(bad) / len(cases):.4%}); audit sure of {len(sure) / len(cases):.1%}, disputes {len(disputed)}; "
        f"{seconds:.0f} s CPU, {wall:.0f} s wall"
    )
    return {
        "num_pairs": len(cases),
        "num_as_they_should_be": len(cases) - len(bad),
        "outcomes": dict(Counter(verdict.outcome.value for verdict in verdicts)),
        "by_kind": dict(Counter(case.name for case in cases)) if name != "golden" else {},
        "not_as_they_should_be": bad,
        "audit": {"num_sure": len(sure), "num_disputed": len(disputed), "disputed": disputed},
        "cpu_seconds": round(seconds, 1),
        "wall_seconds": round(wall, 1),
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(kind) for kind in kinds]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()

"""Answers a second of `k15 grade math < pairs.jsonl > verdicts.jsonl`, as a user runs it.

    python benchmarks/grading.py                       # built-in golds; writes benchmarks/grading.json
    python benchmarks/grading.py math500.jsonl gsm8k_test.jsonl

Every pair is another one, so that the memory of pairs helps nobody. Three streams, each with one and two grading
processes: "ordinary" (golds as they come; half the replies right but written otherwise, half with another gold of
the data), "formulas" (only pairs that need Math-Verify), and "hostile" (ordinary, with one answer in a hundred that
takes Math-Verify past its limit). Start-up counts. Wall time depends on what else the machine does, so CPU time of all
processes stands beside it, and the load: with idle cores, `answers_per_second` tends to the smaller of num_cores
times `answers_per_cpu_second` and what the slowest process does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from k15.prompts.rows import read_row, read_rows
from k15.record.checkpoint import library_versions
from k15.testing.answers import GOLDS, renderings

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).with_suffix(".json")
GOAL = 150.0
THOUGHT = "<think>\n" + "We add 3 and 4, which is 7, and check it once more. " * 40 + "\n</think>\n"
ENDLESS = r"\sum_{{k=1}}^{{{n}000000000}} \sin(kx)"
Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="files of prompts")
    parser.add_argument("--count", type=int, default=3000, help="answers of a stream (default: 3000)")
    parser.add_argument("--dry-run", action="store_true", help="measure, but write no file")
    options = parser.parse_args()
    rng = random.Random(0)
    golds = [read_row(value).answer for path in options.files for _, value in read_rows(path)] or list(
        GOLDS
    )
    ordinary, formulas = _ordinary(golds, options.count, rng), _formulas(options.count // 4, rng)
    streams = {"ordinary": ordinary, "formulas": formulas, "hostile": _with_hostile(ordinary[:1000])}
    measured = {
        f"{name}, {workers} process{'es' * (workers > 1)}": _measure(rows, workers)
        for name, rows in streams.items()
        for workers in (1, 2)
    }
    for name, result in measured.items():
        print(
            f"{name:24} {result['answers_per_second']:7.0f}/s wall, {result['answers_per_cpu_second']:7.0f}/s CPU, "
            f"p99 {result['seconds_p99'] * 1000:.0f} ms, {result['outcomes']}"
        )
    result = {
        "measured": time.strftime("%Y-%m-%d"),
        "hardware": _hardware(),
        "versions": {**library_versions(), **{name: version(name) for name in ("math-verify", "sympy")}},
        "commit": _commit(),
        "golds": [path.name for path in options.files] or "built in",
        "goal_answers_per_second": GOAL,
        "streams": measured,
    }
    if not options.dry_run:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {RESULT}")


def _ordinary(golds: Sequence[str], count: int, rng: random.Random) -> list[Row]:
    """Different pairs, half of them right; the golds in the proportion in which the data has them."""
    found: dict[tuple[str, str], Row] = {}
    for _ in range(20 * count):
        gold, other = rng.choice(golds), rng.choice(golds)
        text = rng.choice([written for _, written in renderings(gold)] if len(found) % 2 else [other])
        found[gold, text] = {"gold": gold, "reply": f"{THOUGHT}The answer is $\\boxed{{{text}}}$."}
        if len(found) == count:
            break
    rows = list(found.values())
    rng.shuffle(rows)
    return rows


def _formulas(count: int, rng: random.Random) -> list[Row]:
    """Polynomials against their other forms, and against a neighbour."""
    rows = []
    for number in range(count):
        a, b, c = (rng.randint(2, 99) for _ in range(3))
        gold = f"{a * c}x^{{2}}+{a + b * c}x+{b}"
        answer = f"({a}x+{b})({c}x+1)" if number % 2 else f"({a}x+{b})({c}x+2)"
        rows.append({"gold": gold, "reply": rf"{THOUGHT}\boxed{{{answer}}}"})
    return rows


def _with_hostile(rows: Sequence[Row]) -> list[Row]:
    hostile = list(rows)
    for n, place in enumerate(range(50, len(hostile), 100), start=1):
        hostile[place] = {"gold": "x/2", "reply": rf"{THOUGHT}\boxed{{{ENDLESS.format(n=n)}}}"}
    return hostile


def _measure(rows: Sequence[Row], workers: int) -> dict[str, Any]:
    text = "".join(json.dumps({"id": i, **row}) + "\n" for i, row in enumerate(rows))
    command = [
        sys.executable,
        "-c",
        "from k15.cli import main; raise SystemExit(main())",
        "grade",
        "math",
        "--workers",
        str(workers),
    ]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryFile("w+") as file:
        file.write(text)
        file.seek(0)
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=True, cwd=ROOT)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [verdict["id"] for verdict in verdicts] == list(range(len(rows)))
    seconds = sorted(verdict["seconds"] for verdict in verdicts)
    return {
        "num_answers": len(rows),
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "answers_per_second": round(len(rows) / wall, 1),
        "answers_per_cpu_second": round(len(rows) / cpu, 1),
        "seconds_p50": statistics.median(seconds),
        "seconds_p99": seconds[int(0.99 * (len(seconds) - 1))],
        "seconds_max": seconds[-1],
        "outcomes": dict(Counter(verdict["verdict"] for verdict in verdicts)),
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def _hardware() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine()
    )
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release()}


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip()


if __name__ == "__main__":
    main()

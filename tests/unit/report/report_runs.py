"""Run folders for the report's tests: a small simulation of a run that learns, then writes shorter.

Written as plain JSON, not by `k15.record.run`, so that the report is tested against the format on disk.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass
class Simulation:
    """What a simulated run is like. Deterministic in its seed."""

    seed: int = 0
    num_iterations: int = 40
    groups: int = 10
    group_size: int = 8
    segment_tokens: int = 64
    max_tokens: int = 320
    skill: float = 0.3
    wordy: float = 0.6
    skill_gain: float = 0.012
    wordy_gain: float = 0.0
    length_weight: float = 0.0
    penalty_from: int = 0
    max_staleness: int | None = None
    eval_every: int = 5
    num_prompts: int = 60
    rates: dict[str, float] = field(default_factory=dict)

    def weight_at(self, iteration: int) -> float:
        return self.length_weight if iteration >= self.penalty_from else 0.0


def build_run(path: Path, simulation: Simulation | None = None) -> Path:
    """Write a whole run folder and return its path."""
    sim = simulation or Simulation()
    rng = random.Random(sim.seed)
    (path / "rollouts").mkdir(parents=True)
    metrics, events = [], []
    ordinal = 0
    for iteration in range(sim.num_iterations):
        rows: list[Row] = []
        for _ in range(sim.groups):
            rows += _group(sim, rng, iteration, ordinal)
            ordinal += 1
        write_lines(path / "rollouts" / f"{iteration:06d}.jsonl", rows)
        metrics.append(_metrics(sim, rng, iteration, rows))
    last = {"iteration": sim.num_iterations, "time": 1.7e9 + 10 * sim.num_iterations, "save/failed": 0}
    metrics.append(last | _evaluation(sim, rng, sim.num_iterations, metrics[-1]))
    events.append(
        {"time": 1.7e9 + 50, "iteration": 12, "kind": "resume", "message": "going on from step-000012"}
    )
    message = f"all {sim.num_iterations} iterations are done"
    events.append(
        {"time": 1.7e9 + 400, "iteration": sim.num_iterations, "kind": "finished", "message": message}
    )
    write_lines(path / "metrics.jsonl", metrics)
    write_lines(path / "events.jsonl", events)
    write_json(path / "config.json", _config(sim))
    write_json(path / "manifest.json", _manifest(sim))
    return path


def build_sft_run(path: Path, num_steps: int = 120) -> Path:
    """Write the folder of a supervised run."""
    path.mkdir(parents=True)
    rng = random.Random(1)
    rows = []
    for step in range(num_steps):
        loss = 3.2 * math.exp(-step / 18) + 0.55 + rng.gauss(0, 0.03)
        rate = 2e-3 * (0.1 + 0.45 * (1 + math.cos(math.pi * step / num_steps)))
        rows.append(
            {
                "iteration": step,
                "time": 1.7e9 + step,
                "step": step,
                "loss": loss,
                "learning_rate": rate,
                "tokens": 8192,
            }
        )
    write_lines(path / "metrics.jsonl", rows)
    write_json(path / "config.json", {"data": {"tasks": [{"family": "trial"}]}, "run": {"seed": 0}})
    write_json(path / "manifest.json", _manifest(Simulation(num_iterations=num_steps)))
    return path


def write_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, value: Row) -> None:
    path.write_text(json.dumps(value, indent=2))


def completion_row(**changes: Any) -> Row:
    """One row of a rollouts file, right and finished, with the given values changed."""
    row: Row = {
        "iteration": 0, "ordinal": 0, "sample_index": 0, "prompt_id": "trial-0", "family": "trial", "difficulty": 1,
        "question": "Find k with 3 + k * 4 = 1 (mod 10).", "answer": "2",
        "completion": "<think>k=2: 3+8=11, yes</think>2",
        "token_ids": [5, 6, 7, 8], "logprobs": [-0.1, -0.2, -0.3, -0.4],
        "segments": [{"start": 0, "num_tokens": 4, "policy_version": 0, "stop": "end"}],
        "stop": "end", "length": 4, "outcome": "right", "reason": "equal", "extracted": "2",
        "correct": 1.0, "reward": 1.0,
        "length_reward": 0.0, "advantage": 0.5, "trained_tokens": 4,
    }  # fmt: skip
    return row | changes


def _thought(
    rng: random.Random, *, b: int, a: int, c: int, right: bool, wordy: bool, loops: bool
) -> tuple[str, str, str]:
    """Question, thought with answer, and the judged answer of the search k with b + k a = c (mod 10)."""
    question = f"Find the smallest k with {b} + k * {a} = {c} (mod 10)."
    lines = ["I try k from 0 upwards and look at the last digit."]
    answer = next((k for k in range(10) if (b + k * a) % 10 == c), 9)
    stop_at = answer if right else rng.randrange(max(answer, 1))
    for k in range(stop_at + 1):
        value = b + k * a
        lines.append(
            f"k = {k}: {b} + {k} * {a} = {value}, last digit {value % 10}, {'yes' if k == answer else 'no'}."
        )
        if wordy:
            lines.append(
                f"Let me check that again: {k} * {a} is {k * a}, plus {b} is {value}. So it is {value % 10}."
            )
    if not right:
        lines.append("This takes long. I will guess.")
    if loops:
        lines += ["Wait, let me check that again."] * 14
        return question, "<think>" + "\n".join(lines), ""
    given = str(answer if right else (stop_at + 3) % 10)
    lines.append(f"So k = {given}.")
    return question, "<think>" + "\n".join(lines) + f"</think>\nThe answer is {given}.<|end|>", given


def _group(sim: Simulation, rng: random.Random, iteration: int, ordinal: int) -> list[Row]:
    number = rng.randrange(sim.num_prompts)
    level = 1 + number % 3
    chance = min(0.97, max(0.02, sim.skill + sim.skill_gain * iteration - 0.16 * (level - 2)))
    wordy_share = min(0.98, max(0.01, sim.wordy + sim.wordy_gain * iteration))
    prompt = random.Random(number)
    b, a = prompt.randrange(10), prompt.choice((1, 3, 7, 9))
    c = (b + a * (level * 3 - prompt.randrange(3))) % 10
    rows = []
    for index in range(sim.group_size):
        right = rng.random() < chance
        loops = not right and rng.random() < 0.08
        question, text, extracted = _thought(
            rng, b=b, a=a, c=c, right=right, wordy=rng.random() < wordy_share, loops=loops
        )  # fmt: skip
        length = min(len(text) // 3, sim.max_tokens)
        stop = "repeat" if loops else "length" if length == sim.max_tokens else "end"
        right = right and stop == "end"
        outcome = "right" if right else ("no_answer" if stop != "end" else "wrong")
        if rng.random() < 0.0008:
            outcome = "fault"
        row = completion_row(
            iteration=iteration, ordinal=ordinal, sample_index=index, prompt_id=f"trial-{number}", difficulty=level,
            question=question, answer=str(next((k for k in range(10) if (b + k * a) % 10 == c), 9)),
            completion=text, token_ids=list(range(length)), logprobs=[-0.1] * length, stop=stop, length=length,
            outcome=outcome, reason="" if right else "the values differ", extracted=extracted, correct=float(right),
            trained_tokens=length,
        )  # fmt: skip
        rows.append(row)
    _reward(sim.weight_at(iteration), rows)
    last = max(math.ceil(row["length"] / sim.segment_tokens) for row in rows)
    opened = iteration - (last - 1 if iteration >= last - 1 else iteration)
    for row in rows:
        row["segments"] = _segments(row["length"], sim.segment_tokens, opened, iteration, row["stop"])
        if sim.max_staleness is not None:
            row["trained_tokens"] = sum(
                s["num_tokens"]
                for s in row["segments"]
                if iteration - s["policy_version"] <= sim.max_staleness
            )
    rate = sum(row["correct"] for row in rows) / len(rows)
    sim.rates[rows[0]["prompt_id"]] = 0.5 * sim.rates.get(rows[0]["prompt_id"], 0.0) + 0.5 * rate
    return rows


def _segments(length: int, budget: int, opened: int, iteration: int, stop: str) -> list[Row]:
    segments, start, version = [], 0, opened
    while start < length:
        size = min(budget, length - start)
        if version > iteration:  # too early in the run for so many segments
            segments[-1]["num_tokens"] += length - start
            break
        segments.append({"start": start, "num_tokens": size, "policy_version": version, "stop": None})
        start, version = start + size, version + 1
    segments[-1]["stop"] = stop
    return segments


def _reward(weight: float, rows: list[Row]) -> None:
    valid = [row for row in rows if row["outcome"] != "fault"]
    lengths = [row["length"] for row in valid]
    for row in valid:
        spread = max(lengths) - min(lengths)
        term = 0.5 - (row["length"] - min(lengths)) / spread if spread else 0.0
        row["length_reward"] = term if row["correct"] else min(0.0, term)
        row["reward"] = row["correct"] + weight * row["length_reward"]
    mean = sum(row["reward"] for row in valid) / max(len(valid), 1)
    for row in rows:
        row["advantage"] = row["reward"] - mean if row["outcome"] != "fault" else None
        if row["outcome"] == "fault":
            row["reward"] = row["length_reward"] = None


def _metrics(sim: Simulation, rng: random.Random, iteration: int, rows: list[Row]) -> Row:
    lengths = sorted(row["length"] for row in rows)
    right = [row["length"] for row in rows if row["correct"]]
    wrong = [row["length"] for row in rows if not row["correct"]]
    accuracy = len(right) / len(rows)
    groups = {
        row["ordinal"]: [r["advantage"] or 0 for r in rows if r["ordinal"] == row["ordinal"]]
        for row in rows
    }
    tokens = sum(lengths)
    ages = [(iteration - s["policy_version"], s["num_tokens"]) for row in rows for s in row["segments"]]
    histogram = [0] * 10
    for number in range(sim.num_prompts):
        histogram[min(9, int(10 * sim.rates.get(f"trial-{number}", 0.0)))] += 1
    line: Row = {
        "iteration": iteration, "time": 1.7e9 + 10 * iteration, "length_weight": sim.weight_at(iteration),
        "seconds/rollout": 1.6 + 0.1 * rng.random() + tokens / 40000, "seconds/grade": 0.05,
        "seconds/train": 1.1 + tokens / 60000,
        "seconds/save": 0.2 if iteration % 10 == 0 else 0.0, "seconds/eval": 0.0,
        "train/accuracy": accuracy, "train/reward_mean": sum(r["reward"] or 0 for r in rows) / len(rows),
        "train/length_mean": sum(lengths) / len(lengths), "train/length_p50": lengths[len(lengths) // 2],
        "train/length_p95": lengths[int(0.95 * len(lengths))], "train/length_max": lengths[-1],
        "train/num_groups": len(groups), "train/num_completions": len(rows),
        "train/num_faults": sum(row["outcome"] == "fault" for row in rows),
        "train/zero_advantage_share": sum(max(map(abs, g)) < 1e-6 for g in groups.values()) / len(groups),
        "rollout/num_tokens": tokens, "rollout/tokens_per_second": 9000 + 600 * rng.gauss(0, 1),
        "rollout/occupancy": min(1.0, 0.86 + 0.03 * rng.gauss(0, 1)), "rollout/in_flight_groups": 48,
        "rollout/unfinished_trajectories": 60 + rng.randrange(20), "rollout/num_resumed": 55 + rng.randrange(20),
        "rollout/stale_token_share": sum(n for age, n in ages if age) / tokens,
        "rollout/mean_staleness": sum(age * n for age, n in ages) / tokens,
        "rollout/max_staleness": max(age for age, _ in ages),
        "rollout/masked_token_share": 1 - sum(row["trained_tokens"] for row in rows) / tokens,
        "sampler/mean_success_rate": sum(sim.rates.values()) / sim.num_prompts, "sampler/histogram": histogram,
        "update/loss": 0.02 * rng.gauss(0, 1), "update/grad_norm": 0.8 + 0.2 * rng.random(),
        "update/force_ratio": 0.45 + 0.06 * rng.gauss(0, 1), "update/kl": 0.004 + 0.001 * rng.random(),
        "update/entropy": 0.32 * math.exp(-iteration / 200) + 0.01 * rng.random(), "update/num_steps": 2,
        "update/num_skipped_steps": 0, "update/engine_gap_mean": 2e-6 * (1 + rng.random()),
        "update/engine_gap_max": 3e-5 * (1 + 2 * rng.random()), "weights/fingerprint": f"{iteration:032x}",
        "weights/version": iteration + 1, "save/failed": 0,
    }  # fmt: skip
    for stop in ("end", "repeat", "length"):
        line[f"train/share_{stop}"] = sum(row["stop"] == stop for row in rows) / len(rows)
    if right:
        line["train/length_right"] = sum(right) / len(right)
    if wrong:
        line["train/length_wrong"] = sum(wrong) / len(wrong)
    for level in sorted({row["difficulty"] for row in rows}):
        own = [row for row in rows if row["difficulty"] == level]
        line[f"train/accuracy_level/{level}"] = sum(row["correct"] for row in own) / len(own)
        line[f"train/length_level/{level}"] = sum(row["length"] for row in own) / len(own)
    if iteration % sim.eval_every == 0:
        line |= _evaluation(sim, rng, iteration, line)
        line["seconds/rollout"] += line["seconds/eval"]  # the rollout phase includes it
    line["seconds/total"] = 0.1 + sum(
        v for k, v in line.items() if k in ("seconds/rollout", "seconds/train", "seconds/save")
    )
    return line


def _evaluation(sim: Simulation, rng: random.Random, iteration: int, line: Row) -> Row:
    share = min(0.97, sim.skill + sim.skill_gain * iteration + 0.02 * rng.gauss(0, 1))
    half = 1.96 * math.sqrt(share * (1 - share) / 256)
    return {
        "seconds/eval": 1.5, "eval/accuracy": share, "eval/accuracy_low": share - half,
        "eval/accuracy_high": share + half,
        "eval/length_mean": line["train/length_mean"] * 0.97, "eval/length_p95": line["train/length_p95"],
        "eval/num_samples": 256, "eval/share_length": 0.01,
        **{f"eval/accuracy_level/{n}": min(0.99, share - 0.16 * (n - 2)) for n in (1, 2, 3)},
        **{f"eval/length_level/{n}": 40.0 * n for n in (1, 2, 3)},
    }  # fmt: skip


def _config(sim: Simulation) -> Row:
    return {
        "num_iterations": sim.num_iterations,
        "model": {"path": "runs/sft/checkpoints/latest", "device": "auto"},
        "prompts": {"path": None, "tasks": [{"family": "trial", "levels": [1, 2, 3], "num_train": sim.num_prompts}]},
        "rollout": {
            "group_size": sim.group_size, "segment_tokens": sim.segment_tokens, "max_tokens": sim.max_tokens,
            "max_staleness": sim.max_staleness,
        },
        "algorithm": {"loss": "mirror_descent", "tau": 0.1},
        "length_penalty": {"weight": sim.length_weight, "start_iteration": sim.penalty_from},
        "run": {"seed": sim.seed},
    }  # fmt: skip


def _manifest(sim: Simulation) -> Row:
    return {
        "kind": "k15-run", "schema": 1, "created": 1.7e9, "command": "k15 rl recipes/trial.toml", "seed": sim.seed,
        "versions": {"k15": "0.1.0", "python": "3.11.7", "torch": "2.13.0"}, "data_fingerprints": {"train": "ab" * 16},
        "total": sim.num_iterations, "done": sim.num_iterations, "has_checkpoint": True,
    }  # fmt: skip

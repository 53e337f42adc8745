"""`k15 demo`: the whole recipe on a laptop CPU, from a model made from scratch to a report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import k15
from k15.config.base import load_config
from k15.config.rl import RLConfig
from k15.config.sft import SFTConfig
from k15.errors import ConfigError
from k15.record.reader import RunReader
from k15.report.headline import PhaseSummary
from k15.report.html import write_demo_report
from k15.stages.launch import FINAL_MODEL, LaunchOptions, launch_rl, launch_sft


def run_demo(folder: Path, *, seed: int, fresh: bool) -> bool:
    """Warm-up SFT, RL, RL with the length penalty, report; whether all of it is done.

    Called again it goes on where it stopped.
    """
    started = time.monotonic()
    again = ("k15", "demo", "--run", str(folder), "--seed", str(seed))
    options = LaunchOptions(command=again, fresh=fresh)
    warmup, rl = folder / "warmup", folder / "rl"
    _say(
        "1/3  Warm-up: a model from scratch reads demonstrations that search, slip and give up (section 2.2)."
    )
    seed_flags = ["--run.seed", str(seed)]
    sft_config = load_config(SFTConfig, recipe("laptop/warmup.toml"), seed_flags)
    if not launch_sft(sft_config, warmup, options):
        return False
    _say(
        "2/3  Reinforcement learning: online policy mirror descent with partial rollouts (sections 2.3, 2.6.2).\n"
        "     Watch the held-out accuracy rise and the thoughts grow; later the length penalty cuts them."
    )
    flags = [*seed_flags, "--model.path", str(warmup / FINAL_MODEL)]
    rl_config = load_config(RLConfig, recipe("laptop/rl.toml"), flags)
    if not launch_rl(rl_config, rl, options):
        return False
    _say("3/3  Report")
    penalty_from = rl_config.length_penalty.start_iteration
    milestones = milestones_of(RunReader(rl).metrics, penalty_from)
    report = write_demo_report(
        "k15 demo: a model from scratch learns to reason",
        [("Warm-up SFT", warmup), ("Reinforcement learning", rl)],
        folder / "report.html",
        milestones,
    )
    _summary(milestones, folder, report, time.monotonic() - started)
    return True


def recipe(name: str) -> Path:
    """A recipe that ships with k15: inside the package when installed, beside it in a checkout."""
    package = Path(k15.__file__).parent
    for place in (package / "recipes" / name, package.parent / "recipes" / name):
        if place.is_file():
            return place
    raise ConfigError(f"the recipe {name} is not part of this installation; install k15 again.")


def milestones_of(metrics: Sequence[Mapping[str, Any]], penalty_from: int) -> list[PhaseSummary]:
    """The evaluations after the warm-up, at the start of the length penalty, and at the end."""
    evaluated = [line for line in metrics if line.get("eval/accuracy") is not None]
    if not evaluated:
        return []
    before = [line for line in evaluated if line["iteration"] <= penalty_from]
    chosen = {
        "after the warm-up": evaluated[0],
        "after RL": before[-1],
        "with the length penalty": evaluated[-1],
    }
    return [
        PhaseSummary(
            name,
            accuracy=line["eval/accuracy"],
            accuracy_low=line["eval/accuracy_low"],
            accuracy_high=line["eval/accuracy_high"],
            tokens=line["eval/length_mean"],
            tokens_low=line["eval/length_low"],
            tokens_high=line["eval/length_high"],
            num_samples=int(line["eval/num_samples"]),
        )
        for name, line in chosen.items()
    ]


def _summary(milestones: Sequence[PhaseSummary], folder: Path, report: Path, seconds: float) -> None:
    lines = ["", f"Done in {seconds / 60:.1f} minutes. On problems that the model never saw:", ""]
    for m in milestones:
        interval = f"95 % interval {m.accuracy_low:.0%} to {m.accuracy_high:.0%}"
        lines.append(
            f"  {m.name:<26} {m.accuracy:>6.1%} right ({interval}), {m.tokens:>4.0f} tokens a completion"
        )
    lines += [
        "",
        f"  report       {report}   (open it in a browser)",
        f"  model        {folder / 'rl' / FINAL_MODEL}   (loads with transformers' from_pretrained)",
        f"  checkpoints  {folder / 'rl' / 'checkpoints'}",
        "",
        "Next: the same run with another seed (k15 demo --seed 1 --run runs/demo-1), a harder family",
        "(recipes/laptop/countdown.toml), or your own model and prompts:",
        "  k15 rl recipes/gsm8k.toml --model DIR --prompts FILE",
    ]
    _say("\n".join(lines))


def _say(text: str) -> None:
    bold = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and "\n" not in text
    print(f"\033[1m{text}\033[0m" if bold else text, file=sys.stderr, flush=True)

"""Compare settings on the laptop task, several seeds each, from one warm-up model.

    python studies/compare.py tau staleness reset baseline loss     # or: all

Every variant runs the demo's RL recipe on fewer prompts, from the same warm-up weights, without length
penalty unless it is what is varied, and is evaluated on held-out problems at the end. Prints a table with
means and 95 % intervals over all samples, and appends the results to studies/results.json. Variants
that come to the same settings are run once.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import mean

from k15.config.base import load_config
from k15.config.rl import RLConfig
from k15.config.sft import SFTConfig
from k15.record.metrics import wilson_interval
from k15.record.reader import RunReader
from k15.stages.demo import recipe
from k15.stages.launch import LaunchOptions, launch_rl, launch_sft

QUIET = LaunchOptions(is_quiet=True)
RESULTS = Path(__file__).parent / "results.json"
BASE = [
    "--prompts.tasks=[{family='trial', num_train=600, num_heldout=384}]",
    *("--rollout.prompts_in_flight", "24", "--engine.num_slots", "64", "--engine.num_workers", "1"),
    *("--evaluation.every", "1000", "--evaluation.num_prompts", "384", "--length_penalty.weight", "0"),
    *("--sampling.strategy", "uniform", "--run.save_every", "1000", "--run.num_threads", "1"),
    *("--algorithm.tau", "2.0"),  # half as many prompts as the demo: the regulariser must hold more
]
STUDIES: dict[str, dict[str, list[str]]] = {
    "tau": {tau: ["--algorithm.tau", tau] for tau in ("0.01", "0.1", "0.4", "1.0", "2.0")},
    "staleness": {
        n: ["--rollout.segment_tokens", "32", "--rollout.max_staleness", n] for n in ("0", "1", "none")
    },
    "segments": {n: ["--rollout.segment_tokens", n] for n in ("32", "64", "256")},
    "reset": {answer: ["--trainer.reset_optimizer", answer] for answer in ("true", "false")},
    "steps": {n: ["--trainer.num_minibatches", n] for n in ("1", "2", "4", "8")},
    "baseline": {n: ["--algorithm.baseline", n] for n in ("mean", "leave_one_out", "log_partition")},
    "loss": {
        "mirror descent": [],
        "REINFORCE": ["--algorithm.loss", "reinforce"],
        "GRPO": ["--algorithm.loss", "grpo", "--algorithm.baseline", "standardized"],
        "ReST": ["--algorithm.loss", "reinforce", "--algorithm.baseline", "best_of_group"],
    },
    "negatives": {n: ["--algorithm.negative_drop", n] for n in ("0", "0.5", "1")},
    "group size": {
        k: ["--rollout.group_size", k, "--rollout.prompts_in_flight", n]  # as many completions
        for k, n in (("4", "48"), ("8", "24"), ("16", "12"))
    },
    "prompts": {n: ["--rollout.prompts_in_flight", n] for n in ("12", "24", "48")},
    "rate": {rate: ["--trainer.learning_rate", rate] for rate in ("5e-5", "1e-4", "2e-4", "4e-4")},
    "clip": {n: ["--trainer.grad_clip", n] for n in ("0.1", "1.0", "10", "1000")},
    "penalty": {
        w: ["--length_penalty.weight", w, "--length_penalty.start_iteration", "7"]
        for w in ("0", "0.5", "1.0", "2.0")
    },
    "temperature": {t: ["--rollout.temperature", t] for t in ("0.8", "1.0", "1.2")},
    "sampling": {
        "uniform": [],
        "prioritized": ["--sampling.strategy", "prioritized", "--sampling.switch_iteration", "0"],
        "prioritized, no memory": [
            "--sampling.strategy",
            "prioritized",
            "--sampling.switch_iteration",
            "0",
            "--sampling.success_rate_decay",
            "0",
        ],
        "curriculum": [
            "--sampling.strategy",
            "curriculum",
            "--sampling.switch_iteration",
            "4",
            "--sampling.hard_difficulty",
            "2",
        ],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="+", choices=["all", *STUDIES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=14)
    parser.add_argument(
        "--model", type=Path, help="warm-up model; made with recipes/laptop/warmup.toml if not given"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="k15-compare-"))
    model = options.model or _warm_up(folder)
    known: dict[str, dict] = {}
    for study in STUDIES if "all" in options.studies else options.studies:
        print(f"\n{study}: {options.iterations} iterations, {options.seeds} seeds")
        for name, flags in STUDIES[study].items():
            settings = _config(model, 0, options.iterations, flags).model_dump_json()
            if settings not in known:
                known[settings] = _measure(folder, model, flags, options.iterations, options.seeds)
            row = known[settings]
            print(
                f"  {name:<22} {row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}] {row['tokens']:.0f} tokens "
                f" by seed {' '.join(f'{a:.1%}' for a in row['by_seed'])}  force {row['force']:.2f}",
                flush=True,
            )
            _append(
                {
                    "study": study,
                    "variant": name,
                    "flags": flags,
                    "iterations": options.iterations,
                    **row,
                }
            )
    shutil.rmtree(folder)


def _warm_up(folder: Path) -> Path:
    config = load_config(SFTConfig, recipe("laptop/warmup.toml"), ["--run.num_threads", "1"])
    assert launch_sft(config, folder / "warmup", QUIET)
    return folder / "warmup" / "model"


def _config(model: Path, seed: int, iterations: int, flags: list[str]) -> RLConfig:
    asked = ["--model", str(model), "--num_iterations", str(iterations), "--run.seed", str(seed)]
    return load_config(RLConfig, recipe("laptop/rl.toml"), [*BASE, *asked, *flags])


def _measure(folder: Path, model: Path, flags: list[str], iterations: int, num_seeds: int) -> dict:
    """Final held-out accuracy and tokens of a variant, pooled over seeds."""
    accuracies, tokens, forces, samples = [], [], [], 0
    for seed in range(num_seeds):
        run = folder / "run"
        launch_rl(_config(model, seed, iterations, flags), run, QUIET)
        metrics = RunReader(run).metrics
        accuracies.append(metrics[-1]["eval/accuracy"])
        tokens.append(metrics[-1]["eval/length_mean"])
        samples += int(metrics[-1]["eval/num_samples"])
        forces.append(
            mean(m["update/force_ratio"] for m in metrics if m.get("update/force_ratio") is not None)
        )
        shutil.rmtree(run)
    low, high = wilson_interval(round(mean(accuracies) * samples), samples)
    return {
        "accuracy": mean(accuracies),
        "low": low,
        "high": high,
        "tokens": mean(tokens),
        "force": mean(forces),
        "by_seed": accuracies,
    }


def _append(row: dict) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    stamp = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "machine": platform.machine(),
    }
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    RESULTS.write_text(json.dumps([*rows, {**stamp, **row}], indent=1) + "\n")


if __name__ == "__main__":
    main()

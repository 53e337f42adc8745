"""A run so small that it can be killed a hundred times, and all that must not depend on the kills."""

from __future__ import annotations

import json
from pathlib import Path

NUM_ITERATIONS = 5
SFT_RECIPE = """
batch_tokens = 1024
[model.tiny]
num_layers = 1
width = 32
num_heads = 2
mlp_width = 64
max_positions = 256
[data]
tasks = [{ family = "trial", levels = [1], num_train = 100 }]
[[stages]]
row_tokens = 200
num_steps = 60
learning_rate = 8e-3
[run]
save_every = 20
num_threads = 1
"""
RL_RECIPE = f"""
num_iterations = {NUM_ITERATIONS}
[prompts]
tasks = [{{ family = "trial", levels = [1, 2], num_train = 20, num_heldout = 2 }}]
[sampling]
strategy = "curriculum"
hard_difficulty = 2
switch_iteration = 3
[rollout]
group_size = 2
prompts_in_flight = 7
segment_tokens = 36
max_tokens = 80
[length_penalty]
weight = 0.5
[engine]
num_slots = 8
[trainer]
row_tokens = 128
[evaluation]
every = 3
num_prompts = 2
[run]
save_every = 2
keep_checkpoints = 2
num_threads = 1
"""


def sft_arguments(folder: Path, run: Path) -> list[str]:
    """Arguments of `k15` that train the tiny model; writes the recipe into the folder."""
    (folder / "sft.toml").write_text(SFT_RECIPE)
    return ["sft", str(folder / "sft.toml"), "--run", str(run)]


def rl_arguments(folder: Path, run: Path, model: Path) -> list[str]:
    """Arguments of `k15` for a run of five iterations with partial rollouts; writes the recipe into the folder."""
    (folder / "rl.toml").write_text(RL_RECIPE)
    return ["rl", str(folder / "rl.toml"), "--run", str(run), "--model", str(model)]


def outcome(run: Path) -> dict[str, object]:
    """Metrics, completions and the final weights: all that must not depend on what happened on the way."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    volatile = ("seconds/", "time", "rollout/tokens_per_second", "rollout/num_recovered", "save/failed")
    volatile += (
        "rollout/num_tokens",
        "rollout/prefill_tokens",
        "rollout/occupancy",
        "rollout/slot_steps",
    )  # recovered segments cost nothing
    rollouts = {path.name: path.read_text() for path in sorted((run / "rollouts").iterdir())}
    return {
        "fingerprints": [m.get("weights/fingerprint") for m in metrics],
        "metrics": [{k: v for k, v in m.items() if not k.startswith(volatile)} for m in metrics],
        "rollouts": rollouts,
        "model": (run / "model" / "model.safetensors").read_bytes(),
    }


def trained_ordinals(run: Path) -> list[int]:
    """The ordinals of the groups that were trained on, each as often as it was."""
    rows = [
        json.loads(line)
        for path in sorted((run / "rollouts").iterdir())
        for line in path.read_text().splitlines()
    ]
    return sorted(row["ordinal"] for row in rows if row["sample_index"] == 0)

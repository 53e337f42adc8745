"""The whole loop on vLLM, by the command: does the policy learn, and do its tokens come from its own weights?"""

import subprocess
import sys
from pathlib import Path

import pytest

from k15.config.base import load_config
from k15.config.sft import SFTConfig
from k15.record.reader import RunReader
from k15.stages.demo import recipe
from k15.stages.launch import LaunchOptions, launch_sft

ITERATIONS = 9


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    """The demo's warm-up model."""
    run = tmp_path_factory.mktemp("warm")
    config = load_config(SFTConfig, recipe("laptop/warmup.toml"), ["--run.num_threads", "1"])
    assert launch_sft(config, run, LaunchOptions(is_quiet=True))
    return run / "model"


def rl(model: Path, run: Path, engine: str, iterations: int) -> list[dict]:
    """`k15 rl` in a process of its own; its metrics."""
    command = [
        *(sys.executable, "-m", "k15.cli", "rl", recipe("laptop/rl.toml"), "--run", run),
        *("--model", model, "--engine", engine, "--num_iterations", str(iterations)),
        "--prompts.tasks=[{family='trial', num_train=600, num_heldout=256}]",
        *("--rollout.prompts_in_flight", "24", "--sampling.strategy", "uniform"),
        *("--engine.num_workers", "1", "--engine.num_slots", "96", "--run.num_threads", "1"),
        *("--evaluation.every", "1000", "--length_penalty.weight", "0"),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-4000:]
    return list(RunReader(run).metrics)


def test_rl_with_vllm_learns(warm, tmp_path):
    metrics = rl(warm, tmp_path / "run", "vllm", ITERATIONS)
    assert metrics[-1]["eval/accuracy"] >= metrics[0]["eval/accuracy"] + 0.15
    # The engine samples from the policy that is trained: its log-probabilities are the trainer's.
    assert max(line["update/engine_gap_max"] for line in metrics[:-1]) < 1e-3


def test_the_first_rollouts_are_the_embedded_engines(warm, tmp_path):
    ours, theirs = (rl(warm, tmp_path / engine, engine, 1)[0] for engine in ("vllm", "embedded"))
    assert ours["rollout/num_tokens"] == pytest.approx(theirs["rollout/num_tokens"], rel=0.02)
    assert ours["train/accuracy"] == pytest.approx(theirs["train/accuracy"], abs=0.02)

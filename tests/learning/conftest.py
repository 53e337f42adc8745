"""One warm-up for all learning tests, and a short way to run RL from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from k15.config.base import load_config
from k15.config.rl import RLConfig
from k15.config.sft import SFTConfig
from k15.record.reader import RunReader
from k15.stages.demo import recipe
from k15.stages.launch import LaunchOptions, launch_rl, launch_sft

QUIET = LaunchOptions(is_quiet=True)
SMALL = [
    "--prompts.tasks=[{family='trial', num_train=600, num_heldout=256}]",
    # Half as many prompts as the demo: a step rests on fewer completions, and the regulariser must hold more.
    *("--rollout.prompts_in_flight", "24", "--engine.num_slots", "192", "--algorithm.tau", "2.0"),
    *("--run.num_threads", "1", "--engine.num_workers", "1"),
    *("--evaluation.every", "1000", "--evaluation.num_prompts", "256"),
    *("--sampling.strategy", "uniform", "--length_penalty.weight", "0", "--run.save_every", "1000"),
]


@dataclass(frozen=True)
class Learned:
    """What a short RL run came to, by its metrics; the evaluations are of the first and the last weights."""

    model: Path
    metrics: list[dict]

    @property
    def first(self) -> dict:
        return self.metrics[0]

    @property
    def last(self) -> dict:
        return self.metrics[-1]

    def total(self, key: str) -> float:
        return sum(line.get(key, 0) for line in self.metrics)


@pytest.fixture(scope="session")
def warm(tmp_path_factory) -> Path:
    """The demo's warm-up model."""
    run = tmp_path_factory.mktemp("warm")
    config = load_config(SFTConfig, recipe("laptop/warmup.toml"), ["--run.num_threads", "1"])
    assert launch_sft(config, run, QUIET)
    return run / "model"


@pytest.fixture(scope="session")
def learn(tmp_path_factory) -> Callable[..., Learned]:
    """RL with the demo's recipe on fewer prompts: `learn(model, seed, iterations, *flags)`. Calls are remembered."""
    known: dict[tuple, Learned] = {}

    def run_rl(model: Path, seed: int, iterations: int, *flags: str) -> Learned:
        key = (model, seed, iterations, *flags)
        if key not in known:
            run = tmp_path_factory.mktemp("rl")
            asked: Sequence[str] = (
                "--model",
                str(model),
                "--num_iterations",
                str(iterations),
                "--run.seed",
                str(seed),
            )
            config = load_config(RLConfig, recipe("laptop/rl.toml"), [*SMALL, *asked, *flags])
            assert launch_rl(config, run, QUIET)
            known[key] = Learned(run / "model", list(RunReader(run).metrics))
        return known[key]

    return run_rl

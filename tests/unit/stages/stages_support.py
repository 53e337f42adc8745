"""The RL loop with a scripted engine, a scripted grader and a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k15.cluster.local import LocalCluster
from k15.config.parts import TinyModelConfig
from k15.config.rl import RLConfig
from k15.models.load import Policy, make_policy
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer
from k15.prompts.load import PromptSet
from k15.record.run import Run
from k15.stages.rl import train_rl
from k15.stages.watch import Watch
from k15.testing.scripted import Script, ScriptedEngine
from k15.train.trainer import OptimizerSettings, Trainer
from k15.types import Group, Outcome, Prompt, Trajectory, Verdict, Weights, Work

TOKENIZER = build_tokenizer(["what is the sum"])
END = TOKENIZER.eos_token_id
VOCAB = 272  # rows of the embedding, the tokenizer's 267 tokens rounded up
SHAPE = TinyModelConfig(num_layers=1, width=32, num_heads=2, mlp_width=48, max_positions=128)
PROMPTS = tuple(
    Prompt(f"p{n}", f"what is {n}", str(n), "scripted", "toy", float(n % 2), token_ids=(3, 20 + n, 4))
    for n in range(8)
)
Judge = Callable[[Group, Trajectory], Outcome]


def length_of(item: Work | Trajectory) -> int:
    """Tokens of a scripted completion, 1 to 23, the end token included."""
    return 1 + (item.ordinal * 7 + item.sample_index * 11) % 23


def completion_of(item: Work | Trajectory) -> list[int]:
    """The scripted completion of a trajectory: tokens that tell it from every other."""
    body = [
        30 + (item.ordinal * 31 + item.sample_index * 17 + at * 5) % 200
        for at in range(length_of(item) - 1)
    ]
    return [*body, END]


def mixed(group: Group, trajectory: Trajectory) -> Outcome:
    """Some right, some wrong, in every group."""
    return Outcome.RIGHT if (group.ordinal + trajectory.sample_index) % 3 == 0 else Outcome.WRONG


class ScriptedGrader:
    """Gives the verdicts of a function; keeps the groups it was given."""

    def __init__(self, judge: Judge = mixed) -> None:
        self._judge = judge
        self.received: list[Group] = []

    def grade(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        self.received += groups
        return [
            [Verdict(self._judge(group, t), "scripted") for t in group.trajectories] for group in groups
        ]


def rl_config(num_iterations: int = 6, **tables: dict[str, Any]) -> RLConfig:
    """A config of small sizes; `tables` change it, table by table."""
    tree: dict[str, dict[str, Any]] = {
        "model": {"path": "unused"},
        "prompts": {"path": "unused"},
        "rollout": {"group_size": 4, "prompts_in_flight": 3, "segment_tokens": 8, "max_tokens": 32},
        "trainer": {"row_tokens": 64},
        "evaluation": {"every": 0},
        "run": {"num_threads": 1, "save_every": 100},
    }
    for name, settings in tables.items():
        tree[name] = tree.get(name, {}) | settings
    return RLConfig.model_validate({"num_iterations": num_iterations, **tree})


@dataclass
class Played:
    """What a run left behind."""

    folder: Path
    weights: Weights
    policy: Policy
    engine: ScriptedEngine
    grader: ScriptedGrader
    cluster: LocalCluster
    first_fingerprint: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


def play(
    config: RLConfig,
    folder: Path,
    *,
    script: Script = completion_of,
    judge: Judge = mixed,
    engine: ScriptedEngine | None = None,
    prompts: PromptSet | None = None,
    prepare: Callable[[LocalCluster, ScriptedGrader, Run], None] | None = None,
) -> Played:
    """Run the loop to its end in a folder; `prepare` may look at the parts before."""
    policy = make_policy(build_tiny_model(SHAPE, TOKENIZER, seed=0), TOKENIZER)
    engine = engine or ScriptedEngine(script)
    trainer = Trainer(
        policy.model, OptimizerSettings(config.trainer.learning_rate), tau=config.algorithm.tau
    )
    cluster, grader = LocalCluster(policy, engine, trainer, num_threads=1), ScriptedGrader(judge)
    first = trainer.publish_weights(0).fingerprint
    run = Run.open(
        folder, config, command="test", total=config.num_iterations, notify=lambda message: None
    )
    watch = Watch("iterations", config.num_iterations, quiet=True)
    with run, run.catch_signals():
        if prepare is not None:
            prepare(cluster, grader, run)
        weights = train_rl(config, cluster, prompts or PromptSet(PROMPTS, ()), grader, run, watch)
        run.finish(done=weights.version)
    files = sorted((folder / "rollouts").glob("*.jsonl"))
    return Played(
        folder,
        weights,
        policy,
        engine,
        grader,
        cluster,
        first,
        rows=[row for file in files for row in read_lines(file)],
        metrics=read_lines(folder / "metrics.jsonl"),
        events=read_lines(folder / "events.jsonl"),
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines, read strictly: NaN is an error."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path}")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]

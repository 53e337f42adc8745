"""The real loop on a bandit: every prompt has one right token, and the policy's chance of it is known exactly."""

import json
import random
from statistics import mean

import pytest
import torch

from k15.config.base import load_config
from k15.config.parts import ModelConfig
from k15.config.rl import RLConfig
from k15.config.sft import SFTConfig
from k15.models.load import load_policy
from k15.prompts.render import render_prompt
from k15.stages.launch import LaunchOptions, launch_rl, launch_sft

QUIET = LaunchOptions(is_quiet=True)
SEEDS = (0, 1, 2)
NUM_PROMPTS, NUM_WEAK = 40, 4
STRONG, WEAK = 0.7, 0.06  # how often the demonstrations are right
ITERATIONS = 40


def question(index: int) -> str:
    return f"Which digit belongs to place {index}?"


def answer(index: int) -> str:
    return str(index * 7 % 10)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A model that answers like its demonstrations: mostly right, hardly ever on the last four prompts."""
    folder = tmp_path_factory.mktemp("bandit")
    rng = random.Random(0)
    rows = []
    for index in range(NUM_PROMPTS):
        chance = WEAK if index >= NUM_PROMPTS - NUM_WEAK else STRONG
        for _ in range(50):
            digit = answer(index) if rng.random() < chance else str(rng.randrange(10))
            rows.append({"prompt": question(index), "completion": f"#### {digit}"})
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [{"id": str(i), "question": question(i), "answer": answer(i)} for i in range(NUM_PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    config = load_config(
        SFTConfig,
        None,
        [
            *(
                "--data.path",
                str(folder / "demonstrations.jsonl"),
                "--batch_tokens",
                "2048",
                "--optimizer",
                "muon",
            ),
            *("--model.tiny", "{num_layers=2, width=48, num_heads=2, mlp_width=96, max_positions=128}"),
            *(
                "--stages",
                "[{row_tokens=128, num_steps=250, learning_rate=6e-3, final_learning_rate=6e-4}]",
            ),
            *("--run.num_threads", "1", "--run.save_every", "1000"),
        ],
    )
    assert launch_sft(config, folder / "sft", QUIET)
    return folder


def chances(model: str) -> list[float]:
    """The policy's probability of the right answer to each prompt, by its own softmax."""
    policy = load_policy(ModelConfig(path=model))
    result = []
    for index in range(NUM_PROMPTS):
        prompt = render_prompt(policy.tokenizer, question(index))
        completion = policy.tokenizer.encode(f"#### {answer(index)}", add_special_tokens=False)
        tokens = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            log_p = policy.model(tokens).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, tokens.shape[1] - 1)
        result.append(float(sum(log_p[at, tokens[0, at + 1]] for at in places).exp()))
    return result


def train(folder, seed: int, strategy: str, run) -> list[float]:
    config = load_config(
        RLConfig,
        None,
        [
            *("--model", str(folder / "sft" / "model"), "--prompts", str(folder / "prompts.jsonl")),
            *(
                "--prompts.num_heldout",
                "0",
                "--num_iterations",
                str(ITERATIONS),
                "--run.seed",
                str(seed),
            ),
            *(
                "--rollout.max_tokens",
                "6",
                "--rollout.prompts_in_flight",
                "8",
                "--rollout.segment_tokens",
                "6",
            ),
            *("--sampling.strategy", strategy, "--sampling.initial_success_rate", "0.5"),
            *(
                "--trainer.learning_rate",
                "3e-4",
                "--trainer.row_tokens",
                "64",
                "--engine.num_slots",
                "64",
            ),
            *("--run.num_threads", "1", "--run.save_every", "1000"),
        ],
    )
    assert launch_rl(config, run, QUIET)
    return chances(str(run / "model"))


@pytest.fixture(scope="module")
def trained(taught, tmp_path_factory):
    return {
        strategy: [train(taught, seed, strategy, tmp_path_factory.mktemp("rl")) for seed in SEEDS]
        for strategy in ("uniform", "prioritized")
    }


def test_the_loop_finds_the_right_arms(taught, trained):
    before = mean(chances(str(taught / "sft" / "model")))
    for after in trained["uniform"] + trained["prioritized"]:
        assert mean(after) > before + 0.1


def test_prioritized_sampling_lifts_the_weakest_decile_faster(taught, trained):
    """Row 41: draws in proportion to 1 - s_i visit the prompts that are mostly wrong more often."""
    start = mean(chances(str(taught / "sft" / "model"))[-NUM_WEAK:])
    assert start < 0.3
    weakest = {name: [mean(run[-NUM_WEAK:]) for run in runs] for name, runs in trained.items()}
    assert mean(weakest["prioritized"]) > mean(weakest["uniform"]) + 0.05

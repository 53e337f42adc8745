"""DPO from pairs to steps: the loss is TRL's, pairs stay together, a resumed run ends the same (row 47)."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from k15.algo.policy import Normalizer
from k15.algo.preference import dpo_loss
from k15.config.long2short import DPORunConfig
from k15.config.parts import ModelConfig, TinyModelConfig
from k15.config.sft import SFTDataConfig, SFTRunSettings, SFTStageConfig
from k15.models.load import Policy, load_policy, make_policy
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer
from k15.stages.launch import LaunchOptions
from k15.stages.preference import launch_dpo, pack_pairs
from k15.stages.samples import Preference
from k15.train.forward import LogprobModel
from k15.train.packing import Example, Minibatch
from k15.train.trainer import StepResult, Trainer
from k15.weights.fingerprint import fingerprint, named_weights
from k15.weights.save import save_policy

TOKENIZER = build_tokenizer(["what is the sum"])
SHAPE = TinyModelConfig(num_layers=2, width=32, num_heads=2, mlp_width=48, max_positions=128)


def _example(prompt: tuple[int, ...], length: int, shift: int) -> Example:
    completion = tuple(10 + (7 * i + shift) % 200 for i in range(length))
    return Example(prompt, completion, (True,) * length)


PAIRS = [
    Preference(_example((5, 6, 7 + n), 3 + n, n), _example((5, 6, 7 + n), 6 + 2 * n, 50 + n))
    for n in range(5)
]


def tiny_policy(seed: int = 0) -> Policy:
    return make_policy(build_tiny_model(SHAPE, TOKENIZER, seed=seed), TOKENIZER)


def moved(policy: Policy, scale: float = 0.05) -> Policy:
    """A copy with other weights: a policy some steps after its reference."""
    other = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return other


@torch.no_grad()
def minibatch_loss(policy: Policy, reference: Policy, minibatch: Minibatch, beta: float) -> float:
    total = 0.0
    normalizer = Normalizer(minibatch.num_completions, minibatch.num_tokens)
    for batch in minibatch.microbatches:
        ours, mask = batch.scatter(LogprobModel.build(policy.model)(batch).logprobs)
        theirs, _ = batch.scatter(LogprobModel.build(reference.model)(batch).logprobs)
        total += float(
            dpo_loss(ours, theirs, mask, batch.advantages, normalizer=normalizer, beta=beta).loss
        )
    return total


def padded_inputs(pairs: list[Preference]) -> dict[str, torch.Tensor]:
    """A batch as TRL's collator makes it: all preferred ones, then all others, padded on the right."""
    sequences = [p.preferred for p in pairs] + [p.other for p in pairs]
    width = max(map(len, sequences))
    names = ("input_ids", "attention_mask", "completion_mask")
    inputs = {name: torch.zeros((len(sequences), width), dtype=torch.long) for name in names}
    for i, e in enumerate(sequences):
        inputs["input_ids"][i, : len(e)] = torch.tensor(e.prompt_ids + e.completion_ids)
        inputs["attention_mask"][i, : len(e)] = 1
        inputs["completion_mask"][i, len(e.prompt_ids) : len(e)] = 1
    return inputs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_the_loss_is_the_one_of_trls_trainer(tmp_path: Path, beta: float) -> None:
    trl = pytest.importorskip("trl", reason="the loss is compared with TRL's where TRL is installed")
    datasets = pytest.importorskip("datasets")
    reference = tiny_policy()
    policy = moved(reference)
    rows = [{"prompt": "what is", "chosen": " the sum", "rejected": " sum the what"}] * 2
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(policy.model),
        ref_model=copy.deepcopy(reference.model),
        args=trl.DPOConfig(
            output_dir=str(tmp_path), beta=beta, use_cpu=True, report_to="none", bf16=False
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=TOKENIZER,
    )
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, padded_inputs(PAIRS), False)
    ours = minibatch_loss(
        policy, reference, pack_pairs(PAIRS, row_tokens=40, microbatch_tokens=60), beta
    )
    assert ours == pytest.approx(float(theirs), abs=1e-5)
    assert abs(ours - math.log(2)) > 1e-2  # not the loss of a policy that is its own reference


@pytest.mark.parametrize("microbatch_tokens", [1, 30, 60, 10_000])
def test_both_members_of_a_pair_are_in_one_microbatch_and_nothing_is_lost(
    microbatch_tokens: int,
) -> None:
    packed = pack_pairs(PAIRS, row_tokens=40, microbatch_tokens=microbatch_tokens)
    numbers = []
    for batch in packed.microbatches:
        marks = batch.advantages.tolist()
        assert sorted(m for m in marks if m > 0) == sorted(-m for m in marks if m < 0)
        numbers += [m for m in marks if m > 0]
    assert sorted(numbers) == [1, 2, 3, 4, 5]
    assert packed.num_completions == 10
    assert packed.num_tokens == sum(len(e.completion_ids) for p in PAIRS for e in (p.preferred, p.other))


def test_microbatches_do_not_change_the_loss() -> None:
    reference = tiny_policy()
    policy = moved(reference)
    losses = [
        minibatch_loss(policy, reference, pack_pairs(PAIRS, row_tokens=40, microbatch_tokens=n), 0.3)
        for n in (1, 10_000)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def dpo_config(tmp_path: Path, *, save_every: int = 100) -> DPORunConfig:
    start = tmp_path / "start"
    if not start.exists():
        save_policy(tiny_policy(), start)
    return DPORunConfig(
        model=ModelConfig(path=str(start)),
        data=SFTDataConfig(path=tmp_path / "samples"),
        stages=(
            SFTStageConfig(row_tokens=64, num_steps=12, learning_rate=1e-2, final_learning_rate=1e-3),
        ),
        batch_tokens=30,
        microbatch_tokens=40,
        run=SFTRunSettings(save_every=save_every, num_threads=1),
        beta=0.1,
    )


def trained(folder: Path) -> Policy:
    return load_policy(ModelConfig(path=str(folder / "model")))


def test_training_prefers_the_preferred_and_starts_at_log_two(tmp_path: Path) -> None:
    config = dpo_config(tmp_path)
    assert launch_dpo(config, tmp_path / "run", LaunchOptions(is_quiet=True), PAIRS)
    metrics = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    after = minibatch_loss(
        trained(tmp_path / "run"),
        tiny_policy(),
        pack_pairs(PAIRS, row_tokens=64, microbatch_tokens=999),
        0.1,
    )
    assert after < 0.7 * math.log(2)


class _InterruptedError(Exception):
    pass


def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dpo_config(tmp_path, save_every=4)
    options = LaunchOptions(is_quiet=True)
    assert launch_dpo(config, tmp_path / "whole", options, PAIRS)
    step, count = Trainer.step, 0

    def dying(*arguments: Any, **settings: Any) -> StepResult:
        nonlocal count
        count += 1
        if count == 7:
            raise _InterruptedError
        return step(*arguments, **settings)

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(_InterruptedError):
        launch_dpo(config, tmp_path / "killed", options, PAIRS)
    assert launch_dpo(config, tmp_path / "killed", options, PAIRS)
    assert count == 7 + 8  # six steps, the fatal one, and from the checkpoint at step 4 the rest
    prints = [fingerprint(named_weights(trained(tmp_path / name).model)) for name in ("whole", "killed")]
    assert prints[0] == prints[1]

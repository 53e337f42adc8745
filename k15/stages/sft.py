"""Supervised fine-tuning: the long-CoT warm-up (section 2.2) and the staged schedule of section 2.5.2."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from k15.algo.derive import derived_seed
from k15.algo.likelihood import likelihood_loss
from k15.algo.policy import Loss
from k15.config.sft import SFTConfig, SFTStageConfig
from k15.errors import ConfigError, DataError
from k15.models.load import Policy, load_policy, make_policy
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer
from k15.prompts.demonstrations import Demonstration, load_demonstrations
from k15.prompts.render import control_tokens, render_prompt
from k15.record.run import Run
from k15.stages.watch import Watch
from k15.train.packing import Example, Minibatch, pack_minibatch
from k15.train.trainer import OptimizerSettings, Reference, Trainer
from k15.weights.load import load_tensors
from k15.weights.save import save_policy


@dataclass(frozen=True)
class Examples:
    """What is trained on: tokenized demonstrations, in the order of the data."""

    examples: tuple[Example, ...]
    num_skipped: int
    fingerprint: str


@dataclass(frozen=True)
class StagePlan:
    """The steps of one stage; `batches` are indices into the examples, one list an optimizer step.

    Attributes:
        num_left_out: examples that are longer than the stage's rows.
    """

    config: SFTStageConfig
    first_step: int
    batches: tuple[tuple[int, ...], ...]
    num_left_out: int = 0


@dataclass(frozen=True)
class Plan:
    """All optimizer steps of a run: what they see and at which learning rate."""

    stages: tuple[StagePlan, ...]

    @property
    def num_steps(self) -> int:
        return sum(len(stage.batches) for stage in self.stages)

    def stage_of(self, step: int) -> tuple[StagePlan, int]:
        """The stage that a step belongs to, and the step's number within it."""
        stage = next(s for s in reversed(self.stages) if s.first_step <= step)
        return stage, step - stage.first_step

    def learning_rate(self, step: int) -> float:
        """A cosine from `learning_rate` at a stage's first step to `final_learning_rate` at its last (2.5.2).

        `warmup_steps` rise linearly to it from the final rate of the stage before, or from zero.
        """
        stage, at = self.stage_of(step)
        before = self.stages.index(stage) - 1
        low = self.stages[before].config.final_learning_rate if before >= 0 else 0.0
        high, final, warmup = (
            stage.config.learning_rate,
            stage.config.final_learning_rate,
            stage.config.warmup_steps,
        )
        if at < warmup:
            return low + (high - low) * (at + 1) / (warmup + 1)
        share = (at - warmup) / max(1, len(stage.batches) - 1 - warmup)
        return final + (high - final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def make_or_load_policy(config: SFTConfig) -> Policy:
    """The checkpoint to go on from, or a tiny model made from scratch with a tokenizer of its own."""
    if config.model.path is not None:
        return load_policy(config.model)
    items = load_demonstrations(config.data).items
    tokenizer = build_tokenizer(text for d in items for text in (d.question, d.completion))
    return make_policy(build_tiny_model(config.model.tiny, tokenizer, seed=config.run.seed), tokenizer)


def load_examples(config: SFTConfig, policy: Policy) -> Examples:
    """The demonstrations as token ids: the prompt by the model's chat template, the completion with its end token.

    Raises:
        DataError: a row is malformed, too long for the rows of every stage or for the model, or holds
            a control token in its question or the token that ends a completion; `data.skip_bad_rows`
            leaves such rows out.
    """
    demonstrations = load_demonstrations(config.data)
    longest = min(policy.max_positions, max(stage.row_tokens for stage in config.stages))
    forbidden = control_tokens(policy.tokenizer)
    examples, num_skipped = [], demonstrations.num_skipped
    for demonstration in demonstrations.items:
        try:
            examples.append(_example(demonstration, policy, longest, forbidden))
        except DataError:
            if not config.data.skip_bad_rows:
                raise
            num_skipped += 1
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(json.dumps([example.prompt_ids, example.completion_ids]).encode())
    return Examples(tuple(examples), num_skipped, digest.hexdigest())


def _example(
    demonstration: Demonstration, policy: Policy, longest: int, forbidden: Sequence[str]
) -> Example:
    if control := next((token for token in forbidden if token in demonstration.question), None):
        raise DataError(
            f"{demonstration.source}: a question must not hold the model's control token {control}: the model reads it "
            "as the end of a turn or of the text. Remove it, or set data.skip_bad_rows."
        )
    prompt_ids = render_prompt(policy.tokenizer, demonstration.question, demonstration.system)
    completion_ids = policy.tokenizer.encode(demonstration.completion, add_special_tokens=False)
    if ends := [i for i in completion_ids if i in policy.stop_ids]:
        raise DataError(
            f"{demonstration.source}: a completion must not hold a token that ends it; got "
            f"{policy.decode(ends[:1])!r}. Remove it: k15 adds the end itself."
        )
    completion_ids = (*completion_ids, policy.stop_ids[0])
    example = Example(prompt_ids, completion_ids, (True,) * len(completion_ids))
    if len(example) > longest:
        raise DataError(
            f"{demonstration.source}: an example must fit a row of {longest} tokens; got {len(example)}. Raise "
            f"stages.row_tokens (the model takes {policy.max_positions}), shorten it, or set data.skip_bad_rows."
        )
    return example


def plan_steps(config: SFTConfig, examples: Sequence[Sized]) -> Plan:
    """What every optimizer step sees: examples shuffled anew in every pass, dealt by tokens.

    The shuffle is derived from the seed, so that a resumed run sees what the unbroken one would have.
    An example that is longer than a stage's rows is left to the other stages (2.5.2: 32k, then 128k).

    Raises:
        ConfigError: no example fits a stage.
    """
    stages: list[StagePlan] = []
    first_step = 0
    for number, stage in enumerate(config.stages):
        fitting = [i for i, example in enumerate(examples) if len(example) <= stage.row_tokens]
        if not fitting:
            raise ConfigError(
                f"a stage needs examples that fit its rows; none of the {len(examples)} has at most "
                f"{stage.row_tokens} tokens, the row_tokens of stage {number + 1}. Raise it, or leave the stage out."
            )
        batches: list[tuple[int, ...]] = []
        epoch = 0
        while (len(batches) < stage.num_steps) if stage.num_steps else (epoch < stage.num_epochs):
            seed = derived_seed(config.run.seed, "sft shuffle", number, epoch)
            generator = torch.Generator().manual_seed(seed)
            batches += _deal(examples, fitting, config.batch_tokens, generator)
            epoch += 1
        batches = batches[: stage.num_steps] if stage.num_steps else batches
        stages.append(StagePlan(stage, first_step, tuple(batches), len(examples) - len(fitting)))
        first_step += len(batches)
    return Plan(tuple(stages))


def _deal(
    examples: Sequence[Sized], chosen: Sequence[int], batch_tokens: int, generator: torch.Generator
) -> list[tuple[int, ...]]:
    """Batches of about `batch_tokens` tokens: one pass over the chosen examples in random order."""
    order = [chosen[i] for i in torch.randperm(len(chosen), generator=generator).tolist()]
    ends = list(accumulate(len(examples[i]) for i in order))
    batches: dict[int, list[int]] = {}
    for index, end in zip(order, ends, strict=True):
        batches.setdefault((end - 1) // batch_tokens, []).append(index)
    return [tuple(batch) for batch in batches.values()]


def train_sft(
    config: SFTConfig, policy: Policy, examples: Sequence[Example], plan: Plan, run: Run, watch: Watch
) -> int:
    """Minimise the negative log-likelihood of the completions; the number of steps done comes back."""

    def batch_of(step: int) -> tuple[Minibatch, Reference]:
        minibatch = _pack(config, plan, examples, step)
        nothing = [torch.zeros(m.num_loss_tokens) for m in minibatch.microbatches]
        return minibatch, tuple(zeros.to(policy.model.device) for zeros in nothing)

    return train_planned(config, policy, plan, run, watch, batch_of=batch_of, loss=likelihood_loss)


def train_planned(
    config: SFTConfig,
    policy: Policy,
    plan: Plan,
    run: Run,
    watch: Watch,
    *,
    batch_of: Callable[[int], tuple[Minibatch, Reference]],
    loss: Loss,
) -> int:
    """Take the steps of a plan; the number of steps done comes back.

    A stopped or killed run goes on with the step after its last checkpoint and ends with the same weights.

    Args:
        batch_of: what a step sees, and the reference of its loss tokens.
        loss: what is minimised.
    """
    if config.run.num_threads:
        torch.set_num_threads(config.run.num_threads)
    first = plan.stages[0].config.learning_rate
    settings = OptimizerSettings(
        first,
        beta2=config.beta2,
        weight_decay=config.weight_decay,
        grad_clip=config.grad_clip,
        kind=config.optimizer,
    )
    trainer = Trainer(policy.model, settings)
    state = {"policy": PolicyState(policy), "optimizer": OptimizerState(trainer)}
    done = run.restore(state)
    watch.advance(done)
    for step in range(done, plan.num_steps):
        if step % config.run.save_every == 0:
            run.save(step, state)
        started = time.monotonic()
        minibatch, reference = batch_of(step)
        rate = plan.learning_rate(step)
        result = trainer.step(minibatch, reference, loss, learning_rate=rate)
        done = step + 1
        metrics = {
            "step": step,
            "loss": result.loss,
            "learning_rate": rate,
            "grad_norm": result.grad_norm,
            "tokens": result.num_tokens,
            "entropy": result.entropy,
            "seconds/total": round(time.monotonic() - started, 4),
        }
        run.record(step, metrics)
        if result.is_skipped:
            message = f"step {step} has NaN or infinity in its gradient and was skipped"
            run.event("nonfinite_step", message, iteration=step)
            watch.line(f"warning: {message}")
        if step % max(1, plan.num_steps // 10) == 0 or done == plan.num_steps:
            watch.line(
                f"step {step:>5}  |  loss {result.loss:.3f} nats a token  |  learning rate {rate:.2e}"
            )
        watch.advance()
        if run.stop_requested:
            break
    run.save(done, state)
    return done


def _pack(config: SFTConfig, plan: Plan, examples: Sequence[Example], step: int) -> Minibatch:
    stage, at = plan.stage_of(step)
    batch = [examples[i] for i in stage.batches[at]]
    return pack_minibatch(
        batch, row_tokens=stage.config.row_tokens, microbatch_tokens=config.microbatch_tokens
    )


@dataclass(frozen=True)
class PolicyState:
    """The policy as a part of a checkpoint."""

    policy: Policy

    def save_to(self, directory: Path) -> None:
        save_policy(self.policy, directory)

    def load_from(self, directory: Path) -> None:
        load_tensors(self.policy.model, directory)


@dataclass(frozen=True)
class OptimizerState:
    """The optimizer's moments as a part of a checkpoint, in safetensors: no pickle."""

    trainer: Trainer

    def save_to(self, directory: Path) -> None:
        tensors = {
            f"{number}.{index}.{name}": value.contiguous()
            for number, optimizer in enumerate(self.trainer.optimizers)
            for index, moments in optimizer.state_dict()["state"].items()
            for name, value in moments.items()
        }
        save_file(tensors, directory / "moments.safetensors")

    def load_from(self, directory: Path) -> None:
        tensors = load_file(directory / "moments.safetensors")
        for number, optimizer in enumerate(self.trainer.optimizers):
            saved = optimizer.state_dict()
            saved["state"] = {}
            for key, value in tensors.items():
                owner, index, name = key.split(".")
                if int(owner) == number:
                    saved["state"].setdefault(int(index), {})[name] = value
            optimizer.load_state_dict(saved)

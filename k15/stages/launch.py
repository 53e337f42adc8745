"""From a config to a running stage: check the data, load the model, open the run folder, go."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from k15.cluster.local import LocalCluster
from k15.config.rl import RLConfig
from k15.config.sft import SFTConfig
from k15.errors import ConfigError, DataError, RunFolderError
from k15.models.load import Policy, load_policy
from k15.prompts.load import PromptSet, load_prompts
from k15.record.durable import as_disk_error
from k15.record.run import Run
from k15.rewards.grader import Grader
from k15.stages.card import write_run_card
from k15.stages.engines import check_engine, make_engine
from k15.stages.rl import evaluate_at_end, train_rl
from k15.stages.sft import Examples, Plan, load_examples, make_or_load_policy, plan_steps, train_sft
from k15.stages.watch import Watch
from k15.train.trainer import OptimizerSettings, Trainer
from k15.weights.save import save_policy

FINAL_MODEL = (
    "model"  # folder in the run folder: the trained model, for `from_pretrained` and the next stage
)

_MAX_NAMED = 5


@dataclass(frozen=True)
class LaunchOptions:
    """How a stage was called, apart from its settings."""

    command: tuple[str, ...] = ()
    fresh: bool = False
    allow_drift: bool = False
    dry_run: bool = False
    is_quiet: bool = False


def launch_rl(config: RLConfig, run_folder: Path, options: LaunchOptions) -> bool:
    """Run RL in a run folder, new or resumed; whether all planned iterations are done.

    Raises:
        K15Error: see `k15.errors`; nothing was started when it is a ConfigError, DataError or ModelError.
    """
    check_engine(config.engine)
    policy = load_policy(config.model)
    prompts = load_prompts(config.prompts, policy.tokenizer)
    _check_lengths(config, policy, prompts)
    grader = Grader(config.rewards, policy.tokenizer, seed=config.run.seed)
    grader.check((*prompts.train, *prompts.heldout))
    watch = Watch("iterations", config.num_iterations, quiet=options.is_quiet)
    prompts = _without_refused(grader, prompts, watch)
    watch.line(_describe(config, policy, prompts))
    if options.dry_run:
        return True
    run = _open_run(
        config,
        run_folder,
        options,
        watch,
        total=config.num_iterations,
        data={"prompts": prompts.fingerprint},
    )
    with run, run.catch_signals():
        if run.is_complete:
            watch.line(
                f"{run_folder} is complete: all {config.num_iterations} iterations are done. Nothing to do."
            )
            return True
        cluster = _cluster(config, policy)
        try:
            with watch.showing():
                weights = train_rl(config, cluster, prompts, grader, run, watch)
                if weights.version == config.num_iterations:
                    evaluate_at_end(config, cluster, weights, prompts, grader, run, watch)
                    _save_model(policy, run_folder)
            is_complete = run.finish(done=weights.version)
        finally:
            cluster.close()
            grader.close()
    _tell_end(watch, run_folder, is_complete, weights.version == config.num_iterations, options)
    return is_complete


def launch_sft(
    config: SFTConfig, run_folder: Path, options: LaunchOptions, *, data: Examples | None = None
) -> bool:
    """Run supervised fine-tuning in a run folder, new or resumed; whether all planned steps are done.

    Args:
        data: what to train on; None loads what the config names.
    """
    policy = make_or_load_policy(config)
    data = load_examples(config, policy) if data is None else data
    plan = plan_steps(config, data.examples)
    watch = Watch("steps", plan.num_steps, quiet=options.is_quiet)
    num_parameters = sum(p.numel() for p in policy.model.parameters())
    watch.line(
        f"SFT: {len(data.examples)} examples ({data.num_skipped} rows skipped), {plan.num_steps} steps, "
        f"{num_parameters / 1e6:.2f}M parameters"
    )
    for number, stage in enumerate(plan.stages, start=1):
        if stage.num_left_out:
            watch.line(
                f"stage {number} leaves out {stage.num_left_out} examples that are longer than its rows"
            )
    if options.dry_run:
        return True
    return run_steps(
        config,
        policy,
        plan,
        run_folder,
        options,
        watch,
        fingerprint=data.fingerprint,
        train=lambda run: train_sft(config, policy, data.examples, plan, run, watch),
    )


def run_steps(
    config: SFTConfig,
    policy: Policy,
    plan: Plan,
    run_folder: Path,
    options: LaunchOptions,
    watch: Watch,
    *,
    fingerprint: str,
    train: Callable[[Run], int],
) -> bool:
    """Open the run folder, `train` through the plan, save the model; whether all planned steps are done.

    Args:
        fingerprint: digest of the examples.
        train: takes the steps that are left; the number of steps done comes back.
    """
    run = _open_run(
        config, run_folder, options, watch, total=plan.num_steps, data={"examples": fingerprint}
    )
    with run, run.catch_signals():
        if run.is_complete:
            watch.line(f"{run_folder} is complete: all {plan.num_steps} steps are done. Nothing to do.")
            return True
        with watch.showing():
            done = train(run)
            if done == plan.num_steps:
                _save_model(policy, run_folder)
        is_complete = run.finish(done=done)
    _tell_end(watch, run_folder, is_complete, done == plan.num_steps, options)
    return is_complete


def _open_run(
    config: RLConfig | SFTConfig,
    run_folder: Path,
    options: LaunchOptions,
    watch: Watch,
    *,
    total: int,
    data: Mapping[str, str],
) -> Run:
    return Run.open(
        run_folder,
        config,
        command=shlex.join(options.command),
        total=total,
        data_fingerprints=data,
        fresh=options.fresh,
        allow_drift=options.allow_drift,
        keep=config.run.keep_checkpoints,
        notify=watch.line,
    )


def _cluster(config: RLConfig, policy: Policy) -> LocalCluster:
    trainer = config.trainer
    settings = OptimizerSettings(
        learning_rate=trainer.learning_rate,
        beta1=trainer.beta1,
        beta2=trainer.beta2,
        eps=trainer.eps,
        weight_decay=trainer.weight_decay,
        grad_clip=trainer.grad_clip,
    )
    torch.manual_seed(config.run.seed)
    return LocalCluster(
        policy,
        make_engine(config.engine, policy),
        Trainer(
            policy.model,
            settings,
            temperature=config.rollout.temperature,
            tau=config.algorithm.tau,
            max_nonfinite_steps=trainer.max_nonfinite_steps,
        ),
        num_threads=config.run.num_threads,
    )


def _without_refused(grader: Grader, prompts: PromptSet, watch: Watch) -> PromptSet:
    """Without the prompts whose gold answer is not even right for itself; says which, and why."""
    train, refused = grader.without_refused(prompts.train)
    heldout, also = grader.without_refused(prompts.heldout)
    refused |= also
    for prompt_id, problem in list(refused.items())[:_MAX_NAMED]:
        watch.line(f"left out: the gold answer of prompt {prompt_id} cannot be judged: {problem}")
    if len(refused) > _MAX_NAMED:
        watch.line(f"left out for such a gold answer: {len(refused)} prompts in all")
    if not train:
        raise DataError(
            f"a gold answer must be right for itself; none of {len(refused)} is. Correct answers or rules."
        )
    return replace(prompts, train=tuple(train), heldout=tuple(heldout)) if refused else prompts


def _check_lengths(config: RLConfig, policy: Policy, prompts: PromptSet) -> None:
    longest = max((*prompts.train, *prompts.heldout), key=lambda prompt: len(prompt.token_ids))
    count, max_tokens = len(longest.token_ids), config.rollout.max_tokens
    room = policy.max_positions - count
    if max_tokens <= room:
        return
    cure = f"Lower rollout.max_tokens to {room} or less, or leave long prompts out: " if room > 0 else ""
    raise ConfigError(
        f"prompt and completion must fit the model's {policy.max_positions} positions; the longest prompt "
        f"({longest.prompt_id}) has {count} tokens and rollout.max_tokens is {max_tokens}. {cure}"
        "Lower prompts.max_prompt_tokens and set prompts.skip_bad_rows."
    )


def _describe(config: RLConfig, policy: Policy, prompts: PromptSet) -> str:
    num_parameters = sum(p.numel() for p in policy.model.parameters())
    in_flight = min(config.rollout.prompts_in_flight, len(prompts.train))
    return (
        f"RL: {num_parameters / 1e6:.2f}M parameters, {len(prompts.train)} prompts ({prompts.num_skipped} rows "
        f"skipped), {len(prompts.heldout)} held out, {config.num_iterations} iterations of {in_flight} groups x "
        f"{config.rollout.group_size} in flight, {config.algorithm.loss} with tau {config.algorithm.tau:g}"
    )


def _save_model(policy: Policy, run_folder: Path) -> None:
    try:
        save_policy(policy, run_folder / FINAL_MODEL)
        write_run_card(run_folder, run_folder / FINAL_MODEL)
    except Exception as error:
        disk_error = as_disk_error(error)
        if disk_error is None:
            raise
        raise RunFolderError(
            f"the trained model could not be written to {run_folder / FINAL_MODEL} ({disk_error.strerror}). "
            "Free some space and call the same command again: the run goes on from its last checkpoint."
        ) from error


def _tell_end(
    watch: Watch, run_folder: Path, is_complete: bool, is_all_done: bool, options: LaunchOptions
) -> None:
    again = shlex.join(options.command) or "the same command"
    if is_complete:
        watch.line(
            f"done: the model is in {run_folder / FINAL_MODEL}; k15 report {run_folder} shows the run"
        )
    elif is_all_done:
        raise RunFolderError(
            f"the disk refused the last checkpoint of {run_folder}. Free some space and call again, the run goes "
            f"on from the checkpoint before: {again}"
        )
    else:
        watch.line(f"stopped before the end; everything is saved in {run_folder}. To go on: {again}")

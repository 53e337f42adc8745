"""Reinforcement learning: online policy mirror descent with partial rollouts (sections 2.3, 2.6.2)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from k15.algo.advantage import drop_negatives, make_advantage
from k15.algo.derive import derived_seed
from k15.algo.length import length_reward
from k15.algo.policy import make_loss
from k15.cluster.local import LocalCluster
from k15.config.rl import RLConfig
from k15.engine.base import Engine
from k15.eval.heldout import evaluate
from k15.models.load import Policy
from k15.prompts.load import PromptSet
from k15.prompts.sampler import PromptSampler
from k15.record.run import Run, Saveable
from k15.rewards.grader import Grader
from k15.rollout.buffer import RolloutBuffer
from k15.stages.iteration import IterationLog, Outcomes, describe
from k15.stages.scores import Scores
from k15.stages.toggle import Toggle
from k15.stages.watch import Watch
from k15.train.batch import engine_gap, examples_of, pack
from k15.types import RepetitionRule, SamplingParams, Weights


def train_rl(
    config: RLConfig, cluster: LocalCluster, prompts: PromptSet, grader: Grader, run: Run, watch: Watch
) -> Weights:
    """Train the policy by online policy mirror descent (Kimi k1.5, section 2.3); the last weights come back.

    Everything random is derived from `config.run.seed`: a run that is stopped or killed and called
    again ends with the same weights, bit for bit (CPU, fp32).
    """
    sampler = PromptSampler(config.sampling, prompts.train, config.run.seed)
    buffer = RolloutBuffer(config.rollout.group_size, run.path / "journal", config.run.fsync_seconds)
    sampling = sampling_params(config, cluster.policy)
    advantage_of, policy_loss = make_advantage(config.algorithm), make_loss(config.algorithm)
    toggle = Toggle(config.toggle)
    state = {"policy": cluster, "sampler": sampler, "buffer": buffer, **toggle.state}
    done = resume(run, state, buffer, watch)
    weights = cluster.publish_weights(done)

    for iteration in range(done, config.num_iterations):
        if run.stop_requested:
            break
        log = IterationLog(iteration)
        if iteration % config.run.save_every == 0:  # the optimizer restarts below,
            with log.phase("save"):  # so this is the whole state
                save(run, iteration, state, buffer)

        with cluster.inference(weights) as engine, log.phase("rollout"):  # rollout phase (2.6.3)
            evaluate_if_due(config, iteration, engine, prompts, grader, sampling, log, watch)
            free = config.rollout.prompts_in_flight - len(buffer)
            buffer.open(sampler.draw(free, iteration, skip=buffer.prompt_ids), iteration)
            segments = engine.extend(buffer.unfinished(weights), sampling)
            for segment in watch.follow(segments, "rollout", buffer.num_unfinished, unit="segments"):
                buffer.append(segment)  # one segment each (2.6.2)
                if run.stop_requested:
                    break
            buffer.sync()
            log.rolled_out(engine.stats, buffer)
            log.warnings += [("engine", notice) for notice in engine.take_notices()]
        if run.stop_requested:
            break

        groups = buffer.take_finished()  # G groups of k trajectories
        if not groups:
            weights, done = replace(weights, version=iteration + 1), iteration + 1
            conclude(log, run, watch, weights, sampler, 0.0)
            continue
        with log.phase("grade"):
            verdicts = grader.grade(groups)
        scores = Scores.of(groups, verdicts)  # correct is r of Eq. 1, [G, k]
        sampler.observe(*scores.visits(groups), iteration)  # success rates s_i (2.3.4)
        length_weight = config.length_penalty.weight_at(iteration)  # zero, then constant (2.3.3)
        length_rewards = length_reward(scores.lengths, scores.correct, scores.valid)
        repetition = config.rollout.repetition.penalty * scores.repeated
        earned = toggle.rewards(groups, scores, iteration)  # scores.correct without Toggle
        rewards = earned + length_weight * length_rewards - repetition
        advantages = advantage_of(  # r - r_bar, Eq. 3
            rewards, scores.valid, lengths=scores.lengths, correct=scores.correct
        )
        kept = scores.valid & drop_negatives(
            advantages, config.algorithm.negative_drop, seed=config.run.seed, ordinals=scores.ordinals
        )

        with cluster.training() as trainer, log.phase("train"):  # training phase
            max_staleness = config.rollout.max_staleness
            examples = examples_of(
                groups, advantages, kept, iteration=iteration, max_staleness=max_staleness
            )
            shuffle = derived_seed(config.run.seed, "shuffle", iteration)
            minibatches = pack(examples, config.trainer, seed=shuffle)
            references = [
                trainer.logprobs(minibatch) for minibatch in minibatches
            ]  # log pi_theta_i, Eq. 2
            if config.trainer.reset_optimizer:
                trainer.reset_optimizer()  # new reference (2.3.2)
            pairs = list(zip(minibatches, references, strict=True)) * config.trainer.num_epochs
            updates = [
                trainer.step(minibatch, reference, policy_loss)
                for minibatch, reference in watch.follow(pairs, "train", len(pairs), unit="steps")
            ]
            weights, done = cluster.publish_weights(iteration + 1), iteration + 1

        outcome = Outcomes(groups, verdicts, scores, rewards, length_rewards, advantages)
        log.trained(
            outcome, examples, updates, engine_gap(minibatches, references), cluster.policy.decode
        )
        conclude(log, run, watch, weights, sampler, length_weight)

    save(run, done, state, buffer)
    return weights


def sampling_params(config: RLConfig, policy: Policy) -> SamplingParams:
    """How completions are sampled for training."""
    rollout, rule = config.rollout, config.rollout.repetition
    return SamplingParams(
        seed=config.run.seed,
        max_tokens=rollout.max_tokens,
        segment_tokens=rollout.segment_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        stop_ids=policy.stop_ids,
        banned_ids=policy.banned_ids,
        repetition=RepetitionRule(rule.max_period, rule.min_repeats, rule.min_tokens)
        if rule.enabled
        else None,
    )


def resume(run: Run, state: Mapping[str, Saveable], buffer: RolloutBuffer, watch: Watch) -> int:
    """Load the newest valid checkpoint and the segments written since; the iteration to go on with."""
    done = run.restore(state)
    found = buffer.recover(done)
    watch.advance(done)
    if done or found:
        watch.line(
            f"resuming at iteration {done}, with {len(buffer)} open groups and {found} segments of the journal"
        )
    return done


def save(run: Run, iteration: int, state: Mapping[str, Saveable], buffer: RolloutBuffer) -> None:
    """Commit a checkpoint; from here on segments go to its own journal. A full disk is recorded, not fatal."""
    if run.save(iteration, state):
        try:
            buffer.start_journal(iteration)
            buffer.forget_before(run.oldest_checkpoint)
        except OSError as error:
            message = f"no journal until the next checkpoint: {error.strerror}; free some space"
            run.event("journal_failed", message, iteration=iteration)


def evaluate_if_due(
    config: RLConfig,
    iteration: int,
    engine: Engine,
    prompts: PromptSet,
    grader: Grader,
    sampling: SamplingParams,
    log: IterationLog,
    watch: Watch,
) -> None:
    """Held-out accuracy of the weights that the engine holds, every `evaluation.every` iterations and at the end."""
    settings, last = config.evaluation, iteration == config.num_iterations
    if not settings.every or not prompts.heldout or not (last or iteration % settings.every == 0):
        return
    if iteration == 0 and not settings.at_start:
        return
    chosen = prompts.heldout[: settings.num_prompts]
    own = replace(
        sampling,
        seed=derived_seed(config.run.seed, "evaluation"),
        temperature=settings.temperature,
        top_p=1.0,
        top_k=0,
    )
    total = len(chosen) * settings.num_samples
    with log.phase("eval"):
        evaluation = evaluate(
            engine,
            chosen,
            grader,
            own,
            num_samples=settings.num_samples,
            watch=lambda stream: watch.follow(stream, "evaluate", total, unit="completions"),
        )
    log.metrics |= evaluation.metrics()


def evaluate_at_end(
    config: RLConfig,
    cluster: LocalCluster,
    weights: Weights,
    prompts: PromptSet,
    grader: Grader,
    run: Run,
    watch: Watch,
) -> dict[str, float]:
    """Held-out accuracy of the last weights, recorded as one more metrics line; its metrics come back."""
    log = IterationLog(config.num_iterations)
    with cluster.inference(weights) as engine:
        sampling = sampling_params(config, cluster.policy)
        evaluate_if_due(config, config.num_iterations, engine, prompts, grader, sampling, log, watch)
    if log.metrics:
        line = run.record(
            config.num_iterations,
            {"iteration": config.num_iterations, "time": time.time(), **log.metrics},
            [],
        )
        watch.line(describe(line))
    return log.metrics


def conclude(
    log: IterationLog,
    run: Run,
    watch: Watch,
    weights: Weights,
    sampler: PromptSampler,
    length_weight: float,
) -> None:
    """Record the iteration, and tell."""
    metrics = log.finish(weights, sampler, length_weight)
    line = run.record(log.iteration, metrics, log.rows)
    for kind, message in log.warnings:
        run.event(kind, message, iteration=log.iteration)
        watch.line(f"warning: {message}")
    watch.line(describe(line))
    watch.advance()

"""The RL loop: order of steps, what carries loss, partial rollouts, and what is recorded (rows 22-39, 53-65)."""

import errno
import math
import os
import signal
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from stages_support import (
    END,
    PROMPTS,
    VOCAB,
    completion_of,
    length_of,
    mixed,
    play,
    rl_config,
)

from k15.prompts.load import PromptSet
from k15.stages import rl
from k15.testing.scripted import ScriptedEngine
from k15.train.batch import pack
from k15.types import Outcome, StopReason, Work


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """A run of partial rollouts: completions of 1 to 23 tokens, 8 an iteration."""
    return play(rl_config(12), tmp_path_factory.mktemp("partial") / "run")


def by_trajectory(rows):
    return {(row["ordinal"], row["sample_index"]): row for row in rows}


# -- order ---------------------------------------------------------------------------------------


def test_the_steps_of_an_iteration_come_in_the_papers_order(tmp_path):
    calls = []

    def logged(owner, name):
        method = getattr(owner, name)

        def call(*args, **kwargs):
            calls.append(name)
            return method(*args, **kwargs)

        setattr(owner, name, call)

    def prepare(cluster, grader, run):
        logged(cluster._engine, "load_weights")
        logged(cluster._engine, "extend")
        logged(grader, "grade")
        for name in ("logprobs", "reset_optimizer", "step", "publish_weights"):
            logged(cluster._trainer, name)
        logged(run, "record")

    config = rl_config(
        2, trainer={"num_minibatches": 2, "num_epochs": 2}, rollout={"segment_tokens": 32}
    )
    play(config, tmp_path / "run", prepare=prepare)
    rollout = ["load_weights", "extend", "grade"]
    # the reference before any step, then fresh moments, then two passes over two minibatches
    training = ["logprobs", "logprobs", "reset_optimizer", *["step"] * 4, "publish_weights", "record"]
    assert calls == ["publish_weights", *rollout, *training, *rollout, *training]


def test_the_reference_is_that_of_this_iterations_weights_in_every_step(tmp_path):
    """Eq. 2: one reference an iteration; the second pass is held against the same one."""
    seen = defaultdict(list)

    def prepare(cluster, grader, run):
        step, weights = cluster._trainer.step, cluster._trainer.logprobs

        def spy_step(minibatch, reference, loss):
            seen["references"].append(reference)
            return step(minibatch, reference, loss)

        def spy_logprobs(minibatch):
            seen["at"].append(len(seen["references"]))
            return weights(minibatch)

        cluster._trainer.step, cluster._trainer.logprobs = spy_step, spy_logprobs

    config = rl_config(
        1, trainer={"num_minibatches": 1, "num_epochs": 3}, rollout={"segment_tokens": 32}
    )
    played = play(config, tmp_path / "run", prepare=prepare)
    assert seen["at"] == [0]
    assert len(seen["references"]) == 3
    assert len({id(reference) for reference in seen["references"]}) == 1
    assert played.metrics[0]["update/num_steps"] == 3
    assert (
        played.metrics[0]["update/force_ratio"] > 0
    )  # by the last step the policy has left its reference


def test_the_optimizer_is_kept_when_it_is_not_reset(tmp_path):
    ends = {}
    for reset in (True, False):
        config = rl_config(3, trainer={"reset_optimizer": reset}, rollout={"segment_tokens": 32})
        ends[reset] = play(config, tmp_path / str(reset)).weights.fingerprint
    assert ends[True] != ends[False]


def test_the_engine_samples_from_the_weights_of_its_iteration(partial):
    assert [m["weights/version"] for m in partial.metrics] == list(range(1, 13))
    changed = [m["weights/fingerprint"] for m in partial.metrics]
    trained = ["update/loss" in m for m in partial.metrics]
    for before, after, is_trained in zip(
        [partial.first_fingerprint, *changed], changed, trained, strict=False
    ):
        assert (before != after) == is_trained
    assert partial.weights.fingerprint == changed[-1]
    assert partial.engine.fingerprint == changed[-2], "what the last iteration sampled from"


# -- partial rollouts ----------------------------------------------------------------------------


def test_no_trajectory_gains_more_than_a_segment_in_an_iteration(partial):
    assert partial.rows
    for row in partial.rows:
        assert all(1 <= s["num_tokens"] <= 8 for s in row["segments"])
        versions = [s["policy_version"] for s in row["segments"]]
        assert all(later > earlier for earlier, later in pairwise(versions))
        assert len(row["segments"]) == math.ceil(row["length"] / 8)
    assert max(len(row["segments"]) for row in partial.rows) == 3


def test_the_segments_joined_are_the_completion(partial):
    for row in partial.rows:
        ends = [s["start"] + s["num_tokens"] for s in row["segments"]]
        assert [s["start"] for s in row["segments"]] == [0, *ends[:-1]]
        assert ends[-1] == row["length"] == len(row["token_ids"]) == len(row["logprobs"])
        assert [s["stop"] for s in row["segments"]] == [None] * (len(ends) - 1) + ["end"]
        assert row["stop"] == "end"


def test_the_recorded_tokens_are_those_the_engine_sampled(partial):
    for (ordinal, index), row in by_trajectory(partial.rows).items():
        assert row["token_ids"] == completion_of(Work(ordinal, index, ()))
        assert row["completion"] == partial.policy.decode(row["token_ids"])


def test_a_group_leaves_once_with_its_last_trajectory(partial):
    groups = defaultdict(list)
    for row in partial.rows:
        groups[row["ordinal"]].append(row)
    assert len(groups) > 8
    for members in groups.values():
        assert [row["sample_index"] for row in members] == [0, 1, 2, 3]
        assert len({row["prompt_id"] for row in members}) == 1
        [iteration] = {row["iteration"] for row in members}
        assert iteration == max(row["segments"][-1]["policy_version"] for row in members)
    assert Counter(g.ordinal for g in partial.grader.received) == Counter(groups.keys())


def test_no_prompt_is_in_flight_twice_and_no_more_than_planned(partial):
    for received, line in zip(partial.engine.received, partial.metrics, strict=True):
        groups = {work.ordinal: work.prompt_token_ids for work in received}
        assert 1 <= len(groups) <= 3
        assert len(set(groups.values())) == len(groups)
        assert line["rollout/in_flight_groups"] == 3


def test_what_is_unfinished_goes_first(partial):
    for received in partial.engine.received:
        ordinals = [work.ordinal for work in received]
        assert ordinals == sorted(ordinals)
        resumed = [bool(work.token_ids) for work in received]
        newest = max(ordinals)
        assert not any(
            was for was, at in zip(resumed, ordinals, strict=True) if at == newest and not resumed[-1]
        )


def test_segments_as_long_as_completions_are_plain_rollouts(tmp_path):
    played = play(rl_config(4, rollout={"segment_tokens": 32}), tmp_path / "run")
    assert all(len(row["segments"]) == 1 for row in played.rows)
    assert [m["train/num_groups"] for m in played.metrics] == [3] * 4
    assert {m["rollout/max_staleness"] for m in played.metrics} == {0}


def test_a_completion_that_never_ends_is_cut_at_the_cap(tmp_path):
    played = play(rl_config(5), tmp_path / "run", script=lambda work: [40 + work.sample_index] * 99)
    assert played.rows
    assert {(row["length"], row["stop"], len(row["segments"])) for row in played.rows} == {
        (32, "length", 4)
    }
    assert played.metrics[3]["train/share_length"] == 1.0


def test_an_empty_reply_is_an_end_token_alone(tmp_path):
    played = play(rl_config(2), tmp_path / "run", script=lambda work: [END])
    assert {tuple(row["token_ids"]) for row in played.rows} == {(END,)}
    assert all(m["update/num_steps"] for m in played.metrics)


def test_fewer_prompts_than_places_is_no_trouble(tmp_path):
    prompts = PromptSet(PROMPTS[:1], ())
    played = play(rl_config(4, rollout={"prompts_in_flight": 5}), tmp_path / "run", prompts=prompts)
    assert {m["rollout/in_flight_groups"] for m in played.metrics} == {1}
    assert {row["prompt_id"] for row in played.rows} == {"p0"}


# -- iterations without a finished group ---------------------------------------------------------


def test_an_iteration_without_a_finished_group_trains_nothing_and_is_recorded(tmp_path):
    config = rl_config(7, rollout={"segment_tokens": 4})
    played = play(config, tmp_path / "run", script=lambda work: [50] * (11 + work.sample_index) + [END])
    is_empty = ["train/num_groups" not in m for m in played.metrics]
    assert is_empty == [True, True, True, False, True, True, True]
    fingerprints = [played.first_fingerprint, *[m["weights/fingerprint"] for m in played.metrics]]
    assert [a == b for a, b in pairwise(fingerprints)] == is_empty
    assert [m["iteration"] for m in played.metrics] == list(range(7))
    assert [m["rollout/num_resumed"] for m in played.metrics] == [0, 12, 12, 9, 0, 12, 12]
    assert sorted(p.name for p in (played.folder / "rollouts").iterdir()) == ["000003.jsonl"]
    assert {s["policy_version"] for row in played.rows for s in row["segments"]} == {0, 1, 2, 3}


def test_a_run_in_which_no_group_ever_finishes_ends_as_it_began(tmp_path):
    played = play(rl_config(3), tmp_path / "run", script=lambda work: [50] * 99)
    assert played.weights.fingerprint == played.first_fingerprint
    assert played.rows == []
    assert [m["rollout/unfinished_trajectories"] for m in played.metrics] == [12, 12, 12]
    assert played.events[-1]["kind"] == "finished"


# -- rewards -------------------------------------------------------------------------------------


def test_advantages_are_the_reward_minus_the_groups_mean(partial):
    groups = defaultdict(list)
    for row in partial.rows:
        groups[row["ordinal"]].append(row)
    for members in groups.values():
        mean = sum(row["correct"] for row in members) / 4
        assert [row["advantage"] for row in members] == pytest.approx(
            [r["correct"] - mean for r in members]
        )
        assert all(row["reward"] == row["correct"] for row in members)


def length_rewards_by_hand(members):
    lengths = [row["length"] for row in members]
    low, high = min(lengths), max(lengths)
    if low == high:
        return [0.0] * len(members)
    terms = [0.5 - (length - low) / (high - low) for length in lengths]
    return [t if row["correct"] else min(0.0, t) for t, row in zip(terms, members, strict=True)]


def test_the_length_reward_switches_on_at_its_iteration(tmp_path):
    config = rl_config(10, length_penalty={"weight": 0.5, "start_iteration": 5})
    played = play(config, tmp_path / "run")
    groups = defaultdict(list)
    for row in played.rows:
        groups[row["ordinal"]].append(row)
    seen = set()
    for members in groups.values():
        weight = 0.5 if members[0]["iteration"] >= 5 else 0.0
        terms = length_rewards_by_hand(members)
        expected = [row["correct"] + weight * t for row, t in zip(members, terms, strict=True)]
        assert [row["reward"] for row in members] == pytest.approx(expected)
        mean = sum(expected) / 4
        assert [row["advantage"] for row in members] == pytest.approx(
            [e - mean for e in expected], abs=1e-6
        )
        seen.add(weight)
    assert seen == {0.0, 0.5}
    trained = [m for m in played.metrics if "train/num_groups" in m]
    assert [m["length_weight"] for m in trained] == [
        0.5 if m["iteration"] >= 5 else 0.0 for m in trained
    ]


def test_faults_are_left_out_of_mean_and_loss(tmp_path):
    def judge(group, trajectory):
        return Outcome.FAULT if trajectory.sample_index == 2 else mixed(group, trajectory)

    played = play(rl_config(4, rollout={"segment_tokens": 32}), tmp_path / "run", judge=judge)
    groups = defaultdict(list)
    for row in played.rows:
        groups[row["ordinal"]].append(row)
    for members in groups.values():
        valid = [row for row in members if row["sample_index"] != 2]
        mean = sum(row["correct"] for row in valid) / 3
        assert [r["advantage"] for r in valid] == pytest.approx([r["correct"] - mean for r in valid])
        assert (members[2]["outcome"], members[2]["advantage"], members[2]["trained_tokens"]) == (
            "fault",
            0,
            0,
        )
        assert all(row["trained_tokens"] == row["length"] for row in valid)
    assert [m["train/num_faults"] for m in played.metrics] == [3] * 4
    assert "faults" in [event["kind"] for event in played.events]

    def other_tokens(work):
        return [99] * 5 + [END] if work.sample_index == 2 else completion_of(work)

    other = play(
        rl_config(4, rollout={"segment_tokens": 32}),
        tmp_path / "other",
        script=other_tokens,
        judge=judge,
    )
    assert other.weights.fingerprint == played.weights.fingerprint, "what a fault wrote must not matter"


def test_an_iteration_of_faults_alone_changes_no_weight(tmp_path):
    played = play(rl_config(2), tmp_path / "run", judge=lambda group, trajectory: Outcome.FAULT)
    assert played.rows
    assert played.weights.fingerprint == played.first_fingerprint
    assert {m["sampler/mean_success_rate"] for m in played.metrics} == {0.0}
    assert all("train/accuracy" not in m for m in played.metrics)


def test_the_sampler_learns_the_share_of_right_answers(tmp_path):
    config = rl_config(2, rollout={"segment_tokens": 32, "prompts_in_flight": 8})
    played = play(config, tmp_path / "run")
    groups = defaultdict(list)
    for row in played.rows:
        groups[row["prompt_id"]].append(row["correct"])
    rates = []
    for corrects in groups.values():  # both visits: s <- 0.5 s + 0.5 share from the second on
        first, second = sum(corrects[:4]) / 4, sum(corrects[4:]) / 4
        rates.append((first + second) / 2)
    assert played.metrics[-1]["sampler/mean_success_rate"] == pytest.approx(sum(rates) / 8)
    assert sum(played.metrics[-1]["sampler/histogram"]) == 8


def test_dropped_negatives_carry_no_loss(tmp_path):
    config = rl_config(3, algorithm={"negative_drop": 1.0}, rollout={"segment_tokens": 32})
    played = play(config, tmp_path / "run")
    for row in played.rows:
        assert row["trained_tokens"] == (row["length"] if row["advantage"] >= 0 else 0)
    assert any(row["advantage"] < 0 for row in played.rows)


def test_the_repetition_penalty_meets_those_that_were_stopped_for_it(tmp_path):
    class RepeatingEngine(ScriptedEngine):
        def _segment(self, item, sampling, weights):
            segment = super()._segment(item, sampling, weights)
            stopped = segment.stop is not None and item.sample_index == 1
            return replace(segment, stop=StopReason.REPEAT) if stopped else segment

    config = rl_config(2, rollout={"segment_tokens": 32, "repetition": {"penalty": 0.25}})
    played = play(config, tmp_path / "run", engine=RepeatingEngine(completion_of))
    for row in played.rows:
        assert row["reward"] == row["correct"] - (0.25 if row["sample_index"] == 1 else 0.0)
    assert played.metrics[0]["train/share_repeat"] == 0.25


# -- staleness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_stale_segments_carry_no_loss(tmp_path, max_staleness):
    config = rl_config(12, rollout={"max_staleness": max_staleness})
    played = play(config, tmp_path / "run")
    stale = 0
    for row in played.rows:
        ages = [(row["iteration"] - s["policy_version"], s["num_tokens"]) for s in row["segments"]]
        assert row["trained_tokens"] == sum(count for age, count in ages if age <= max_staleness)
        stale += sum(count for age, count in ages if age > max_staleness)
    assert stale > 0
    for line in played.metrics:
        rows = [row for row in played.rows if row["iteration"] == line["iteration"]]
        if rows:
            share = 1 - sum(r["trained_tokens"] for r in rows) / sum(r["length"] for r in rows)
            assert line["rollout/masked_token_share"] == pytest.approx(share)
            assert line["update/tokens"] == sum(r["trained_tokens"] for r in rows)


def test_by_default_every_token_carries_loss(partial):
    assert all(row["trained_tokens"] == row["length"] for row in partial.rows)
    assert max(m.get("rollout/max_staleness", 0) for m in partial.metrics) >= 1


def test_masked_tokens_do_not_move_the_policy(tmp_path):
    """With max_staleness 0 an iteration whose finished groups have old segments only trains on nothing of them."""
    config = rl_config(3, rollout={"max_staleness": 0, "segment_tokens": 20, "prompts_in_flight": 1})

    def script(work):  # sample 3 ends an iteration after the others
        return [60 + work.sample_index] * (25 if work.sample_index == 3 else 9) + [END]

    seen = []

    def spy(examples, settings, *, seed):
        seen.append({e.sample_index: sum(e.loss_mask) for e in examples})
        return pack(examples, settings, seed=seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("k15.stages.rl.pack", spy)
        play(config, tmp_path / "run", script=script)
    assert seen == [{0: 0, 1: 0, 2: 0, 3: 6}]


# -- what is told ----------------------------------------------------------------------------------


def test_warnings_become_events(tmp_path):
    played = play(
        rl_config(2, rollout={"segment_tokens": 32}),
        tmp_path / "run",
        judge=lambda group, trajectory: Outcome.NO_ANSWER,
    )
    kinds = Counter(event["kind"] for event in played.events)
    assert kinds["no_answers"] == 2
    assert (
        kinds["engine_gap"] == 2
    )  # the script claims -1 nat a token, the tiny model knows some 300 tokens
    gap = played.metrics[0]["update/engine_gap_mean"]
    assert gap == pytest.approx(math.log(played.policy.vocab_size) - 1, abs=0.2)


def test_what_the_engine_has_to_say_becomes_an_event(tmp_path):
    class TalkingEngine(ScriptedEngine):
        def take_notices(self):
            return ("worker 1 was started again",) if len(self.received) == 2 else ()

    played = play(rl_config(3), tmp_path / "run", engine=TalkingEngine(completion_of))
    [event] = [event for event in played.events if event["kind"] == "engine"]
    assert (event["iteration"], event["message"]) == (1, "worker 1 was started again")


def test_an_engine_that_agrees_with_the_trainer_is_not_warned_about(tmp_path):
    """The witness of the warning above: the log-probabilities of a model that knows nothing."""

    def prepare(cluster, grader, run):
        with torch.no_grad():
            for parameter in cluster.policy.model.parameters():
                parameter.zero_()

    flat = -math.log(VOCAB)
    config = rl_config(1, rollout={"segment_tokens": 32})
    played = play(
        config, tmp_path / "run", engine=ScriptedEngine(completion_of, logprob=flat), prepare=prepare
    )
    assert played.policy.vocab_size == VOCAB
    assert played.metrics[0]["update/engine_gap_max"] < 1e-5
    assert "engine_gap" not in [event["kind"] for event in played.events]


def test_nan_steps_are_skipped_recorded_and_change_nothing(tmp_path, monkeypatch):
    make_loss = rl.make_loss

    def poisoned(config):
        loss = make_loss(config)

        def call(*args, **kwargs):
            terms = loss(*args, **kwargs)
            return replace(terms, loss=terms.loss * math.inf * 0.0)

        return call

    monkeypatch.setattr(rl, "make_loss", poisoned)
    played = play(rl_config(1, rollout={"segment_tokens": 32}), tmp_path / "run")
    assert played.weights.fingerprint == played.first_fingerprint
    assert played.metrics[0]["update/num_skipped_steps"] == 2
    assert "nonfinite_step" in [event["kind"] for event in played.events]


def test_a_disk_that_refuses_the_journal_does_not_stop_the_run(tmp_path, monkeypatch):
    expected = play(rl_config(6, run={"save_every": 2}), tmp_path / "unbroken")

    def refuse(self, iteration):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("k15.rollout.buffer.RolloutBuffer.start_journal", refuse)
    played = play(rl_config(6, run={"save_every": 2}), tmp_path / "run")
    assert played.weights.fingerprint == expected.weights.fingerprint
    refused = [event for event in played.events if event["kind"] == "journal_failed"]
    assert [event["iteration"] for event in refused] == [0, 2, 4, 6]
    assert "No space left" in refused[0]["message"]


# -- stopping --------------------------------------------------------------------------------------


def test_a_stop_while_training_ends_the_run_after_that_iteration(tmp_path):
    def prepare(cluster, grader, run):
        step = cluster._trainer.step

        def stop(*args):
            if len(cluster._engine.received) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*args)

        cluster._trainer.step = stop

    config = rl_config(9, rollout={"segment_tokens": 32})
    played = play(config, tmp_path / "run", prepare=prepare)
    assert (played.weights.version, len(played.metrics), len(played.engine.received)) == (3, 3, 3)
    assert played.events[-1]["kind"] == "stop_requested"
    resumed = play(config, tmp_path / "run")
    assert len(resumed.engine.received) == 6
    assert resumed.weights.fingerprint == play(config, tmp_path / "unbroken").weights.fingerprint


def test_a_stop_while_sampling_keeps_the_segments_that_are_there(tmp_path):
    class StoppingEngine(ScriptedEngine):
        def extend(self, work, sampling):
            for number, segment in enumerate(super().extend(work, sampling)):
                if len(self.received) == 2 and number == 3:
                    os.kill(os.getpid(), signal.SIGINT)
                yield segment

    config = rl_config(5, rollout={"segment_tokens": 32})
    played = play(config, tmp_path / "run", engine=StoppingEngine(completion_of))
    assert len(played.metrics) == 1
    resumed = play(config, tmp_path / "run")
    assert len(resumed.engine.received[0]) == 12 - 4, "four of twelve were sampled before the stop"
    assert resumed.weights.fingerprint == play(config, tmp_path / "unbroken").weights.fingerprint
    assert Counter(row["ordinal"] for row in resumed.rows) == Counter(dict.fromkeys(range(15), 4))


def test_lengths_of_the_script_vary():
    """The witness of the tests of partial rollouts: some completions need one segment, some three."""
    lengths = [length_of(Work(ordinal, index, ())) for ordinal in range(12) for index in range(4)]
    assert min(lengths) <= 8 < 16 < max(lengths)

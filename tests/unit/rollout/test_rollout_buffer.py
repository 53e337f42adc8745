"""The rollout buffer against a small model of it (rows 53, 54, 56-60; REL-13, REL-14)."""

import json
import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from k15.errors import RolloutBufferError
from k15.rollout.buffer import RolloutBuffer
from k15.types import Prompt, Segment, StopReason, Weights

K = 3


def prompt(index):
    return Prompt(f"p{index}", "q", "a", "math", "f", float(index % 3), token_ids=(1, 2, index % 7))


def segment(ordinal, sample, start, count, version, stop=None, fingerprint="w"):
    logprobs = tuple(-0.1 * (i + 1) for i in range(count))
    ids = tuple(range(start, start + count))
    return Segment(ordinal, sample, start, ids, logprobs, version, f"{fingerprint}{version}", stop)


def weights(version, fingerprint="w"):
    return Weights(version, f"{fingerprint}{version}", {})


def test_work_is_what_has_not_stopped_oldest_group_first():
    buffer = RolloutBuffer(K)
    buffer.open([(0, prompt(0)), (1, prompt(1))], 0)
    buffer.append(segment(0, 1, 0, 2, 0, StopReason.END))
    buffer.append(segment(1, 0, 0, 4, 0))
    work = list(buffer.unfinished(weights(1)))
    assert [(w.ordinal, w.sample_index) for w in work] == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert work[2].token_ids == (0, 1, 2, 3)
    assert work[2].prompt_token_ids == prompt(1).token_ids


def test_a_group_leaves_once_and_only_when_all_have_stopped():
    buffer = RolloutBuffer(K)
    buffer.open([(0, prompt(0)), (1, prompt(1))], 0)
    for sample in range(K - 1):
        buffer.append(segment(0, sample, 0, 1, 0, StopReason.END))
    assert buffer.take_finished() == []
    buffer.append(segment(0, K - 1, 0, 5, 0, StopReason.LENGTH))
    assert [g.ordinal for g in buffer.take_finished()] == [0]
    assert buffer.take_finished() == []
    assert len(buffer) == 1
    assert buffer.prompt_ids == {"p1"}


def test_a_trajectory_gains_one_segment_an_iteration():
    buffer = RolloutBuffer(K)
    buffer.open([(0, prompt(0))], 0)
    buffer.append(segment(0, 0, 0, 2, version=5))
    assert [w.sample_index for w in buffer.unfinished(weights(5))] == [1, 2]
    assert [w.sample_index for w in buffer.unfinished(weights(6))] == [0, 1, 2]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (segment(9, 0, 0, 1, 0), "open trajectory"),
        (segment(0, K, 0, 1, 0), "open trajectory"),
        (segment(0, 0, 1, 1, 0), "at its end"),
        (segment(0, 1, 2, 1, 0), "at its end"),
        (segment(0, 2, 0, 0, 0), "at least one token"),
    ],
)
def test_a_segment_that_does_not_fit_is_refused(bad, message):
    buffer = RolloutBuffer(K)
    buffer.open([(0, prompt(0))], 0)
    buffer.append(segment(0, 1, 0, 2, 0, StopReason.END))
    with pytest.raises(RolloutBufferError, match=message):
        buffer.append(bad)


def test_ordinals_increase_and_prompts_are_rendered():
    buffer = RolloutBuffer(K)
    buffer.open([(4, prompt(0))], 0)
    with pytest.raises(RolloutBufferError, match="increasing"):
        buffer.open([(4, prompt(1))], 0)
    with pytest.raises(RolloutBufferError, match="render"):
        buffer.open([(5, Prompt("x", "q", "a", "math", "f"))], 0)


def test_another_group_size_is_refused_when_loading(tmp_path):
    buffer = RolloutBuffer(K)
    buffer.open([(0, prompt(0))], 0)
    buffer.save_to(tmp_path)
    with pytest.raises(RolloutBufferError, match="group_size must be 3"):
        RolloutBuffer(K + 1).load_from(tmp_path)


def test_journal_segments_of_the_same_weights_are_not_sampled_again(tmp_path):
    buffer = RolloutBuffer(K, tmp_path / "journal")
    buffer.open([(0, prompt(0)), (1, prompt(1))], 0)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    buffer.save_to(checkpoint)
    kept, foreign = segment(0, 1, 0, 3, 0), segment(1, 2, 0, 3, 0, fingerprint="other")
    buffer.append(kept)
    buffer.append(foreign)
    buffer.close()

    again = RolloutBuffer(K, tmp_path / "journal")
    again.load_from(checkpoint)
    assert again.recover(0) == 2
    work = [(w.ordinal, w.sample_index) for w in again.unfinished(weights(0))]
    assert (0, 1) not in work
    assert (1, 2) in work
    assert again.num_recovered == 1
    for ordinal, sample in work:
        again.append(segment(ordinal, sample, 0, 1, 0, StopReason.END))
    again.append(segment(0, 1, 3, 1, 1, StopReason.END))
    first, second = again.take_finished()
    assert first.trajectories[1].segments[0] == kept
    assert second.trajectories[2].segments[0].fingerprint == "w0"


def test_old_journals_go_when_no_checkpoint_needs_them(tmp_path):
    buffer = RolloutBuffer(K, tmp_path)
    for iteration in (10, 20, 30):
        buffer.start_journal(iteration)
    buffer.forget_before(20)
    assert sorted(int(p.stem) for p in tmp_path.glob("*.journal")) == [20, 30]


class BufferMachine(RuleBasedStateMachine):
    """Random lives of a buffer with kills and checkpoints, beside a dictionary that cannot be wrong."""

    @initialize(data=st.data())
    def start(self, data):
        import tempfile
        from pathlib import Path

        self.folder = Path(tempfile.mkdtemp())
        self.buffer = RolloutBuffer(K, self.folder / "journal")
        self.model = {}  # ordinal -> [[tokens], stop] for each sample
        self.version, self.next_ordinal = 0, 0
        self.taken, self.written = [], []
        self.checkpoint()

    def teardown(self):
        import shutil

        if hasattr(self, "buffer"):
            self.buffer.close()
            shutil.rmtree(self.folder)

    @rule(count=st.integers(1, 3))
    def open(self, count):
        draws = [(self.next_ordinal + i, prompt(self.next_ordinal + i)) for i in range(count)]
        self.next_ordinal += count
        self.buffer.open(draws, self.version)
        self.model |= {ordinal: [[[], None] for _ in range(K)] for ordinal, _ in draws}

    @rule(data=st.data())
    def extend_some(self, data):
        """A rollout phase that may be cut short."""
        expected = [
            (ordinal, sample)
            for ordinal, rows in sorted(self.model.items())
            for sample, (tokens, stop) in enumerate(rows)
            if stop is None and not (tokens and tokens[-1][1] == self.version)
        ]
        work = list(self.buffer.unfinished(weights(self.version)))
        assert [(w.ordinal, w.sample_index) for w in work] == expected
        for item in data.draw(st.permutations(work)) if work else []:
            if not data.draw(st.integers(0, 5)):
                continue
            tokens = self.model[item.ordinal][item.sample_index]
            count = data.draw(st.integers(1, 4))
            stop = data.draw(st.sampled_from([None, None, *StopReason]))
            assert item.token_ids == tuple(t for t, _ in tokens[0])
            new = segment(item.ordinal, item.sample_index, len(tokens[0]), count, self.version, stop)
            self.buffer.append(new)
            tokens[0] += [(t, self.version) for t in new.token_ids]
            tokens[1] = stop

    @rule()
    def next_iteration(self):
        finished = self.buffer.take_finished()
        expected = [o for o, rows in sorted(self.model.items()) if all(stop for _, stop in rows)]
        assert [g.ordinal for g in finished] == expected
        for group in finished:
            for row, trajectory in zip(self.model.pop(group.ordinal), group.trajectories, strict=True):
                assert list(zip(trajectory.token_ids, trajectory.policy_versions, strict=True)) == row[0]
                assert trajectory.stop == row[1]
        self.taken += expected
        assert len(set(self.taken)) == len(self.taken)
        self.version += 1

    @rule()
    def checkpoint(self):
        directory = self.folder / f"c{self.version}"
        directory.mkdir(exist_ok=True)
        self.buffer.save_to(directory)
        self.buffer.start_journal(self.version)
        for old in self.folder.glob("journal/*.journal"):
            if int(old.stem) > self.version:
                old.unlink()
        self.saved = (self.version, json.dumps(self.model), self.next_ordinal, list(self.taken))

    @precondition(lambda self: self.version == self.saved[0])
    @rule()
    def kill_and_resume(self):
        """A kill in the iteration of the last checkpoint: with the journal nothing at all is lost."""
        ordinals = set(self.model) - set(map(int, json.loads(self.saved[1])))
        self.buffer.close()
        self.buffer = RolloutBuffer(K, self.folder / "journal")
        self.buffer.load_from(self.folder / f"c{self.version}")
        self.buffer.recover(self.version)
        self.buffer.open([(o, prompt(o)) for o in sorted(ordinals)], self.version)
        list(self.buffer.unfinished(weights(self.version)))

    @invariant()
    def same_as_model(self):
        if not hasattr(self, "model"):
            return
        assert len(self.buffer) == len(self.model)
        unfinished = sum(stop is None for rows in self.model.values() for _, stop in rows)
        assert self.buffer.num_unfinished == unfinished


TestBuffer = BufferMachine.TestCase
# REL-14 asks for 10,000 sequences: K15_SEQUENCES=10000 pytest tests/unit/rollout/test_rollout_buffer.py
TestBuffer.settings = settings(
    max_examples=int(os.environ.get("K15_SEQUENCES", "60")), stateful_step_count=30, deadline=None
)

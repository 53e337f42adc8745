"""Held-out evaluation: what is sampled, what is counted, and the numbers that come out."""

import math
import random

import pytest

from k15.eval.heldout import Evaluation, evaluate
from k15.testing.scripted import ScriptedEngine
from k15.types import (
    Group,
    Outcome,
    Prompt,
    SamplingParams,
    Segment,
    StopReason,
    Trajectory,
    Verdict,
    Weights,
)

END = 1
SAMPLING = SamplingParams(seed=0, max_tokens=40, segment_tokens=4, stop_ids=(END,))


def prompts(count, *, levels=(1.0, 2.0)):
    return [
        Prompt(f"p{n}", "?", "!", "scripted", "toy", levels[n % len(levels)], token_ids=(5, 10 + n))
        for n in range(count)
    ]


class Grader:
    """Right where the prompt's number is even; prompt 3 meets a fault of ours."""

    def __init__(self):
        self.received = []

    def grade(self, groups):
        self.received += groups
        return [
            [Verdict(self._judge(int(g.prompt.prompt_id[1:]))) for _ in g.trajectories] for g in groups
        ]

    @staticmethod
    def _judge(number):
        if number == 3:
            return Outcome.FAULT
        return Outcome.RIGHT if number % 2 == 0 else Outcome.NO_ANSWER


class ShuffledEngine(ScriptedEngine):
    """Segments come in no fixed order."""

    def extend(self, work, sampling):
        self.sampling = sampling
        segments = list(super().extend(work, sampling))
        random.Random(0).shuffle(segments)
        yield from segments


def engine(script=None):
    own = ShuffledEngine(
        script or (lambda work: [20 + work.ordinal] * (work.ordinal + work.sample_index) + [END])
    )
    own.load_weights(Weights(7, "f", {}))
    return own


def test_every_prompt_is_sampled_to_its_end():
    own, grader = engine(), Grader()
    result = evaluate(own, prompts(9), grader, SAMPLING, num_samples=3)
    assert [len(received) for received in own.received] == [27]
    assert own.sampling.segment_tokens is None
    assert own.sampling == SamplingParams(seed=0, max_tokens=40, stop_ids=(END,))
    for ordinal, group in enumerate(result.groups):
        assert group.prompt.prompt_id == f"p{ordinal}"
        assert [t.sample_index for t in group.trajectories] == [0, 1, 2]
        assert [t.token_ids for t in group.trajectories] == [
            (20 + ordinal,) * (ordinal + index) + (END,) for index in range(3)
        ]
    assert grader.received == list(result.groups)


def test_accuracy_length_and_intervals():
    metrics = evaluate(engine(), prompts(6), Grader(), SAMPLING).metrics()
    # prompts 0, 2, 4 are right, 1 and 5 are not, 3 is left out; prompt n has n + 1 tokens
    assert (metrics["eval/num_samples"], metrics["eval/num_faults"]) == (5, 1)
    assert metrics["eval/accuracy"] == pytest.approx(3 / 5)
    z, n, p = 1.959963984540054, 5, 0.6
    center, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert metrics["eval/accuracy_low"] == pytest.approx((center - half) / (1 + z * z / n))
    assert metrics["eval/accuracy_high"] == pytest.approx((center + half) / (1 + z * z / n))
    lengths = [1, 2, 3, 5, 6]
    mean = sum(lengths) / 5
    deviation = math.sqrt(sum((x - mean) ** 2 for x in lengths) / 4)
    assert metrics["eval/length_mean"] == pytest.approx(mean)
    assert metrics["eval/length_high"] - mean == pytest.approx(1.96 * deviation / math.sqrt(5))
    assert mean - metrics["eval/length_low"] == pytest.approx(1.96 * deviation / math.sqrt(5))
    assert metrics["eval/length_p95"] == pytest.approx(5.8)  # between 5 and 6, at 0.95 * 4 = 3.8
    assert metrics["eval/share_length"] == 0.0


def test_accuracy_by_difficulty():
    metrics = evaluate(engine(), prompts(6), Grader(), SAMPLING).metrics()
    assert metrics["eval/accuracy_level/1"] == 1.0  # prompts 0, 2, 4
    assert metrics["eval/accuracy_level/2"] == 0.0  # prompts 1, 5
    assert metrics["eval/length_level/1"] == pytest.approx((1 + 3 + 5) / 3)
    assert metrics["eval/length_level/2"] == pytest.approx((2 + 6) / 2)


def test_prompts_without_a_level_have_no_breakdown():
    metrics = evaluate(engine(), prompts(2, levels=(None,)), Grader(), SAMPLING).metrics()
    assert not [name for name in metrics if "level" in name]


def test_completions_that_were_cut_at_the_cap_are_counted():
    own = engine(lambda work: [9] * 99 if work.ordinal % 2 else [9, END])
    metrics = evaluate(own, prompts(8), Grader(), SAMPLING).metrics()
    assert metrics["eval/share_length"] == pytest.approx(3 / 7)  # 1, 5, 7; prompt 3 is a fault
    assert metrics["eval/length_mean"] == pytest.approx((3 * 40 + 4 * 2) / 7)


def test_faults_alone_give_no_numbers():
    prompt = prompts(4)[3]
    segment = Segment(0, 0, 0, (9,), (-1.0,), 0, "f", StopReason.LENGTH)
    group = Group(0, prompt, 0, (Trajectory(0, 0, (segment,)),))
    metrics = Evaluation((group,), ((Verdict(Outcome.FAULT),),)).metrics()
    assert metrics == {"eval/num_samples": 0, "eval/num_faults": 1}


def test_the_stream_of_segments_may_be_watched():
    seen = []

    def watch(stream):
        for segment in stream:
            seen.append(segment.ordinal)
            yield segment

    evaluate(engine(), prompts(5), Grader(), SAMPLING, watch=watch)
    assert sorted(seen) == list(range(5))

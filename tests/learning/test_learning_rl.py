"""The real loop on the trial-search family: what the paper says must be seen, over three seeds."""

from statistics import mean

import pytest

SEEDS = (0, 1, 2)
ITERATIONS = 9
MORE = 16
FULL_ITERATIONS = 5  # full rollouts sample about as many tokens in these as partial ones in all
END = ("--evaluation.at_start", "false")  # the first weights were measured already
FULL = ("--rollout.segment_tokens", "256", *END)
REST = ("--algorithm.loss", "reinforce", "--algorithm.baseline", "best_of_group", *END)
PENALTY = ("--length_penalty.weight", "1.0", "--length_penalty.start_iteration", "0")
TWICE = ("--evaluation.num_samples", "2", *END)


@pytest.fixture(scope="module")
def ours(warm, learn):
    return [learn(warm, seed, ITERATIONS) for seed in SEEDS]


def accuracies(runs):
    return [run.last["eval/accuracy"] for run in runs]


def test_rl_raises_heldout_accuracy_by_25_points_while_thoughts_grow(ours):
    """Row 74 and section 2.3.3: accuracy and length rise together."""
    for run in ours:
        assert run.last["eval/accuracy"] >= run.first["eval/accuracy"] + 0.25
        assert run.last["eval/length_mean"] >= 1.1 * run.first["eval/length_mean"]


def test_the_length_penalty_cuts_a_fifth_of_the_tokens_for_at_most_two_points(ours, learn):
    """Row 38: the same weights go on with and without the penalty."""
    plain = [learn(run.model, seed, MORE, *TWICE) for seed, run in zip(SEEDS, ours, strict=True)]
    short = [
        learn(run.model, seed, MORE, *TWICE, *PENALTY) for seed, run in zip(SEEDS, ours, strict=True)
    ]
    for one, other in zip(plain, short, strict=True):
        assert other.last["eval/length_mean"] <= 0.8 * one.last["eval/length_mean"]
    assert mean(accuracies(short)) >= mean(accuracies(plain)) - 0.02


def test_negative_gradients_beat_rest_at_equal_samples(ours, warm, learn):
    """Fig. 10: ReST imitates the best sampled completion and never pushes a wrong one down."""
    rest = [learn(warm, seed, ITERATIONS, *REST) for seed in SEEDS]
    for one, other in zip(ours, rest, strict=True):
        assert one.total("rollout/num_segments") == pytest.approx(
            other.total("rollout/num_segments"), rel=0.1
        )
        assert one.last["eval/accuracy"] > other.last["eval/accuracy"]
    assert mean(accuracies(ours)) >= mean(accuracies(rest)) + 0.05


def test_partial_rollouts_learn_as_well_with_a_shorter_makespan(ours, warm, learn):
    """Row 63: equal tokens, accuracy at least within noise; no iteration waits for the longest thought."""
    full = [learn(warm, seed, FULL_ITERATIONS, *FULL) for seed in SEEDS]
    assert mean(accuracies(ours)) >= mean(accuracies(full)) - 0.04
    for partial, whole in zip(ours, full, strict=True):
        assert partial.total("rollout/num_tokens") == pytest.approx(
            whole.total("rollout/num_tokens"), rel=0.2
        )
        assert longest_phase(partial) < 0.5 * longest_phase(whole)
        assert partial.total("rollout/slot_steps") < 0.9 * whole.total("rollout/slot_steps")


def longest_phase(run) -> float:
    """Decode steps of the longest rollout phase: its makespan, without the noise of a clock."""
    return max(line.get("rollout/slot_steps", 0) for line in run.metrics)

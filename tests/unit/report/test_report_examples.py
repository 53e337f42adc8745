"""Which groups are shown, how their texts are marked, and which remarks stand at the top."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from k15.report.examples import choose_examples
from k15.report.findings import find_problems
from k15.report.material import Material
from k15.report.partial import choose_lane_groups
from k15.report.runs import Completion, read_completion
from k15.report.scan import GroupSummary, Scan, summarize_groups
from k15.report.thoughts import HEAD_CHARS, TAIL_CHARS, annotate, show_completion
from k15.report.timeline import Timeline

from report_runs import completion_row  # isort: skip


def completion(**changes: Any) -> Completion:
    made = read_completion(completion_row(**changes), changes.get("iteration", 0))
    assert made is not None
    return made


def group(
    ordinal: int,
    verdicts: str,
    *,
    prompt: str = "",
    length: int = 50,
    iteration: int | None = None,
    **changes: Any,
) -> GroupSummary:
    """A group with one member for each letter: r right, w wrong, n no answer, f fault, R repeated, L truncated."""
    iteration = ordinal if iteration is None else iteration
    outcomes = {
        "r": "right",
        "w": "wrong",
        "n": "no_answer",
        "f": "fault",
        "R": "no_answer",
        "L": "no_answer",
    }
    members = [
        completion(
            iteration=iteration, ordinal=ordinal, sample_index=i, prompt_id=prompt or f"prompt-{ordinal}",
            outcome=outcomes[letter], stop={"R": "repeat", "L": "length"}.get(letter, "end"), length=length,
            **changes,
        )
        for i, letter in enumerate(verdicts)
    ]  # fmt: skip
    return summarize_groups(members, stage=0, offset=0)[0]


def picked(groups: list[GroupSummary]) -> dict[str, tuple[list[int], tuple[int, ...]]]:
    return {
        pick.title: ([g.ordinal for g in pick.groups], pick.focus) for pick in choose_examples(groups)
    }


def test_the_first_right_after_most_wrong_ones_is_shown():
    groups = [
        group(0, "wwww", prompt="a"), group(1, "wwww", prompt="b"), group(2, "wwww", prompt="a"),
        group(3, "wwrr", prompt="b"), group(4, "wwrw", prompt="a"), group(5, "rrrr", prompt="a"),
    ]  # fmt: skip
    assert picked(groups)["Right at last"] == ([4], (2,))


def test_the_same_prompt_early_and_late_is_shown_where_it_became_shorter():
    groups = [
        group(0, "rr", prompt="a", length=200), group(1, "rr", prompt="b", length=100),
        group(2, "rr", prompt="c", length=90),
        group(7, "rr", prompt="b", length=95), group(8, "rr", prompt="a", length=60),
        group(9, "wr", prompt="c", length=200),
    ]  # fmt: skip
    assert picked(groups)["The same problem, in fewer words"] == ([0, 8], (0, 0))


def test_loops_cuts_and_faults_are_shown_late_and_beside_a_right_one():
    verdicts = ["rRrw", "rRrw", "wRww", "wLrr", "rfrw", "wrnr", "wwww", "rrrr", "rrrr", "rrrr"]
    shown = picked([group(i, letters) for i, letters in enumerate(verdicts)])
    assert shown["Stopped for repetition"] == ([1], (1,)), "late, with a right sibling"
    assert shown["Cut at the cap"] == ([3], (1,))
    assert shown["A fault of ours"] == ([4], (1,))
    assert shown["No answer found"] == ([5], (2,))
    assert shown["All wrong"] == ([6], (0,))


def test_a_rare_sight_is_not_taken_by_a_common_one():
    groups = [group(0, "rrrr", length=40), group(1, "rfrr", length=90), group(2, "rrrr", length=50)]
    assert picked(groups)["A fault of ours"] == ([1], (1,)), (
        "although it is the longest and the hardest, too"
    )


def test_the_hardest_solved_is_of_the_highest_solved_difficulty():
    groups = [group(0, "rrrr", difficulty=1), group(1, "rrrr", difficulty=3), group(2, "rrrw", difficulty=3),
              group(3, "wwww", difficulty=5)]  # fmt: skip
    assert picked(groups)["The hardest one solved"] == ([2], (0,))


def test_longer_thinking_that_paid_compares_within_a_group():
    long_right = [completion(ordinal=1, sample_index=i, length=120) for i in (0, 1)]
    short_wrong = [
        completion(ordinal=1, sample_index=i, length=40, outcome="wrong", correct=0.0) for i in (2, 3)
    ]
    paid = summarize_groups([*long_right, *short_wrong], stage=0, offset=0)
    assert picked([*paid, group(2, "rrww")])["Longer thinking paid"] == ([1], (0,))
    assert "Longer thinking paid" not in picked([group(2, "rrww")])


def test_the_length_reward_is_shown_where_it_ranks_right_ones():
    def right(ordinal: int, advantages: tuple[float, float]) -> GroupSummary:
        members = [
            completion(
                ordinal=ordinal,
                sample_index=i,
                length=(40, 80)[i],
                length_reward=(0.5, -0.5)[i],
                advantage=a,
            )
            for i, a in enumerate(advantages)
        ]
        return summarize_groups(members, stage=0, offset=0)[0]

    groups = [right(i, (0.0, 0.0)) for i in range(6)]
    assert "The length reward at work" not in picked(groups), "it has no weight here"
    groups += [right(6, (0.1, -0.1)), right(7, (0.25, -0.25))]
    assert picked(groups)["The length reward at work"] == ([7], (0, 1))


def test_no_group_is_shown_twice_and_a_typical_one_is_always_there():
    groups = [group(i, v) for i, v in enumerate(["rwww", "wwww", "rrrr", "rRww", "rLww", "wwww"])]
    shown = [(g.stage, g.ordinal) for pick in choose_examples(groups) for g in pick.groups]
    assert len(shown) == len(set(shown))
    assert "A typical group at the end" in picked([group(i, "rr", iteration=9) for i in range(4)])
    assert choose_examples([]) == []


def test_the_segment_picture_takes_groups_with_several_versions_from_the_second_half():
    def segments(count: int, last: int) -> list[dict[str, Any]]:
        versions = range(last - count + 1, last + 1)
        return [{"start": 10 * i, "num_tokens": 10, "policy_version": v} for i, v in enumerate(versions)]

    groups = [
        group(i, "rw", iteration=i, segments=segments(3 if i in (2, 8) else 1, i)) for i in range(10)
    ]
    assert [g.iteration for g in choose_lane_groups(groups)] == [8]
    assert choose_lane_groups([]) == []


def test_the_judged_answer_is_marked_where_it_stands_last_after_the_thought():
    made = annotate(
        completion(completion="<think>2 or 12? so 2.</think>It is 2, not 12.", extracted="2")
    )
    assert made == (
        '<span class="tag">&lt;think&gt;</span>2 or 12? so 2.<span class="tag">&lt;/think&gt;</span>'
        "It is <mark>2</mark>, not 12."
    )


def test_text_without_the_answer_is_left_alone():
    assert annotate(completion(completion="no number here", extracted="2")) == "no number here"
    assert annotate(completion(completion="a (b", extracted="(b")) == "a <mark>(b</mark>"


def test_policy_versions_are_marked_where_the_record_knows_them():
    segments = [
        {"start": 0, "num_tokens": 2, "policy_version": 7, "num_chars": 4},
        {"start": 2, "num_tokens": 2, "policy_version": 8, "num_chars": 3},
    ]
    made = annotate(completion(completion="abcdefg", segments=segments, extracted=""))
    assert made == '<span class="chip">version 7</span>abcd<span class="chip">version 8</span>efg'
    without = [{key: value for key, value in s.items() if key != "num_chars"} for s in segments]
    assert annotate(completion(completion="abcdefg", segments=without, extracted="")) == "abcdefg"


def test_of_a_long_text_the_middle_is_left_out_once():
    body = "".join(f"<think>{i:06d}" for i in range(4000))
    made = annotate(completion(completion=body, extracted=""))
    left_out = len(body) - HEAD_CHARS - TAIL_CHARS
    assert made.count(f"{left_out:,} characters left out here") == 1
    assert "000000" in made
    assert "003999" in made
    assert "002000" not in made


def test_a_completion_says_verdict_reward_and_what_the_verifier_said():
    shown = show_completion(
        completion(
            outcome="wrong",
            reward=0.25,
            length_reward=0.5,
            advantage=-0.5,
            reason="3 is not 2",
            trained_tokens=3,
        ),
        length_weight=0.5,
        is_open=True,
    )
    for words in ("✗ wrong", "4 tokens", "reward 0.25", "of it length +0.25", "advantage −0.50", "3 is not 2",
                  "3 tokens in the loss"):  # fmt: skip
        assert words in shown
    without = show_completion(completion(length_reward=0.5), is_open=True)
    assert "of it length" not in without, "the length reward has no weight"
    fault = show_completion(completion(outcome="fault", reward=None, advantage=None), is_open=False)
    assert "! our fault" in fault
    assert "advantage" not in fault


def material_of(**metrics: list[float]) -> Material:
    """Material with these metrics over iterations; names with two underscores for a slash."""
    length = max(len(values) for values in metrics.values())
    rows = [
        {"iteration": i}
        | {key.replace("__", "/"): values[i] for key, values in metrics.items() if i < len(values)}
        for i in range(length)
    ]
    stage = SimpleNamespace(rows=rows, offset=0, name="RL")
    return Material((), Timeline((cast(Any, stage),)), Scan((), (), ()))


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (
            {"eval__accuracy": [0.3, 0.8, 0.5], "eval__accuracy_low": [0.2, 0.7, 0.4]},
            "Held-out accuracy ended at 50.0 %",
        ),
        ({"train__share_length": [0.0] * 20 + [0.5] * 10}, "reached the cap"),
        ({"train__share_repeat": [0.2] * 10}, "stopped for repetition"),
        ({"update__force_ratio": [0.05] * 10}, "tau does little"),
        ({"update__force_ratio": [2.0] * 10}, "hardly moves"),
        ({"update__entropy": [1.0] * 10 + [0.01] * 10}, "Entropy fell from 1 to 0.01"),
        ({"train__zero_advantage_share": [0.9] * 5}, "90 % of the late completions have no advantage"),
        ({"update__num_skipped_steps": [0, 2, 0]}, "2 optimizer steps"),
        ({"update__engine_gap_mean": [1e-6, 0.3]}, "disagree by 0.3 nats on average in iteration 1"),
        ({"rollout__masked_token_share": [0.6] * 5}, "60 % of the late tokens"),
        ({"train__num_faults": [1, 2], "train__num_completions": [50, 50]}, "3 of 100 verdicts"),
        ({"save__failed": [0, 1]}, "1 checkpoints could not be written"),
    ],
)
def test_what_goes_wrong_is_said_at_the_top(metrics, words):
    messages = [finding.message for finding in find_problems(material_of(**metrics))]
    assert any(words in message for message in messages), messages


def test_a_healthy_run_has_no_finding():
    healthy = material_of(
        eval__accuracy=[0.3, 0.6, 0.8], eval__accuracy_low=[0.2, 0.5, 0.7], train__share_length=[0.01] * 20,
        train__share_repeat=[0.0] * 20, update__force_ratio=[0.45] * 20, update__entropy=[0.5] * 20,
        train__zero_advantage_share=[0.3] * 20, update__num_skipped_steps=[0] * 20, update__engine_gap_mean=[1e-6] * 20,
        rollout__masked_token_share=[0.0] * 20, train__num_faults=[0] * 20, train__num_completions=[100] * 20,
    )  # fmt: skip
    assert find_problems(healthy) == []

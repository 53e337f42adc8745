"""Toggle in the RL loop: budgets come from the first right group, hold from the next, and survive a restart."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from stages_support import END, play, rl_config

from k15.config.rl import ToggleConfig
from k15.stages.scores import Scores
from k15.stages.toggle import Toggle
from k15.types import Group, Outcome, Prompt, Trajectory, Work

CONFIG = ToggleConfig(every=1, threshold=0.5, quantile=0.5)


def group(name: str) -> Group:
    return Group(0, Prompt(name, "q", "a", "scripted", "toy"), 0, ())


def scores(lengths: list[int], correct: list[int], valid: list[bool] | None = None) -> Scores:
    count = len(lengths)
    return Scores(
        torch.tensor([correct], dtype=torch.float32),
        torch.tensor([valid or [True] * count]),
        torch.tensor([lengths]),
        torch.zeros(1, count),
        torch.zeros(1, dtype=torch.long),
    )


def test_the_budget_is_the_quantile_of_the_first_right_completions_and_stays() -> None:
    toggle = Toggle(CONFIG)
    toggle.rewards([group("a")], scores([10, 20, 30, 90], [0, 0, 0, 0]), 0)
    assert toggle.budgets == {}  # none right: nothing is known
    found = toggle.rewards([group("a")], scores([10, 20, 30, 90], [1, 1, 1, 0]), 2)
    assert toggle.budgets == {"a": 20.0}
    assert found.tolist() == [[1, 1, 1, 0]]  # it holds from the next group on
    found = toggle.rewards([group("a")], scores([5, 20, 21, 90], [1, 1, 1, 1]), 4)
    assert found.tolist() == [[1, 1, 0, 0]]
    assert toggle.budgets == {"a": 20.0}


def test_phases_take_turns() -> None:
    toggle = Toggle(ToggleConfig(every=2, threshold=0.0, quantile=1.0))
    toggle.budgets = {"a": 10.0}
    row = scores([5, 50], [1, 1])
    found = [toggle.rewards([group("a")], row, i).tolist()[0] for i in range(6)]
    assert found == [[1, 0], [1, 0], [1, 1], [1, 1], [1, 0], [1, 0]]


def test_our_faults_give_no_budget() -> None:
    toggle = Toggle(CONFIG)
    toggle.rewards([group("a")], scores([10, 20], [1, 0], [False, True]), 0)
    assert toggle.budgets == {}


def test_budgets_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    toggle, other = Toggle(CONFIG), Toggle(CONFIG)
    toggle.budgets = {"a": 20.5, "ü": 7.0}
    toggle.save_to(tmp_path)
    other.load_from(tmp_path)
    assert other.budgets == toggle.budgets


def test_without_toggle_a_checkpoint_has_no_part_of_it() -> None:
    assert Toggle(ToggleConfig()).state == {}
    assert list(Toggle(CONFIG).state) == ["toggle"]


def _script(work: Work) -> list[int]:
    """Sample 0 takes 3 tokens, the others 12; all are right. Every prompt comes again and again."""
    return [30 + work.sample_index] * (2 if work.sample_index == 0 else 11) + [END]


def _all_right(group: Group, trajectory: Trajectory) -> Outcome:
    return Outcome.RIGHT


def test_toggle_takes_the_reward_of_long_answers_in_its_phase(tmp_path: Path) -> None:
    settings = {
        "toggle": {"every": 2, "threshold": 0.5, "quantile": 0.0},
        "rollout": {"segment_tokens": 32, "prompts_in_flight": 8},
        "run": {"save_every": 3},
    }
    played = play(rl_config(4, **settings), tmp_path / "run", script=_script, judge=_all_right)
    rewards = {
        iteration: {(r["length"], r["reward"]) for r in played.rows if r["iteration"] == iteration}
        for iteration in range(4)
    }
    assert rewards[0] == {(3, 1.0), (12, 1.0)}  # nothing is known yet
    assert rewards[1] == {(3, 1.0), (12, 0.0)}  # the budget is 3 tokens
    assert rewards[2] == rewards[3] == {(3, 1.0), (12, 1.0)}  # the phase without a budget
    kept = sorted((tmp_path / "run" / "checkpoints").glob("iteration_*/toggle/budgets.json"))
    assert set(json.loads(kept[-1].read_text()).values()) == {3.0}

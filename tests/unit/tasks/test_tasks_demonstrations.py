"""Demonstrations: the four behaviours, honest failures, and filters that count what they drop."""

from __future__ import annotations

import random
import re

import pytest

from k15.errors import ConfigError
from k15.tasks import FAMILIES, FLAWLESS, DemonstrationStyle, get_family
from k15.tasks.behaviours import BEHAVIOURS, EVALUATION, EXPLORATION, PLANNING, REFLECTION, behaviours
from k15.tasks.demonstrations import build_demonstrations
from k15.tasks.reply import thought_of
from k15.types import Outcome

NAMES = sorted(FAMILIES)

# Share of the demonstrations that show each behaviour; docs/tasks.md states them. Those that hang on how
# often a search fails move with the habits, so they have a range.
RATES = {
    "trial": {
        PLANNING: (1, 1),
        EVALUATION: (0.6, 0.9),
        REFLECTION: (0.6, 0.8),
        EXPLORATION: (0.45, 0.8),
    },
    "collatz": {PLANNING: (1, 1), EVALUATION: (0.8, 1), REFLECTION: (0.2, 0.4), EXPLORATION: (0.2, 0.4)},
    "countdown": {
        PLANNING: (1, 1),
        EVALUATION: (1, 1),
        REFLECTION: (0.22, 0.4),
        EXPLORATION: (0.5, 0.75),
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_show_all_four_behaviours_at_the_stated_rates(name: str) -> None:
    family = get_family(name)
    made = build_demonstrations(family, levels=family.levels, count=600, seed=0)
    shown = [behaviours(d.completion) for d in made.demonstrations]
    for behaviour, (low, high) in RATES[name].items():
        rate = sum(behaviour in found for found in shown) / len(shown)
        assert low <= rate <= high, (behaviour, rate)


@pytest.mark.parametrize("name", NAMES)
def test_terse_solutions_show_none_and_are_right(name: str) -> None:
    family = get_family(name)
    made = build_demonstrations(family, levels=family.levels, count=300, seed=0, style="short")
    assert made.share_right == 1.0
    assert set().union(*(behaviours(completion) for _, completion in made.pairs)) == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Plan: add 3 to 4", {PLANNING}),
        ("we planned nothing; the plane left", set()),
        ("try 1: 4", set()),
        ("try 1: 4\ntry 2: 5", {EXPLORATION}),
        ("an industry of trying retries", set()),
        ("3 + 4 = 7, off by 5", {EVALUATION}),
        ("I know, nobody said yes", set()),
        ("Wait. Alternatively, halve it", {REFLECTION, EXPLORATION}),
        ("waiter, the check please", set()),
        ("That is wrong.", {EVALUATION}),
        ("", set()),
    ],
)
def test_markers_are_words_not_letters(text: str, expected: set[str]) -> None:
    assert behaviours(text) == expected


@pytest.mark.parametrize("name", NAMES)
def test_keep_all_keeps_everything_wrong_ones_included(name: str) -> None:
    made = build_demonstrations(get_family(name), levels=(1, 2, 3), count=300, seed=1)
    assert made.num_drawn == len(made.demonstrations) == 300
    assert made.num_wrong == made.num_not_long_cot == made.num_passed_over == 0
    assert 0.3 < made.share_right < 0.95


@pytest.mark.parametrize("name", NAMES)
def test_keep_verified_is_rejection_sampling_with_a_count(name: str) -> None:
    family = get_family(name)
    made = build_demonstrations(family, levels=(1, 2, 3), count=150, seed=1, keep="verified")
    answers = {p.key: p.answer for p in family.problems(1, (1, 2, 3), 600, "train")}
    for d in made.demonstrations:
        assert family.verify(d.question, answers[d.key], d.completion).outcome is Outcome.RIGHT
    assert made.share_right == 1.0
    assert made.num_wrong > 0
    assert made.num_drawn == 150 + made.num_wrong


@pytest.mark.parametrize("name", NAMES)
def test_keep_long_cot_keeps_only_right_long_ones_with_all_four_behaviours(name: str) -> None:
    family = get_family(name)
    made = build_demonstrations(family, levels=(1, 2, 3), count=90, seed=2, keep="long_cot")
    problems = {p.key: p for p in family.problems(2, (1, 2, 3), 900, "train")}
    for d in made.demonstrations:
        assert family.verify(d.question, problems[d.key].answer, d.completion).outcome is Outcome.RIGHT
        assert behaviours(d.completion) == BEHAVIOURS
        words = [
            len(re.findall(r"\w+", thought_of(t)))
            for t in (d.completion, family.solve_briefly(problems[d.key]))
        ]
        assert words[0] >= 2 * words[1]
    assert made.num_not_long_cot > 0
    assert made.num_drawn == 90 + made.num_wrong + made.num_not_long_cot


def test_a_filter_that_nothing_passes_is_an_error_with_a_cure() -> None:
    hopeless = DemonstrationStyle(give_up=1.0, slip=1.0, wordy=0.0)
    with pytest.raises(ConfigError, match=r"kept 0 demonstrations of trial.*Lower give_up"):
        build_demonstrations(
            get_family("trial"), levels=(3,), count=1, seed=0, keep="long_cot", habits=hopeless
        )
    with pytest.raises(ConfigError, match="at least 1"):
        build_demonstrations(get_family("trial"), levels=(1,), count=0, seed=0)
    with pytest.raises(ConfigError, match='needs style = "long"'):
        build_demonstrations(
            get_family("trial"), levels=(1,), count=1, seed=0, keep="long_cot", style="short"
        )


def test_the_same_seed_gives_the_same_set_and_problems_come_round_again() -> None:
    family = get_family("countdown")
    size = family.size(1, "heldout")
    made = build_demonstrations(family, levels=(1,), count=size + 50, seed=3, split="heldout")
    assert made == build_demonstrations(family, levels=(1,), count=size + 50, seed=3, split="heldout")
    first, again = made.demonstrations[:50], made.demonstrations[size:]
    assert [d.key for d in first] == [d.key for d in again]
    assert [d.completion for d in first] != [d.completion for d in again]
    assert len({d.key for d in made.demonstrations}) == size


def test_demonstrations_learn_from_the_training_split_only() -> None:
    family = get_family("trial")
    heldout = {p.key for p in family.problems(0, (1, 2, 3), 3000, "heldout")}
    made = build_demonstrations(family, levels=(1, 2, 3), count=3000, seed=0)
    assert not heldout & {d.key for d in made.demonstrations}


class TestHabitsOfTrialSearch:
    FAMILY = get_family("trial")
    PROBLEMS = FAMILY.problems(0, (3,), 400, "train")

    def write(self, **habits: float) -> list[str]:
        style = DemonstrationStyle(**{"give_up": 0.0, "slip": 0.0, "wordy": 0.0} | habits)
        rng = random.Random(0)
        return [self.FAMILY.demonstrate(p, rng, style=style) for p in self.PROBLEMS]

    def share_right(self, texts: list[str]) -> float:
        verdicts = [
            self.FAMILY.verify(p.question, p.answer, t)
            for p, t in zip(self.PROBLEMS, texts, strict=True)
        ]
        return sum(v.correct for v in verdicts) / len(texts)

    def test_searching_longer_is_right_more_often(self) -> None:
        shares = [self.share_right(self.write(give_up=p)) for p in (0.5, 0.2, 0.05, 0.0)]
        assert shares == sorted(shares)
        assert shares[0] < 0.25
        assert shares[-1] == 1.0

    def test_giving_up_happens_at_its_rate_per_failed_trial(self) -> None:
        texts = self.write(give_up=0.2)
        failed = sum(t.count("try") - t.count("yes") for t in texts)
        assert 0.16 < sum("give up" in t for t in texts) / failed < 0.24

    def test_slips_happen_at_their_rate_and_spoil_the_answer(self) -> None:
        texts = self.write(slip=0.1)
        steps = re.findall(r"try \d: (\d) - (\d) = (\d)", "\n".join(texts))
        slips = sum((int(x) - int(y)) % 10 != int(z) for x, y, z in steps)
        assert 0.08 < slips / len(steps) < 0.12
        assert self.share_right(texts) < 0.7

    def test_the_wordy_check_repeats_the_slip_and_is_no_more_reliable(self) -> None:
        wordy = self.write(slip=0.1, wordy=1.0)
        checks = re.findall(r"(\d - \d = \d), check (\d - \d = \d),", "\n".join(wordy))
        assert checks
        assert all(said == again for said, again in checks)
        assert abs(self.share_right(wordy) - self.share_right(self.write(slip=0.1))) < 0.1

    def test_wordy_trials_cost_about_twice_the_tokens(self) -> None:
        def tokens(text: str) -> int:
            return len(re.findall(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]|\n", text))

        terse, wordy = self.write(), self.write(wordy=1.0)
        for short, long in zip(terse, wordy, strict=True):
            trials = [line for line in short.split("\n") if line.startswith("try")]
            checked = [line for line in long.split("\n") if line.startswith("try")]
            assert len(trials) == len(checked)
            assert 1.6 <= tokens("\n".join(checked)) / tokens("\n".join(trials)) <= 2.1


def test_collatz_recounts_short_walks_only_and_takes_back_noticed_slips() -> None:
    family = get_family("collatz")
    rng = random.Random(0)
    wordy = DemonstrationStyle(give_up=0.0, slip=0.0, wordy=1.0)
    for problem in family.problems(0, family.levels, 200, "train"):
        text = family.demonstrate(problem, rng, style=wordy)
        assert ("try again from" in text) == (int(problem.answer) <= 30)
        assert family.verify(problem.question, problem.answer, text).correct == 1.0
    noticed = DemonstrationStyle(give_up=0.0, slip=0.2, wordy=0.0, notice=1.0)
    for problem in family.problems(0, family.levels, 100, "train"):
        text = family.demonstrate(problem, rng, style=noticed)
        assert family.verify(problem.question, problem.answer, text).correct == 1.0
        assert ("is wrong, try again" in text) == (text.count("step ") > int(problem.answer))


def test_countdown_writes_true_steps_and_distances_unless_it_slips() -> None:
    family = get_family("countdown")
    rng = random.Random(0)
    for problem in family.problems(0, family.levels, 150, "train"):
        target = int(re.findall("[0-9]+", problem.question)[0])
        for line in family.demonstrate(problem, rng, style=FLAWLESS).split("\n"):
            steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", line)
            for x, sign, y, z in steps:
                assert eval(f"{x} {sign} {y}") == int(z), line  # our own text, not a model's
            if "off by" in line:
                assert abs(int(steps[-1][3]) - target) == int(line.rsplit(" ", 1)[1]), line

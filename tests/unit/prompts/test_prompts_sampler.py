"""The prompt sampler of section 2.3.4: what it draws, what it remembers, and how it resumes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from k15.config.rl import SamplerConfig
from k15.errors import ConfigDriftError, ConfigError, DataError
from k15.prompts.sampler import PromptSampler
from k15.types import Prompt


def make_prompts(num: int, difficulties: dict[int, float] | None = None) -> list[Prompt]:
    levels = difficulties or {}
    return [
        Prompt(
            prompt_id=f"p{i}", question=f"what is {i} + 1?", answer=str(i + 1),
            verifier="math", family="sums", difficulty=levels.get(i),
        )
        for i in range(num)
    ]  # fmt: skip


def make_sampler(
    num: int = 10, seed: int = 0, difficulties: dict[int, float] | None = None, **settings
) -> PromptSampler:
    return PromptSampler(SamplerConfig(**settings), make_prompts(num, difficulties), seed)


def ids(draws: list[tuple[int, Prompt]]) -> list[str]:
    return [prompt.prompt_id for _, prompt in draws]


def draw_counts(
    sampler: PromptSampler, num_draws: int, num_prompts: int, iteration: int = 0
) -> np.ndarray:
    """How often each prompt comes up in single draws."""
    counts = np.zeros(num_prompts)
    for _ in range(num_draws):
        ((_, prompt),) = sampler.draw(1, iteration)
        counts[int(prompt.prompt_id[1:])] += 1
    return counts


def chi_square_p(observed: np.ndarray, expected: np.ndarray) -> float:
    """Probability of so large a chi-square statistic if the expected counts are right."""
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return float(
        torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2), torch.tensor(statistic / 2))
    )


def test_prioritized_draws_are_in_proportion_to_one_minus_success_rate() -> None:
    sampler = make_sampler(8, strategy="prioritized", success_rate_floor=0.05)
    rates = [0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0, 0.98]
    sampler.observe([f"p{i}" for i in range(8)], rates, iteration=0)
    weights = np.array([1.0, 0.875, 0.75, 0.5, 0.25, 0.125, 0.05, 0.05])
    counts = draw_counts(sampler, 8000, 8, iteration=1)
    assert chi_square_p(counts, 8000 * weights / weights.sum()) > 0.01
    # and are not uniform, so that the test above has teeth
    assert chi_square_p(counts, np.full(8, 1000.0)) < 1e-6


@pytest.mark.parametrize("strategy", ["uniform", "curriculum", "prioritized"])
def test_every_strategy_is_uniform_before_its_switch(strategy: str) -> None:
    sampler = make_sampler(6, strategy=strategy, switch_iteration=5, hard_success_rate=0.5)
    sampler.observe(["p0", "p1", "p2"], [1.0, 0.9, 0.6], iteration=0)
    counts = draw_counts(sampler, 6000, 6, iteration=4)
    assert chi_square_p(counts, np.full(6, 1000.0)) > 0.01


def test_the_curriculum_draws_only_hard_prompts_from_its_switch_on() -> None:
    labels = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}  # p4 and p5 have no label
    sampler = make_sampler(
        6, difficulties=labels, strategy="curriculum", switch_iteration=24, hard_difficulty=3.0
    )
    assert len(set(ids(sampler.draw(6, 23)))) == 6
    counts = draw_counts(sampler, 2000, 6, iteration=24)
    assert counts[[0, 1, 4, 5]].sum() == 0
    assert chi_square_p(counts[[2, 3]], np.full(2, 1000.0)) > 0.01


def test_without_labels_the_curriculum_goes_by_success_rate() -> None:
    sampler = make_sampler(4, strategy="curriculum", hard_success_rate=0.5)
    sampler.observe(["p0", "p1", "p2"], [0.9, 0.5, 0.4], iteration=0)
    assert sorted(ids(sampler.draw(4, 1))) == ["p2", "p3"]  # p3 was never visited: initial rate 0


def test_a_curriculum_without_any_hard_prompt_falls_back_to_all() -> None:
    sampler = make_sampler(3, strategy="curriculum", hard_success_rate=0.5)
    sampler.observe(["p0", "p1", "p2"], [1.0, 1.0, 0.8], iteration=0)
    assert sorted(ids(sampler.draw(3, 1))) == ["p0", "p1", "p2"]


def test_weights_that_are_all_zero_fall_back_to_all() -> None:
    sampler = make_sampler(4, strategy="prioritized", success_rate_floor=0.0)
    sampler.observe(["p0", "p1", "p2", "p3"], [1.0] * 4, iteration=0)
    counts = draw_counts(sampler, 2000, 4, iteration=1)
    assert chi_square_p(counts, np.full(4, 500.0)) > 0.01


def test_without_a_floor_solved_prompts_wait_while_others_are_unsolved() -> None:
    sampler = make_sampler(3, strategy="prioritized", success_rate_floor=0.0)
    sampler.observe(["p0", "p1"], [1.0, 1.0], iteration=0)
    assert ids(sampler.draw(3, 1)) == ["p2"]
    assert sampler.draw(3, 1, skip={"p2"}) == []


def test_a_solved_prompt_comes_back_with_the_floors_weight() -> None:
    sampler = make_sampler(2, strategy="prioritized", success_rate_floor=0.1)
    sampler.observe(["p0", "p1"], [1.0, 0.1], iteration=0)
    counts = draw_counts(sampler, 4000, 2, iteration=1)
    assert chi_square_p(counts, np.array([400.0, 3600.0])) > 0.01


def test_prompts_in_flight_are_not_drawn_and_none_comes_twice() -> None:
    sampler = make_sampler(10)
    in_flight = {"p1", "p3", "p4"}
    for iteration in range(50):
        drawn = ids(sampler.draw(5, iteration, skip=in_flight))
        assert len(set(drawn)) == 5
        assert not in_flight & set(drawn)


def test_fewer_prompts_than_asked_for_come_back_when_there_are_fewer() -> None:
    sampler = make_sampler(3)
    assert sorted(ids(sampler.draw(8, 0))) == ["p0", "p1", "p2"]
    assert ids(sampler.draw(8, 0, skip={"p0", "p2"})) == ["p1"]
    assert sampler.draw(8, 0, skip={"p0", "p1", "p2"}) == []
    assert sampler.draw(0, 0) == []
    assert sampler.draw(-2, 0) == []


def test_ordinals_are_unique_and_increase_by_one_with_every_draw() -> None:
    sampler = make_sampler(4)
    ordinals = [o for n in (3, 0, 9, 1) for o, _ in sampler.draw(n, 0)]
    assert ordinals == list(range(3 + 0 + 4 + 1))


def test_a_draw_depends_on_its_ordinal_not_on_how_draws_are_batched() -> None:
    one_by_one, at_once = make_sampler(50, seed=3), make_sampler(50, seed=3)
    taken: list[tuple[int, Prompt]] = []
    for _ in range(12):
        taken += one_by_one.draw(1, 0, skip=set(ids(taken)))
    assert taken == at_once.draw(12, 0)
    assert ids(taken) != ids(make_sampler(50, seed=4).draw(12, 0))


def test_success_rates_start_at_the_configs_and_follow_the_visits() -> None:
    sampler = make_sampler(2, initial_success_rate=0.3, success_rate_decay=0.75)
    assert sampler.success_rates == {"p0": 0.3, "p1": 0.3}
    sampler.observe(["p1"], [0.5], iteration=0)
    assert sampler.success_rates == {"p0": 0.3, "p1": 0.5}  # a guess does not blend into the first visit
    sampler.observe(["p1", "p0"], [0.9, 0.0], iteration=3)
    assert sampler.success_rates == pytest.approx({"p0": 0.0, "p1": 0.75 * 0.5 + 0.25 * 0.9})


def test_a_visit_changes_the_next_draw() -> None:
    sampler = make_sampler(2, strategy="prioritized", success_rate_floor=0.0)
    sampler.observe(["p0"], [1.0], iteration=0)
    assert ids(sampler.draw(1, 1)) == ["p1"]
    sampler.observe(["p0", "p1"], [0.0, 1.0], iteration=1)
    sampler.observe(["p1"], [1.0], iteration=2)
    assert ids(sampler.draw(2, 3)) == ["p0"]


@pytest.mark.parametrize("observed", [-0.1, 1.1, math.nan])
def test_an_impossible_success_rate_is_a_bug(observed: float) -> None:
    with pytest.raises(AssertionError, match="p0 has"):
        make_sampler().observe(["p0"], [observed], iteration=0)


def test_a_group_of_another_prompt_set_is_refused() -> None:
    with pytest.raises(ConfigDriftError, match="'stranger' is not"):
        make_sampler().observe(["stranger"], [0.5], iteration=0)


def drive(sampler: PromptSampler, iterations: range) -> list[tuple[int, str, float]]:
    """A stretch of a run: draw, pretend to grade, observe."""
    trace = []
    for iteration in iterations:
        draws = sampler.draw(4, iteration)
        rates = [((ordinal * 7 + iteration) % 10) / 9 for ordinal, _ in draws]
        sampler.observe(ids(draws), rates, iteration)
        trace += [(o, p.prompt_id, r) for (o, p), r in zip(draws, rates, strict=True)]
    return trace


def test_a_restored_sampler_goes_on_exactly_where_the_saved_one_was() -> None:
    unbroken, first = make_sampler(20, seed=5), make_sampler(20, seed=5)
    whole = drive(unbroken, range(30))
    before = drive(first, range(17))
    text = json.dumps(first.state(), sort_keys=True)
    second = make_sampler(20, seed=5)
    second.restore(json.loads(text))
    assert json.dumps(second.state(), sort_keys=True) == text
    assert before + drive(second, range(17, 30)) == whole
    assert second.success_rates == unbroken.success_rates  # exact, not approximate
    assert second.state() == unbroken.state()


def test_a_saved_state_does_not_change_with_the_sampler() -> None:
    sampler = make_sampler(5)
    state = sampler.state()
    frozen = json.dumps(state)
    drive(sampler, range(3))
    assert json.dumps(state) == frozen
    other = make_sampler(5)
    other.restore(state)
    drive(other, range(3))
    assert json.dumps(state) == frozen


def test_never_visited_prompts_stay_never_visited_after_a_restore() -> None:
    state = make_sampler(2, initial_success_rate=0.9).state()
    sampler = make_sampler(2, initial_success_rate=0.9)
    sampler.restore(state)
    sampler.observe(["p0"], [0.5], iteration=0)
    assert sampler.success_rates["p0"] == 0.5


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda p: p[:-2], r"10 prompts .* present 8 differ: 2 missing now \(first: 'p8'\)\."),
        (lambda p: [*p, replace(p[0], prompt_id="new")], r"1 new \(first: 'new'\)"),
        (
            lambda p: [*p[1:], replace(p[0], prompt_id="new")],
            r"1 missing now \(first: 'p0'\) and 1 new \(first: 'new'\)",
        ),
        (
            lambda p: [p[0], p[2], p[1], *p[3:]],
            "another order, from position 1 on: 'p1' before, 'p2' now",
        ),
        (lambda p: [replace(p[0], answer="0"), *p[1:]], "the same ids, but another question, answer"),
        (
            lambda p: [*p[:-1], replace(p[-1], question="what?")],
            "the same ids, but another question, answer",
        ),
    ],
)
def test_a_state_of_another_prompt_set_is_refused_with_the_difference(change, difference: str) -> None:
    state = make_sampler(10).state()
    other = PromptSampler(SamplerConfig(), change(make_prompts(10)), seed=0)
    before = other.state()
    with pytest.raises(ConfigDriftError, match=difference):
        other.restore(state)
    assert other.state() == before


def test_an_empty_prompt_set_and_repeated_ids_are_refused() -> None:
    with pytest.raises(DataError, match="at least one prompt"):
        PromptSampler(SamplerConfig(), [], seed=0)
    prompts = make_prompts(3)
    with pytest.raises(DataError, match="'p1' stands twice"):
        PromptSampler(SamplerConfig(), [*prompts, prompts[1]], seed=0)


@pytest.mark.parametrize(
    ("labels", "found"), [({0: 2.0, 1: 1.0}, "the most difficult has 2"), ({}, "none has a label")]
)
def test_a_curriculum_whose_threshold_leaves_nothing_is_refused(
    labels: dict[int, float], found: str
) -> None:
    with pytest.raises(ConfigError, match=found):
        make_sampler(2, difficulties=labels, strategy="curriculum", hard_difficulty=3.0)
    make_sampler(
        2, difficulties=labels, strategy="uniform", hard_difficulty=3.0
    )  # not used, not checked


def test_a_checkpoint_directory_holds_the_whole_state(tmp_path: Path) -> None:
    saved, loaded = make_sampler(12, seed=2), make_sampler(12, seed=2)
    drive(saved, range(5))
    saved.save_to(tmp_path)
    loaded.load_from(tmp_path)
    assert loaded.state() == saved.state()
    assert drive(loaded, range(5, 9)) == drive(saved, range(5, 9))

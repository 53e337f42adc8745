"""What a long2short recipe must have, and what the phases it describes get (row 48)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k15.config.base import load_config
from k15.config.long2short import Long2ShortConfig
from k15.errors import ConfigError

BASE = ["--model", "long", "--prompts.tasks", '[{ family = "trial" }]']


def load(*flags: str) -> Long2ShortConfig:
    return load_config(Long2ShortConfig, None, [*BASE, *flags])


def test_the_second_phase_has_the_penalty_on_and_the_cap_cut() -> None:
    config = load("--method", "rl", "--samples.max_tokens", "300", "--rl.rollout.max_tokens", "120")
    phase = config.rl_config()
    assert [phase.length_penalty.weight_at(i) for i in (0, 9)] == [1.0, 1.0]
    assert (phase.rollout.max_tokens, config.samples.max_tokens) == (120, 300)
    assert (phase.model.path, phase.num_iterations) == ("long", config.rl.num_iterations)


@pytest.mark.parametrize("cap", ["300", "301"])
def test_a_cap_that_is_not_cut_is_refused(cap: str) -> None:
    with pytest.raises(ConfigError, match=rf"must be below samples\.max_tokens.*got {cap} and 300"):
        load("--method", "rl", "--samples.max_tokens", "300", "--rl.rollout.max_tokens", cap)


def test_a_second_phase_without_any_pressure_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rl\.length_penalty\.weight"):
        load("--method", "rl", "--rl.length_penalty.weight", "0")
    toggled = load("--method", "rl", "--rl.length_penalty.weight", "0", "--rl.toggle.every", "3")
    assert toggled.rl_config().toggle.every == 3


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--method", "merge"], "merge.short"),
        (["--method", "merge", "--merge.short", "s", "--merge.kind", "ties"], "merge.base"),
        (["--method", "merge", "--merge.short", "s", "--merge.base", "b"], "merge.base"),
        (["--comparison.seeds", "[0, 1]"], "comparison.seeds"),
        (["--method", "dpo", "--dpo.length_ratio", "1"], "dpo.length_ratio"),
        (["--method", "average"], "method"),
    ],
)
def test_what_is_missing_or_senseless_is_named(flags: list[str], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(*flags)
    assert named in str(caught.value)


def test_prompts_are_needed_where_something_is_asked() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.path"):
        load_config(Long2ShortConfig, None, ["--model", "long", "--method", "rejection"])
    merge = ["--model", "long", "--method", "merge", "--merge.short", "s"]
    assert load_config(Long2ShortConfig, None, merge).prompts is None


def test_a_start_is_needed_and_candidates_are_one() -> None:
    tasks = BASE[2:]
    with pytest.raises(ConfigError, match=r"model\.path"):
        load_config(Long2ShortConfig, None, ["--method", "dpo", *tasks])
    flags = ["--method", "dpo", *tasks, "--selection.candidates", '["a", "b"]']
    assert load_config(Long2ShortConfig, None, flags).selection.candidates == ("a", "b")


def test_a_tuning_phase_keeps_its_own_settings_and_the_runs() -> None:
    config = load("--method", "dpo", "--dpo.beta", "0.3", "--dpo.batch_tokens", "77", "--run.seed", "5")
    made: dict[str, Any] = config.dpo_config(Path("samples")).model_dump()
    assert (made["beta"], made["batch_tokens"], made["run"]["seed"]) == (0.3, 77, 5)
    assert made["data"]["path"] == Path("samples")
    assert config.sft_config(Path("samples")).batch_tokens == config.sft.batch_tokens != 77

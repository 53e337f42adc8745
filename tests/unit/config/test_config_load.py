"""A run's config: defaults, then the TOML file, then flags; checked as a whole, explained when wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.config.base import dump_config, load_config
from k15.config.rl import RLConfig
from k15.config.sft import SFTConfig
from k15.errors import ConfigError

# The settings that have no default.
NEEDED = ("--num_iterations", "3", "--model", "checkpoint", "--prompts", "prompts.jsonl")


def _refusal(*flags: str, recipe: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(RLConfig, recipe, flags)
    return str(caught.value)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(
        "num_iterations = 7\n"
        "[model]\npath = 'from-toml'\n"
        "[prompts]\nseed = 5\ntasks = [{family = 'trial', levels = [1, 2]}]\n"
        "[algorithm]\ntau = 0.25\n"
    )
    return path


def test_toml_stands_above_the_defaults(recipe: Path):
    config = load_config(RLConfig, recipe)
    assert (config.num_iterations, config.model.path, config.algorithm.tau) == (7, "from-toml", 0.25)
    assert config.prompts.tasks[0].levels == (1, 2)
    assert config.algorithm.loss == "mirror_descent"


def test_flags_stand_above_toml_and_leave_its_other_keys(recipe: Path):
    config = load_config(RLConfig, recipe, ("--algorithm.tau", "0.5", "--num_iterations=9"))
    assert (config.num_iterations, config.algorithm.tau) == (9, 0.5)
    assert (config.model.path, config.prompts.seed) == ("from-toml", 5)


def test_the_last_of_two_equal_flags_counts(recipe: Path):
    assert load_config(RLConfig, recipe, ("--run.seed", "1", "--run.seed", "2")).run.seed == 2


def test_dashes_in_a_key_are_underscores(recipe: Path):
    assert load_config(RLConfig, recipe, ("--rollout.group-size", "4")).rollout.group_size == 4


@pytest.mark.parametrize(
    ("text", "levels"), [("[3]", (3,)), ("[1, 5]", (1, 5)), ("[]", ())], ids=["one", "two", "none"]
)
def test_a_flag_takes_toml_values(text: str, levels: tuple[int, ...]):
    tasks = f'[{{family = "trial", levels = {text}}}]'
    config = load_config(
        RLConfig, None, ("--num_iterations", "3", "--model", "m", "--prompts.tasks", tasks)
    )
    assert config.prompts.tasks[0].levels == levels


def test_a_plain_value_for_a_table_is_its_path(recipe: Path):
    config = load_config(RLConfig, recipe, ("--model", "some/dir"))
    assert config.model.path == "some/dir"
    assert config.prompts.seed == 5


@pytest.mark.parametrize(
    "name", ["7", "2024", "2024-05-01", "1e3", "true", "org/name", "with space", "a=b"]
)
def test_a_path_may_look_like_a_number(name: str):
    assert load_config(RLConfig, None, (*NEEDED, "--model", name)).model.path == name
    assert load_config(RLConfig, None, (*NEEDED, f"--model={name}")).model.path == name


def test_the_plain_value_keeps_what_else_is_set_in_the_table():
    flags = ("--model.dtype", "bfloat16", "--model", "dir", "--model.device", "cpu")
    config = load_config(RLConfig, None, (*NEEDED, *flags))
    assert (config.model.path, config.model.dtype, config.model.device) == ("dir", "bfloat16", "cpu")


@pytest.mark.parametrize(
    ("flag", "suggestion"),
    [
        ("--rollout.group_sizes", "rollout.group_size"),
        ("--rollout.temprature", "rollout.temperature"),
        ("--algoritm.tau", "algorithm"),
        ("--length_penalty.wieght", "length_penalty.weight"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(flag: str, suggestion: str):
    message = _refusal(*NEEDED, flag, "1")
    assert f"{flag[2:].split('.')[0]}" in message
    assert f"unknown key. Did you mean {suggestion}" in message


def test_an_unknown_key_of_the_file_names_the_file(recipe: Path):
    recipe.write_text(recipe.read_text() + "tua = 0.1\n")
    message = _refusal(recipe=recipe)
    assert str(recipe) in message
    assert "algorithm.tua: unknown key. Did you mean algorithm.tau?" in message


@pytest.mark.parametrize(
    ("flags", "key", "rule", "value"),
    [
        (("--rollout.group_size", "1"), "rollout.group_size", "greater than or equal to 2", "got 1"),
        (("--algorithm.tau", "0"), "algorithm.tau", "greater than 0", "got 0"),
        (("--algorithm.tau", "nan"), "algorithm.tau", "finite", "got nan"),
        (("--algorithm.loss", "ppo"), "algorithm.loss", "'mirror_descent'", "got 'ppo'"),
        (("--rollout.max_tokens", "many"), "rollout.max_tokens", "valid integer", "got 'many'"),
        (("--length_penalty.weight", "3"), "length_penalty.weight", "less than or equal to 2", "got 3"),
    ],
)
def test_a_broken_rule_names_key_rule_and_value(flags: tuple[str, str], key: str, rule: str, value: str):
    line = _refusal(*NEEDED, *flags).splitlines()[1]
    assert line.strip().startswith(f"{key}: ")
    assert rule in line
    assert value in line


@pytest.mark.parametrize(
    ("flags", "cure"),
    [
        (("--num_iterations", "3", "--prompts", "p"), "set model.path to a checkpoint directory"),
        (("--num_iterations", "3", "--model", "m", "--prompts.seed", "1"), "give either prompts.path"),
        ((*NEEDED, "--prompts.tasks", '[{family = "trial"}]'), "give either prompts.path"),
        ((*NEEDED, "--model.tiny.num_kv_heads", "3"), "num_heads must be a multiple of num_kv_heads"),
        ((*NEEDED, "tau", "1"), "as in --algorithm.tau 0.1"),
        ((*NEEDED, "--algorithm.tau"), "as in --algorithm.tau VALUE"),
    ],
)
def test_what_does_not_fit_together_comes_with_a_cure(flags: tuple[str, ...], cure: str):
    assert cure in _refusal(*flags)


def test_a_broken_rule_says_what_the_setting_is():
    assert "because the baseline is the group's mean (Eq. 3)" in _refusal(
        *NEEDED, "--rollout.group_size", "1"
    )


def test_none_is_a_value(recipe: Path):
    recipe.write_text(recipe.read_text() + "[rollout]\nmax_staleness = 2\n")
    assert load_config(RLConfig, recipe).rollout.max_staleness == 2
    config = load_config(RLConfig, recipe, ("--rollout.max_staleness", "none"))
    assert config.rollout.max_staleness is None
    assert load_config(SFTConfig, None, ("--data", "d", "--model", "none")).model.path is None


@pytest.mark.parametrize("rest", [(), ("--run.seed", "3"), ("true",)])
def test_a_switch_needs_no_value(rest: tuple[str, ...]):
    assert load_config(RLConfig, None, (*NEEDED, "--prompts.skip-bad-rows", *rest)).prompts.skip_bad_rows


@pytest.mark.parametrize("text", ["12", "true", "[1]", "none", "a = b", '"'])
def test_a_text_setting_takes_the_text_as_it_stands(text: str):
    assert load_config(RLConfig, None, (*NEEDED, "--prompts.suffix", text)).prompts.suffix == text
    assert (
        load_config(RLConfig, None, (*NEEDED, "--prompts.suffix", '" Box it.\\n"')).prompts.suffix
        == " Box it.\n"
    )


def test_a_flag_into_a_list_says_how_to_give_the_list(recipe: Path):
    message = _refusal("--prompts.tasks.0.num_train", "5", recipe=recipe)
    assert "--prompts.tasks.0.num_train reaches into the list prompts.tasks" in message
    assert "--prompts.tasks '[...]'" in message


def test_infinity_is_no_setting():
    assert "finite" in _refusal(*NEEDED, "--algorithm.tau", "inf")


def test_every_mistake_is_shown_at_once():
    message = _refusal("--rollout.group_size", "1", "--algorithm.tau", "0")
    for key in ("num_iterations", "prompts", "rollout.group_size", "algorithm.tau"):
        assert f"\n  {key}: " in message


@pytest.mark.parametrize(
    ("text", "word"),
    [(None, "cannot read"), (b"tau = = 1", "not valid TOML"), (b"\xff\xfe", "not valid TOML")],
)
def test_an_unusable_file_is_named(tmp_path: Path, text: bytes | None, word: str):
    path = tmp_path / "broken.toml"
    if text is not None:
        path.write_bytes(text)
    message = _refusal(recipe=path)
    assert word in message
    assert str(path) in message


def test_a_config_error_ends_with_exit_code_2():
    with pytest.raises(ValueError) as caught:
        load_config(RLConfig, None, ("--num_iterations", "0"))
    assert isinstance(caught.value, ConfigError)
    assert caught.value.exit_code == 2


@given(
    iterations=st.integers(1, 10**6),
    tau=st.floats(1e-6, 1e3),
    levels=st.lists(st.integers(-5, 50), max_size=4),
    system=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    staleness=st.none() | st.integers(0, 9),
)
def test_the_dump_reads_back_as_the_same_config(iterations, tau, levels, system, staleness):
    config = RLConfig.model_validate(
        {
            "num_iterations": iterations,
            "model": {"path": "dir"},
            "prompts": {"tasks": [{"family": "trial", "levels": levels}], "system": system},
            "algorithm": {"tau": tau},
            "rollout": {"max_staleness": staleness},
        }
    )
    assert RLConfig.model_validate_json(dump_config(config)) == config


def test_the_dump_of_a_file_path_reads_back(tmp_path: Path):
    config = load_config(
        SFTConfig, None, ("--data", str(tmp_path / "ä b.jsonl"), "--stages", "[{}, {}]")
    )
    assert SFTConfig.model_validate_json(dump_config(config)) == config

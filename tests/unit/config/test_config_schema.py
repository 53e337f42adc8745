"""What holds for every setting of every schema, and for every recipe that ships."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from k15.config.base import StrictModel, config_keys, load_config
from k15.config.eval import EvalConfig
from k15.config.long2short import DPORunConfig, Long2ShortConfig
from k15.config.parts import ModelConfig, PromptsConfig, TaskConfig
from k15.config.rl import AlgorithmConfig, LengthPenaltyConfig, RLConfig, RolloutConfig
from k15.config.sft import SFTConfig, SFTDataConfig

ROOT = Path(__file__).parents[3]
# A recipe's first line is the command that runs it: "# k15 rl recipes/gsm8k.toml --model DIR". Its flags are
# settings, apart from `--run DIR` and `--compare`.
SCHEMAS: dict[str, type[StrictModel]] = {
    "sft": SFTConfig,
    "long2short": Long2ShortConfig,
    "rl": RLConfig,
    "eval": EvalConfig,
}
SOURCE = {"tasks": [{"family": "trial"}]}
NEEDED: dict[type[StrictModel], dict[str, Any]] = {
    RLConfig: {"num_iterations": 1, "model": {"path": "dir"}, "prompts": SOURCE},
    SFTConfig: {"data": SOURCE},
    DPORunConfig: {"data": SOURCE},
    Long2ShortConfig: {"method": "dpo", "model": {"path": "dir"}, "prompts": SOURCE},
    PromptsConfig: SOURCE,
    SFTDataConfig: SOURCE,
    TaskConfig: {"family": "trial"},
    EvalConfig: {"benchmarks": "trial"},
}


def _schemas(root: type[StrictModel] = StrictModel) -> Iterator[type[StrictModel]]:
    for schema in root.__subclasses__():
        if schema.__module__.startswith("k15.config."):
            yield schema
            yield from _schemas(schema)


ALL = list(_schemas())


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:  # an empty one is a setting whose value is a table
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_config_keys_lists_every_setting_once(schema: type[StrictModel]):
    saved = schema.model_validate(NEEDED[schema]).model_dump(mode="json")
    keys = [key for key, _, _ in config_keys(schema)]
    assert sorted(keys) == sorted(_leaves(saved))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_config_keys_shows_the_default_that_holds(schema: type[StrictModel]):
    config = schema.model_validate(NEEDED[schema])
    needed = {key for key, default, _ in config_keys(schema) if default == "required"}
    for key, default, _ in config_keys(schema):
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        given = key in needed or key.split(".")[0] in NEEDED[schema]
        assert given or value == default, key


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_one_setting_of_a_table_leaves_the_others_at_their_defaults(schema: type[StrictModel]):
    defaults = schema.model_validate(NEEDED[schema])
    for table in set(schema.model_fields) - set(NEEDED[schema]):
        saved = defaults.model_dump()[table]
        for name in saved if isinstance(saved, dict) else ():
            one = schema.model_validate({**NEEDED[schema], table: {name: saved[name]}})
            assert one == defaults, f"{table}.{name}"


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.__name__)
def test_every_setting_has_a_description(schema: type[StrictModel]):
    assert schema.__doc__
    tables = {name for name, f in schema.model_fields.items() if f.annotation in ALL}
    silent = [
        name for name, f in schema.model_fields.items() if not f.description and name not in tables
    ]
    assert silent == []


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.__name__)
def test_the_defaults_are_valid(schema: type[StrictModel]):
    config = schema.model_validate(NEEDED.get(schema, {}))
    assert schema.model_validate(config.model_dump()) == config


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.__name__)
def test_a_config_is_frozen_and_refuses_unknown_keys(schema: type[StrictModel]):
    config = schema.model_validate(NEEDED.get(schema, {}))
    name = next(iter(schema.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, name, getattr(config, name))
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        schema.model_validate({**NEEDED.get(schema, {}), "no_such_key": 1})


def test_the_length_penalty_is_a_step_not_a_ramp():
    """Section 2.3.3: standard policy optimization first, then a constant penalty."""
    penalty = LengthPenaltyConfig(weight=0.5, start_iteration=3)
    assert [penalty.weight_at(i) for i in range(6)] == [0, 0, 0, 0.5, 0.5, 0.5]


def test_the_defaults_follow_the_paper_where_it_speaks():
    assert (AlgorithmConfig().loss, AlgorithmConfig().baseline) == ("mirror_descent", "mean")
    assert RolloutConfig().segment_tokens < RolloutConfig().max_tokens, "rollouts are partial (2.6.2)"
    assert LengthPenaltyConfig().weight_at(10**6) == 0, "off unless asked for"
    assert ModelConfig().dtype == "float32", "a run on a CPU is reproducible bit for bit"


def test_every_recipe_fits_the_command_in_its_first_line():
    recipes = sorted((ROOT / "recipes").rglob("*.toml"))
    assert recipes, "no recipes found"
    for path in recipes:
        first = path.read_text().split("\n", 1)[0]
        match = re.fullmatch(r"# k15 (\w+) (recipes/\S+)(.*)", first)
        assert match, (
            f"{path}: the first line should be '# k15 COMMAND recipes/FILE.toml', got {first!r}"
        )
        command, file, flags = match.groups()
        assert ROOT / file == path, f"{path}: its first line names {file}"
        assert command in SCHEMAS, f"{path}: k15 {command} takes no recipe"
        settings = re.sub(r" --run \S+| --compare", "", flags)
        load_config(SCHEMAS[command], path, shlex.split(settings))

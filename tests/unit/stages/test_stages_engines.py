"""From settings to an engine."""

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from k15.config.base import load_config
from k15.config.parts import TinyModelConfig
from k15.config.rl import RLConfig
from k15.engine.embedded import EmbeddedEngine
from k15.errors import ConfigError
from k15.models.load import make_policy
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer
from k15.stages.engines import check_engine, make_engine

NEEDED = ("--num_iterations", "1", "--model", "m", "--prompts.path", "p")


def settings(*flags: str):
    return load_config(RLConfig, None, (*NEEDED, *flags)).engine


def test_the_engine_is_chosen_by_its_name():
    assert settings("--engine", "vllm", "--engine.num_slots", "7").type == "vllm"
    assert settings("--engine.num_slots", "7", "--engine=embedded").num_slots == 7
    with pytest.raises(ConfigError, match=r"engine\.type"):
        settings("--engine", "sglang")


def test_an_engine_that_is_not_installed_is_a_wrong_setting(monkeypatch):
    tokenizer = build_tokenizer(["abc"])
    config = settings("--engine", "vllm")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: ModuleSpec(name, None)
    )  # a mere folder
    policy = make_policy(build_tiny_model(TinyModelConfig(), tokenizer, seed=0), tokenizer)
    with pytest.raises(ConfigError, match="vLLM is not installed"):
        make_engine(config, policy)
    with pytest.raises(ConfigError, match="vLLM is not installed"):
        check_engine(config)
    check_engine(settings())
    assert isinstance(make_engine(settings(), policy), EmbeddedEngine)

"""What a vLLM worker would be made of, without vLLM."""

import importlib.util
import json
import pickle
from importlib.machinery import ModuleSpec

import pytest
import torch
from engine_support import SHAPE, tiny_model
from transformers import Qwen3Config, Qwen3ForCausalLM

from k15.engine.vllm_plan import plan_vllm
from k15.errors import ConfigError, ModelError

SETTINGS = {
    "num_slots": 4,
    "num_threads": 1,
    "max_positions": 100,
    "memory_share": 0.25,
    "is_eager": None,
}


@pytest.fixture
def _has_vllm(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None, origin="there"))


@pytest.fixture(scope="module")
def wide() -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32)).to(torch.bfloat16)


def test_without_vllm_the_error_says_how_to_get_it(monkeypatch, wide):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: ModuleSpec(name, None)
    )  # a mere folder
    with pytest.raises(ConfigError, match=r"pip install 'k15\[vllm\]'"):
        plan_vllm(wide, **SETTINGS)


@pytest.mark.usefixtures("_has_vllm")
def test_narrow_heads_are_refused_on_a_cpu():
    with pytest.raises(ModelError, match="at least 32; this model has 16"):
        plan_vllm(tiny_model(), **SETTINGS)


@pytest.mark.usefixtures("_has_vllm")
def test_a_plan_travels_and_names_the_class(wide):
    plan = plan_vllm(wide, **SETTINGS)
    assert pickle.loads(pickle.dumps(plan)) == plan
    config = json.loads(plan.model_config)
    assert config["architectures"] == [
        "Qwen3ForCausalLM"
    ]  # a model made from scratch does not say so itself
    assert Qwen3Config.from_dict(config).head_dim == 32
    assert plan.dtype == "bfloat16"

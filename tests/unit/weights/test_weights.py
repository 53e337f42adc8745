"""Fingerprints, snapshots, and checkpoints that others can load."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from k15.config.parts import ModelConfig, TinyModelConfig
from k15.models.load import load_policy, make_policy
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer
from k15.weights.fingerprint import fingerprint, snapshot
from k15.weights.save import save_policy

TINY = TinyModelConfig(num_layers=1, width=32, num_heads=2, mlp_width=48, max_positions=64)
TOKENIZER = build_tokenizer(["Try k = 5 and k = 12, then stop."])


def tiny_policy():
    return make_policy(build_tiny_model(TINY, TOKENIZER, seed=0), TOKENIZER)


def test_fingerprint_is_32_hex_characters_and_ignores_the_order() -> None:
    a, b = torch.arange(6.0), torch.ones(2, 3)
    digest = fingerprint({"a": a, "b": b})
    assert len(digest) == 32
    assert int(digest, 16) >= 0
    assert digest == fingerprint({"b": b.clone(), "a": a.clone()})


def test_fingerprint_of_a_view_is_that_of_its_copy() -> None:
    wide = torch.arange(12.0).view(3, 4)
    assert fingerprint({"a": wide.t()}) == fingerprint({"a": wide.t().contiguous()})
    assert fingerprint({"a": wide[1:]}) == fingerprint({"a": wide[1:].clone()})


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.0, 3.0, 4.0000005])},
        {"b": torch.tensor([1.0, 2.0, 3.0, 4.0])},
        {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])},
        {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]).view(torch.int32)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])},
        {"a": torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.bfloat16)},
        {},
    ],
)
def test_fingerprint_sees_name_dtype_shape_and_bytes(other) -> None:
    assert fingerprint({"a": torch.tensor([1.0, 2.0, 3.0, 4.0])}) != fingerprint(other)


def test_fingerprint_tells_minus_zero_from_zero_and_takes_scalars() -> None:
    assert fingerprint({"a": torch.tensor(0.0)}) != fingerprint({"a": torch.tensor(-0.0)})


def test_snapshot_holds_tied_tensors_once_and_does_not_follow_training() -> None:
    model = tiny_policy().model
    weights = snapshot(model, version=7)
    assert weights.version == 7
    assert "lm_head.weight" not in weights.tensors
    assert "model.embed_tokens.weight" in weights.tensors
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1.0)
    assert fingerprint(weights.tensors) == weights.fingerprint
    assert snapshot(model, version=7).fingerprint != weights.fingerprint
    assert not any(tensor.requires_grad for tensor in weights.tensors.values())


def test_a_saved_policy_loads_with_plain_from_pretrained(tmp_path) -> None:
    policy = tiny_policy()
    save_policy(policy, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert snapshot(model, 0).fingerprint == snapshot(policy.model, 0).fingerprint
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "<think>Try k = 5</think> é"
    assert tokenizer(text).input_ids == TOKENIZER(text).input_ids
    assert tokenizer.chat_template == TOKENIZER.chat_template


def test_a_policy_survives_a_round_trip_twice(tmp_path) -> None:
    policy = tiny_policy()
    save_policy(policy, tmp_path / "one")
    once = load_policy(ModelConfig(path=str(tmp_path / "one"), device="cpu"))
    save_policy(once, tmp_path / "two")
    twice = load_policy(ModelConfig(path=str(tmp_path / "two"), device="cpu"))
    assert (twice.stop_ids, twice.banned_ids, twice.vocab_size, twice.max_positions) == (
        policy.stop_ids,
        policy.banned_ids,
        policy.vocab_size,
        policy.max_positions,
    )
    files = (
        "model.safetensors",
        "tokenizer.json",
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
    )
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_the_stop_ids_are_written_for_other_servers(tmp_path) -> None:
    policy = dataclasses.replace(tiny_policy(), stop_ids=(1, 30))
    save_policy(policy, tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == [1, 30]
    assert policy.model.generation_config.eos_token_id == 1  # the policy itself is left as it was


def test_a_generation_config_that_cannot_be_written_keeps_the_stop_ids(tmp_path) -> None:
    policy = dataclasses.replace(tiny_policy(), stop_ids=(1, 30))
    settings = {"eos_token_id": 1, "do_sample": False, "temperature": 0.7}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    policy.model.generation_config = GenerationConfig.from_pretrained(tmp_path)
    save_policy(policy, tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [1, 30]


def test_the_tokenizer_class_is_one_that_older_transformers_know(tmp_path) -> None:
    save_policy(tiny_policy(), tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"

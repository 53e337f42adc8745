"""Tiny models, and what is said about checkpoints that do not fit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from k15.config.parts import ModelConfig, TinyModelConfig
from k15.errors import ModelError
from k15.models.load import PLAIN_CHAT_TEMPLATE, load_policy, make_policy
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer

TINY = TinyModelConfig(num_layers=1, width=32, num_heads=2, mlp_width=48, max_positions=64)
TOKENIZER = build_tokenizer(["Try k = 5 and k = 12, then stop."])


@pytest.fixture
def checkpoint(tmp_path):
    """A directory with a whole checkpoint, saved by transformers alone."""
    directory = tmp_path / "model"
    build_tiny_model(TINY, TOKENIZER, seed=0).save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


def load(directory):
    return load_policy(ModelConfig(path=str(directory), device="cpu"))


def test_the_seed_decides_the_weights_and_nothing_else() -> None:
    before = torch.random.get_rng_state()
    first, second = (build_tiny_model(TINY, TOKENIZER, seed=3).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_tiny_model(TINY, TOKENIZER, seed=4).state_dict()
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_tiny_model_has_the_shape_asked_for() -> None:
    model = build_tiny_model(TINY, TOKENIZER, seed=0)
    rows = model.get_input_embeddings().weight.shape[0]
    assert rows % 16 == 0
    assert 0 <= rows - len(TOKENIZER) < 16
    assert (
        model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    )
    assert model.config.max_position_embeddings == 64
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (32, 32)


def test_stop_and_banned_ids_of_a_tiny_model() -> None:
    policy = make_policy(build_tiny_model(TINY, TOKENIZER, seed=0), TOKENIZER)
    ids = {
        t: TOKENIZER.convert_tokens_to_ids(t)
        for t in ("<|end|>", "<|pad|>", "<|user|>", "<think>", "</think>")
    }
    assert policy.stop_ids == (ids["<|end|>"],)
    assert {ids["<|pad|>"], ids["<|user|>"]} <= set(policy.banned_ids)
    assert not {ids["<|end|>"], ids["<think>"], ids["</think>"]} & set(policy.banned_ids)
    assert set(range(len(TOKENIZER), policy.vocab_size)) <= set(policy.banned_ids)
    assert TOKENIZER(" k").input_ids[0] not in policy.banned_ids


def test_a_loaded_checkpoint_gives_the_same_logits(checkpoint) -> None:
    policy = load(checkpoint)
    ids = torch.tensor([[1, 5, 9, 200]])
    with torch.no_grad():
        assert torch.equal(
            policy.model(ids).logits, build_tiny_model(TINY, TOKENIZER, seed=0)(ids).logits
        )
    assert policy.max_positions == 64
    assert policy.tokenizer.chat_template == TOKENIZER.chat_template


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "needs config.json"),
        ("model.safetensors", "needs weights"),
        ("tokenizer.json", "needs a tokenizer"),
    ],
)
def test_a_missing_file_is_named(checkpoint, name: str, message: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(ModelError, match=message):
        load(checkpoint)


@pytest.mark.parametrize("kept_bytes", [4, 1000, -100])
def test_a_cut_weight_file_is_refused(checkpoint, kept_bytes: int) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(ModelError, match="damaged"):
        load(checkpoint)


def test_a_missing_tensor_is_refused_not_made_up(checkpoint) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1, first model\.layers\.0\.self_attn\.q_proj\.weight"):
        load(checkpoint)


def test_a_tensor_of_another_shape_is_refused(checkpoint) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["intermediate_size"] = 96
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="mlp"):
        load(checkpoint)


def test_a_damaged_tokenizer_is_refused(checkpoint) -> None:
    (checkpoint / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ModelError, match="tokenizer of"):
        load(checkpoint)


def test_a_directory_that_does_not_exist_is_not_looked_up_on_the_hub(tmp_path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load(tmp_path / "absent")


def test_a_tokenizer_larger_than_the_embedding_is_refused(checkpoint) -> None:
    build_tokenizer(
        [" ".join(chr(97 + i) + chr(98 + j) for i in range(20) for j in range(20))]
    ).save_pretrained(checkpoint)
    with pytest.raises(ModelError, match="needs a row of the embedding"):
        load(checkpoint)


def test_without_a_chat_template_the_plain_one_is_used(checkpoint) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    policy = load(checkpoint)
    assert policy.tokenizer.chat_template == PLAIN_CHAT_TEMPLATE
    messages = [{"role": "system", "content": "S."}, {"role": "user", "content": "2 + 2?"}]
    text = policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "S.\n\nQuestion: 2 + 2?\nAnswer:"
    messages.append({"role": "assistant", "content": "4"})
    text = policy.tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "S.\n\nQuestion: 2 + 2?\nAnswer: 4<|end|>\n\n"


def test_the_end_of_turn_of_the_template_is_a_stop_id() -> None:
    tokenizer = build_tokenizer(["k"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|turn|>' }}{% endfor %}"
    model = build_tiny_model(TINY, tokenizer, seed=0)
    policy = make_policy(model, tokenizer)
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert turn in policy.stop_ids
    assert tokenizer.eos_token_id in policy.stop_ids
    assert turn not in policy.banned_ids


def test_a_model_without_any_end_token_is_refused() -> None:
    tokenizer = build_tokenizer(["k"])
    model = build_tiny_model(TINY, tokenizer, seed=0)
    tokenizer.eos_token = None
    tokenizer.chat_template = None
    model.generation_config.eos_token_id = None
    with pytest.raises(ModelError, match="needs a token that ends it"):
        make_policy(model, tokenizer)


def test_layers_that_are_not_full_attention_are_refused() -> None:
    shape = {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    windowed = MistralForCausalLM(MistralConfig(**shape, sliding_window=16, max_position_embeddings=64))
    with pytest.raises(ModelError, match="sliding_attention"):
        make_policy(windowed, TOKENIZER)
    wide = MistralForCausalLM(MistralConfig(**shape, sliding_window=64, max_position_embeddings=64))
    assert make_policy(wide, TOKENIZER).max_positions == 64
    mamba = MambaForCausalLM(
        MambaConfig(vocab_size=512, hidden_size=32, num_hidden_layers=1, state_size=4)
    )
    with pytest.raises(ModelError, match="recurrent state"):
        make_policy(mamba, TOKENIZER)
    llama = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=128))
    assert make_policy(llama, TOKENIZER).max_positions == 128


def test_cuda_without_a_device_is_an_error(checkpoint) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ModelError, match="no CUDA device"):
        load_policy(ModelConfig(path=str(checkpoint), device="cuda"))

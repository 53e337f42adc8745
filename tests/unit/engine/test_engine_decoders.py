"""Decoders: the cached logits of every kind of model equal those of its plain forward, or it is refused."""

import pytest
import torch
import transformers as hf

from k15.engine import build
from k15.engine.build import build_decoder
from k15.engine.cache import KVCache
from k15.engine.decoder import PREFILL_CHUNK
from k15.engine.embedded import EmbeddedEngine
from k15.engine.fused import FusedDecoder
from k15.engine.generic import GenericDecoder
from k15.errors import EngineError, ModelError
from k15.weights.fingerprint import fingerprint, named_weights, snapshot

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GPT2_SHAPE = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}

FUSED = {
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True)),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**SHAPE)),
    "llama with biases": (
        hf.LlamaForCausalLM,
        hf.LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3_ROPE),
    ),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "mistral": (hf.MistralForCausalLM, hf.MistralConfig(**SHAPE, sliding_window=None)),
}
GENERIC = {
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config(**GPT2_SHAPE)),
    "gemma2, soft caps": (
        hf.Gemma2ForCausalLM,
        hf.Gemma2Config(
            **SHAPE, head_dim=16, layer_types=["full_attention"] * 2, attn_logit_softcapping=5.0
        ),
    ),
    "qwen3 moe": (
        hf.Qwen3MoeForCausalLM,
        hf.Qwen3MoeConfig(
            **SHAPE, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
        ),
    ),
    "olmo2": (hf.Olmo2ForCausalLM, hf.Olmo2Config(**SHAPE)),
}
OWN_ATTENTION = {
    "gpt-j": (hf.GPTJForCausalLM, hf.GPTJConfig(**GPT2_SHAPE, rotary_dim=4)),
    "deepseek v3, latent keys": (
        hf.DeepseekV3ForCausalLM,
        hf.DeepseekV3Config(
            **{**SHAPE, "num_key_value_heads": 4},
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            moe_intermediate_size=16,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=12,
        ),
    ),
}


def make(entry) -> hf.PreTrainedModel:
    torch.manual_seed(1)
    model = entry[0](entry[1]).eval()
    for name, tensor in model.named_parameters():
        if tensor.dim() == 1 and name.endswith("weight"):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)  # norms that are all ones would hide a swapped norm
        elif tensor.dim() == 1:
            torch.nn.init.normal_(tensor, std=0.2)
    return model


def largest_difference(decoder, model) -> float:
    """Over 20 decoded tokens of three sequences with prompts of different lengths, one of them past a page."""
    lengths = [3, 37, 70]
    ids = torch.randint(0, 96, (3, 128))
    expected = model(ids).logits
    cache = KVCache(3)
    for row, length in enumerate(lengths):
        cache.fit(row, length)
        for start in range(0, length - 1, PREFILL_CHUNK):
            positions = torch.arange(start, start + PREFILL_CHUNK)[None]
            chunk = ids[row : row + 1, start : start + PREFILL_CHUNK].clone()
            chunk[positions >= length - 1] = 0  # padding, as the engine has it
            decoder.prefill(chunk, positions, [row], cache)
    difference = 0.0
    for step in range(20):
        at = torch.tensor(lengths) - 1 + step
        for row in range(3):
            cache.fit(row, int(at[row]) + 1)
        logits = decoder.decode(ids[torch.arange(3), at], at, cache)
        difference = max(difference, (logits - expected[torch.arange(3), at]).abs().max().item())
    assert expected.std() > 0.1
    return difference


@pytest.mark.parametrize("name", FUSED)
@torch.inference_mode()
def test_the_llama_family_runs_fused(name: str) -> None:
    model = make(FUSED[name])
    built = build_decoder(model)
    assert isinstance(built.decoder, FusedDecoder)
    assert built.notices == ()
    assert largest_difference(built.decoder, model) < 2e-5


@pytest.mark.parametrize("name", FUSED)
@torch.inference_mode()
def test_the_llama_family_runs_through_its_own_forward_too(name: str) -> None:
    model = make(FUSED[name])
    decoder = build_decoder(model, "generic").decoder
    assert isinstance(decoder, GenericDecoder)
    assert largest_difference(decoder, model) < 2e-5


@pytest.mark.parametrize("name", GENERIC)
@torch.inference_mode()
def test_other_models_run_with_paged_attention(name: str) -> None:
    model = make(GENERIC[name])
    built = build_decoder(model)
    assert isinstance(built.decoder, GenericDecoder)
    assert built.notices == ()
    assert largest_difference(built.decoder, model) < 2e-5


@pytest.mark.parametrize("name", OWN_ATTENTION)
@torch.inference_mode()
def test_models_that_do_not_take_paged_attention_run_with_their_own(name: str) -> None:
    model = make(OWN_ATTENTION[name])
    built = build_decoder(model)
    assert isinstance(built.decoder, GenericDecoder)
    assert "paged attention" in built.notices[0]
    assert largest_difference(built.decoder, model) < 2e-5


def test_a_model_with_another_kind_of_position_is_refused() -> None:
    model = hf.BloomForCausalLM(hf.BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(ModelError, match="ordinary attention"):
        build_decoder(model)


def test_bfloat16_runs_within_its_precision() -> None:
    model = make(FUSED["qwen3"]).to(torch.bfloat16)
    decoder = build_decoder(model).decoder
    assert isinstance(decoder, FusedDecoder)
    assert decoder.dtype == torch.bfloat16
    with torch.inference_mode():
        logits = decoder.decode(torch.tensor([5]), torch.tensor([0]), one_row_cache())
    assert logits.dtype == torch.float32


def one_row_cache() -> KVCache:
    cache = KVCache(1)
    cache.fit(0, 1)
    return cache


def test_a_wrong_fused_forward_is_noticed_and_not_used(monkeypatch) -> None:
    model = make(FUSED["qwen3"])
    monkeypatch.setattr(FusedDecoder, "_mlp", lambda self, layer, state: 0.9 * state)
    built = build_decoder(model)
    assert isinstance(built.decoder, GenericDecoder)
    assert "fused forward of Qwen3ForCausalLM differs" in built.notices[0]
    assert EmbeddedEngine(model, num_slots=2).take_notices() == built.notices


def test_asking_for_the_fused_forward_of_another_family_is_refused() -> None:
    with pytest.raises(ModelError, match="not of the Llama family"):
        build_decoder(make(GENERIC["gpt2"]), "fused")


def test_dropout_in_training_mode_does_not_confuse_the_check() -> None:
    model = make(GENERIC["gpt2"]).train()
    assert build_decoder(model).notices == ()
    assert model.training


def test_the_check_sees_a_difference_of_one_layer() -> None:
    model = make(FUSED["llama"])
    built = build_decoder(model)
    changed = {name: tensor.clone() for name, tensor in built.decoder.tensors().items()}
    changed["model.layers.1.mlp.down_proj.weight"][3] *= 1.01
    built.decoder.copy_weights(changed)
    difference, allowed = build._difference(built.decoder, model)
    assert difference > allowed


@pytest.mark.parametrize("kind", ["fused", "generic"])
def test_a_decoder_holds_a_copy_under_the_models_names(kind: str) -> None:
    model = make(FUSED["qwen3"])
    before = snapshot(model, 0)
    decoder = build_decoder(model, kind).decoder
    assert decoder.tensors().keys() == before.tensors.keys()
    assert fingerprint(decoder.tensors()) == before.fingerprint
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    assert fingerprint(decoder.tensors()) == before.fingerprint
    decoder.copy_weights(named_weights(model))
    assert fingerprint(decoder.tensors()) == fingerprint(named_weights(model))
    with torch.inference_mode():
        assert largest_difference(decoder, model) < 1e-4


@pytest.mark.parametrize("kind", ["fused", "generic"])
def test_weights_of_another_model_are_refused(kind: str) -> None:
    decoder = build_decoder(make(FUSED["qwen3"]), kind).decoder
    with pytest.raises(EngineError, match="names differ"):
        decoder.copy_weights(named_weights(make(FUSED["qwen2"])))
    wide = hf.Qwen3Config(**{**SHAPE, "vocab_size": 97}, head_dim=16, tie_word_embeddings=True)
    with pytest.raises(EngineError, match=r"embed_tokens.*\(97, 32\).*\(96, 32\)"):
        decoder.copy_weights(named_weights(hf.Qwen3ForCausalLM(wide)))
    with pytest.raises(EngineError, match="bfloat16"):
        decoder.copy_weights(named_weights(make(FUSED["qwen3"]).to(torch.bfloat16)))

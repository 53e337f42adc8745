"""A tiny decoder made from scratch, in the Qwen3 class of transformers."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from k15.config.parts import TinyModelConfig
from k15.models.tokenizer import END, PAD

VOCAB_MULTIPLE = 16  # rows of the embedding; the ids past the tokenizer's end are banned at sampling


def build_tiny_model(
    config: TinyModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> Qwen3ForCausalLM:
    """A Qwen3 decoder with random weights, fp32, tied embeddings; the same seed gives the same weights.

    The global random state is left as it was.

    Args:
        config: shape of the model.
        tokenizer: one that `build_tokenizer` made; gives vocabulary size, end and padding token.
        seed: seed of the initial weights.
    """
    vocab = tokenizer.get_vocab()
    end, pad = vocab[END], vocab[PAD]
    vocab_size = -(-len(tokenizer) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    shape = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=True,
        use_sliding_window=False,
        initializer_range=0.02,
        eos_token_id=end,
        pad_token_id=pad,
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(shape)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    return model.float().eval()

"""Choosing how a model is run: the fused forward where it fits, else the model's own, both checked first."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from k15.engine.cache import PAGE, KVCache
from k15.engine.decoder import PREFILL_CHUNK, Decoder
from k15.engine.fused import FusedDecoder, FusedShape
from k15.engine.generic import GenericDecoder
from k15.errors import ModelError
from k15.weights.fingerprint import named_weights

DecoderType = Literal["auto", "fused", "generic"]

_FUSED_CLASSES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # the others depend on the sequence's length
_TOLERANCE = {torch.float32: 1e-4}
_COARSE_TOLERANCE = 0.1  # relative to the largest logit; for bf16 and fp16


@dataclass(frozen=True)
class BuiltDecoder:
    """A decoder that was compared with the model, and what there is to say about the choice."""

    decoder: Decoder
    notices: tuple[str, ...] = ()


def build_decoder(model: PreTrainedModel, decoder_type: DecoderType = "auto") -> BuiltDecoder:
    """The fastest decoder that gives the model's own logits.

    Raises:
        ModelError: none does; the model uses more than ordinary attention.
    """
    notices: list[str] = []
    for name, make in _candidates(model, decoder_type):
        try:
            decoder = make()
            difference, allowed = _difference(decoder, model)
        except Exception as error:  # whatever a model's own code raises when it meets another cache
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            notices.append(f"the {name} of {type(model).__name__} failed ({reason})")
            continue
        if difference <= allowed:
            return BuiltDecoder(decoder, tuple(notices))
        notices.append(
            f"the {name} of {type(model).__name__} differs by {difference:.2g} from the model's own logits (at "
            f"most {allowed:.2g} is allowed)"
        )
    raise ModelError(
        "The embedded engine runs decoders with ordinary attention, and checks its logits against the model's; "
        f"{'; '.join(notices) or f'{type(model).__name__} is not of the Llama family'}. Use another model."
    )


def _candidates(
    model: PreTrainedModel, decoder_type: DecoderType
) -> Iterator[tuple[str, Callable[[], Decoder]]]:
    """Ways to run the model, fastest first."""
    shape = fused_shape(model) if decoder_type in ("auto", "fused") else None
    if shape is not None:
        yield "fused forward", lambda: _fused(shape, model)
    if decoder_type in ("auto", "generic"):
        yield "forward with paged attention", lambda: GenericDecoder(copy.deepcopy(model))
        yield (
            "forward with its own attention",
            lambda: GenericDecoder(copy.deepcopy(model), is_paged=False),
        )


def fused_shape(model: PreTrainedModel) -> FusedShape | None:
    """The shape of a model of the Llama family, or None for any other model."""
    if type(model) not in _FUSED_CLASSES:
        return None
    config, rotary = model.config, model.model.rotary_emb
    if config.hidden_act != "silu" or config.rope_parameters["rope_type"] not in _ROPE_TYPES:
        return None
    return FusedShape(
        shapes={name: tuple(tensor.shape) for name, tensor in named_weights(model).items()},
        dtype=model.dtype,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=model.model.layers[0].self_attn.head_dim,
        eps=config.rms_norm_eps,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        inverse_frequencies=tuple(rotary.inv_freq.tolist()),
        rotary_scale=float(rotary.attention_scaling),
    )


def _fused(shape: FusedShape, model: PreTrainedModel) -> FusedDecoder:
    decoder = FusedDecoder(shape, model.device)
    decoder.copy_weights(named_weights(model))
    return decoder


@torch.inference_mode()
def _difference(decoder: Decoder, model: PreTrainedModel) -> tuple[float, float]:
    """Largest difference between cached logits and a plain forward over random tokens, and what is allowed.

    Two sequences of different lengths, the longer one past the first page of the cache.
    """
    room = min(PAGE + PREFILL_CHUNK, decoder.max_positions) - 1
    lengths = [room - room // 4, room]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, decoder.vocab_size, (2, room + PREFILL_CHUNK), generator=generator).to(
        decoder.device
    )
    cached = _cached_logits(decoder, ids, lengths)
    largest = difference = 0.0
    was_training = model.training
    model.eval()  # dropout would make any two passes differ
    for row, length in enumerate(lengths):
        expected = model(ids[row : row + 1, : length + 1], use_cache=False).logits[0, -1].float()
        largest = max(largest, expected.abs().max().item())
        difference = max(difference, (cached[row] - expected).abs().max().item())
    model.train(was_training)
    allowed = max(1.0, largest) * _TOLERANCE.get(decoder.dtype, _COARSE_TOLERANCE)
    return (difference if difference == difference else float("inf")), allowed  # NaN counts as wrong


def _cached_logits(decoder: Decoder, ids: Tensor, lengths: list[int]) -> Tensor:
    """[2, vocabulary] logits after the token at place `length` of each sequence."""
    cache = KVCache(len(lengths), ids.device)
    rows = list(range(len(lengths)))
    for row in rows:
        cache.fit(row, max(lengths) + PREFILL_CHUNK)
    for start in range(0, max(lengths), PREFILL_CHUNK):
        positions = torch.arange(start, start + PREFILL_CHUNK, device=ids.device)
        positions = positions.clamp(max=decoder.max_positions - 1).repeat(len(lengths), 1)
        decoder.prefill(ids[:, start : start + PREFILL_CHUNK], positions, rows, cache)
    at = torch.tensor(lengths, device=ids.device)
    return decoder.decode(ids[rows, at], at, cache)

"""A lean forward for the Llama family: few, large operators, no module calls.

Covers Llama, Mistral, Qwen2 and Qwen3 with full attention, SiLU and rotary positions that do not change with
the length. Weights live in fused matrices (query, key and value; gate and up); the names of the model's
`state_dict` are views into them, so a fingerprint covers what is really multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from k15.engine.cache import KVCache, Reads
from k15.engine.decoder import Decoder
from k15.weights.fingerprint import named_weights

_CLASSES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # the others depend on the sequence's length


@dataclass(frozen=True)
class FusedShape:
    """What the forward needs to know of a model besides its weights; travels to worker processes."""

    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    dtype: torch.dtype
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    vocab_size: int
    max_positions: int
    inverse_frequencies: tuple[float, ...] = field(repr=False)
    rotary_scale: float


def fused_shape(model: PreTrainedModel) -> FusedShape | None:
    """The shape of a model of the Llama family, or None for any other model."""
    if type(model) not in _CLASSES:
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


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer. Biases are None where the model has none; `qk_norm` is Qwen3's, [heads, head_dim]."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    qk_norms: tuple[Tensor, Tensor] | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class FusedDecoder(Decoder):
    """The Llama family's forward over a `KVCache`. Starts with zero weights: load some first."""

    def __init__(self, shape: FusedShape, device: torch.device | str = "cpu") -> None:
        self.shape = shape
        self.vocab_size = shape.vocab_size
        self.max_positions = shape.max_positions
        self._device = torch.device(device)
        self._tensors: dict[str, Tensor] = {}
        self._embedding = self._take("model.embed_tokens.weight")
        self._layers = [self._make_layer(f"model.layers.{i}.") for i in range(shape.num_layers)]
        self._norm = self._take("model.norm.weight")
        tied = "lm_head.weight" not in shape.shapes
        self._head = self._embedding if tied else self._take("lm_head.weight")
        assert self._tensors.keys() == shape.shapes.keys(), self._tensors.keys() ^ shape.shapes.keys()
        self._cos, self._sin = self._rotary_tables()

    def tensors(self) -> dict[str, Tensor]:
        return self._tensors

    def prefill(self, token_ids: Tensor, positions: Tensor, rows: list[int], cache: KVCache) -> None:
        self._run(token_ids, cache.plan(rows, positions), cache, only_keys=True)

    def decode(self, token_ids: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        state = self._run(token_ids[:, None], cache.plan_all(positions[:, None]), cache)
        state = F.rms_norm(state, state.shape[-1:], self._norm, self.shape.eps)
        return F.linear(state, self._head).float()

    def _run(
        self, token_ids: Tensor, reads: Reads, cache: KVCache, *, only_keys: bool = False
    ) -> Tensor:
        """Hidden states [r * q, width]; with `only_keys` the last layer ends once keys and values are stored."""
        state = self._embedding[token_ids.reshape(-1)]
        cos, sin = (table[reads.positions.reshape(-1)][:, None] for table in (self._cos, self._sin))
        for number, layer in enumerate(self._layers):
            query, key, value = self._project(layer, state, cos, sin)
            r, q = reads.positions.shape
            cache.write(number, reads, key.unflatten(0, (r, q)), value.unflatten(0, (r, q)))
            if only_keys and number == len(self._layers) - 1:
                break
            query = query.unflatten(0, (r, q)).transpose(1, 2)
            mixed = cache.attend(number, reads, query, scaling=self.shape.head_dim**-0.5)
            state = state + F.linear(mixed.reshape(r * q, -1), layer.out, layer.out_bias)
            state = state + self._mlp(layer, state)
        return state

    def _project(
        self, layer: _Layer, state: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, rotated keys, and values: each [tokens, heads, head_dim]."""
        shape = self.shape
        normed = F.rms_norm(state, state.shape[-1:], layer.norm, shape.eps)
        qkv = F.linear(normed, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, shape.head_dim))
        num_rotated = shape.num_heads + shape.num_kv_heads
        rotated, value = qkv[:, :num_rotated], qkv[:, num_rotated:]
        if layer.qk_norms is not None:
            scale = torch.cat(
                [
                    layer.qk_norms[0].expand(shape.num_heads, -1),
                    layer.qk_norms[1].expand(shape.num_kv_heads, -1),
                ]
            )
            rotated = F.rms_norm(rotated, (shape.head_dim,), None, shape.eps) * scale
        half = shape.head_dim // 2
        swapped = torch.cat((rotated[..., half:], rotated[..., :half]), dim=-1)
        rotated = torch.addcmul(rotated * cos, swapped, sin)
        return rotated[:, : shape.num_heads], rotated[:, shape.num_heads :], value

    def _mlp(self, layer: _Layer, state: Tensor) -> Tensor:
        normed = F.rms_norm(state, state.shape[-1:], layer.mlp_norm, self.shape.eps)
        gate, up = F.linear(normed, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, layer.down, layer.down_bias)

    def _make_layer(self, prefix: str) -> _Layer:
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        normed = attention + "q_norm.weight" in self.shape.shapes
        projections = [attention + f"{name}_proj" for name in "qkv"]
        return _Layer(
            norm=self._take(prefix + "input_layernorm.weight"),
            qkv=self._fuse([name + ".weight" for name in projections]),
            qkv_bias=self._fuse_biases([name + ".bias" for name in projections]),
            qk_norms=(self._take(attention + "q_norm.weight"), self._take(attention + "k_norm.weight"))
            if normed
            else None,
            out=self._take(attention + "o_proj.weight"),
            out_bias=self._fuse_biases([attention + "o_proj.bias"]),
            mlp_norm=self._take(prefix + "post_attention_layernorm.weight"),
            gate_up=self._fuse([mlp + "gate_proj.weight", mlp + "up_proj.weight"]),
            gate_up_bias=self._fuse_biases([mlp + "gate_proj.bias", mlp + "up_proj.bias"]),
            down=self._take(mlp + "down_proj.weight"),
            down_bias=self._fuse_biases([mlp + "down_proj.bias"]),
        )

    def _take(self, name: str) -> Tensor:
        return self._fuse([name])

    def _fuse(self, names: list[str]) -> Tensor:
        """One tensor that holds these, one below the other; their names become views into it."""
        shapes = [self.shape.shapes[name] for name in names]
        rows = [shape[0] for shape in shapes]
        fused = torch.zeros(sum(rows), *shapes[0][1:], dtype=self.shape.dtype, device=self._device)
        self._tensors.update(zip(names, fused.split(rows), strict=True))
        return fused

    def _fuse_biases(self, names: list[str]) -> Tensor | None:
        return self._fuse(names) if names[0] in self.shape.shapes else None

    def _rotary_tables(self) -> tuple[Tensor, Tensor]:
        """cos and signed sin of every position, [positions, head_dim]; sin is negative in the first half."""
        frequencies = torch.tensor(self.shape.inverse_frequencies, dtype=torch.float32)
        angles = torch.arange(self.max_positions, dtype=torch.float32)[:, None] * frequencies
        cos, sin = angles.cos() * self.shape.rotary_scale, angles.sin() * self.shape.rotary_scale
        tables = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return tables[0].to(self._device, self.shape.dtype), tables[1].to(self._device, self.shape.dtype)

"""A lean forward for the Llama family: few, large operators, no module calls.

Covers Llama, Mistral, Qwen2 and Qwen3 with full attention, SiLU and rotary positions that do not change with
the length. Weights live in fused matrices (query, key and value; gate and up); the names of the model's
`state_dict` are views into them, so a fingerprint covers what is really multiplied.

Nothing here imports transformers: worker processes start in half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from k15.engine.cache import KVCache, Reads
from k15.engine.decoder import Decoder


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


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer; None where the model has no such weight.

    `qk_norm`, [query and key heads, head_dim], repeats Qwen3's two norms for each head. It is no view: it is
    written anew whenever weights are copied in.
    """

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    qk_norm: Tensor | None
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
        self._qk_norms: list[tuple[Tensor, Tensor, Tensor]] = []  # repeated, of queries, of keys
        self._embedding = self._take("model.embed_tokens.weight")
        self._layers = [self._make_layer(f"model.layers.{i}.") for i in range(shape.num_layers)]
        self._norm = self._take("model.norm.weight")
        tied = "lm_head.weight" not in shape.shapes
        self._head = self._embedding if tied else self._take("lm_head.weight")
        assert self._tensors.keys() == shape.shapes.keys(), self._tensors.keys() ^ shape.shapes.keys()
        self._cos, self._sin = self._rotary_tables()

    def tensors(self) -> dict[str, Tensor]:
        return self._tensors

    def recipe(self) -> Callable[[], Decoder]:
        return partial(FusedDecoder, self.shape, str(self._device))

    def stand_in(self) -> Decoder:
        """The first two layers: the others have the same shapes."""
        later = tuple(f"model.layers.{i}." for i in range(2, self.shape.num_layers))
        shapes = {name: shape for name, shape in self.shape.shapes.items() if not name.startswith(later)}
        short = FusedDecoder(
            replace(self.shape, shapes=shapes, num_layers=min(2, self.shape.num_layers)), self._device
        )
        short.copy_weights({name: self._tensors[name] for name in shapes})
        return short

    def copy_weights(self, weights: Mapping[str, Tensor]) -> None:
        super().copy_weights(weights)
        for repeated, query_norm, key_norm in self._qk_norms:
            repeated[: self.shape.num_heads] = query_norm
            repeated[self.shape.num_heads :] = key_norm

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
        if layer.qk_norm is not None:
            rotated = F.rms_norm(rotated, (shape.head_dim,), None, shape.eps) * layer.qk_norm
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
        qk_norm = None
        if attention + "q_norm.weight" in self.shape.shapes:
            norms = self._take(attention + "q_norm.weight"), self._take(attention + "k_norm.weight")
            heads = self.shape.num_heads + self.shape.num_kv_heads
            qk_norm = torch.zeros(
                heads, self.shape.head_dim, dtype=self.shape.dtype, device=self._device
            )
            self._qk_norms.append((qk_norm, *norms))
        projections = [attention + f"{name}_proj" for name in "qkv"]
        return _Layer(
            norm=self._take(prefix + "input_layernorm.weight"),
            qkv=self._fuse([name + ".weight" for name in projections]),
            qkv_bias=self._fuse_biases([name + ".bias" for name in projections]),
            qk_norm=qk_norm,
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

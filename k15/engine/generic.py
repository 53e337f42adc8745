"""Any transformers decoder with ordinary attention, through its own forward."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache

from k15.engine.cache import PAGE, KVCache, Reads
from k15.engine.decoder import Decoder
from k15.errors import ModelError
from k15.weights.fingerprint import named_weights

_ATTENTION = "k15_pages"
_LARGEST_TRIED = 100_000_000
"""Parameters of a model whose shapes are tried out: some ten passes over a few hundred tokens."""


class GenericDecoder(Decoder):
    """A transformers model that reads k15's cache.

    Args:
        model: the model; it is changed, and belongs to the decoder from now on.
        is_paged: its attention is replaced by k15's, which reads pages; its results do not depend on the
            neighbours. Otherwise the pages are put together for the model's own attention, whose rounding
            may depend on them: for models that do not take another attention, or change keys after caching.
    """

    def __init__(self, model: PreTrainedModel, *, is_paged: bool = True) -> None:
        self._model = model.eval().requires_grad_(False)
        self.is_paged = is_paged
        if is_paged:
            self._model.set_attn_implementation(_ATTENTION)
        self._tensors = named_weights(self._model)
        config = model.config.get_text_config()
        self.vocab_size = config.vocab_size
        self.max_positions = getattr(config, "max_position_embeddings", None) or 1 << 17

    def recipe(self) -> Callable[[], Decoder]:
        return partial(
            _rebuild,
            type(self._model),
            self._model.config,
            self.dtype,
            str(self.device),
            is_paged=self.is_paged,
        )

    def stand_in(self) -> Decoder | None:
        return self if self.num_parameters <= _LARGEST_TRIED else None

    def tensors(self) -> dict[str, Tensor]:
        return self._tensors

    def prefill(self, token_ids: Tensor, positions: Tensor, rows: list[int], cache: KVCache) -> None:
        self._forward(self._model.get_decoder(), token_ids, cache.plan(rows, positions), cache)

    def decode(self, token_ids: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        reads = cache.plan_all(positions[:, None])
        return self._forward(self._model, token_ids[:, None], reads, cache).logits[:, 0].float()

    def _forward(self, module: nn.Module, token_ids: Tensor, reads: Reads, cache: KVCache) -> Any:
        current = _Pass(cache, reads, is_paged=self.is_paged)
        token = _CURRENT.set(current)
        try:
            return module(
                input_ids=token_ids,
                position_ids=reads.positions,
                attention_mask=reads.mask().to(self.dtype),
                past_key_values=current,
                use_cache=True,
            )
        finally:
            _CURRENT.reset(token)


def _rebuild(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: str,
    *,
    is_paged: bool,
) -> GenericDecoder:
    """A decoder with random weights."""
    model = model_class(config)
    nn.Module.to(model, device=torch.device(device), dtype=dtype)
    return GenericDecoder(model, is_paged=is_paged)


class _Pass(Cache):
    """One forward pass over k15's cache, in the form that transformers' models expect."""

    def __init__(self, cache: KVCache, reads: Reads, *, is_paged: bool) -> None:
        super().__init__(layers=[])
        self.cache = cache
        self.reads = reads
        self.layer = -1
        self.keys: Tensor | None = None
        self._is_paged = is_paged

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the tokens' [r, heads, q, head_dim]; what comes back is for the attention that follows."""
        self.layer, self.keys = layer_idx, key_states
        self.cache.write(layer_idx, self.reads, key_states.transpose(1, 2), value_states.transpose(1, 2))
        if self._is_paged:
            return key_states, value_states
        return self.cache.dense(layer_idx, self.reads)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # models ask for it to make positions and masks, which are given here

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        return self.reads.blocks * PAGE, 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return self.reads.blocks * PAGE


_CURRENT: ContextVar[_Pass] = ContextVar("k15_forward_pass")
"""The pass that `_attend` belongs to: transformers has no other way to hand it down."""


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention over pages under the signature that transformers calls.

    Raises:
        ModelError: the model asks for more than keys and values as they were cached.
    """
    current = _CURRENT.get()
    unknown = [name for name in ("s_aux", "head_mask", "position_bias") if others.get(name) is not None]
    if unknown or key is not current.keys:
        added = ", ".join(unknown) or "a step between cache and attention"
        raise ModelError(
            f"Attention by pages takes keys and values as cached; {type(module).__name__} adds {added}."
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return current.cache.attend(
        current.layer, current.reads, query, scaling=scale, softcap=softcap
    ), None


AttentionInterface.register(_ATTENTION, _attend)

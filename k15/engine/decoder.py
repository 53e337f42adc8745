"""The model as the embedded engine sees it: tensors by name, prefill, decode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from k15.engine.cache import KVCache
from k15.errors import EngineError

PREFILL_CHUNK = 32
"""Tokens of one trajectory that a prefill pass reads. Chunks start at multiples of it."""


class Decoder(ABC):
    """One forward pass over given rows of a cache; holds its own copy of the weights.

    Attributes:
        vocab_size: number of logits.
        max_positions: longest sequence, in tokens.
    """

    vocab_size: int
    max_positions: int

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The weights in use, under the names of the model's `state_dict`. To change them, use `copy_weights`."""

    @abstractmethod
    def prefill(self, token_ids: Tensor, positions: Tensor, rows: list[int], cache: KVCache) -> None:
        """Store keys and values of tokens [r, PREFILL_CHUNK] at these positions of these r cache rows."""

    @abstractmethod
    def decode(self, token_ids: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Logits, fp32 [rows, vocabulary], after one more token, [rows], in every row of the cache."""

    @abstractmethod
    def recipe(self) -> Callable[[], Decoder]:
        """Builds a decoder like this one, without its weights; can be pickled, for worker processes."""

    @abstractmethod
    def stand_in(self) -> Decoder | None:
        """A decoder whose passes round as this one's do and cost little, to try shapes with; None if there is none."""

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors().values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.tensors().values())).dtype

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors().values())

    def copy_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights in, without rounding and without leaving a tensor out.

        Raises:
            EngineError: a name, shape or dtype is not that of the model.
        """
        own = self.tensors()
        if own.keys() != weights.keys():
            different = sorted(own.keys() ^ weights.keys())
            raise EngineError(
                f"Weights must have the tensors of the engine's model; {len(different)} names differ, first "
                f"{different[0]}. Hand over a snapshot of the same model."
            )
        for name, tensor in own.items():
            new = weights[name]
            if (new.shape, new.dtype) != (tensor.shape, tensor.dtype):
                raise EngineError(
                    f"Weights must fit the engine's model; {name} is {new.dtype} {tuple(new.shape)}, the engine "
                    f"has {tensor.dtype} {tuple(tensor.shape)}. Build engine and trainer from one checkpoint and "
                    "dtype."
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])

"""Fingerprints of weights, so that an engine can prove which policy it samples from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from k15.types import Weights


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Digest of tensors by name, 32 hex characters (blake2b, 16 bytes).

    It covers name, dtype, shape and bytes of every tensor, in name order; the device and the order of
    the mapping do not matter.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's `state_dict`, each tied tensor once, under its first name.

    Qwen3 with tied embeddings keeps `model.embed_tokens.weight` and leaves `lm_head.weight` out, as
    `save_pretrained` does.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for name, tensor in model.state_dict().items():
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape))
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        tensors[name] = tensor.detach()
    return tensors


def snapshot(model: nn.Module, version: int) -> Weights:
    """The model's weights as they are now, copied: later training steps do not change them.

    Args:
        model: the policy.
        version: the iteration they are the reference of, i in theta_i.
    """
    tensors = {name: tensor.clone() for name, tensor in named_weights(model).items()}
    return Weights(version=version, fingerprint=fingerprint(tensors), tensors=tensors)

"""Weights in memory that several processes read, and that is gone when the last of them is.

The memory has no name and no file, so nothing is left behind however a process dies. (/dev/shm would do, but
containers often give it 64 MB.)
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from k15.types import Weights

_ALIGNMENT = 64  # bytes


@dataclass(frozen=True)
class Layout:
    """Where each tensor lies: name -> dtype, shape, first byte. Travels to the readers with the descriptor."""

    version: int
    fingerprint: str
    places: dict[str, tuple[torch.dtype, tuple[int, ...], int]]
    num_bytes: int


class SharedWeights:
    """Weights written once; `descriptor` can be sent to other processes, which call `open_shared`."""

    def __init__(self, weights: Weights) -> None:
        self.layout = _plan(weights)
        self.descriptor = _open_memory()
        os.ftruncate(self.descriptor, self.layout.num_bytes)
        for name, view in _views(self.descriptor, self.layout, mmap.ACCESS_WRITE).items():
            view.copy_(weights.tensors[name])

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def open_shared(layout: Layout, descriptor: int) -> Weights:
    """The weights behind a descriptor, without a copy; the descriptor is closed."""
    try:
        views = _views(descriptor, layout, mmap.ACCESS_COPY)  # private, so that nobody writes into them
    finally:
        os.close(descriptor)
    return Weights(version=layout.version, fingerprint=layout.fingerprint, tensors=views)


def _plan(weights: Weights) -> Layout:
    places: dict[str, tuple[torch.dtype, tuple[int, ...], int]] = {}
    end = 0
    for name, tensor in weights.tensors.items():
        places[name] = (tensor.dtype, tuple(tensor.shape), end)
        end += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
    return Layout(weights.version, weights.fingerprint, places, max(end, _ALIGNMENT))


def _views(descriptor: int, layout: Layout, access: int) -> Mapping[str, Tensor]:
    memory = mmap.mmap(descriptor, layout.num_bytes, access=access)
    views: dict[str, Tensor] = {}
    for name, (dtype, shape, start) in layout.places.items():
        count = math.prod(shape)
        flat = (
            torch.frombuffer(memory, dtype=dtype, count=count, offset=start)
            if count
            else torch.empty(0, dtype=dtype)
        )
        views[name] = flat.view(shape)
    return views


def _open_memory() -> int:
    if hasattr(os, "memfd_create"):  # Linux
        return os.memfd_create("k15-weights")
    with tempfile.TemporaryFile() as file:  # elsewhere: a file without a name
        return os.dup(file.fileno())

"""What another engine's parameters say in the names of the policy: so that the same fingerprint can be taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from k15.errors import EngineError

Stacks = Mapping[str, Sequence[str]]
"""Names of fused modules -> names of the modules they are made of, in the order of their rows."""


def pieces_of(
    names: Sequence[str], stacks: Stacks, rename: Callable[[str], str | None]
) -> dict[str, list[str]]:
    """The engine's parameters, each with the policy's tensors that it is made of, top to bottom.

    Example:
        pieces_of(["a.q_proj.weight", "a.k_proj.weight"], {"qk_proj": ["q_proj", "k_proj"]}, str)
        gives {"a.qk_proj.weight": ["a.q_proj.weight", "a.k_proj.weight"]}.

    Args:
        names: the policy's tensors.
        stacks: which modules the engine fuses.
        rename: the engine's name for a tensor, fused modules apart; None = it has no use for it.

    Raises:
        EngineError: the engine has no use for a tensor.
    """
    fused = {part: (whole, place) for whole, parts in stacks.items() for place, part in enumerate(parts)}
    found: dict[str, dict[int, str]] = {}
    for name in names:
        own = rename(name)
        if own is None:
            raise EngineError(
                f"Every tensor of the policy must reach the engine; it leaves {name} out. Use the embedded engine."
            )
        place, words = 0, own.split(".")
        for at, word in enumerate(words):
            if word in fused:
                words[at], place = fused[word]
        found.setdefault(".".join(words), {})[place] = name
    return {target: [parts[place] for place in sorted(parts)] for target, parts in found.items()}


def take_apart(held: Tensor, names: Sequence[str], handed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A fused parameter as the policy's tensors, on the CPU.

    Equal values come back as the tensor that was handed over: reading weights through a matrix product loses
    the sign of zero, and an engine may keep a tensor in a wider type.

    Args:
        held: [rows, ...] the engine's parameter; rows past the last tensor are padding.
        names: the tensors that it is made of, top to bottom.
        handed: what they should be.
    """
    tensors: dict[str, Tensor] = {}
    start = 0
    for name in names:
        expected = handed[name]
        rows = expected.shape[0] if expected.dim() else 1
        piece = held[start : start + rows].detach().cpu() if expected.dim() else held.detach().cpu()
        start += rows
        tensors[name] = expected if _is_equal(piece, expected) else piece.to(expected.dtype)
    return tensors


def _is_equal(piece: Tensor, expected: Tensor) -> bool:
    wider = torch.promote_types(piece.dtype, expected.dtype)
    return piece.shape == expected.shape and torch.equal(piece.to(wider), expected.to(wider))

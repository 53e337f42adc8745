"""Derived randomness of sampling: the number for a token is a function of where the token stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WORD = (1 << 64) - 1
_PER_BLOCK = 4  # Philox 4x64 gives four numbers for each value of its counter


def token_uniforms(
    seed: int, ordinal: int, sample_index: int, start: int, count: int
) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for the tokens at positions start .. start + count - 1 of a completion.

    They come from Philox 4x64, a generator without state: key = (seed, ordinal), counter =
    (position // 4, sample index). Any position can be asked for, in any order, in any process, and
    gives the same number.

    Args:
        seed: seed of the run, or one derived from it.
        ordinal: number of the draw that opened the group.
        sample_index: which of the group's trajectories.
        start: position of the first token in the completion.
        count: how many positions.
    """
    first = start // _PER_BLOCK
    counter = np.array([first, sample_index & _WORD, 0, 0], dtype=np.uint64)
    key = np.array([seed & _WORD, ordinal & _WORD], dtype=np.uint64)
    skip = start - first * _PER_BLOCK
    raw = np.random.Philox(counter=counter, key=key).random_raw(skip + count)
    return (raw[skip:] >> np.uint64(11)).astype(np.float64) * 2.0**-53

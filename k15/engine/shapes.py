"""Which shapes a forward pass may have without changing a single bit of a trajectory.

The rounding of a matrix product can depend on its shape and, in theory, on a row's place in it. The engine
saves much work by running fewer rows when fewer are busy, but only where that is known to change nothing.
So it tries: one subject trajectory runs in every candidate shape, in different places and beside different
neighbours, and all its keys, values and logits must be equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from k15.engine.cache import PAGE, KVCache
from k15.engine.decoder import PREFILL_CHUNK, Decoder

ROW_MULTIPLE = 16
"""Rows of a decode pass: whole vectors everywhere, so that no row is the remainder of a vector loop."""
_FIXED_PREFILL_ROWS = 8
_PREFILL_ROWS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class PassShapes:
    """Rows of the engine's forward passes.

    Attributes:
        widths: rows of a decode pass, from all slots downwards.
        prefill_rows: chunks of a prefill pass, ascending.
        is_reproducible: results are equal to the last bit in all of these shapes, places and neighbourhoods.
    """

    widths: tuple[int, ...]
    prefill_rows: tuple[int, ...]
    is_reproducible: bool

    def width_for(self, num_busy: int) -> int:
        """The fewest rows that hold so many trajectories."""
        return min(width for width in self.widths if width >= num_busy)

    def rows_for(self, num_chunks: int) -> int:
        """Rows of the next prefill pass, when so many chunks wait."""
        return next((rows for rows in self.prefill_rows if rows >= num_chunks), self.prefill_rows[-1])


def choose_shapes(decoder: Decoder, num_slots: int) -> PassShapes:
    """The shapes that the engine uses: found by trial on a CPU in fp32, elsewhere all of them.

    Where even the fixed shape depends on a row's place, and where nothing could be tried because the model is
    large, `is_reproducible` is false and one fixed shape is used.
    """
    full = -(-num_slots // ROW_MULTIPLE) * ROW_MULTIPLE
    widths = [full]
    while widths[-1] > ROW_MULTIPLE:
        widths.append(-(-widths[-1] // (2 * ROW_MULTIPLE)) * ROW_MULTIPLE)
    if decoder.device.type != "cpu" or decoder.dtype != torch.float32:
        return PassShapes(tuple(widths), _PREFILL_ROWS, is_reproducible=False)
    stand_in = decoder.stand_in()
    if stand_in is None:
        return PassShapes((full,), (_FIXED_PREFILL_ROWS,), is_reproducible=False)
    trial = _Trial(stand_in)
    reference = trial.run(width=full, row=0, prefill_rows=_FIXED_PREFILL_ROWS, place=0)
    fixed = [
        trial.run(
            width=full, row=full - 1, prefill_rows=_FIXED_PREFILL_ROWS, place=_FIXED_PREFILL_ROWS - 1
        ),
        trial.run(width=full, row=full // 2, prefill_rows=_FIXED_PREFILL_ROWS, place=3, length=3 * PAGE),
    ]
    if not all(_equal(result, reference) for result in fixed):
        return PassShapes((full,), (_FIXED_PREFILL_ROWS,), is_reproducible=False)
    kept_widths = [full] + [
        width
        for width in widths[1:]
        if _equal(
            trial.run(width=width, row=width - 3, prefill_rows=_FIXED_PREFILL_ROWS, place=1), reference
        )
    ]
    kept_rows = [
        rows
        for rows in _PREFILL_ROWS
        if rows == _FIXED_PREFILL_ROWS
        or _equal(trial.run(width=full, row=1, prefill_rows=rows, place=rows - 1), reference)
    ]
    return PassShapes(tuple(kept_widths), tuple(kept_rows), is_reproducible=True)


class _Trial:
    """One subject sequence, run in different company."""

    _NUM_PREFILLED = PREFILL_CHUNK + 8

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._generator = torch.Generator().manual_seed(1)
        self._subject = self._tokens(self._NUM_PREFILLED + 1)

    @torch.inference_mode()
    def run(
        self, *, width: int, row: int, prefill_rows: int, place: int, length: int = PAGE
    ) -> list[Tensor]:
        """The subject's keys, values and next logits.

        Args:
            width: rows of the decode pass.
            row: the subject's row in it.
            prefill_rows: rows of the prefill passes.
            place: the subject's row in those.
            length: positions in the neighbours' caches; the subject has one page.
        """
        cache = KVCache(width)
        for other in range(width):
            cache.fit(other, PAGE if other == row else length)
        last = self._decoder.max_positions - 1
        others = [r for r in range(width) if r != row]
        rows = [*others[:place], row, *others[place : prefill_rows - 1]]
        for start in range(0, self._NUM_PREFILLED, PREFILL_CHUNK):
            chunk = self._tokens(prefill_rows, PREFILL_CHUNK)
            count = min(PREFILL_CHUNK, self._NUM_PREFILLED - start)
            chunk[place, :count] = self._subject[start : start + count]
            positions = (
                torch.arange(start, start + PREFILL_CHUNK).clamp(max=last).repeat(prefill_rows, 1)
            )
            self._decoder.prefill(chunk, positions, rows, cache)
        tokens = self._tokens(width)
        tokens[row] = self._subject[-1]
        positions = torch.randint(0, min(length, last), (width,), generator=self._generator)
        positions[row] = min(self._NUM_PREFILLED, last)
        logits = self._decoder.decode(tokens, positions, cache)[row]
        return [logits, *cache.row(row, self._NUM_PREFILLED)]

    def _tokens(self, *size: int) -> Tensor:
        return torch.randint(0, self._decoder.vocab_size, size, generator=self._generator)


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

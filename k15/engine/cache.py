"""Keys and values of the trajectories in the slots, in pages; attention page by page.

Two aims. A row costs what it is long, not what its longest neighbour is: the pages of all rows lie side by
side, and one batched product multiplies them all. And a row's result does not depend on its neighbours: every
product has the shape of one page, whatever else is in the batch, and the parts of a row are added from its
first page to its last, so that pages it does not have add exact zeros.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PAGE = 64
"""Positions in a page."""
_MIN_PRODUCT_ROWS = 4
"""Products of fewer rows take another kernel, with other rounding, than those with more rows: without this,
a token that is prefilled would differ in the last bit from one that is decoded."""
_MAX_HOLES = 0.25  # share of unused pages below the highest used one that is put up with


@dataclass
class Reads:
    """Which pages one forward pass reads, and where its tokens' keys and values go. Made by `KVCache.plan`.

    Attributes:
        positions: [r, q] position of each token of the batch.
        pages: [n] the pages read, or None for the first n of all.
        owners: [n] the row of the batch that reads each page; any for a page in nobody's use.
        parts: [n] owner * blocks + number of the page in its row; r * blocks for a page in nobody's use.
        blocks: pages of the longest row.
        hidden: [n, 1, 1, q, PAGE] 0 where a token sees a position, else -inf, fp32.
        write_pages: [r, q] page that takes each token.
    """

    positions: Tensor
    pages: Tensor | None
    owners: Tensor
    parts: Tensor
    blocks: int
    hidden: Tensor
    write_pages: Tensor
    _places: dict[int, Tensor] = field(default_factory=dict)

    def places(self, num_heads: int) -> Tensor:
        """[r * q * heads] rows of the tokens in a layer's keys seen as [pages * heads * PAGE, head_dim]."""
        if num_heads not in self._places:
            heads = torch.arange(num_heads, device=self.positions.device)
            first = self.write_pages[:, :, None] * num_heads + heads
            self._places[num_heads] = (first * PAGE + self.positions[:, :, None] % PAGE).reshape(-1)
        return self._places[num_heads]

    def mask(self) -> Tensor:
        """[r, 1, q, blocks * PAGE] what each token may not see, -inf, as transformers' models take it."""
        at = torch.arange(self.blocks * PAGE, device=self.positions.device)
        hidden = torch.zeros(*self.positions.shape, len(at), device=self.positions.device)
        return hidden.masked_fill_(at > self.positions[:, :, None], -torch.inf)[:, None]


class KVCache:
    """Keys and values by layer, each [pages, heads, PAGE, head_dim], and which row holds which pages.

    New memory is zero, never left as found: a NaN in it would reach other rows through 0 * NaN.
    """

    def __init__(self, num_rows: int, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._rows: list[list[int]] = [[] for _ in range(num_rows)]
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._free: list[int] = []  # heap: low pages first, so that the used ones lie together
        self._num_pages = 0  # memory
        self._num_held = np.zeros(num_rows, dtype=np.int64)  # pages of each row
        self._table: _Table | None = None

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def fit(self, row: int, length: int) -> None:
        """Give a row the pages for exactly `length` positions; pages it has stay as they are."""
        pages = self._rows[row]
        wanted = -(-length // PAGE)
        if len(pages) == wanted:
            return
        while len(pages) > wanted:
            heapq.heappush(self._free, pages.pop())
        while len(pages) < wanted:
            if not self._free:
                self._grow()
            pages.append(heapq.heappop(self._free))
        self._num_held[row] = wanted
        self._table = None

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order; the others' pages are free."""
        kept = set(rows)
        for row, pages in enumerate(self._rows):
            if row not in kept:
                for page in pages:
                    heapq.heappush(self._free, page)
        self._rows = [self._rows[row] for row in rows]
        self._num_held = self._num_held[rows]
        self._table = None

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions, in whole pages, of a row to another that has the pages."""
        count = -(-length // PAGE)
        sources, targets = self._rows[source][:count], self._rows[target][:count]
        for pair in self._layers:
            for tensor in pair:
                tensor[targets] = tensor[sources]

    def fit_all(self, positions: NDArray[np.int64]) -> None:
        """Give every row the pages for exactly the positions up to the one given, [rows]."""
        for row in np.flatnonzero(positions // PAGE + 1 != self._num_held).tolist():
            self.fit(row, int(positions[row]) + 1)

    def plan_all(self, positions: Tensor) -> Reads:
        """What a pass over one token, at positions [rows, 1], of every row reads and writes."""
        if self._table is None:
            self._compact()
            self._table = self._make_table()
        table = self._table
        hidden = _hidden(table.at, positions[table.owners])
        write_pages = table.row_pages.gather(1, positions // PAGE)
        return Reads(positions, None, table.owners, table.parts, table.blocks, hidden, write_pages)

    def plan(self, rows: list[int], positions: Tensor) -> Reads:
        """What a pass over tokens at positions [r, q], ascending, of these rows reads and writes.

        A row may stand in the batch more than once, with different positions.
        """
        counts = (positions[:, -1] // PAGE + 1).tolist()
        table = self._lay_out([self._rows[row][:count] for row, count in zip(rows, counts, strict=True)])
        return Reads(
            positions=positions,
            pages=table.pages,
            owners=table.owners,
            parts=table.parts,
            blocks=table.blocks,
            hidden=_hidden(table.at, positions[table.owners]),
            write_pages=table.row_pages.gather(1, positions // PAGE),
        )

    def write(self, layer: int, reads: Reads, keys: Tensor, values: Tensor) -> None:
        """Store the tokens' keys and values, each [r, q, heads, head_dim]."""
        if layer == len(self._layers):
            shapes = [(self._num_pages, new.shape[2], PAGE, new.shape[3]) for new in (keys, values)]
            self._layers.append((keys.new_zeros(shapes[0]), values.new_zeros(shapes[1])))
        places = reads.places(keys.shape[2])
        for stored, new in zip(self._layers[layer], (keys, values), strict=True):
            stored.view(-1, stored.shape[-1]).index_copy_(0, places, new.reshape(-1, new.shape[-1]))

    def attend(
        self, layer: int, reads: Reads, query: Tensor, *, scaling: float, softcap: float | None = None
    ) -> Tensor:
        """Attention of each token over the positions it sees: [r, q, heads, head_dim].

        Args:
            layer: the layer whose keys and values are read.
            reads: the pass.
            query: [r, heads, q, head_dim]; head h reads key head h // (heads / key heads).
            scaling: factor of the scores.
            softcap: c of c * tanh(score / c), or None.
        """
        keys, values = self._layers[layer]
        if reads.pages is None:
            keys, values = keys[: len(reads.owners)], values[: len(reads.owners)]
        else:
            keys, values = keys.index_select(0, reads.pages), values.index_select(0, reads.pages)
        return _attend_pages(query, keys, values, reads, scaling=scaling, softcap=softcap)

    def dense(self, layer: int, reads: Reads) -> tuple[Tensor, Tensor]:
        """Keys and values of the rows of a pass, each [r, heads, blocks * PAGE, head_dim], zero where unused."""
        count = reads.positions.shape[0]
        keys, values = self._layers[layer]
        pages = (
            torch.arange(len(reads.owners), device=self._device) if reads.pages is None else reads.pages
        )
        out = []
        for stored in (keys, values):
            table = stored.new_zeros(count * reads.blocks + 1, *stored.shape[1:])
            table.index_copy_(0, reads.parts, stored.index_select(0, pages))
            table = table[:-1].unflatten(0, (count, reads.blocks)).transpose(1, 2)
            out.append(table.reshape(count, stored.shape[1], reads.blocks * PAGE, stored.shape[3]))
        return out[0], out[1]

    def row(self, row: int, length: int) -> list[Tensor]:
        """The first `length` keys and values of a row, [heads, length, head_dim], layer by layer."""
        pages = self._rows[row]
        return [
            t[pages].transpose(0, 1).flatten(1, 2)[:, :length] for pair in self._layers for t in pair
        ]

    def _make_table(self) -> _Table:
        """The table of all rows, sorted by page; what comes of the unused pages in between goes to no row."""
        table = self._lay_out(self._rows)
        num_used = int(table.pages.max()) + 1
        owners = torch.zeros(num_used, dtype=torch.int64, device=self._device)
        parts = torch.full_like(owners, self.num_rows * table.blocks)
        at = torch.zeros(num_used, PAGE, dtype=torch.int64, device=self._device)
        owners[table.pages], parts[table.pages], at[table.pages] = table.owners, table.parts, table.at
        return _Table(table.pages, owners, parts, at, table.blocks, table.row_pages)

    def _lay_out(self, rows: list[list[int]]) -> _Table:
        """The table of these pages, one row after the other."""
        counts = np.array([len(pages) for pages in rows])
        pages = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64, count=counts.sum())
        owners = np.repeat(np.arange(len(rows)), counts)
        numbers = np.arange(len(pages)) - np.repeat(counts.cumsum() - counts, counts)
        blocks = int(counts.max())
        row_pages = np.zeros((len(rows), blocks), dtype=np.int64)
        row_pages[owners, numbers] = pages
        at = numbers[:, None] * PAGE + np.arange(PAGE)
        arrays = (pages, owners, owners * blocks + numbers, at, row_pages)
        pages_t, owners_t, parts_t, at_t, row_pages_t = (
            torch.from_numpy(a).to(self._device) for a in arrays
        )
        return _Table(pages_t, owners_t, parts_t, at_t, blocks, row_pages_t)

    def _compact(self) -> None:
        """Move the highest pages into the holes below, if there are many: every pass reads the holes, too."""
        used: NDArray[np.int64] = np.sort([page for pages in self._rows for page in pages])
        if used[-1] + 1 - len(used) <= _MAX_HOLES * len(used):
            return
        holes = np.setdiff1d(np.arange(len(used)), used).tolist()
        moved = used[used >= len(used)].tolist()
        target = dict(zip(moved, holes, strict=True))
        for pair in self._layers:
            for tensor in pair:
                tensor[holes] = tensor[moved]
        self._rows = [[target.get(page, page) for page in pages] for pages in self._rows]
        self._free = list(range(len(used), self._num_pages))  # ascending, so it is a heap

    def _grow(self) -> None:
        """Twice the memory, zero where it is new."""
        added = max(self._num_pages, self.num_rows)
        self._layers = [
            (
                torch.cat((k, k.new_zeros(added, *k.shape[1:]))),
                torch.cat((v, v.new_zeros(added, *v.shape[1:]))),
            )
            for k, v in self._layers
        ]
        for page in range(self._num_pages, self._num_pages + added):
            heapq.heappush(self._free, page)
        self._num_pages += added


@dataclass(frozen=True)
class _Table:
    """Pages, [n], with the row that owns each, its part (see `Reads`), and the positions [n, PAGE] in it; the
    pages of each row, [rows, blocks]."""

    pages: Tensor
    owners: Tensor
    parts: Tensor
    at: Tensor
    blocks: int
    row_pages: Tensor


def _hidden(at: Tensor, positions: Tensor) -> Tensor:
    """[n, 1, 1, q, PAGE] what tokens at positions [n, q] may not see of pages with positions [n, PAGE]."""
    return torch.where(at[:, None] > positions[:, :, None], -torch.inf, 0.0)[:, None, None]


def _attend_pages(
    query: Tensor, keys: Tensor, values: Tensor, reads: Reads, *, scaling: float, softcap: float | None
) -> Tensor:
    """Softmax attention over the pages of each row, [r, q, heads, value_dim].

    Args:
        query: [r, heads, q, head_dim].
        keys: [n, kv_heads, PAGE, head_dim] of the pages in `reads`.
        values: [n, kv_heads, PAGE, value_dim].
        reads: the pass.
        scaling: factor of the scores.
        softcap: c of c * tanh(score / c), or None.
    """
    r, num_heads, q, dim = query.shape
    n, kv_heads, _, value_dim = values.shape
    shared = num_heads // kv_heads
    m = max(shared * q, _MIN_PRODUCT_ROWS)
    query = (query * scaling).reshape(r, kv_heads, shared * q, dim)
    if m > shared * q:
        query = torch.nn.functional.pad(query, (0, 0, 0, m - shared * q))
    asking = query.index_select(0, reads.owners).view(n * kv_heads, m, dim)
    scores = torch.bmm(asking, keys.view(n * kv_heads, PAGE, dim).transpose(1, 2)).float()
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.view(n, kv_heads, m, PAGE)
    scores[:, :, : shared * q].view(n, kv_heads, shared, q, PAGE).add_(reads.hidden)
    # The largest score of each row, over all its pages; a maximum is exact in any order.
    peaks = _by_row(scores.amax(-1), reads, fill=-torch.inf).amax(1)
    shares = scores.sub_(peaks.index_select(0, reads.owners)[..., None]).exp_()
    total = _add_blocks(_by_row(shares.sum(-1), reads))
    mixed = torch.bmm(shares.view(-1, m, PAGE).to(values.dtype), values.view(-1, PAGE, value_dim))
    mixed = _add_blocks(_by_row(mixed.view(n, kv_heads, m, value_dim), reads))
    out = mixed / total[..., None].to(mixed.dtype)
    return out[:, :, : shared * q].reshape(r, num_heads, q, value_dim).transpose(1, 2)


def _by_row(parts: Tensor, reads: Reads, fill: float = 0.0) -> Tensor:
    """Results by page, [n, ...], sorted into [r, blocks, ...]; `fill` where a row has no page."""
    count = reads.positions.shape[0] * reads.blocks
    table = parts.new_full((count + 1, *parts.shape[1:]), fill)
    return table.index_copy_(0, reads.parts, parts)[:-1].unflatten(0, (-1, reads.blocks))


def _add_blocks(parts: Tensor) -> Tensor:
    """Sum over dimension 1, strictly from the first to the last, so that trailing zeros change nothing."""
    total = parts[:, 0]
    for block in range(1, parts.shape[1]):
        total = total + parts[:, block]
    return total

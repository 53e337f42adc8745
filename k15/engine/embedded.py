"""The engine inside this process: slots over a key/value cache, continuous batching, derived randomness."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from k15.engine.base import Engine
from k15.engine.cache import KVCache
from k15.engine.decoder import PREFILL_CHUNK, Decoder
from k15.engine.sampling import TokenSampler
from k15.engine.shapes import PassShapes, choose_shapes
from k15.engine.slots import Job, Limits, Slots, Stamp, segment_of
from k15.engine.source import IterableSource, WorkSource
from k15.errors import EngineError, StaleWeightsError
from k15.types import EngineStats, SamplingParams, Segment, StopReason, Weights, Work
from k15.weights.fingerprint import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from k15.engine.build import DecoderType

_REFILL_SHARE = 16
"""Free slots are filled once they are this fraction of all (or all are free): one prefill pass reads the
prompts of several. Results do not depend on it."""

_PATIENCE = 32
"""Decode steps after which whoever drives the engine gets to look for news, even if no segment finished."""


class EmbeddedEngine(Engine):
    """Runs any transformers decoder with ordinary attention, on a CPU or a CUDA device.

    A fixed number of slots; one that falls free takes the next work at once. The engine has a copy of the
    weights, so training never changes them under it.

    Args:
        model: gives architecture, device and dtype; or a decoder that was built and checked before.
        num_slots: trajectories extended at the same time.
        num_threads: CPU threads while it computes; the number before is restored between segments.
        decoder_type: "fused" or "generic" instead of the faster one that fits ("auto").
        shapes: rows of its forward passes; None finds them out by trial.

    Raises:
        ModelError: the model uses more than ordinary attention.
    """

    def __init__(
        self,
        model: PreTrainedModel | Decoder,
        *,
        num_slots: int = 64,
        num_threads: int = 1,
        decoder_type: DecoderType = "auto",
        shapes: PassShapes | None = None,
    ) -> None:
        self._num_slots = num_slots
        self._num_threads = num_threads
        self._notices: tuple[str, ...] = ()
        with self._threads():
            if isinstance(model, Decoder):
                self._decoder = model
            else:
                from k15.engine.build import (
                    build_decoder,  # imports transformers, which workers do without
                )

                built = build_decoder(model, decoder_type)
                self._decoder, self._notices = built.decoder, built.notices
            self.shapes = choose_shapes(self._decoder, num_slots) if shapes is None else shapes
        if not self.shapes.is_reproducible:
            self._notices += (
                "the last bits of a sample may depend on what is sampled beside it (they do not on a CPU in fp32 "
                "with a dense model)",
            )
        self._stamp: Stamp | None = None
        self._stats = EngineStats()
        self._is_running = False

    @property
    def decoder(self) -> Decoder:
        return self._decoder

    @property
    def fingerprint(self) -> str | None:
        return self._stamp.fingerprint if self._stamp else None

    @property
    def stats(self) -> EngineStats:
        return self._stats

    def take_notices(self) -> tuple[str, ...]:
        notices, self._notices = self._notices, ()
        return notices

    def load_weights(self, weights: Weights) -> None:
        if self._is_running:
            raise EngineError(
                "Weights cannot change under a running extend. Finish or close its iterator first."
            )
        self._stamp = None  # until proven, it holds nothing that may be sampled from
        self._decoder.copy_weights(weights.tensors)
        held = fingerprint(self._decoder.tensors())
        if held != weights.fingerprint:
            raise StaleWeightsError(
                f"An engine samples only from the weights it was handed: version {weights.version} has the "
                f"fingerprint {weights.fingerprint}, the engine now holds {held}. The weights changed on the way; "
                "hand them over again."
            )
        self._stamp = Stamp(weights.version, weights.fingerprint)

    def extend(self, work: Iterable[Work], sampling: SamplingParams) -> Iterator[Segment]:
        return _flatten(self.extend_in_batches(IterableSource(work), sampling))

    def extend_in_batches(
        self, source: WorkSource, sampling: SamplingParams
    ) -> Generator[list[Segment], None, None]:
        """`extend` for work that may arrive later; segments that finish together come together."""
        if self._stamp is None:
            raise StaleWeightsError(
                "An engine needs weights before it samples; none were loaded. Call load_weights."
            )
        return self._batches(source, sampling, self._stamp)

    def _batches(
        self, source: WorkSource, sampling: SamplingParams, stamp: Stamp
    ) -> Generator[list[Segment], None, None]:
        if self._is_running:
            raise EngineError("An engine runs one extend at a time. Finish or close the first iterator.")
        self._is_running = True
        extension = _Extension(self._decoder, self.shapes, self._num_slots, sampling, stamp)
        self._stats = extension.stats
        try:
            while not (extension.is_idle and source.is_exhausted):
                new = source.take(extension.num_wanted) if extension.num_wanted else []
                if extension.is_idle and not new:
                    source.wait()
                    continue
                start = time.perf_counter()
                with self._threads():
                    segments = extension.advance(new, is_last=source.is_exhausted)
                extension.count(seconds=time.perf_counter() - start)
                self._stats = extension.stats
                yield segments
        finally:
            self._is_running = False

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """torch's thread count is the process's: it is set while the engine computes, no longer."""
        before = torch.get_num_threads()
        if before == self._num_threads:
            yield
            return
        torch.set_num_threads(self._num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _flatten(batches: Generator[list[Segment], None, None]) -> Iterator[Segment]:
    with closing(batches):
        for batch in batches:
            yield from batch


class _Extension:
    """One call of `extend`: its slots, its cache, its counters."""

    def __init__(
        self,
        decoder: Decoder,
        shapes: PassShapes,
        num_slots: int,
        sampling: SamplingParams,
        stamp: Stamp,
    ) -> None:
        limits = Limits(decoder.vocab_size, decoder.max_positions)
        self._decoder = decoder
        self._device = decoder.device
        self._shapes = shapes
        self._num_slots = num_slots
        self._stamp = stamp
        self._sampler = TokenSampler(sampling, decoder.vocab_size, self._device)
        self._slots = Slots(num_slots, shapes.widths[0], sampling, limits)
        self._cache = KVCache(shapes.widths[0], self._device)
        for row in range(self._cache.num_rows):
            self._cache.fit(row, 1)  # a free row feeds a token, too
        self._prompts: dict[tuple[int, ...], int] = {}  # prompt -> a row whose cache begins with it
        self.stats = EngineStats()

    @property
    def is_idle(self) -> bool:
        return self._slots.num_busy == 0

    @property
    def num_wanted(self) -> int:
        """Work to take now: nothing until a few slots are free, so that their prompts are read together."""
        num_free = len(self._slots.free_rows)
        return num_free if self.is_idle or num_free >= self._num_slots // _REFILL_SHARE else 0

    @torch.inference_mode()
    def advance(self, work: list[Work], *, is_last: bool) -> list[Segment]:
        """Put work into free slots, then decode until a segment finishes, at most `_PATIENCE` steps.

        Args:
            work: at most `num_wanted` pieces.
            is_last: no more will come, so that fewer rows may run from now on.
        """
        segments = self._admit(work)
        for _ in range(_PATIENCE):
            if segments or self.is_idle:
                break
            if is_last:
                self._fit_width()
            segments = self._decode()
        return segments

    def _admit(self, work: list[Work]) -> list[Segment]:
        """Give each piece a row and read its tokens; what is at its cap already comes back at once."""
        if not work:
            return []
        finished: list[Segment] = []
        admitted: list[tuple[int, Job]] = []
        copies: list[tuple[int, int, int]] = []
        free = self._slots.free_rows
        for piece in work:
            job = self._slots.make_job(piece)
            if job.quota == 0:
                finished.append(segment_of(piece, [], [], StopReason.LENGTH, self._stamp))
                continue
            known = self._prompts.get(piece.prompt_token_ids)
            row = self._take_row(free, known)
            self._slots.put(row, job)
            self._cache.fit(row, job.length)
            if known is None or piece.token_ids:
                admitted.append((row, job))
            elif known != row:
                copies.append((known, row, job.length - 1))
            self._prompts.setdefault(piece.prompt_token_ids, row)
        self._prefill(admitted)
        for source, row, count in copies:  # the source is busy or being read: nothing else was put there
            self._cache.copy_prefix(source, row, count)
        return finished

    def _take_row(self, free: list[int], known: int | None) -> int:
        """A free row; if a free row has this prompt, that one. What the row held is forgotten."""
        if known is not None and known in free:
            free.remove(known)
            return known
        row = free.pop(0)
        self._prompts = {prompt: held for prompt, held in self._prompts.items() if held != row}
        return row

    def _prefill(self, admitted: list[tuple[int, Job]]) -> None:
        """Read all tokens of the jobs but the last, which is the first decode step's input."""
        chunks: list[tuple[int, int, list[int]]] = []
        for row, job in admitted:
            tokens = [*job.work.prompt_token_ids, *job.work.token_ids][:-1]
            for start in range(0, len(tokens), PREFILL_CHUNK):
                chunks.append((row, start, tokens[start : start + PREFILL_CHUNK]))
        # A trajectory's chunks stay in order, so each finds its predecessors' keys: a pass stores the keys of
        # all its rows before any of them is read.
        while chunks:
            rows = self._shapes.rows_for(len(chunks))
            self._prefill_pass(chunks[:rows], rows)
            chunks = chunks[rows:]
        self.count(num_prefill_tokens=sum(job.length - 1 for _, job in admitted))

    def _prefill_pass(self, chunks: list[tuple[int, int, list[int]]], num_rows: int) -> None:
        chunks = chunks + chunks[:1] * (
            num_rows - len(chunks)
        )  # idle rows repeat the first chunk's work
        ids = np.zeros((num_rows, PREFILL_CHUNK), dtype=np.int64)
        for place, (_, _, tokens) in enumerate(chunks):
            ids[place, : len(tokens)] = tokens
        starts = np.array([start for _, start, _ in chunks])
        positions = starts[:, None] + np.arange(PREFILL_CHUNK)
        positions = np.minimum(
            positions, self._decoder.max_positions - 1
        )  # only padding lies past the end
        ids_in, positions_in = (torch.from_numpy(array).to(self._device) for array in (ids, positions))
        self._decoder.prefill(ids_in, positions_in, [row for row, _, _ in chunks], self._cache)

    def _decode(self) -> list[Segment]:
        """One token in every busy slot."""
        slots, device = self._slots, self._device
        self._cache.fit_all(slots.positions)
        tokens, positions = torch.from_numpy(slots.tokens), torch.from_numpy(slots.positions)
        logits = self._decoder.decode(tokens.to(device), positions.to(device), self._cache)
        ids, logprobs = self._sampler.sample(logits, torch.from_numpy(slots.next_uniforms()).to(device))
        num_busy = slots.num_busy
        self.count(num_tokens=num_busy, busy_slot_steps=num_busy, slot_steps=self._num_slots)
        return slots.advance(ids.cpu().numpy(), logprobs.cpu().numpy(), self._stamp)

    def _fit_width(self) -> None:
        """Run fewer rows when fewer hold all that is left; no work comes after that."""
        busy = self._slots.busy_rows
        width = self._shapes.width_for(len(busy))
        if width >= self._slots.num_rows:
            return
        kept = (
            busy
            + [row for row in range(self._slots.num_rows) if row not in set(busy)][: width - len(busy)]
        )
        self._slots.select(kept)
        self._cache.select(kept)

    def count(self, **amounts: float) -> None:
        """Add to the counters of `stats`."""
        self.stats = replace(
            self.stats, **{name: getattr(self.stats, name) + amount for name, amount in amounts.items()}
        )

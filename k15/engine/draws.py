"""Derived sampling inside somebody else's engine: each row of a batch of logits gets its own number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from k15.engine.sampling import TokenSampler
from k15.types import SamplingParams


@dataclass(frozen=True, eq=False)
class Draw:
    """How one segment is sampled, and the log-probabilities of what was.

    Attributes:
        sampling: temperature, bans, top-k and top-p.
        uniforms: [quota] the number that decides each token of the segment.
        logprobs: [quota] filled in while the segment is sampled, in nats; NaN before.
    """

    sampling: SamplingParams
    uniforms: NDArray[np.float64]
    logprobs: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        empty = np.full(len(self.uniforms), np.nan, dtype=np.float32)
        object.__setattr__(self, "logprobs", empty)


Row = tuple[Draw, Sequence[int]]
"""A draw and the tokens that its segment has by now; the engine appends to them."""


class RowSampler:
    """Turns logits into logits that leave one token possible: the one that `TokenSampler` takes.

    Whatever then samples from them, greedily or not, takes that token. It does not matter how often the
    logits at a position are computed (prefill in chunks, preemption): the number belongs to the position.
    """

    def __init__(self) -> None:
        self._sampling: SamplingParams | None = None
        self._sampler: TokenSampler | None = None

    def force(self, logits: Tensor, rows: Mapping[int, Row]) -> Tensor:
        """The logits, in place, with minus infinity for all but the chosen token of each of these rows.

        Args:
            logits: [batch, vocabulary], fp32.
            rows: place in the batch -> row; other places are left as they are.
        """
        if not rows:
            return logits
        places = list(rows)
        draws = [rows[place][0] for place in places]
        # A row whose segment is complete may be computed once more before the engine lets it go.
        positions = [min(len(ids), len(draw.uniforms) - 1) for draw, ids in rows.values()]
        uniforms = torch.tensor(
            [draw.uniforms[at] for draw, at in zip(draws, positions, strict=True)],
            dtype=torch.float64,
            device=logits.device,
        )
        at = torch.tensor(places, device=logits.device)
        ids, logprobs = self._sampler_for(draws[0].sampling, logits).sample(logits[at], uniforms)
        for draw, position, logprob in zip(draws, positions, logprobs.tolist(), strict=True):
            draw.logprobs[position] = logprob
        logits[at] = -torch.inf
        logits[at, ids] = 0.0
        return logits

    def _sampler_for(self, sampling: SamplingParams, logits: Tensor) -> TokenSampler:
        """One call of `extend` samples everything alike, so the last sampler is nearly always the right one."""
        if self._sampler is None or self._sampling is not sampling:
            self._sampling = sampling
            self._sampler = TokenSampler(sampling, logits.shape[-1], logits.device)
        return self._sampler

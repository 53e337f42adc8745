"""From logits to tokens: temperature, banned ids, top-k, top-p, one uniform number for each token."""

from __future__ import annotations

import torch
from torch import Tensor

from k15.errors import EngineError
from k15.types import SamplingParams


class TokenSampler:
    """Samples the next token of every row by inverting the cumulative distribution.

    The recorded log-probability is log softmax(logits / temperature) over the *whole* vocabulary, before
    bans, top-k and top-p: the trainer computes the same number from its own logits. At temperature 0 the
    likeliest allowed token is taken, and its log-probability is that at temperature 1.

    A row's token and log-probability depend on its own logits and number only, bit for bit on a CPU.

    Raises:
        EngineError: every id is banned.
    """

    def __init__(self, sampling: SamplingParams, vocab_size: int, device: torch.device) -> None:
        self._temperature = sampling.temperature
        self._top_k = sampling.top_k if 0 < sampling.top_k < vocab_size else 0
        self._top_p = sampling.top_p
        banned = torch.zeros(vocab_size, dtype=torch.float32)
        ids = [i for i in sampling.banned_ids if 0 <= i < vocab_size]
        banned[ids] = -torch.inf
        if len(set(ids)) == vocab_size:
            raise EngineError(f"Some token must be allowed; all {vocab_size} ids are banned. Ban fewer.")
        self._bans = banned.to(device) if ids else None

    def sample(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and log-probabilities of the next tokens.

        Args:
            logits: [rows, vocabulary], fp32.
            uniforms: [rows], fp64, in [0, 1).

        Returns:
            ids [rows], int64; log-probabilities [rows], fp32, in nats. The log-probability is NaN where
            the logits are not finite.
        """
        if self._temperature not in (0.0, 1.0):
            logits = logits / self._temperature
        allowed = logits if self._bans is None else logits + self._bans
        ids = allowed.argmax(-1) if self._temperature == 0.0 else self._draw(allowed, uniforms)
        logprobs = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, None])[:, 0]
        return ids, logprobs

    def _draw(self, allowed: Tensor, uniforms: Tensor) -> Tensor:
        probabilities = torch.softmax(allowed, dim=-1).double()
        if self._top_k or self._top_p < 1.0:
            probabilities = self._keep_top(probabilities)
        cumulative = probabilities.cumsum(-1)
        # u is at most 1 - 2^-53, so u * total is half a spacing or more below the total, and rounds to less than
        # it: the search ends at a token with probability.
        target = uniforms * cumulative[:, -1]
        ids = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
        return ids.clamp_(
            max=allowed.shape[-1] - 1
        )  # only rows of NaN get here; the engine reports them

    def _keep_top(self, probabilities: Tensor) -> Tensor:
        """Zero outside the `top_k` likeliest tokens, then outside the smallest set that holds `top_p` of those.

        Among equally likely tokens those with smaller ids are kept.
        """
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        if self._top_k:
            ordered[:, self._top_k :] = 0.0
        before = ordered.cumsum(-1) - ordered
        dropped = before >= self._top_p * ordered.sum(-1, keepdim=True)
        dropped[:, 0] = False
        return torch.zeros_like(probabilities).scatter_(-1, order, ordered.masked_fill_(dropped, 0.0))

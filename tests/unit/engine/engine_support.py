"""Tiny models, work, and an engine that shares nothing with k15's: one sequence, no cache, plain forward."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from k15.algo.repetition import is_repeating
from k15.engine.seeds import token_uniforms
from k15.types import SamplingParams, Segment, StopReason, Work

VOCAB = 96
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def tiny_model(seed: int = 0, scale: float = 0.3) -> Qwen3ForCausalLM:
    """A random model whose next-token distributions are far from uniform and differ by context."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16, initializer_range=scale)).eval()


@dataclass
class Naive:
    """Samples by the rules of the interface from a plain forward over the whole sequence, token by token."""

    model: torch.nn.Module

    def extend(
        self, work: Work, sampling: SamplingParams
    ) -> tuple[list[int], list[float], StopReason | None]:
        ids, logprobs = [], []
        while True:
            completion = [*work.token_ids, *ids]
            position = len(completion)
            with torch.no_grad():
                logits = (
                    self.model(torch.tensor([[*work.prompt_token_ids, *completion]]))
                    .logits[0, -1]
                    .double()
                )
            logits = logits / (sampling.temperature or 1.0)
            logp = torch.log_softmax(logits, -1).numpy()
            probabilities = np.exp(logp)
            probabilities[list(sampling.banned_ids)] = 0.0
            cut(probabilities, sampling)
            if sampling.temperature == 0:
                token = int(probabilities.argmax())
            else:
                u = token_uniforms(sampling.seed, work.ordinal, work.sample_index, position, 1)[0]
                cumulative = probabilities.cumsum()
                token = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
            ids.append(token)
            logprobs.append(float(logp[token]))
            completion.append(token)
            if token in sampling.stop_ids:
                return ids, logprobs, StopReason.END
            rule = sampling.repetition
            if rule is not None and len(completion) % 8 == 0 and is_repeating(completion, rule):
                return ids, logprobs, StopReason.REPEAT
            if len(completion) == sampling.max_tokens:
                return ids, logprobs, StopReason.LENGTH
            if len(ids) == sampling.segment_tokens:
                return ids, logprobs, None


def cut(probabilities: np.ndarray, sampling: SamplingParams) -> None:
    """Top-k, then top-p of what is left, in place."""
    order = sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i))
    if sampling.top_k:
        probabilities[order[sampling.top_k :]] = 0.0
    target, held = sampling.top_p * probabilities.sum(), 0.0
    for i in order:
        if sampling.top_p < 1 and held >= target:
            probabilities[i] = 0.0
        held += probabilities[i]


def make_work(
    num_groups: int, group_size: int, *, seed: int = 0, longest_prompt: int = 80
) -> list[Work]:
    """Groups of fresh trajectories with prompts of 1 to `longest_prompt` tokens."""
    rng = np.random.default_rng(seed)
    prompts = [
        tuple(rng.integers(2, VOCAB, rng.integers(1, longest_prompt + 1)).tolist())
        for _ in range(num_groups)
    ]
    return [
        Work(ordinal, k, prompts[ordinal]) for ordinal in range(num_groups) for k in range(group_size)
    ]


def by_key(segments) -> dict[tuple[int, int], Segment]:
    segments = list(segments)
    keyed = {(s.ordinal, s.sample_index): s for s in segments}
    assert len(keyed) == len(segments)
    return keyed

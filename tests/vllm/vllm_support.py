"""Tiny models that vLLM runs on a CPU, work for them, and the trainer's side of a log-probability."""

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from k15.engine.pool import EnginePool
from k15.engine.vllm_plan import plan_vllm
from k15.types import Segment, Work

VOCAB = 144
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # distributions that are far from uniform, and differ by context
}
NUM_SLOTS = 16


def qwen3(seed: int = 0) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)).eval()


def make_pool(model: PreTrainedModel, **options) -> EnginePool:
    plan = plan_vllm(
        model,
        num_slots=NUM_SLOTS,
        num_threads=1,
        max_positions=SHAPE["max_position_embeddings"],
        memory_share=0.1,
        is_eager=None,
    )
    return EnginePool(plan, num_workers=1, **options)


def make_work(num_groups: int, group_size: int, *, longest: int = 90, seed: int = 0) -> list[Work]:
    """Groups of fresh trajectories; prompts of 3 to `longest` tokens."""
    generator = torch.Generator().manual_seed(seed)
    prompts = []
    for group in range(num_groups):
        length = 3 + (longest - 3) * group // max(1, num_groups - 1)
        prompts.append(tuple(torch.randint(3, VOCAB, (length,), generator=generator).tolist()))
    return [Work(g, k, prompts[g]) for g in range(num_groups) for k in range(group_size)]


def by_key(segments) -> dict[tuple[int, int], Segment]:
    return {(s.ordinal, s.sample_index): s for s in segments}


@torch.no_grad()
def logprobs_of(model: PreTrainedModel, work: Work, segment: Segment, temperature: float) -> list[float]:
    """The log-probabilities of a segment's tokens by the model's plain forward, in nats."""
    before = [*work.prompt_token_ids, *work.token_ids]
    ids = torch.tensor([[*before, *segment.token_ids]])
    logits = model(ids).logits[0, len(before) - 1 : -1].float() / temperature
    chosen = torch.tensor(segment.token_ids)[:, None]
    return torch.log_softmax(logits, -1).gather(-1, chosen)[:, 0].tolist()


def largest_gap(model: PreTrainedModel, work: list[Work], segments, temperature: float) -> float:
    """Largest difference between the engine's log-probabilities and the model's, in nats."""
    found = by_key(segments)
    gaps = []
    for piece in work:
        segment = found[piece.ordinal, piece.sample_index]
        expected = logprobs_of(model, piece, segment, temperature)
        gaps += [abs(a - b) for a, b in zip(expected, segment.logprobs, strict=True)]
    return max(gaps)

"""Toggle (Kimi K2.5, arXiv 2602.02276): a token budget in every other phase, against overfitting to lengths."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def toggle_reward(
    correct: Float[Tensor, "groups k"],
    lengths: Int[Tensor, "groups k"],
    valid: Bool[Tensor, "groups k"],
    budgets: Float[Tensor, "groups"],
    *,
    threshold: float,
) -> Float[Tensor, "groups k"]:
    """r of the phase with a budget: r if the group's accuracy < threshold or length <= budget, else 0.

    So a prompt that is not mastered yet may think as long as it likes.

    Args:
        correct: 1.0 where the answer is right, else 0.0.
        lengths: tokens in each completion.
        valid: False where the verdict was our fault: such a completion has no part in the accuracy.
        budgets: tokens for each group's prompt; infinity where none is known yet.
        threshold: accuracy from which on the budget counts.
    """
    num_valid = valid.sum(dim=-1)
    accuracy = (correct * valid).sum(dim=-1) / num_valid.clamp(min=1)
    is_free = (accuracy < threshold).unsqueeze(-1) | (lengths <= budgets.unsqueeze(-1))
    return torch.where(is_free, correct, 0.0)


def has_budget(iteration: int, *, every: int) -> bool:
    """Whether an iteration belongs to a phase with a budget: the phases last `every` iterations each and
    take turns, the one with a budget first. 0 = never."""
    return bool(every) and (iteration // every) % 2 == 0

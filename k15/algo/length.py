"""The length reward (Kimi k1.5, section 2.3.3)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def length_reward(
    lengths: Int[Tensor, "groups k"],
    correct: Float[Tensor, "groups k"],
    valid: Bool[Tensor, "groups k"],
) -> Float[Tensor, "groups k"]:
    """Length reward of each completion in its group, between -0.5 and 0.5.

    lambda = 0.5 - (length - shortest) / (longest - shortest), over the group's valid members, right
    or wrong. Right completions get lambda, wrong ones min(0, lambda). A group whose lengths are all
    equal gets zeros. The caller multiplies by a weight; up to a weight of 2 every right completion
    still scores at least as much as every wrong one of its group.

    Args:
        lengths: tokens in each completion.
        correct: 1.0 where the answer is right, else 0.0.
        valid: False where the verdict was our fault: such a completion gets 0, and its length
            counts neither as shortest nor as longest.
    """
    limits = torch.iinfo(lengths.dtype)
    shortest = torch.where(valid, lengths, limits.max).amin(dim=-1, keepdim=True)
    longest = torch.where(valid, lengths, limits.min).amax(dim=-1, keepdim=True)
    has_spread = longest > shortest
    span = torch.where(has_spread, longest - shortest, 1)
    # Two halves instead of 0.5 - x/span: the ends come out as exactly 0.5 and -0.5.
    bonus = ((longest - lengths) - (lengths - shortest)).to(correct.dtype) / (2 * span).to(correct.dtype)
    reward = torch.where(correct > 0, bonus, bonus.clamp(max=0.0))
    return torch.where(valid & has_spread, reward, 0.0)

"""The loss of supervised fine-tuning (sections 2.2 and 2.5.2), with the signature of a policy loss."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from k15.algo.policy import LossTerms, Normalizer


def likelihood_loss(
    logprobs: Float[Tensor, "n t"],
    reference: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    advantages: Float[Tensor, "n"],
    *,
    normalizer: Normalizer,
) -> LossTerms:
    """Negative log-likelihood in nats per loss token of the minibatch; reference and advantages are unused.

    Prompts carry no loss: they are not in the mask.
    """
    total = torch.where(mask, logprobs, 0.0).sum(dim=-1)
    return LossTerms(-total.sum() / normalizer.num_tokens, torch.zeros_like(total.detach()))

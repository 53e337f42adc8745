"""Log-probabilities of completions under a model, from packed rows.

Only the positions that predict a loss token pass the output head: logits of all positions of a
long row would not fit. `LogprobModel.build` checks once that body and head together give what
the model's own forward gives, so that a model with an unusual head is noticed, not mistrained.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from k15.algo.diagnostics import token_entropy
from k15.errors import ModelError
from k15.train.packing import Microbatch

_HEAD_CHUNK_BYTES = 256 * 2**20  # logits of one chunk in fp32; bounds the memory of large vocabularies


def output_head(model: PreTrainedModel) -> torch.nn.Linear:
    """The layer that turns hidden states into logits.

    Raises:
        ModelError: the model has none; it is not a language model.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise ModelError(
            f"a policy needs an output head over its vocabulary; {type(model).__name__} has {head}. "
            "Load it with a causal language model class."
        )
    return head


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probability and entropy, in nats, of each loss token of a microbatch."""

    logprobs: Float[Tensor, "m"]
    entropy: Float[Tensor, "m"]


@dataclass(frozen=True)
class LogprobModel:
    """A causal language model seen as body and head."""

    model: PreTrainedModel
    temperature: float = 1.0

    @classmethod
    def build(cls, model: PreTrainedModel, *, temperature: float = 1.0) -> "LogprobModel":
        """Check that head(body(x)) equals the model's own logits.

        Raises:
            ModelError: they differ, for instance because the model rescales or caps its logits.
        """
        result = cls(model, temperature)
        token_ids = (
            torch.arange(8, device=model.device).unsqueeze(0) % model.config.get_text_config().vocab_size
        )
        with torch.no_grad():
            own = model(input_ids=token_ids, use_cache=False).logits.float()
            hidden = model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state
            ours = output_head(model)(hidden).float()
        if not bool(own.isfinite().all()):
            raise ModelError(
                f"the weights of {type(model).__name__} must be finite; its logits are NaN or infinite. "
                "Copy the checkpoint again, or take an earlier one."
            )
        if not torch.allclose(own, ours, rtol=1e-3, atol=1e-3):
            raise ModelError(
                f"the logits of {type(model).__name__} are not its output head applied to its last hidden state "
                f"(largest difference {(own - ours).abs().max():.3g}); models that rescale or cap logits are not "
                "supported. Choose a plain causal language model."
            )
        return result

    def __call__(self, batch: Microbatch) -> TokenLogprobs:
        """Log-probabilities, in nats, of the loss tokens at the sampling temperature, in fp32."""
        hidden = self.model.base_model(
            input_ids=batch.token_ids,
            attention_mask=batch.attention_mask(),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        picked = hidden.flatten(0, 1)[batch.predicted_at]
        head = output_head(self.model)
        chunk = max(1, _HEAD_CHUNK_BYTES // (4 * head.weight.shape[0]))
        parts = [
            self._score(head(h), t)
            for h, t in zip(picked.split(chunk), batch.targets.split(chunk), strict=True)
        ]
        return TokenLogprobs(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))

    def _score(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_p = torch.log_softmax(precise / self.temperature, dim=-1)
        return log_p.gather(1, targets.unsqueeze(1)).squeeze(1), token_entropy(log_p)

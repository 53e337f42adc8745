"""The trainer: the policy, its gradient, and nothing that outlives an iteration but the weights."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from k15.algo.diagnostics import KLEstimate, effective_sample_share, force_ratio, kl_estimate
from k15.algo.policy import Loss, Normalizer
from k15.crashpoints import crashpoint
from k15.errors import NonFiniteError
from k15.train.forward import LogprobModel, output_head
from k15.train.packing import Microbatch, Minibatch
from k15.types import Weights
from k15.weights.fingerprint import snapshot

Reference = tuple[Float[Tensor, "m"], ...]  # log pi_theta_i of each loss token, one tensor a microbatch


@dataclass(frozen=True)
class OptimizerSettings:
    """What the optimizer is made of when it is reset."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    kind: Literal["adamw", "muon"] = "adamw"


@dataclass(frozen=True)
class StepResult:
    """One optimizer step.

    Attributes:
        loss: value of the loss over the minibatch.
        grad_norm: norm of the gradient before clipping.
        is_skipped: NaN or infinity in the gradient; the weights were left as they were.
        num_completions, num_tokens: completions and loss tokens in the step.
        delta_rms: root mean square of Delta, the log-ratio of a whole completion, before the step.
        force_ratio: median tau |Delta| / median |A| where A is not 0; 0 in an iteration's first step; None
            if all A are 0.
        effective_sample_share: how many of the completions, sampled by older weights, still speak for the
            present ones: 1 in an iteration's first step.
        kl: KL(pi_theta_i || pi_theta) per token before the step, in nats, by the k3 estimator.
        entropy: mean entropy of the next-token distribution at the loss tokens, in nats.
    """

    loss: float
    grad_norm: float
    is_skipped: bool
    num_completions: int
    num_tokens: int
    delta_rms: float
    force_ratio: float | None
    effective_sample_share: float
    kl: float
    entropy: float


class Trainer:
    """Takes optimizer steps on packed minibatches.

    Args:
        model: the policy; there is no value network and no second model (section 2.3.2).
        settings: of the optimizer.
        temperature: the sampling temperature, at which the policy is defined.
        tau: strength of the regulariser, for the force ratio.
        max_nonfinite_steps: so many steps in a row may be skipped for NaN or infinity.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: OptimizerSettings,
        *,
        temperature: float = 1.0,
        tau: float = 0.0,
        max_nonfinite_steps: int = 3,
    ) -> None:
        self.model = model.train()
        self.settings = settings
        self.tau = tau
        self._logprob_model = LogprobModel.build(model, temperature=temperature)
        self._device = model.device
        self._max_nonfinite = max_nonfinite_steps
        self._nonfinite_in_a_row = 0
        self.optimizers = self._fresh_optimizers()

    def reset_optimizer(self) -> None:
        """Forget all moments: the new reference makes it a new problem (section 2.3.2)."""
        crashpoint("trainer.reset_optimizer")
        self.optimizers = self._fresh_optimizers()

    def _fresh_optimizers(self) -> list[torch.optim.Optimizer]:
        s = self.settings
        embeddings = {id(self.model.get_input_embeddings().weight), id(output_head(self.model).weight)}
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        matrices = (
            [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
            if s.kind == "muon"
            else []
        )
        chosen = {id(p) for p in matrices}
        rest = [p for p in parameters if id(p) not in chosen]
        adamw = torch.optim.AdamW(
            rest,
            lr=s.learning_rate,
            betas=(s.beta1, s.beta2),
            eps=s.eps,
            weight_decay=s.weight_decay,
            fused=True,
        )
        if not matrices:
            return [adamw]
        muon = torch.optim.Muon(
            matrices, lr=s.learning_rate, weight_decay=s.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        return [adamw, muon]

    @torch.no_grad()
    def logprobs(self, minibatch: Minibatch) -> Reference:
        """log pi of every loss token under the present weights: called before the first step of an
        iteration this is the reference log pi_theta_i of Eq. 2, in the very shapes of the steps."""
        return tuple(self._logprob_model(m.to(self._device)).logprobs for m in minibatch.microbatches)

    def step(
        self,
        minibatch: Minibatch,
        reference: Reference,
        loss: Loss,
        *,
        learning_rate: float | None = None,
    ) -> StepResult:
        """One optimizer step. Gradients of microbatches add up to the minibatch's, whatever the split.

        Raises:
            NonFiniteError: NaN or infinity in more steps in a row than allowed.
        """
        normalizer = Normalizer(minibatch.num_completions, minibatch.num_tokens)
        tally = _Tally()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        for batch, ref in zip(minibatch.microbatches, reference, strict=True):
            self._accumulate(batch.to(self._device), ref, loss, normalizer, tally)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip)
        skipped = not bool(torch.isfinite(norm))
        if skipped:
            self._count_nonfinite()
        else:
            self._nonfinite_in_a_row = 0
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = (
                        learning_rate if learning_rate is not None else self.settings.learning_rate
                    )
                optimizer.step()
        return tally.result(float(norm), skipped, minibatch, self.tau)

    def _accumulate(
        self, batch: Microbatch, ref: Tensor, loss: Loss, normalizer: Normalizer, tally: "_Tally"
    ) -> None:
        scored = self._logprob_model(batch)
        logprobs, mask = batch.scatter(scored.logprobs)
        reference, _ = batch.scatter(ref)
        terms = loss(logprobs, reference, mask, batch.advantages, normalizer=normalizer)
        terms.loss.backward()
        tally.loss += float(terms.loss.detach())
        tally.log_ratios.append(terms.log_ratio)
        tally.advantages.append(batch.advantages)
        tally.kl += kl_estimate(logprobs.detach(), reference, mask)
        tally.entropy_sum += float(scored.entropy.sum())

    def _count_nonfinite(self) -> None:
        self._nonfinite_in_a_row += 1
        if self._nonfinite_in_a_row > self._max_nonfinite:
            raise NonFiniteError(
                f"the gradient was NaN or infinite in {self._nonfinite_in_a_row} steps in a row; allowed are "
                f"{self._max_nonfinite}. Lower trainer.learning_rate, or look at the last rollouts; the last "
                "checkpoint is untouched."
            )

    def publish_weights(self, version: int) -> Weights:
        """A fingerprinted copy of the weights, for the engine."""
        crashpoint("trainer.before_publish")
        return snapshot(self.model, version)


class _Tally:
    """What the microbatches of a step add up to."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.log_ratios: list[Tensor] = []
        self.advantages: list[Tensor] = []
        self.kl = KLEstimate(0.0, 0.0, 0)
        self.entropy_sum = 0.0

    def result(self, grad_norm: float, skipped: bool, minibatch: Minibatch, tau: float) -> StepResult:
        delta, advantages = torch.cat(self.log_ratios), torch.cat(self.advantages)
        return StepResult(
            loss=self.loss,
            grad_norm=grad_norm,
            is_skipped=skipped,
            num_completions=minibatch.num_completions,
            num_tokens=minibatch.num_tokens,
            delta_rms=float(delta.square().mean().sqrt()),
            force_ratio=force_ratio(delta, advantages, tau),
            effective_sample_share=effective_sample_share(delta),
            kl=self.kl.k3,
            entropy=self.entropy_sum / minibatch.num_tokens,
        )

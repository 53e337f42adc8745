"""Config of reinforcement learning (sections 2.3 and 2.6.2).

The paper leaves most of these values open; `docs/deviations.md` gives the reason for each default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from k15.config.base import StrictModel
from k15.config.parts import (
    EngineConfig,
    EvaluationConfig,
    ModelConfig,
    PositiveInt,
    PromptsConfig,
    RunSettings,
    Share,
)
from k15.config.sandbox import SandboxConfig


class SamplerConfig(StrictModel):
    """Which prompts are drawn (section 2.3.4)."""

    strategy: Literal["uniform", "curriculum", "prioritized"] = "prioritized"
    """"curriculum": uniform before `switch_iteration`, then only hard prompts (Fig. 9);
    "prioritized": uniform before `switch_iteration`, then in proportion to 1 - s_i."""
    switch_iteration: Annotated[int, Field(ge=0)] = 0
    """Iteration at which the strategy replaces uniform sampling. Fig. 9 has 24."""
    hard_difficulty: float | None = None
    """Prompts at least this difficult are hard. None: labels are not used, `hard_success_rate` is."""
    hard_success_rate: Share = 0.5
    """Without labels: prompts with a success rate below this are hard."""
    success_rate_floor: Share = 0.05
    """Least weight of a solved prompt, so that s_i = 1 can come back."""
    success_rate_decay: Share = 0.5
    """Weight of the past in the moving average of s_i; 0 keeps only the last visit."""
    initial_success_rate: Share = 0.0
    """s_i of a prompt that was never visited and has no measured rate."""


class RepetitionConfig(StrictModel):
    """When a completion counts as looping (section 2.6.2)."""

    enabled: bool = True
    """Look for loops while generating, and end a completion that loops."""
    max_period: PositiveInt = 64
    """Longest repeated block that is looked for, in tokens."""
    min_repeats: Annotated[int, Field(ge=2)] = 4
    """The last block must stand so many times in a row."""
    min_tokens: PositiveInt = 48
    """The repeats together must cover at least so many tokens."""
    penalty: Annotated[float, Field(ge=0)] = 0.0
    """Subtracted from the reward of a completion that was stopped for repetition."""


class RolloutConfig(StrictModel):
    """Rollouts over several iterations (section 2.6.2)."""

    group_size: Annotated[int, Field(ge=2)] = 8
    """k, completions per prompt; at least 2, because the baseline is the group's mean (Eq. 3)."""
    prompts_in_flight: PositiveInt = 48
    """Groups that are open at the same time."""
    segment_tokens: PositiveInt = 128
    """Most tokens that a trajectory gains in one iteration; from `max_tokens` on, nothing is partial."""
    max_tokens: PositiveInt = 512
    """Cap on the whole completion, L_max."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature; the policy is the distribution at this temperature, in the trainer too."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens with at least this probability; 1 = from all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from so many of the likeliest tokens; 0 = from all."""
    max_staleness: int | None = None
    """Segments sampled more than this many iterations ago carry no loss. 0 is the paper's strictest
    reading, None trains on all."""
    repetition: RepetitionConfig = RepetitionConfig()


class AlgorithmConfig(StrictModel):
    """The loss and its baseline (section 2.3.2)."""

    loss: Literal["mirror_descent", "squared", "reinforce", "grpo"] = "mirror_descent"
    """"mirror_descent" is Eq. 3; "squared" the literal square before Eq. 3, scaled by 1/(2 tau);
    "reinforce" has no regulariser; "grpo" has a clipped token-level ratio."""
    baseline: Literal["mean", "leave_one_out", "log_partition", "standardized", "best_of_group"] = "mean"
    """"mean": r - r_bar (Eq. 3); "log_partition": r - tau log Z; "standardized": (r - r_bar) / std, as
    in GRPO; "best_of_group": ReST, weight 1 for the group's best completion and 0 for the others."""
    tau: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the regulariser towards the iteration's reference; it is inert in the first step."""
    loss_constant: Annotated[float, Field(gt=0)] = 1.0
    """Constant that divides every completion's loss; never its own length."""
    negative_drop: Share = 0.0
    """Probability with which a completion with a negative advantage is left out of the loss."""
    clip_low: Share = 0.2
    """GRPO only: the ratio of new to old probability counts down to 1 - clip_low."""
    clip_high: Share = 0.2
    """GRPO only: the ratio of new to old probability counts up to 1 + clip_high."""


class LengthPenaltyConfig(StrictModel):
    """The length reward (section 2.3.3): zero at first, then constant. Not a ramp."""

    weight: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Weight of the length reward; up to 2 no wrong answer scores above a right one."""
    start_iteration: Annotated[int, Field(ge=0)] = 0
    """Iteration at which the weight switches on."""

    def weight_at(self, iteration: int) -> float:
        """The weight of the length reward in an iteration: 0 before the start, then constant."""
        return self.weight if iteration >= self.start_iteration else 0.0


class ToggleConfig(StrictModel):
    """Toggle, Kimi K2.5's cure for overfitting to lengths (arXiv 2602.02276): a budget in every other phase."""

    every: Annotated[int, Field(ge=0)] = 0
    """Iterations of a phase. In the first, third, ... one a right answer of a mastered prompt that took more
    tokens than the prompt's budget earns nothing; in the others it does. 0 = no Toggle."""
    threshold: Share = 0.5
    """A prompt is mastered, so that its budget counts, from this group accuracy on."""
    quantile: Share = 0.5
    """The budget: this quantile of the right completions' tokens in the first group that has one."""


class RewardsConfig(StrictModel):
    """Grading."""

    timeout_seconds: Annotated[float, Field(gt=0)] = 2.0
    """Wall time after which a grading process is killed; the verdict is then "timeout"."""
    num_workers: PositiveInt = 1
    """Grading processes (for "math"; the generated families are judged in this process)."""
    max_fault_share: Share = 0.2
    """The run halts when more than this share of an iteration's verdicts are our own faults."""
    fault_retries: Annotated[int, Field(ge=0)] = 1
    """How often a verdict that is our own fault is sought again, with fresh processes, before it is left out."""
    audit_share: Share = 0.1
    """Share of the completions that a second, independent grader judges too; it changes no reward."""
    sandbox: SandboxConfig = SandboxConfig()


class TrainerConfig(StrictModel):
    """Optimizer steps of one iteration."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """AdamW's step size, the same in every iteration."""
    beta1: Share = 0.9
    """AdamW's memory of the gradient."""
    beta2: Share = 0.95
    """AdamW's memory of the squared gradient."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the squared gradient, so that nothing is divided by zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay; 0 = none."""
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest gradient norm."""
    reset_optimizer: bool = True
    """Fresh optimizer state in every iteration, because the reference is new (section 2.3.2)."""
    num_minibatches: PositiveInt = 2
    """Optimizer steps per pass over the iteration's groups; a group is never split over minibatches."""
    num_epochs: PositiveInt = 1
    """Passes over the iteration's groups."""
    row_tokens: PositiveInt = 512
    """Length of a packed row, in tokens; a longer sequence gets a row of its own."""
    microbatch_tokens: PositiveInt = 8192
    """Tokens in one forward pass; less needs less memory and gives the same gradient."""
    max_nonfinite_steps: Annotated[int, Field(ge=0)] = 3
    """Steps in a row with NaN or infinity in the gradient that are skipped; one more stops the run."""

    @model_validator(mode="after")
    def _two_steps(self) -> TrainerConfig:
        if self.num_minibatches * self.num_epochs < 1:
            raise ValueError("num_minibatches times num_epochs must be at least 1")
        return self


class RLConfig(StrictModel):
    """`k15 rl`: online policy mirror descent with partial rollouts."""

    num_iterations: PositiveInt
    """Iterations: one rollout phase and one training phase each."""
    model: ModelConfig = ModelConfig()
    prompts: PromptsConfig
    sampling: SamplerConfig = SamplerConfig()
    rollout: RolloutConfig = RolloutConfig()
    engine: EngineConfig = EngineConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    length_penalty: LengthPenaltyConfig = LengthPenaltyConfig()
    toggle: ToggleConfig = ToggleConfig()
    rewards: RewardsConfig = RewardsConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _needs_a_model(self) -> RLConfig:
        if self.model.path is None:
            raise ValueError(
                "RL starts from a trained model: set model.path to a checkpoint directory, for instance "
                "the one that `k15 sft` wrote"
            )
        return self

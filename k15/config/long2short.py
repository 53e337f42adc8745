"""Config of long2short (section 2.4): a short thinker made of a long one.

One recipe serves all methods, so that they can be compared; each method reads its own tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

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
from k15.config.rl import (
    AlgorithmConfig,
    LengthPenaltyConfig,
    RewardsConfig,
    RLConfig,
    RolloutConfig,
    SamplerConfig,
    ToggleConfig,
    TrainerConfig,
)
from k15.config.sft import SFTConfig, SFTDataConfig, SFTRunSettings, SFTSchedule, SFTStageConfig

Method = Literal["merge", "rejection", "dpo", "rl"]
Variant = Literal["merge", "rejection", "merge+rejection", "dpo", "rl"]


class MergeConfig(StrictModel):
    """Merging the weights of the long model with those of a shorter one; nothing is trained."""

    short: str | None = None
    """Directory of the short-CoT checkpoint. It must have the long model's tensors and tokens."""
    kind: Literal["average", "slerp", "ties"] = "average"
    """"average" is the paper's; "slerp" goes along the arc between the two; "ties" (arXiv 2306.01708) adds
    what both changed in `base` and drops what contradicts."""
    weight: Share = 0.5
    """Share of the short model; 0.5 is the plain average."""
    base: str | None = None
    """Directory of the checkpoint that both come from; for "ties" only."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of each model's largest changes that "ties" keeps."""

    @model_validator(mode="after")
    def _base_goes_with_ties(self) -> MergeConfig:
        if (self.kind == "ties") != (self.base is not None):
            raise ValueError('merge.base is the common ancestor that kind = "ties" needs, and only that')
        return self


class SampleConfig(StrictModel):
    """What the methods that learn from samples ask the long model (rejection, dpo)."""

    num_samples: Annotated[int, Field(ge=1)] = 8
    """Completions per prompt, n; 8 in the paper."""
    num_prompts: Annotated[int, Field(ge=0)] = 0
    """Training prompts that are asked, taken in order; 0 = all."""
    max_tokens: PositiveInt = 512
    """The long model's cap on a completion, in tokens; also the cap of every measurement here."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature."""


class SelectionConfig(StrictModel):
    """Which checkpoint long2short starts from: the one with the best balance of accuracy and tokens.

    The rule: of the candidates whose accuracy is at most `tolerance` below the best one's, the one with the
    fewest tokens; of equals the first.
    """

    candidates: tuple[str, ...] = ()
    """Checkpoint directories, or run folders, whose kept checkpoints all count. Empty: `model.path` it is."""
    tolerance: Share = 0.02
    """Accuracy that fewer tokens may cost."""
    num_prompts: PositiveInt = 128
    """Training prompts on which the candidates are measured, taken in order: held-out ones stay unseen."""
    num_samples: PositiveInt = 2
    """Completions per prompt."""


class FineTuningConfig(SFTSchedule):
    """Fine-tuning on the shortest right completions."""

    stages: tuple[SFTStageConfig, ...] = (
        SFTStageConfig(num_epochs=2, learning_rate=5e-4, final_learning_rate=5e-5),
    )
    """The schedule, one `[[sft.stages]]` table each."""


class DPOConfig(SFTSchedule):
    """Direct preference optimization on pairs of a prompt's own completions."""

    stages: tuple[SFTStageConfig, ...] = (
        SFTStageConfig(num_epochs=1, learning_rate=1e-4, final_learning_rate=1e-5),
    )
    """The schedule, one `[[dpo.stages]]` table each; both completions of a pair count as its tokens."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull towards the reference, the model at the start."""
    length_ratio: Annotated[float, Field(gt=1)] = 1.5
    """A right completion is a negative from so many times the positive's tokens on; 1.5 in the paper."""
    max_pairs: Annotated[int, Field(ge=0)] = 4
    """Pairs of a prompt at most, the first in the order of sampling; 0 = all."""


class DPORunConfig(DPOConfig, SFTConfig):
    """What a run folder of DPO keeps: the settings of DPO with the model and where the pairs came from."""


class ShortRolloutConfig(RolloutConfig):
    """Rollouts of the second RL phase, whole by default: the phase is short, and so are its completions."""

    segment_tokens: PositiveInt = 256
    """Most tokens that a trajectory gains in one iteration; from `max_tokens` on, nothing is partial."""
    max_tokens: PositiveInt = 256
    """Cap on the whole completion, significantly reduced: it must be below `samples.max_tokens`."""


class ConstantPenaltyConfig(LengthPenaltyConfig):
    """The length reward, on from the start."""

    weight: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Weight of the length reward; up to 2 no wrong answer scores above a right one."""


class ShortRLConfig(StrictModel):
    """The second RL phase: penalty on, cap cut. The tables are those of `k15 rl`."""

    num_iterations: PositiveInt = 15
    """Iterations: one rollout phase and one training phase each."""
    sampling: SamplerConfig = SamplerConfig()
    rollout: ShortRolloutConfig = ShortRolloutConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    length_penalty: ConstantPenaltyConfig = ConstantPenaltyConfig()
    toggle: ToggleConfig = ToggleConfig()
    trainer: TrainerConfig = TrainerConfig()


class ComparisonConfig(StrictModel):
    """`k15 long2short --compare`: all variants from one long model, measured on held-out prompts."""

    seeds: Annotated[tuple[int, ...], Field(min_length=3)] = (0, 1, 2)
    """One training and one measurement each; at least three, for the intervals."""
    variants: tuple[Variant, ...] = ("merge", "rejection", "merge+rejection", "dpo", "rl")
    """What is trained and measured beside the long and the short model. Merging needs `merge.short`."""


class Long2ShortConfig(StrictModel):
    """`k15 long2short`: a short thinker made of a long one (section 2.4)."""

    method: Method = "merge"
    """"merge": average with a short model; "rejection": fine-tuning on the shortest right sample; "dpo":
    preferences for it; "rl": a second RL phase."""
    model: ModelConfig = ModelConfig()
    prompts: PromptsConfig | None = None
    """What is asked, in training and in measurements; a merge alone needs none."""
    selection: SelectionConfig = SelectionConfig()
    merge: MergeConfig = MergeConfig()
    samples: SampleConfig = SampleConfig()
    sft: FineTuningConfig = FineTuningConfig()
    dpo: DPOConfig = DPOConfig()
    rl: ShortRLConfig = ShortRLConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    engine: EngineConfig = EngineConfig()
    rewards: RewardsConfig = RewardsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _has_what_its_method_needs(self) -> Long2ShortConfig:
        if self.model.path is None and not self.selection.candidates:
            raise ValueError(
                "long2short starts from a long-CoT model: set model.path to its checkpoint directory"
            )
        if self.method == "merge" and self.merge.short is None:
            raise ValueError(
                "merging needs a second model: set merge.short to the short-CoT checkpoint directory"
            )
        if self.method != "merge" and self.prompts is None:
            raise ValueError(
                "this method learns from prompts: set prompts.path to a file, or prompts.tasks"
            )
        if self.method == "rl" and not (self.rl.length_penalty.weight or self.rl.toggle.every):
            raise ValueError(
                "long2short RL has the length penalty on: set rl.length_penalty.weight above 0"
            )
        cap, reduced = self.samples.max_tokens, self.rl.rollout.max_tokens
        if self.method == "rl" and reduced >= cap:
            raise ValueError(
                f"long2short RL cuts the cap: rl.rollout.max_tokens must be below samples.max_tokens, the long "
                f"model's; got {reduced} and {cap}"
            )
        return self

    def sft_config(self, source: Path) -> SFTConfig:
        """Fine-tuning of `model` on examples that come from the folder `source`."""
        return SFTConfig(**self._tuning(self.sft, source))

    def dpo_config(self, source: Path) -> DPORunConfig:
        """Preference optimization of `model` on pairs that come from the folder `source`."""
        return DPORunConfig(**self._tuning(self.dpo, source))

    def _tuning(self, schedule: SFTSchedule, source: Path) -> dict[str, Any]:
        run = SFTRunSettings(**{**dict(self.run), "save_every": max(self.run.save_every, 100)})
        return {**dict(schedule), "model": self.model, "data": SFTDataConfig(path=source), "run": run}

    def rl_config(self) -> RLConfig:
        """The second RL phase as a config of `k15 rl`."""
        assert self.prompts is not None, "checked when the config was made"
        return RLConfig(
            model=self.model,
            prompts=self.prompts,
            engine=self.engine,
            rewards=self.rewards,
            evaluation=self.evaluation,
            run=self.run,
            **dict(self.rl),
        )

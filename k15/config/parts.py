"""The tables that configs of several stages are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from k15.config.base import StrictModel

PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class TinyModelConfig(StrictModel):
    """A decoder made from scratch, in the Qwen3 class of transformers."""

    num_layers: PositiveInt = 3
    """Decoder layers."""
    width: PositiveInt = 64
    """Size of the hidden state."""
    num_heads: PositiveInt = 4
    """Query heads; a multiple of `num_kv_heads`."""
    num_kv_heads: PositiveInt = 1
    """Heads of keys and values (grouped-query attention); few heads make decoding cheap."""
    head_dim: PositiveInt = 32
    """At least 32, or vLLM on a CPU cannot load the checkpoint."""
    mlp_width: PositiveInt = 192
    """Hidden size of the gated MLP."""
    max_positions: PositiveInt = 2048
    """Longest sequence of prompt and completion, in tokens."""

    @model_validator(mode="after")
    def _heads_divide(self) -> TinyModelConfig:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads must be a multiple of num_kv_heads; "
                f"got {self.num_heads} and {self.num_kv_heads}"
            )
        return self


class ModelConfig(StrictModel):
    """The policy: a checkpoint to load, or a tiny model to make."""

    path: str | None = None
    """A directory with a transformers checkpoint, or a hub name. None makes `tiny` from scratch."""
    tiny: TinyModelConfig = TinyModelConfig()
    """Shape of the model made from scratch; not used when `path` is given."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations. float32 on a CPU makes runs bit-reproducible."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto" takes the first CUDA device if there is one."""


class TaskConfig(StrictModel):
    """Generated problems of one family (`k15.tasks`)."""

    family: str
    """Name of a family: trial, collatz, countdown."""
    levels: tuple[int, ...] = (1, 2, 3)
    """Difficulty levels to generate, in equal shares."""
    num_train: PositiveInt = 2000
    """Problems in the training split."""
    num_heldout: PositiveInt = 256
    """Problems in the held-out split; disjoint from training by construction."""


class PromptsConfig(StrictModel):
    """The RL prompt set: a file of real prompts, or generated families. Exactly one of them."""

    path: Path | None = None
    """JSON lines with "question" and "answer" (GSM8K's own files work), or "prompt" and "answer"."""
    heldout_path: Path | None = None
    """A file of the same format for held-out evaluation; None holds out `num_heldout` rows of `path`."""
    num_heldout: Annotated[int, Field(ge=0)] = 64
    """Rows of `path` taken out of training and used for evaluation, chosen by hash of the question."""
    tasks: tuple[TaskConfig, ...] = ()
    """Generated families."""
    verifier: str = "math"
    """Who judges the answers of `path`."""
    system: str = ""
    """A system message put before every question; "" for none."""
    suffix: str = ""
    """Text added to every question of `path`, for instance how to format the answer."""
    max_prompt_tokens: PositiveInt = 1024
    """Longer prompts are refused with their line number, or skipped with `skip_bad_rows`."""
    skip_bad_rows: bool = False
    """Skip malformed rows and report how many, instead of stopping at the first."""
    seed: int = 0
    """Seed of the generated families; the same seed gives the same problems."""

    @model_validator(mode="after")
    def _one_source(self) -> PromptsConfig:
        if (self.path is None) == (not self.tasks):
            raise ValueError(
                "give either prompts.path (a file) or prompts.tasks (generated families), not both"
            )
        return self


class VllmConfig(StrictModel):
    """Settings that only vLLM has, under vLLM's own names."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the device's memory for vLLM; the trainer needs the rest. On a CPU at most this share of the
    machine's memory goes to keys and values."""
    max_model_len: PositiveInt | None = None
    """Longest sequence of prompt and completion, in tokens; None = what the model takes."""
    enforce_eager: bool | None = None
    """No compilation and no CUDA graphs: slower, and starts at once. None = on a CPU only."""


class EngineConfig(StrictModel):
    """Inference."""

    plain_key: ClassVar[str] = "type"

    type: Literal["embedded", "vllm"] = "embedded"
    """"embedded" is the engine of k15 itself, in PyTorch; it needs nothing else. "vllm" must be installed
    (docs/engines.md)."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    """Engine processes. 1 embedded engine runs inside this process, vLLM never does. The tokens do not depend
    on it."""
    num_slots: PositiveInt = 64
    """Trajectories each worker extends at the same time; the rest wait for a free slot."""
    num_threads: PositiveInt = 1
    """CPU threads of each worker."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often a dead worker process is started again in one iteration before the run stops."""
    vllm: VllmConfig = VllmConfig()


class EvaluationConfig(StrictModel):
    """Held-out evaluation during a run."""

    every: Annotated[int, Field(ge=0)] = 10
    """Iterations between evaluations, counting from 0; the last one is always evaluated. 0 = never."""
    at_start: bool = True
    """Evaluate before the first update too; false saves the time where the first weights are known already."""
    num_prompts: PositiveInt = 256
    """Held-out prompts, taken in order."""
    num_samples: PositiveInt = 1
    """Completions per prompt."""
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    """Sampling temperature; 0 is greedy. Fig. 5's first panel uses 1.0."""


class RunSettings(StrictModel):
    """What a run is, apart from what it learns."""

    seed: int = 0
    """Every random choice is derived from it."""
    save_every: PositiveInt = 10
    """Iterations (RL) or steps (SFT) between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept; the last one of the run is among them."""
    fsync_seconds: Annotated[float, Field(ge=0.0)] = 0.2
    """The journal of finished segments is fsynced at most this often and at the end of every rollout
    phase; 0 = after every segment. A killed process loses nothing either way; a power cut this much."""
    num_threads: Annotated[int, Field(ge=0)] = 2
    """CPU threads of the trainer; 0 leaves torch's choice. Fixed, because the last bit depends on it."""

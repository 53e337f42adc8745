"""Config of evaluation: which benchmarks, how completions are sampled, what makes the result invalid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from k15.config.base import StrictModel
from k15.config.parts import EngineConfig, ModelConfig, PositiveInt, Share
from k15.config.rl import RewardsConfig


def _split(value: object) -> object:
    """`math500,aime2024`, as it is typed, is a list of two."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


class EvalConfig(StrictModel):
    """`k15 eval`: scores of a model on benchmarks. The paper gives no settings (App. C); these are ours."""

    model: ModelConfig = ModelConfig()
    benchmarks: Annotated[tuple[str, ...], BeforeValidator(_split)]
    """Names of built-in benchmarks (gsm8k), of generated families (countdown), or files of your own (my.jsonl),
    separated by commas. A colon narrows one down: trial:1+2 has levels, livecodebench:2408-2411 months."""
    data: Path | None = None
    """Folder with the files of the built-in benchmarks. None loads them from the hub, through `datasets`."""
    samples: PositiveInt = 8
    """Completions a problem, n; pass@1 is the mean over them."""
    max_tokens: PositiveInt | None = None
    """Cap on a completion, in tokens. None = all the room that the model has, at most 32768."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Sampling temperature; 0 is greedy, and then `samples` is 1. Fig. 5's first panel has 1.0."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens with at least this probability; 1 = from all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from so many of the likeliest tokens; 0 = from all."""
    limit: PositiveInt | None = None
    """Problems a benchmark, chosen by a hash of the question; None = all (of a generated family: 256)."""
    suffix: str | None = None
    """Text added to every question; None = the benchmark's own, "" = none."""
    system: str = ""
    """A system message put before every question; "" for none."""
    vote_inputs: Annotated[int, Field(ge=0)] = 0
    """Inputs that the model writes for each programming problem that reads standard input; its samples vote on
    them and one is handed in (App. C, Codeforces). 0 = no vote."""
    max_invalid_share: Share = 0.01
    """A benchmark is INVALID when more than this share of its verdicts are our own faults."""
    seed: int = 0
    """Every sampled token is derived from it."""
    engine: EngineConfig = EngineConfig()
    rewards: RewardsConfig = RewardsConfig()

    @model_validator(mode="after")
    def _sensible(self) -> EvalConfig:
        if not self.benchmarks or "" in self.benchmarks:
            raise ValueError("benchmarks must name at least one, as in --benchmarks gsm8k,math500")
        if len(set(self.benchmarks)) < len(self.benchmarks):
            raise ValueError(f"benchmarks must name each one once; got {', '.join(self.benchmarks)}")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"at temperature 0 all samples of a problem are the same, so samples must be 1; got {self.samples}"
            )
        return self

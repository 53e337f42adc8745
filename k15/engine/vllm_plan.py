"""What a vLLM worker is made of, put together where vLLM need not be imported."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from k15.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from k15.engine.stepped import SteppedEngine

_CPU_HEAD_DIM = 32


@dataclass(frozen=True)
class VllmPlan:
    """vLLM in each worker of an `EnginePool`.

    Attributes:
        model_config: the model's config.json. vLLM gets no weights from disk.
        dtype: type of the weights, "float32" or "bfloat16".
        num_slots: trajectories at the same time.
        num_threads: CPU threads.
        max_positions: longest sequence of prompt and completion, in tokens.
        memory_share: share of the device's memory for weights, keys and values; on a CPU, of the machine's memory
            for keys and values at most.
        is_eager: None = without CUDA graphs and compilation on a CPU, with them on a GPU.
    """

    model_config: str
    dtype: str
    num_slots: int
    num_threads: int
    max_positions: int
    memory_share: float
    is_eager: bool | None

    def build(self) -> SteppedEngine:
        """Start vLLM in this process, which must not have imported it before."""
        prepare_process(self.num_threads)
        from k15.engine.vllm import start

        return start(self)


def is_installed() -> bool:
    """Whether vLLM can be imported; a folder of that name on the path is not it."""
    spec = importlib.util.find_spec("vllm")
    return spec is not None and spec.origin is not None


def require_vllm() -> None:
    """Raise ConfigError, with the way to it, where vLLM is not installed."""
    if not is_installed():
        raise ConfigError(
            "engine.type is vllm, and vLLM is not installed in this environment. Install it (docs/engines.md says "
            "how: pip install 'k15[vllm]' with a GPU, make test-vllm shows the way without), or leave "
            "engine.type at embedded."
        )


def prepare_process(num_threads: int) -> None:
    """Settings of this process that must be there before vLLM is imported."""
    torch.set_num_threads(num_threads)
    # vLLM reads these when it is imported. What the user has set wins where it is a matter of taste.
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # it knows no logits processors
        "OMP_NUM_THREADS": str(num_threads),  # or vLLM sets torch's threads to 1
    }
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output is for results
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")


def plan_vllm(
    model: PreTrainedModel,
    *,
    num_slots: int,
    num_threads: int,
    max_positions: int,
    memory_share: float,
    is_eager: bool | None,
) -> VllmPlan:
    """The plan of a vLLM engine for models of this shape.

    Raises:
        ConfigError: vLLM is not installed.
        ModelError: vLLM cannot run this shape.
    """
    require_vllm()
    text = model.config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if model.device.type == "cpu" and head_dim < _CPU_HEAD_DIM:
        raise ModelError(
            f"vLLM on a CPU needs a head_dim of at least {_CPU_HEAD_DIM}; this model has {head_dim}. Use the embedded "
            "engine."
        )
    settings = json.loads(model.config.to_json_string(use_diff=False))
    settings["architectures"] = [type(model).__name__]  # only a model that was loaded names its class
    return VllmPlan(
        model_config=json.dumps(settings),
        dtype=str(model.dtype).removeprefix("torch."),
        num_slots=num_slots,
        num_threads=num_threads,
        max_positions=max_positions,
        memory_share=memory_share,
        is_eager=is_eager,
    )

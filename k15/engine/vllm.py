"""vLLM behind k15's rules. This is the only file that imports vLLM, and it runs in a worker process.

vLLM's engine core, its scheduler and its model live in this one process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`,
which `vllm_plan.py` sees to), so that what dies dies whole, and a hand-off of weights is a call. k15 takes part
by three of vLLM's own extension points: a weight-transfer engine that takes tensors of host memory (vLLM's need
CUDA), a logits processor that decides every token, and requests that end after a segment's tokens.
"""
# vLLM is not there where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm import EngineArgs, LLMEngine
from vllm import SamplingParams as VllmSamplingParams
from vllm.config import VllmConfig, WeightTransferConfig
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

from k15.engine.draws import Row, RowSampler
from k15.engine.held import pieces_of, take_apart
from k15.engine.slots import Limits
from k15.engine.stepped import Gain, Request, SteppedEngine, Stepper
from k15.engine.vllm_plan import VllmPlan
from k15.errors import EngineError
from k15.types import Weights
from k15.weights.fingerprint import fingerprint

_BACKEND = "k15"
_BLOCK = 32  # tokens of keys and values that are shared or not; the CPU kernels want a multiple of 32


def start(plan: VllmPlan) -> SteppedEngine:
    """vLLM with weights that mean nothing yet."""
    return SteppedEngine(VllmStepper(plan), num_slots=plan.num_slots)


class VllmStepper(Stepper):
    """vLLM's `LLMEngine`, driven step by step."""

    def __init__(self, plan: VllmPlan) -> None:
        is_cpu = current_platform.is_cpu()
        with tempfile.TemporaryDirectory(prefix="k15-vllm-") as folder:
            (Path(folder) / "config.json").write_text(plan.model_config, encoding="utf-8")
            self._engine = LLMEngine.from_engine_args(_engine_args(plan, folder, is_cpu=is_cpu))
        vocab_size = self._engine.model_config.get_vocab_size()
        self._limits = Limits(vocab_size, plan.max_positions)
        self._unread: dict[str, int] = {}  # requests without a token yet -> tokens to be read
        self._can_sleep = not is_cpu
        self._is_asleep = False
        self._engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})

    @property
    def limits(self) -> Limits:
        return self._limits

    def load(self, weights: Weights) -> str:
        self._wake()
        self._engine.collective_rpc("start_weight_update")
        self._engine.collective_rpc(
            "update_weights", kwargs={"update_info": {"tensors": dict(weights.tensors)}}
        )
        self._engine.collective_rpc("finish_weight_update")
        self._forget_keys_and_values()
        (held,) = self._engine.apply_model(lambda model: _held_tensors(model, weights.tensors))
        return fingerprint(held)

    def add(self, request: Request) -> None:
        self._wake()
        params = VllmSamplingParams(
            temperature=0.0,  # the logits processor leaves one token
            max_tokens=request.quota,
            stop_token_ids=list(request.stop_ids),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={_BACKEND: request.draw},
            skip_clone=True,  # the draw is filled in by the logits processor: it must stay one object
        )
        self._unread[request.key] = len(request.token_ids)
        self._engine.add_request(request.key, {"prompt_token_ids": request.token_ids}, params)

    def step(self) -> list[Gain]:
        gains = []
        for output in self._engine.step():
            key = output.request_id
            if ids := output.outputs[0].token_ids:
                read = self._unread.pop(key, 0)
                gains.append(
                    Gain(key, ids, max(0, read - (output.num_cached_tokens or 0)) if read else 0)
                )
        return gains

    def abort(self, keys: Sequence[str]) -> None:
        self._engine.abort_request(list(keys))
        for key in keys:
            self._unread.pop(key, None)

    def sleep(self) -> None:
        if self._can_sleep and not self._is_asleep:
            self._engine.sleep(level=1)  # weights wait in host memory, keys and values are dropped
            self._is_asleep = True

    def _wake(self) -> None:
        if self._is_asleep:
            self._engine.wake_up()
            self._is_asleep = False
            self._forget_keys_and_values()

    def _forget_keys_and_values(self) -> None:
        """No key or value of an older policy may be found in the prefix cache."""
        if not self._engine.reset_prefix_cache():
            raise EngineError(
                "vLLM did not forget its prefix cache, because requests still run. Close the running extension first."
            )


def _engine_args(plan: VllmPlan, folder: str, *, is_cpu: bool) -> EngineArgs:
    on_device: dict[str, Any] = {"gpu_memory_utilization": plan.memory_share, "enable_sleep_mode": True}
    if is_cpu:  # an explicit size also spares the trial run that would measure what is left
        on_device = {"kv_cache_memory_bytes": _kv_bytes(plan)}
    return EngineArgs(
        model=folder,
        runner="generate",
        skip_tokenizer_init=True,
        load_format="dummy",
        generation_config="vllm",
        dtype=plan.dtype,
        max_model_len=plan.max_positions,
        max_num_seqs=plan.num_slots,
        block_size=_BLOCK,
        enable_prefix_caching=True,
        enforce_eager=is_cpu if plan.is_eager is None else plan.is_eager,
        async_scheduling=False,  # the logits processor must see every token before the next
        distributed_executor_backend="uni",
        logits_processors=[DerivedSampling],
        weight_transfer_config=WeightTransferConfig(backend=_BACKEND),
        disable_log_stats=True,
        **on_device,
    )


def _kv_bytes(plan: VllmPlan) -> int:
    """Room for keys and values on a CPU: for all slots at full length, or the share of memory that is allowed."""
    config = json.loads(plan.model_config)
    config = config.get("text_config", config)
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    num_kv_heads = config.get("num_key_value_heads") or heads
    element = torch.empty(0, dtype=getattr(torch, plan.dtype)).element_size()
    per_token = 2 * config["num_hidden_layers"] * num_kv_heads * head_dim * element
    blocks = plan.num_slots * (-(-plan.max_positions // _BLOCK) + 1) + 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(blocks * _BLOCK * per_token, int(memory * plan.memory_share))


class DerivedSampling(LogitsProcessor):
    """Decides every token of every request: temperature, bans, top-k, top-p and the derived number."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._sampler = RowSampler()
        self._rows: dict[int, Row] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self._rows, batch_update, _row_of)

    def apply(self, logits: Tensor) -> Tensor:
        return self._sampler.force(logits, self._rows)


def _row_of(params: VllmSamplingParams, prompt_ids: list[int] | None, ids: list[int]) -> Row | None:
    draw = (params.extra_args or {}).get(_BACKEND)
    return None if draw is None else (draw, ids)


@dataclass
class HandOverInit(WeightTransferInitInfo):
    """Nothing to agree on: both sides are in one process."""


@dataclass
class HandOverUpdate(WeightTransferUpdateInfo):
    """Tensors in the naming of transformers."""

    tensors: dict[str, Tensor] = field(default_factory=dict)


class HandOver(WeightTransferEngine[HandOverInit, HandOverUpdate]):
    """vLLM's weight transfer from tensors in this process's memory, on any device."""

    init_info_cls = HandOverInit
    update_info_cls = HandOverUpdate

    def init_transfer_engine(self, init_info: HandOverInit) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: HandOverUpdate) -> None:
        self.model.load_weights(list(update_info.tensors.items()))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            # vLLM 0.32 leaves the packed copy of a head that is tied to the embedding as it was before.
            for head in _heads(self.model).values():
                head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        pass


WeightTransferEngineFactory.register_engine(_BACKEND, HandOver)


def _held_tensors(model: nn.Module, handed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model computes with, in the policy's names.

    Raises:
        EngineError: the model has parameters that no tensor of the policy explains, or the other way round.
    """
    parameters = dict(model.named_parameters())
    mapper = getattr(model, "hf_to_vllm_mapper", None) or WeightsMapper()
    stacks = getattr(model, "packed_modules_mapping", None) or {}
    rename = replace(mapper, orig_to_new_stacked={}).map_name
    pieces = pieces_of(list(handed), stacks, rename)
    if unexplained := sorted(parameters.keys() ^ pieces.keys()):
        raise EngineError(
            "vLLM must hold just the policy's tensors, so that it can be proven; these are only on one side: "
            f"{', '.join(unexplained[:5])}. Use the embedded engine for {type(model).__name__}."
        )
    held: dict[str, Tensor] = {}
    for target, names in pieces.items():
        module = model.get_submodule(target.rpartition(".")[0])
        held |= take_apart(_read(module, parameters[target]), names, handed)
    for name, head in _heads(model).items():
        target = next((t for t in pieces if parameters[t] is head.weight), None)
        if target is not None and target != f"{name}.weight":  # tied; its packed copy may differ
            ((tied, tensor),) = take_apart(_multiplied(head), pieces[target], handed).items()
            if tensor is not handed[tied]:
                held[f"{name}.weight"] = tensor
    return held


def _heads(model: nn.Module) -> dict[str, ParallelLMHead]:
    return {name: m for name, m in model.named_modules() if isinstance(m, ParallelLMHead)}


def _read(module: nn.Module, parameter: Tensor) -> Tensor:
    """[rows, columns] a parameter as it is used. On a CPU vLLM packs matrices and drops the originals."""
    is_packed = isinstance(module, LinearBase | ParallelLMHead) and parameter is module.weight
    return _multiplied(module) if is_packed and current_platform.is_cpu() else parameter


def _multiplied(layer: nn.Module) -> Tensor:
    """[rows, columns] the matrix that a layer multiplies with, from its product with the identity: exact."""
    method: UnquantizedLinearMethod = layer.quant_method  # pyright: ignore[reportAssignmentType]
    is_head = isinstance(layer, ParallelLMHead)
    columns = layer.embedding_dim if is_head else layer.input_size_per_partition
    dtype = layer.weight.dtype
    return method.apply(layer, torch.eye(columns, dtype=dtype, device=layer.weight.device), None).t()

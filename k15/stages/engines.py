"""The engine that the settings ask for."""

from k15.config.parts import EngineConfig
from k15.engine.base import Engine
from k15.engine.embedded import EmbeddedEngine
from k15.engine.pool import EnginePool, embedded_pool
from k15.engine.vllm_plan import plan_vllm, require_vllm
from k15.models.load import Policy


def check_engine(settings: EngineConfig) -> None:
    """Raise ConfigError if the engine is not installed: asked before anything is started."""
    if settings.type == "vllm":
        require_vllm()


def make_engine(settings: EngineConfig, policy: Policy) -> Engine:
    """An engine for models of the policy's shape; it samples once it was given weights.

    Raises:
        ConfigError: the engine is not installed.
        ModelError: the engine cannot run the policy.
    """
    if settings.type == "vllm":
        own = settings.vllm
        plan = plan_vllm(
            policy.model,
            num_slots=settings.num_slots,
            num_threads=settings.num_threads,
            max_positions=min(policy.max_positions, own.max_model_len or policy.max_positions),
            memory_share=own.gpu_memory_utilization / settings.num_workers,
            is_eager=own.enforce_eager,
        )
        return EnginePool(plan, num_workers=settings.num_workers, max_restarts=settings.max_restarts)
    if settings.num_workers == 1:
        return EmbeddedEngine(
            policy.model, num_slots=settings.num_slots, num_threads=settings.num_threads
        )
    return embedded_pool(
        policy.model,
        num_workers=settings.num_workers,
        num_slots=settings.num_slots,
        num_threads=settings.num_threads,
        max_restarts=settings.max_restarts,
    )

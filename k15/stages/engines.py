"""The engine that the settings ask for."""

from k15.config.parts import EngineConfig
from k15.engine.base import Engine
from k15.engine.embedded import EmbeddedEngine
from k15.engine.pool import embedded_pool
from k15.models.load import Policy


def make_engine(settings: EngineConfig, policy: Policy) -> Engine:
    """An engine for models of the policy's shape; it samples once it was given weights."""
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

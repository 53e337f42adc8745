"""Fixtures of the engine's tests: one tiny model, its weights, and a naive sampler over it."""

import pytest
from engine_support import Naive, tiny_model
from transformers import Qwen3ForCausalLM

from k15.engine.embedded import EmbeddedEngine
from k15.types import Weights
from k15.weights.fingerprint import snapshot


@pytest.fixture(scope="session")
def model() -> Qwen3ForCausalLM:
    return tiny_model()


@pytest.fixture(scope="session")
def weights(model) -> Weights:
    return snapshot(model, version=3)


@pytest.fixture(scope="session")
def naive(model) -> Naive:
    return Naive(model)


@pytest.fixture
def make_engine(model, weights):
    """Builds an engine over the session's model with its weights loaded."""

    def make(num_slots: int = 4, **options) -> EmbeddedEngine:
        engine = EmbeddedEngine(model, num_slots=num_slots, **options)
        engine.load_weights(weights)
        return engine

    return make

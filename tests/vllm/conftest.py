"""Tests against a real vLLM. Without one they are skipped; `make test-vllm` makes an environment that has it.

vLLM starts in worker processes only: this process never imports it.
"""

from collections.abc import Iterator

import pytest
from transformers import Qwen3ForCausalLM
from vllm_support import make_pool, qwen3

from k15.engine.embedded import EmbeddedEngine
from k15.engine.pool import EnginePool
from k15.engine.vllm_plan import is_installed
from k15.types import Weights
from k15.weights.fingerprint import snapshot


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not is_installed():
        skip = pytest.mark.skip(reason="vLLM is not installed here; make test-vllm runs these tests")
        for item in items:
            if "/tests/vllm/" in item.path.as_posix():
                item.add_marker(skip)


@pytest.fixture(scope="session")
def model() -> Qwen3ForCausalLM:
    return qwen3()


@pytest.fixture(scope="session")
def weights(model) -> Weights:
    return snapshot(model, version=1)


@pytest.fixture(scope="session")
def _pool(model) -> Iterator[EnginePool]:
    with make_pool(model) as pool:
        yield pool


@pytest.fixture
def engine(_pool, weights) -> EnginePool:
    """vLLM in one worker, with the session's weights."""
    _pool.load_weights(weights)
    _pool.take_notices()
    return _pool


@pytest.fixture(scope="session")
def reference(model, weights) -> EmbeddedEngine:
    engine = EmbeddedEngine(model, num_slots=16)
    engine.load_weights(weights)
    return engine

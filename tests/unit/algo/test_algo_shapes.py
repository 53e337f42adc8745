"""The shapes in the signatures of k15.algo are checked while the tests run (tests/conftest.py)."""

import jaxtyping
import pytest
import torch

from k15.algo.advantage import mean_advantages
from k15.algo.length import length_reward

pytest.importorskip("beartype", reason="shapes are checked only where beartype is installed")


def test_a_wrong_shape_is_an_error() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        mean_advantages(torch.zeros(2, 4), torch.ones(2, 3, dtype=torch.bool))


def test_a_wrong_dtype_is_an_error() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        length_reward(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))

"""Set-up of the whole test suite: shapes are checked, torch is single-threaded and seeded."""

import importlib.util

import pytest
from hypothesis import HealthCheck, settings

if importlib.util.find_spec("beartype") is not None:
    from jaxtyping import install_import_hook

    # Before anything imports k15.algo: from here on a wrong shape or dtype there is an error.
    install_import_hook("k15.algo", "beartype.beartype")

import torch

torch.set_num_threads(1)

# A busy machine is no failure of a property: no test fails for the time that it takes.
settings.register_profile("k15", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("k15")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Every test starts from the same torch seed, whatever ran before it."""
    torch.manual_seed(0)

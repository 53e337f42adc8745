"""Families of generated problems, each with a solver that demonstrates and a verifier that is exact."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from k15.errors import ConfigError
from k15.tasks.base import Family, Problem, Split
from k15.tasks.collatz import CollatzFamily
from k15.tasks.countdown import CountdownFamily
from k15.tasks.style import FLAWLESS, DemonstrationStyle
from k15.tasks.trial import TrialFamily

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.name: family for family in (TrialFamily(), CollatzFamily(), CountdownFamily())}
)

__all__ = ["FAMILIES", "FLAWLESS", "DemonstrationStyle", "Family", "Problem", "Split", "get_family"]


def get_family(name: str) -> Family:
    """The family of that name.

    Raises:
        ConfigError: there is none; the message lists the names.
    """
    if name not in FAMILIES:
        raise ConfigError(f"no task family is called {name!r}; there are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]

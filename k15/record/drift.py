"""What changed between the configuration of a run and the one it is resumed with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from k15.errors import ConfigDriftError

UNSAFE_KEYS = (
    "model.path",
    "model.tiny",
    "model.dtype",
    "prompts",
    "data",
    "rollout.group_size",
    "run.seed",
    "data_fingerprints",
)
"""Settings (with everything below them) that a run cannot change and still be one run."""

_ABSENT = "(not there)"


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting before and now, as JSON text."""

    key: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"


def config_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """The settings that differ, by dotted key, in order. Lists are compared as a whole."""
    old, new = _flatten(before), _flatten(now)
    return [
        Difference(key, old.get(key, _ABSENT), new.get(key, _ABSENT))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def refuse_unsafe(differences: Iterable[Difference], unsafe: Iterable[str]) -> None:
    """Nothing, if only settings differ that a run may change.

    Args:
        differences: from `config_differences`.
        unsafe: dotted keys; one stands for itself and everything below it ("model" or "model.*").

    Raises:
        ConfigDriftError: lists every unsafe difference.
    """
    prefixes = [key.removesuffix("*").rstrip(".") for key in unsafe]
    refused = [
        difference
        for difference in differences
        if any(
            difference.key == prefix or difference.key.startswith(prefix + ".") for prefix in prefixes
        )
    ]
    if refused:
        listed = "\n  ".join(map(str, refused))
        raise ConfigDriftError(
            "a run may not change these settings when it is resumed, because what was learned before would not "
            f"fit what is learned after:\n  {listed}\n"
            "Use the old settings, give another folder with --run, start anew with --fresh, or accept the "
            "change with --allow-drift."
        )


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, sort_keys=True)
    return flat

"""The run folder as a place: whose it is, what it was started with, and moving an old run aside."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from k15.config.base import StrictModel
from k15.crashpoints import crashpoint
from k15.errors import RunFolderError
from k15.record import schema
from k15.record.checkpoint import library_versions
from k15.record.drift import Difference, config_differences
from k15.record.durable import make_directory, replace_file, sync_path

_KIND = "k15-run"
_MOVING = ".moving"
_RUN_NAMES = {schema.CONFIG, schema.CHECKPOINTS, schema.METRICS, schema.EVENTS, schema.ROLLOUTS}


@dataclass(frozen=True)
class Claim:
    """What a run is: its manifest and its configuration (None where the file is damaged)."""

    manifest: schema.RunManifest
    config: Mapping[str, Any] | None

    def differences(self, now: Claim) -> list[Difference]:
        """The settings, data sets and versions that differ from `now`; none if they cannot be known."""
        if self.config is None:
            return []
        before, after = (
            {
                **(claim.config or {}),
                **{key: claim.manifest[key] for key in ("data_fingerprints", "versions")},
            }
            for claim in (self, now)
        )
        return config_differences(before, after)

    def renewed(self, now: Claim) -> Claim:
        """This run going on with the settings of `now`; where it came from and how far it is stay."""
        kept = {
            key: self.manifest[key] for key in ("created", "command", "seed", "done", "has_checkpoint")
        }
        return Claim(cast(schema.RunManifest, {**now.manifest, **kept}), now.config)


def new_claim(
    config: StrictModel, *, command: str, total: int, data_fingerprints: Mapping[str, str]
) -> Claim:
    """The claim of a run that starts now."""
    resolved = config.model_dump(mode="json")
    return Claim(
        {
            "kind": _KIND,
            "schema": schema.SCHEMA,
            "created": time.time(),
            "command": command,
            "seed": resolved.get("run", {}).get("seed"),
            "versions": dict(library_versions()),
            "data_fingerprints": dict(data_fingerprints),
            "total": total,
            "done": 0,
            "has_checkpoint": False,
        },
        resolved,
    )


def read_claim(path: Path, *, allow_damage: bool) -> Claim | None:
    """The claim on the folder; None if there is no run yet, or one that was killed while it was created.

    Args:
        path: the run folder, locked by us.
        allow_damage: go on although there is nothing intact to compare the settings with.

    Raises:
        RunFolderError: the folder belongs to something else or to another version, or a file is damaged.
    """
    if not (path / schema.MANIFEST).exists():
        if strangers := _RUN_NAMES.intersection(_entries(path)):
            raise _not_a_run(path, strangers)
        return None
    manifest, config = _read_object(path / schema.MANIFEST), _read_object(path / schema.CONFIG)
    if (
        config is None
        and not (path / schema.CONFIG).exists()
        and manifest
        and not manifest.get("has_checkpoint")
    ):
        return None
    if manifest is not None and manifest.get("schema") not in (schema.SCHEMA, None):
        raise RunFolderError(
            f"{path} was written by another version of k15 (schema {manifest['schema']}; this one writes "
            f"{schema.SCHEMA}). Use that version to go on, or give another folder with --run."
        )
    if manifest is None or not schema.RunManifest.__required_keys__ <= manifest.keys():
        manifest = None
    if (manifest is None or config is None) and not allow_damage:
        name = schema.MANIFEST if manifest is None else schema.CONFIG
        raise RunFolderError(
            f"{path / name} is damaged, so the settings cannot be compared with those the run began with. "
            "Put it back from a copy, or go on without the comparison with --allow-drift."
        )
    if (
        manifest is None
    ):  # who knows how far it was: claim a checkpoint, so that nothing starts over in silence
        manifest = {
            **new_claim(StrictModel(), command="", total=0, data_fingerprints={}).manifest,
            "has_checkpoint": True,
        }
        config = None
    return Claim(cast(schema.RunManifest, manifest), config)


def write_claim(path: Path, claim: Claim) -> None:
    """Write manifest.json, which makes the folder a run, then config.json."""
    write_manifest(path, claim.manifest)
    text = json.dumps(claim.config, indent=2) + "\n"
    replace_file(path / schema.CONFIG, text.encode(), point="run.config")
    make_directory(path / schema.CHECKPOINTS)


def write_manifest(path: Path, manifest: schema.RunManifest) -> None:
    """Replace manifest.json."""
    replace_file(
        path / schema.MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode(), point="run.manifest"
    )


def move_aside(path: Path) -> None:
    """Move the run that the folder holds, if any, to `.old-N` inside it.

    Hidden entries and the lock stay. A kill in the middle is made good by `finish_moving_aside`.

    Raises:
        RunFolderError: the folder holds something that is not a run.
    """
    if (path / schema.MANIFEST).exists():
        crashpoint("run.before_move_aside")
        (path / _MOVING).mkdir()
        sync_path(path)
        finish_moving_aside(path)
    elif strangers := _RUN_NAMES.intersection(_entries(path)):
        raise _not_a_run(path, strangers)


def finish_moving_aside(path: Path) -> None:
    """Complete a `move_aside` that was begun, if there is one."""
    moving = path / _MOVING
    if not moving.exists():
        return
    for name in _entries(path):
        crashpoint("run.in_move_aside")
        (path / name).rename(moving / name)
    number = 1 + max(
        (int(name[5:]) for name in os.listdir(path) if re.fullmatch(r"\.old-\d+", name)), default=0
    )
    moving.rename(path / f".old-{number}")
    sync_path(path)
    crashpoint("run.after_move_aside")


def _entries(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path) if name[0] != "." and name != schema.LOCK)


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _not_a_run(path: Path, strangers: set[str]) -> RunFolderError:
    return RunFolderError(
        f"{path} is not a run of k15: it holds {', '.join(sorted(strangers))} but no {schema.MANIFEST}. "
        "Nothing was touched. Give another folder with --run."
    )

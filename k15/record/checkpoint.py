"""Checkpoints: one directory each, with a checksummed manifest, or it does not exist.

A checkpoint is written under a temporary name, every file is fsynced, the manifest comes last,
and a rename makes it visible. The loader trusts nothing: it looks at the newest directory first,
compares sizes and digests with the manifest, and goes on to the next older one on any difference.

    checkpoints/iteration_000123/manifest.json, ...   the state iteration 123 starts from
    checkpoints/latest                                name of the newest: a hint for people

Other names are left-overs: `*.tmp-*` of a killed save, `.trash-*` of a killed deletion,
`.replaced-*` while a directory of the same name is exchanged, `.rejected-*` found damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from k15 import __version__
from k15.crashpoints import crashpoint
from k15.errors import CorruptCheckpointError, RunFolderError
from k15.record.durable import make_directory, replace_file, sync_path, write_file

MANIFEST = "manifest.json"
LATEST = "latest"
SCHEMA = 1

_NAME = re.compile(r"iteration_(\d{6,})")
_TRASH, _REPLACED, _REJECTED = ".trash-", ".replaced-", ".rejected-"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint: path relative to it, size in bytes, SHA-256 in hex."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds. Its file ends with a digest of itself.

    Attributes:
        iteration: the iteration that starts from this state.
        created: Unix time, in seconds.
        versions: of k15, Python and the libraries that wrote it.
        metadata: what the writer wants to know again.
        files: every other file of the directory.
        schema: version of this format.
    """

    iteration: int
    created: float
    files: tuple[FileEntry, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    schema: int = SCHEMA

    def encode(self) -> bytes:
        """The manifest as the bytes of its file."""
        return _with_digest(asdict(self))


@dataclass(frozen=True)
class Rejected:
    """A checkpoint that was passed over, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class NewestValid:
    """The newest valid checkpoint, if there is one, and the damaged ones that are newer."""

    path: Path | None
    manifest: Manifest | None
    rejected: tuple[Rejected, ...]


def checkpoint_name(iteration: int) -> str:
    """`iteration_000123` for 123."""
    return f"iteration_{iteration:06d}"


@cache
def library_versions() -> Mapping[str, str]:
    """Versions of what the numbers of a run depend on; nothing is imported for it."""
    versions = {"k15": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "tokenizers", "safetensors", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return MappingProxyType(versions)


def commit_checkpoint(
    directory: Path,
    name: str,
    write: Callable[[Path], None],
    *,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write one checkpoint so that a kill or a power cut leaves the old state or the new one.

    Args:
        directory: where the checkpoints of the run lie; created if missing.
        name: from `checkpoint_name`.
        write: fills the empty directory it is given with regular files.
        metadata: JSON values stored in the manifest.

    Returns:
        the directory of the checkpoint, `directory / name`.

    Raises:
        OSError: the disk refused. What was written is removed, older checkpoints are untouched.
    """
    iteration = _iteration_of(name)
    if iteration is None:
        raise ValueError(f"a checkpoint is called iteration_ and at least six digits; got {name!r}")
    make_directory(directory)
    temporary = directory / f"{name}.tmp-{secrets.token_hex(4)}"
    crashpoint("checkpoint.before_mkdir")
    temporary.mkdir()
    crashpoint("checkpoint.after_mkdir")
    try:
        write(temporary)
        crashpoint("checkpoint.after_write")
        _seal(temporary, iteration, metadata or {})
        _publish(temporary, directory / name)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    point_latest(directory, name)
    return directory / name


def verify_checkpoint(path: Path, *, digests: bool = True) -> Manifest:
    """The manifest of a checkpoint whose files are all there and unchanged.

    Args:
        path: the directory.
        digests: compare contents; False compares names and sizes only, without reading the files.

    Raises:
        CorruptCheckpointError: anything differs from the manifest.
        RunFolderError: it is intact, but in the format of another version of k15.
    """
    try:
        manifest = _read_manifest(path / MANIFEST)
        found = {name: (path / name).stat().st_size for name in _files(path) if name != MANIFEST}
        for entry in manifest.files:
            if entry.path not in found:
                raise _corrupt(path, f"{entry.path} is missing")
            if found.pop(entry.path) != entry.num_bytes:
                raise _corrupt(
                    path, f"{entry.path} does not have the {entry.num_bytes} bytes of the manifest"
                )
            if digests and _digest(path / entry.path) != entry.sha256:
                raise _corrupt(
                    path, f"the contents of {entry.path} have changed since they were written"
                )
        strangers = [name for name in found if not Path(name).name.startswith(".")]  # .nfs..., .DS_Store
        if strangers:
            raise _corrupt(path, f"{strangers[0]} is not in the manifest")
    except OSError as error:
        raise _corrupt(path, f"it cannot be read ({error})") from error
    if checkpoint_name(manifest.iteration) != path.name:
        raise _corrupt(path, f"its manifest is that of iteration {manifest.iteration}")
    return manifest


def newest_valid(directory: Path, *, digests: bool = True) -> NewestValid:
    """The newest checkpoint that verifies, with every newer one that does not. Changes nothing on disk."""
    while True:
        rejected = _missing_latest(directory)
        for path in _checkpoints(directory):
            try:
                return NewestValid(path, verify_checkpoint(path, digests=digests), tuple(rejected))
            except CorruptCheckpointError as error:
                if not path.exists():
                    break  # retired by the run that owns the directory while we read: look again
                rejected.append(Rejected(path, str(error)))
        else:
            return NewestValid(None, None, tuple(rejected))


def retire_checkpoints(directory: Path, *, keep: int) -> list[str]:
    """Delete all but the `keep` newest valid checkpoints; a damaged one does not count as kept.

    Validity here means names and sizes: the digests of a checkpoint were just taken from its files.

    Returns:
        names of the deleted ones.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, or a run could not be resumed; got {keep}")
    kept: list[int] = []
    retired: list[str] = []
    for path in _checkpoints(directory):
        if len(kept) >= keep:
            retired.append(path.name)
        elif _is_whole(path):
            kept.append(_iteration_of(path.name) or 0)
    if len(kept) >= keep:
        old = {name: _iteration_of(name.removeprefix(_REJECTED)) for name in os.listdir(directory)}
        retired += [
            n for n, at in old.items() if n.startswith(_REJECTED) and at is not None and at <= kept[-1]
        ]
    for name in retired:
        _delete(directory / name)
    return retired


def iterations_of(directory: Path) -> list[int]:
    """Iterations that have a checkpoint directory, newest first; not verified."""
    return [_iteration_of(path.name) or 0 for path in _checkpoints(directory)]


def reject_checkpoint(path: Path) -> None:
    """Take a damaged checkpoint out of the way, without deleting it: it must never come back."""
    if path.exists():
        aside = path.with_name(_REJECTED + path.name)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        sync_path(path.parent)


def clean_directory(directory: Path) -> list[str]:
    """Remove what a killed process left behind; returns the names. Only the owner of the run may call it."""
    if not directory.is_dir():
        return []
    removed = []
    for name in sorted(os.listdir(directory)):
        original = directory / name.removeprefix(_REPLACED)
        if name.startswith(_REPLACED) and not original.exists():
            (directory / name).rename(original)  # killed between two renames: the old one is still good
            sync_path(directory)
        elif name.startswith((_TRASH, _REPLACED, ".tmp-")) or ".tmp-" in name:
            crashpoint("checkpoint.before_clean")
            _remove(directory / name)
            removed.append(name)
    return removed


def point_latest(directory: Path, name: str) -> None:
    """Write the hint that names the newest checkpoint."""
    replace_file(directory / LATEST, (name + "\n").encode(), point="checkpoint.latest")


def _seal(temporary: Path, iteration: int, metadata: Mapping[str, object]) -> None:
    """fsync every file, write the manifest last, fsync every directory."""
    entries = []
    for name in _files(temporary):
        crashpoint("checkpoint.before_fsync_file")
        sync_path(temporary / name)
        crashpoint("checkpoint.after_fsync_file")
        entries.append(FileEntry(name, (temporary / name).stat().st_size, _digest(temporary / name)))
    manifest = Manifest(iteration, time.time(), tuple(entries), dict(library_versions()), metadata)
    write_file(temporary / MANIFEST, manifest.encode(), point="checkpoint.manifest")
    for parent, _, _ in os.walk(temporary, topdown=False):
        crashpoint("checkpoint.before_fsync_directory")
        sync_path(Path(parent))
    crashpoint("checkpoint.after_fsync_directory")


def _publish(temporary: Path, final: Path) -> None:
    replaced = final.with_name(_REPLACED + final.name)
    exchanged = final.exists()  # a damaged directory of the same name, or of a history that was given up
    if exchanged:
        crashpoint("checkpoint.before_replace")
        final.rename(replaced)
        crashpoint("checkpoint.after_replace")
    crashpoint("checkpoint.before_rename")
    try:
        temporary.rename(final)
    except OSError:
        if exchanged:
            replaced.rename(final)
        raise
    crashpoint("checkpoint.after_rename")
    sync_path(final.parent)
    crashpoint("checkpoint.after_fsync_parent")
    if exchanged:
        _remove(replaced)


def _delete(path: Path) -> None:
    trash = path.with_name(f"{_TRASH}{path.name}-{secrets.token_hex(4)}")
    crashpoint("checkpoint.before_retire")
    path.rename(trash)  # one step: a reader sees the whole checkpoint or none
    crashpoint("checkpoint.after_retire")
    _remove(trash)
    crashpoint("checkpoint.after_delete")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    try:
        verify_checkpoint(path, digests=False)
    except CorruptCheckpointError:
        return False
    return True


def _missing_latest(directory: Path) -> list[Rejected]:
    """The checkpoint that `latest` names, if it is gone although nothing newer exists."""
    try:
        name = (directory / LATEST).read_text().strip()
    except (OSError, ValueError):
        return []
    named = _iteration_of(name)
    if named is None or (directory / name).exists():
        return []
    newer = any((_iteration_of(path.name) or 0) > named for path in _checkpoints(directory))
    return (
        []
        if newer
        else [Rejected(directory / name, f"{directory / name} is gone, though `{LATEST}` names it")]
    )


def _checkpoints(directory: Path) -> list[Path]:
    """Directories with a checkpoint's name, newest first; nothing is said about what is in them."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    numbered = [(at, name) for name in names if (at := _iteration_of(name)) is not None]
    return [directory / name for _, name in sorted(numbered, reverse=True)]


def _iteration_of(name: str) -> int | None:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def _files(root: Path) -> Iterator[str]:
    """Relative paths of all regular files, sorted."""
    found = []
    for parent, directories, names in os.walk(root):
        for name in (*names, *directories):
            if (Path(parent) / name).is_symlink():
                raise _corrupt(root, f"{name} is a symbolic link; a checkpoint has regular files only")
        found += [(Path(parent) / name).relative_to(root).as_posix() for name in names]
    return iter(sorted(found))


def _read_manifest(path: Path) -> Manifest:
    data = path.read_bytes()
    try:
        body = json.loads(data)
        body.pop("sha256")
        is_intact = data == _with_digest(body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _corrupt(path.parent, f"{path.name} is not what was written ({error!r})") from None
    if not is_intact:
        raise _corrupt(path.parent, f"{path.name} does not agree with its own digest")
    if body["schema"] != SCHEMA:  # intact, so not damage: falling back would throw the newest state away
        raise RunFolderError(
            f"{path.parent} was written by another version of k15 (checkpoint schema {body['schema']}; this one "
            f"reads {SCHEMA}). Install k15 {body['versions']['k15']} to go on with this run."
        )
    return Manifest(**{**body, "files": tuple(FileEntry(**entry) for entry in body["files"])})


def _with_digest(body: Mapping[str, object]) -> bytes:
    """A manifest's file: its JSON with a digest of itself, in one canonical form."""
    digest = hashlib.sha256(json.dumps(body, allow_nan=False).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=1, allow_nan=False) + "\n").encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _corrupt(path: Path, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"the checkpoint {path} is damaged: {reason}.")

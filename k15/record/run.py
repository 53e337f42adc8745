"""A run on disk: the folder that everything is recorded in and that a killed run goes on from."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

from k15.config.base import StrictModel
from k15.crashpoints import crashpoint
from k15.errors import CorruptCheckpointError, NoCheckpointError, RunFolderError
from k15.record import checkpoint, schema
from k15.record.drift import UNSAFE_KEYS, Difference, refuse_unsafe
from k15.record.durable import TEMPORARY_PREFIX, as_disk_error, make_directory, replace_file, sync_path
from k15.record.folder import (
    Claim,
    finish_moving_aside,
    move_aside,
    new_claim,
    read_claim,
    write_claim,
    write_manifest,
)
from k15.record.lines import LineLog, encode_line
from k15.record.lock import RunLock
from k15.record.metrics import completion_metrics
from k15.record.signals import StopFlag


class Saveable(Protocol):
    """A part of a run's state that can be written to an empty directory and read from it again."""

    def save_to(self, directory: Path) -> None: ...

    def load_from(self, directory: Path) -> None: ...


def print_notice(message: str) -> None:
    """Say something to the person at the terminal, on standard error."""
    print(f"k15: {message}", file=sys.stderr, flush=True)


class Run:
    """The folder of one run: open it, restore, then record and save until the work is done.

    Made by `Run.open`. Iteration s of a checkpoint means: the state that iteration s starts from, so
    iterations 0 .. s - 1 are done. A disk that refuses a write never ends a run: it is recorded, counted
    and tried again, and what was saved before stays as it is.
    """

    def __init__(
        self,
        path: Path,
        *,
        lock: RunLock,
        manifest: schema.RunManifest,
        found: checkpoint.NewestValid,
        keep: int,
        notify: Callable[[str], None],
    ) -> None:
        self.path = path
        self.checkpoints = path / schema.CHECKPOINTS
        self._lock = lock
        self._manifest = manifest
        self._found = found
        self._keep = keep
        self._notify = notify
        self._stop = StopFlag()
        self._metrics = LineLog(path / schema.METRICS, point="metrics", is_synced=False)
        self._events = LineLog(path / schema.EVENTS, point="events", is_synced=True)
        self._saved = found.manifest.iteration if found.manifest else None
        self._failed_saves = 0

    @classmethod
    def open(
        cls,
        path: Path,
        config: StrictModel,
        *,
        command: str,
        total: int,
        data_fingerprints: Mapping[str, str] | None = None,
        fresh: bool = False,
        allow_drift: bool = False,
        unsafe: Iterable[str] = UNSAFE_KEYS,
        keep: int = 2,
        notify: Callable[[str], None] = print_notice,
    ) -> Self:
        """Create the run folder, or open it again to go on.

        Args:
            path: the folder; created if missing.
            config: the resolved configuration, stored with the run and compared when it is opened again.
            command: what was typed, for the record.
            total: planned iterations; the run is complete once so many are done and saved.
            data_fingerprints: name of a data set -> digest; another digest on resume is refused.
            fresh: start from scratch; what the folder holds moves to `.old-N` inside it.
            allow_drift: accept changed settings that a run may otherwise not change.
            unsafe: dotted keys of those settings, see `drift.refuse_unsafe`.
            keep: newest valid checkpoints that are kept.
            notify: shows a message to a person.

        Raises:
            RunLockedError: another process owns the folder.
            ConfigDriftError: a setting changed that must not.
            NoCheckpointError: the run had checkpoints, and none of them is valid.
            RunFolderError: the folder belongs to something else, or to a newer k15.
        """
        try:
            make_directory(path)
            lock = RunLock.acquire(path / schema.LOCK)
        except OSError as error:
            raise RunFolderError(f"the run folder {path} cannot be used: {error.strerror}.") from error
        try:
            finish_moving_aside(path)
            if fresh:
                move_aside(path)
            before = read_claim(path, allow_damage=allow_drift)
            claim = new_claim(
                config, command=command, total=total, data_fingerprints=data_fingerprints or {}
            )
            changes = before.differences(claim) if before else []
            if not allow_drift:
                refuse_unsafe(changes, unsafe)
            checkpoint.clean_directory(path / schema.CHECKPOINTS)
            found = checkpoint.newest_valid(path / schema.CHECKPOINTS)
            _refuse_without_checkpoint(path, before, found)
            claim = before.renewed(claim) if before else claim
            write_claim(path, claim)
            run = cls(path, lock=lock, manifest=claim.manifest, found=found, keep=keep, notify=notify)
            run._open_logs(changes)
        except OSError as error:
            lock.release()
            raise RunFolderError(f"the run folder {path} cannot be used: {error.strerror}.") from error
        except BaseException:
            lock.release()
            raise
        return run

    @property
    def is_complete(self) -> bool:
        """Whether all planned iterations are done and their result is saved."""
        return (
            self._manifest["done"] >= self._manifest["total"] and self._saved == self._manifest["done"]
        )

    @property
    def oldest_checkpoint(self) -> int:
        """Iteration of the oldest checkpoint on disk: nothing before it is needed to go on. 0 if there is none."""
        return min(checkpoint.iterations_of(self.checkpoints), default=0)

    @property
    def stop_requested(self) -> bool:
        """Whether a signal asked the run to end after this iteration (see `catch_signals`)."""
        return self._stop.signal_name is not None

    def restore(self, parts: Mapping[str, Saveable]) -> int:
        """Load the newest valid checkpoint into `parts`; returns the iteration to go on with, 0 if new.

        Damaged newer checkpoints are passed over with an event `fallback`. Metrics and rollouts of the
        iterations that will run again are cut; events stay, they are history.

        Raises:
            CorruptCheckpointError: the checkpoint is intact but holds other parts.
        """
        found = self._found
        for rejected in found.rejected:
            self._tell(
                "fallback", f"{rejected.reason} Going back to the one before.", path=str(rejected.path)
            )
        if found.path is None or found.manifest is None:
            self._cut(0)
            return 0
        iteration = found.manifest.iteration
        saved = found.manifest.metadata.get("parts")
        if saved != sorted(parts):
            raise CorruptCheckpointError(
                f"the checkpoint {found.path} holds the parts {saved}, and this run needs {sorted(parts)}. "
                "It was written by another stage or another version; give another folder with --run."
            )
        for name, part in parts.items():
            part.load_from(found.path / name)
        for rejected in found.rejected:
            checkpoint.reject_checkpoint(rejected.path)
        if found.rejected:
            checkpoint.point_latest(self.checkpoints, found.path.name)
        self._cut(iteration)
        self._tidy(iteration)
        self._tell("resume", f"going on from {found.path.name}", iteration=iteration)
        return iteration

    def save(self, iteration: int, parts: Mapping[str, Saveable]) -> Path | None:
        """Commit a checkpoint of the state that `iteration` starts from.

        Returns:
            its directory, or None if the disk refused: that is recorded as an event `save_failed` and
            counted in the metric save/failed, and the run goes on with the checkpoints it has.

        Raises:
            RunLockedError: the folder is no longer ours.
        """
        self._lock.check()
        name = checkpoint.checkpoint_name(iteration)
        if self._saved == iteration:
            return self.checkpoints / name  # saved or restored a moment ago: the state is the same
        self._metrics.sync()  # later lines are cut on resume, so this is when they must be durable
        try:
            path = checkpoint.commit_checkpoint(
                self.checkpoints,
                name,
                lambda directory: _write_parts(directory, parts),
                metadata={"parts": sorted(parts)},
            )
        except Exception as error:
            disk_error = as_disk_error(error)
            if disk_error is None:
                raise
            self._failed_saves += 1
            self._tell(
                "save_failed",
                f"checkpoint {name} could not be written ({disk_error.strerror}); the run goes on, and older "
                "checkpoints are as they were. Free some space: the next save is tried as planned.",
                iteration=iteration,
                errno=disk_error.errno,
            )
            return None
        self._saved = iteration
        self._tidy(iteration)
        return path

    def record(
        self, iteration: int, metrics: Mapping[str, Any], rollouts: Iterable[Mapping[str, Any]] = ()
    ) -> dict[str, Any]:
        """Store what an iteration did: its completions, then its line of metrics.

        The train/* metrics are computed here from `rollouts`, so that they are metrics of what is stored.

        Args:
            iteration: its number, from 0.
            metrics: what only the loop knows, by name (docs/metrics.md).
            rollouts: a `schema.CompletionRow` for each completion that was trained on.

        Returns:
            the line as it was stored.
        """
        self._lock.check()
        rows = list(rollouts)
        line = {"iteration": iteration, "time": time.time()}
        if rows:
            line |= completion_metrics(rows)
            self._write_rollouts(iteration, rows)
        line |= dict(metrics)
        line["save/failed"], self._failed_saves = self._failed_saves, 0
        if error := self._metrics.append(line):
            self._report_failed_record(iteration, f"the metrics of iteration {iteration}", error)
        return line

    def event(self, kind: str, message: str, iteration: int | None = None, **fields: Any) -> None:
        """Store something out of the ordinary. What this class stores itself it also tells with `notify`."""
        row = {"time": time.time(), "iteration": iteration, "kind": kind, "message": message, **fields}
        if error := self._events.append(row):
            self._notify(f"that could not be written to {schema.EVENTS} yet ({error.strerror})")

    def _tell(self, kind: str, message: str, iteration: int | None = None, **fields: Any) -> None:
        self._notify(message)
        self.event(kind, message, iteration, **fields)

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Within the block SIGINT, SIGTERM and SIGUSR1 set `stop_requested`; a second Ctrl-C interrupts."""
        try:
            with self._stop.catch():
                yield
        finally:
            if (name := self._stop.signal_name) is not None:
                self._tell("stop_requested", f"stopped on request ({name})", signal=name)

    def finish(self, *, done: int) -> bool:
        """Note that the loop ended in order after `done` iterations (or steps); returns `is_complete`."""
        total = self._manifest["total"]
        try:
            self._update_manifest(done=done)
        except OSError as error:
            self._report_failed_record(done, "the end of the run", error)
        if self.is_complete:
            self._tell("finished", f"finished: {done} of {total}", iteration=done, done=done)
        elif done >= total:
            self._tell(
                "finished",
                f"finished: {done} of {total}, but the last state is not saved: run again",
                done=done,
            )
        return self.is_complete

    def close(self) -> None:
        """Close the files and give up the lock. Doing it twice is fine."""
        self._metrics.close()
        self._events.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open_logs(self, changes: Iterable[Difference]) -> None:
        events_cut, metrics_cut = self._events.open(), self._metrics.open()
        sync_path(self.path)
        for name, cut in ((schema.EVENTS, events_cut), (schema.METRICS, metrics_cut)):
            if cut:
                self._tell(
                    "repaired",
                    f"the last line of {name} was torn; its {cut} bytes were dropped",
                    file=name,
                )
        if listed := [str(change) for change in changes]:
            self._tell("config_changed", "resumed with changes: " + "; ".join(listed), changes=listed)

    def _tidy(self, iteration: int) -> None:
        """After a commit: note the first checkpoint, delete old ones."""
        try:
            if not self._manifest["has_checkpoint"]:
                self._update_manifest(has_checkpoint=True)
            checkpoint.retire_checkpoints(self.checkpoints, keep=self._keep)
        except OSError as error:
            self._tell(
                "retire_failed",
                f"older checkpoints could not be deleted ({error.strerror}); the next save tries again",
                iteration=iteration,
                errno=error.errno,
            )

    def _write_rollouts(self, iteration: int, rows: list[Mapping[str, Any]]) -> None:
        path = self.path / schema.ROLLOUTS / f"{iteration:06d}.jsonl"
        try:
            make_directory(path.parent)
            replace_file(path, b"".join(map(encode_line, rows)), point="rollouts")
        except OSError as error:
            self._report_failed_record(iteration, f"the completions of iteration {iteration}", error)

    def _report_failed_record(self, iteration: int, what: str, error: OSError) -> None:
        self._tell(
            "record_failed",
            f"{what} could not be written ({error.strerror}); the run goes on",
            iteration=iteration,
            errno=error.errno,
        )

    def _cut(self, iteration: int) -> None:
        """Drop what is recorded of `iteration` and later ones: it will be written again."""
        crashpoint("run.before_cut")
        damaged = self._metrics.rewrite(
            lambda row: isinstance(at := row.get("iteration"), int) and at < iteration
        )
        if damaged:
            self._tell(
                "repaired",
                f"{damaged} damaged lines of {schema.METRICS} were dropped",
                file=schema.METRICS,
            )
        rollouts = self.path / schema.ROLLOUTS
        for name in sorted(os.listdir(rollouts)) if rollouts.is_dir() else ():
            number = name.removesuffix(".jsonl")
            if name.startswith(TEMPORARY_PREFIX) or (number.isdecimal() and int(number) >= iteration):
                crashpoint("run.before_cut_rollouts")
                (rollouts / name).unlink()
        crashpoint("run.after_cut")

    def _update_manifest(self, **changes: Any) -> None:
        manifest = cast(schema.RunManifest, {**self._manifest, **changes})
        write_manifest(self.path, manifest)
        self._manifest = manifest


def _write_parts(directory: Path, parts: Mapping[str, Saveable]) -> None:
    for name, part in parts.items():
        crashpoint("checkpoint.before_part")
        (directory / name).mkdir()
        part.save_to(directory / name)
    crashpoint("checkpoint.after_parts")


def _refuse_without_checkpoint(path: Path, before: Claim | None, found: checkpoint.NewestValid) -> None:
    """Never silently from scratch: a run that had a checkpoint goes on from one, or not at all."""
    if found.path is not None or not (found.rejected or (before and before.manifest["has_checkpoint"])):
        return
    reasons = "\n  ".join(rejected.reason for rejected in found.rejected) or "they are all gone"
    raise NoCheckpointError(
        f"the run {path} had checkpoints, and none of them is valid:\n  {reasons}\n"
        "Put one back from a copy, or start from scratch with --fresh (what is there moves aside, nothing is deleted)."
    )

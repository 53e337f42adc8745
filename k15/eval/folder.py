"""The folder of an evaluation: scores.json, and samples.jsonl with one row a sample.

    scores.json     what was asked, of which model, on which data; the scores; whether they are valid
    samples.jsonl   every completion with its verdict, appended as it comes
    lock.json       who writes to the folder

An evaluation that was stopped or killed goes on from its rows. `k15 eval --rescore` needs nothing else (and,
for code, the benchmark's tests).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from k15.errors import ConfigDriftError, RunFolderError
from k15.eval.problem import Sample
from k15.record.durable import make_directory, replace_file
from k15.record.lines import LineLog, decode_line
from k15.record.lock import RunLock
from k15.types import Outcome

SCORES, SAMPLES, LOCK = "scores.json", "samples.jsonl", "lock.json"
KIND, SCHEMA = "k15-evaluation", 1


class EvaluationFolder:
    """An evaluation on disk, owned by this process. Made by `open`."""

    def __init__(self, path: Path, lock: RunLock, log: LineLog, samples: list[Sample]) -> None:
        self.path = path
        self.samples = samples
        self._lock = lock
        self._log = log

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any], *, fresh: bool = False) -> Self:
        """Create the folder, or open it again to go on.

        Args:
            path: the folder; created if missing.
            identity: what a sample depends on. "data" maps benchmarks to fingerprints; benchmarks may be added.
            fresh: begin again; what is there moves to `.old-N` inside the folder.

        Raises:
            ConfigDriftError: the samples there depend on something else.
            RunFolderError: the folder cannot be used, or its files are damaged.
        """
        try:
            make_directory(path)
            lock = RunLock.acquire(path / LOCK)
        except OSError as error:
            raise RunFolderError(f"the folder {path} cannot be used: {error.strerror}.") from error
        try:
            if fresh:
                _move_aside(path)
            elif (path / SCORES).exists():
                _refuse_drift(path, read_scores(path).get("identity", {}), identity)
            elif (path / SAMPLES).exists():
                raise RunFolderError(
                    f"{path} holds {SAMPLES} without {SCORES}, so nobody knows which model wrote it. Put {SCORES} "
                    "back, or begin again with --fresh."
                )
            log = LineLog(path / SAMPLES, point="samples", is_synced=False)
            log.open()
            return cls(path, lock, log, read_samples(path))
        except BaseException:
            lock.release()
            raise

    def append(self, samples: Iterable[Sample]) -> None:
        """Write rows of new samples.

        Raises:
            RunFolderError: the disk refuses them.
        """
        for sample in samples:
            error = self._log.append(sample_row(sample))
            if error is not None:
                raise RunFolderError(
                    f"{self.path / SAMPLES} cannot be written ({error.strerror}). Free some space and call "
                    "again: what was written before is kept."
                )
            self.samples.append(sample)
        self._log.sync()

    def write_scores(self, content: Mapping[str, Any]) -> None:
        """Replace scores.json."""
        write_json(self.path / SCORES, content)

    def close(self) -> None:
        """Close the files and give the folder back."""
        self._log.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file by JSON text for people and programs."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    replace_file(path, text.encode(), point="evaluation")


def read_scores(path: Path) -> dict[str, Any]:
    """What scores.json of an evaluation's folder says.

    Raises:
        RunFolderError: it is missing or damaged, or is something else.
    """
    try:
        content = json.loads((path / SCORES).read_bytes())
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{path / SCORES} cannot be read ({error}). Give the folder that k15 eval wrote."
        ) from None
    if not isinstance(content, dict) or content.get("kind") != KIND or content.get("schema") != SCHEMA:
        raise RunFolderError(f"{path / SCORES} was not written by this version of k15 eval.")
    return content


def read_samples(path: Path) -> list[Sample]:
    """The samples of an evaluation's folder; a sample that stands there twice counts once.

    Raises:
        RunFolderError: the file is missing, or a row in it is damaged.
    """
    samples: dict[tuple[str, str, int], Sample] = {}
    try:
        lines = (path / SAMPLES).read_bytes().splitlines()
    except OSError as error:
        raise RunFolderError(f"{path / SAMPLES} cannot be read ({error.strerror}).") from None
    for number, line in enumerate(lines, start=1):
        row = decode_line(line)
        try:
            sample = Sample(**{**(row or {}), "outcome": Outcome((row or {}).get("outcome"))})
        except (TypeError, ValueError):
            raise RunFolderError(
                f"{path / SAMPLES}, line {number} is damaged. Remove the line and call again: its sample is "
                "made anew."
            ) from None
        samples.setdefault(sample.key, sample)
    return list(samples.values())


def sample_row(sample: Sample) -> dict[str, Any]:
    """The sample as its row."""
    return asdict(sample)


def _move_aside(path: Path) -> None:
    files = [path / name for name in (SCORES, SAMPLES) if (path / name).exists()]
    if files:
        number = 1 + max(
            (int(p.name[5:]) for p in path.glob(".old-*") if p.name[5:].isdigit()), default=0
        )
        old = path / f".old-{number}"
        make_directory(old)
        for file in files:
            file.rename(old / file.name)


def _refuse_drift(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Samples of two models or two prompts in one file would be scored as one."""
    changed = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted((before.keys() | now.keys()) - {"data"})
        if before.get(key) != now.get(key)
    ]
    data = now.get("data", {})
    changed += [
        f"the data of {name} changed"
        for name, digest in before.get("data", {}).items()
        if name in data and data[name] != digest
    ]
    if changed:
        raise ConfigDriftError(
            f"{path} holds samples made with other settings: {'; '.join(changed)}. Give another folder with --run, "
            "or begin again with --fresh."
        )

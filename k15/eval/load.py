"""Benchmarks by name: built-in ones from files or the hub, generated families, files of one's own."""

from __future__ import annotations

import csv
import hashlib
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from k15.config.eval import EvalConfig
from k15.errors import ConfigError, DataError
from k15.eval.catalogue import ALL_CONFIGS, CATALOGUE, HUB_NAMES, Entry
from k15.eval.formats import Reader, read_own
from k15.eval.problem import Benchmark, Problem
from k15.prompts.rows import BadRowError, read_rows
from k15.tasks import FAMILIES, get_family
from k15.tasks.base import Family

NUM_GENERATED = 256
"""Problems of a generated family, if no limit is given."""

_FILE_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".csv")
_MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")


def load_benchmarks(config: EvalConfig) -> list[Benchmark]:
    """The benchmarks that the settings name."""
    return [
        load_benchmark(name, config.data, limit=config.limit, seed=config.seed)
        for name in config.benchmarks
    ]


def load_benchmark(
    wanted: str, data: Path | None, *, limit: int | None = None, seed: int = 0
) -> Benchmark:
    """The benchmark of that name.

    Args:
        wanted: a built-in name or the name on the hub, a generated family, or the path of a file; after a colon
            what narrows it down (levels joined by "+", or months YYMM-YYMM of LiveCodeBench).
        data: folder with the files of the built-in ones; None asks the hub.
        limit: keep so many problems, those whose questions have the smallest hashes.
        seed: of the generated families.

    Raises:
        ConfigError: there is no such benchmark, or the `hub` extra is not installed.
        DataError: its files are missing, or a row is malformed.
    """
    name, _, part = ("", "", "") if _is_file(wanted) else wanted.partition(":")
    name = HUB_NAMES.get(name.lower(), name)
    if _is_file(wanted):
        path = Path(wanted)
        rows = ((path, number, row) for number, row in _file_rows(path))
        benchmark = Benchmark(wanted, _read_all(rows, read_own), str(path))
    elif name in CATALOGUE:
        benchmark = _built_in(wanted, name, part, data)
    elif name in FAMILIES:
        return _generated(wanted, get_family(name), part, limit or NUM_GENERATED, seed)
    else:
        raise ConfigError(
            f"there is no benchmark {wanted!r}. Built in are {', '.join(CATALOGUE)}; generated are "
            f"{', '.join(sorted(FAMILIES))}; or give the path of a file that ends in .jsonl."
        )
    return _limited(benchmark, limit)


def _is_file(wanted: str) -> bool:
    return wanted.endswith(_FILE_SUFFIXES)


def _built_in(wanted: str, name: str, part: str, data: Path | None) -> Benchmark:
    entry = CATALOGUE[name]
    if data is None:
        rows, source = _hub_rows(entry, None), f"hub: {entry.hub}"
    elif paths := _find(entry, data):
        rows = ((path, number, row) for path in paths for number, row in _file_rows(path))
        source = ", ".join(str(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    elif (data / entry.hub).is_dir():
        rows, source = _hub_rows(entry, data), str(data / entry.hub)
    else:
        raise DataError(
            f"{name} needs one of these files in {data}: {', '.join(entry.files)} (.gz may follow), or a copy "
            f"of the hub's folder as {entry.hub}. Put one there, or leave --data out to load it from the hub."
        )
    problems = _read_all(rows, entry.read)
    if part and name != "livecodebench":
        raise ConfigError(f"{name} cannot be narrowed down by {part!r}; write {name} alone.")
    if part:
        problems = _in_months(problems, part)
    return Benchmark(wanted, problems, source, entry.suffix)


def _find(entry: Entry, data: Path) -> list[Path]:
    """The files of the first pattern that matches any."""
    if not data.is_dir():
        raise DataError(f"data must be a folder; {data} is none. Check the path.")
    for pattern in entry.files:
        for ending in ("", ".gz"):
            if paths := sorted(data.glob(pattern + ending)):
                return paths
    return []


def _file_rows(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix != ".csv":
        yield from read_rows(path, setting="the benchmark")
        return
    # mmlu's files have no header; ceval's have one
    subject = re.sub(r"_(?:test|val|dev)$", "", path.stem)
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file))
    header = lines[0] if lines and "question" in lines[0] else None
    columns = header or _MMLU_COLUMNS
    for number, line in enumerate(lines[1:] if header else lines, start=2 if header else 1):
        row = dict(zip(columns, line, strict=False))
        yield number, {**row, "id": f"{subject}/{row.get('id', number)}", "subject": subject}


def _hub_rows(entry: Entry, root: Path | None) -> Iterator[tuple[str, int, Any]]:
    """(where, number, row) of a data set of the hub, or of its copy under `root`."""
    datasets = _import_datasets()
    name = entry.hub if root is None else str(root / entry.hub)
    try:
        if entry.kind == "files":
            files = f"hf://datasets/{entry.hub}/test*.jsonl" if root is None else f"{name}/test*.jsonl"
            configs = [None]
            sets = [datasets.load_dataset("json", data_files=files, split="train")]
        else:
            configs: list[str | None] = (
                list(datasets.get_dataset_config_names(name))
                if entry.config == ALL_CONFIGS
                else [entry.config]
            )
            sets = [datasets.load_dataset(name, config, split=entry.split) for config in configs]
    except Exception as error:  # network, login, missing split: the library has many kinds
        first = str(error).strip().partition("\n")[0]
        raise DataError(
            f"datasets cannot load {name}: {type(error).__name__}: {first}. Without network, give --data a "
            f"folder with one of: {', '.join(entry.files)}."
        ) from error
    for config, rows in zip(configs, sets, strict=True):
        for number, row in enumerate(rows):
            if entry.config == ALL_CONFIGS:
                row = {**row, "id": f"{config}/{row.get('id', number)}", "subject": config}
            yield name, number, row


def _import_datasets() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise ConfigError(
            "loading a benchmark from the hub needs the package datasets. Install it with pip install 'k15[hub]', "
            "or give --data a folder with the benchmark's files."
        ) from None


def _read_all(rows: Iterable[tuple[Path | str, int, Any]], read: Reader) -> tuple[Problem, ...]:
    problems: dict[str, Problem] = {}
    for where, number, row in rows:
        try:
            if isinstance(row, BadRowError):
                raise row
            if not isinstance(row, Mapping):
                raise BadRowError("", "must be a JSON object", row, "Write one object a line")
            problem = read(row, number)
        except BadRowError as error:
            raise DataError(_row_message(error, where, number)) from None
        if problem.problem_id in problems:
            error = BadRowError(
                "id", "stands in an earlier row too", problem.problem_id, "Make ids unique"
            )
            raise DataError(_row_message(error, where, number))
        problems[problem.problem_id] = problem
    return tuple(problems.values())


def _row_message(error: BadRowError, where: Path | str, number: int) -> str:
    field = f'field "{error.field}" ' if error.field else ""
    shown = str(error.value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return (
        f"{where}, row {number}: {field}{error}; got {shown!r}. {error.cure}: a benchmark is scored whole or "
        "not at all."
    )


def _generated(wanted: str, family: Family, part: str, count: int, seed: int) -> Benchmark:
    try:
        levels = tuple(int(level) for level in part.split("+")) if part else family.levels
    except ValueError:
        raise ConfigError(f"levels are written as in {family.name}:1+2; got {wanted!r}.") from None
    room = len(levels) * min(family.size(level, "heldout") for level in levels)
    problems = family.problems(seed, levels, min(count, room), "heldout")
    return Benchmark(
        wanted,
        tuple(
            Problem(
                problem_id=problem.key,
                question=problem.question,
                gold=problem.answer,
                verifier=f"task:{family.name}",
                difficulty=str(problem.level),
                solution=family.solve_briefly(problem),
            )
            for problem in problems
        ),
        f"generated: {family.name}, levels {'+'.join(map(str, levels))}, held-out split, seed {seed}",
    )


def _in_months(problems: tuple[Problem, ...], part: str) -> tuple[Problem, ...]:
    """LiveCodeBench problems published in the months YYMM-YYMM, both included."""
    match = re.fullmatch(r"(\d{2})(\d{2})-(\d{2})(\d{2})", part)
    if match is None:
        raise ConfigError(f"months are written as in livecodebench:2408-2411; got {part!r}.")
    first, last = f"20{match[1]}-{match[2]}", f"20{match[3]}-{match[4]}"
    kept = tuple(p for p in problems if first <= str(p.details["date"])[:7] <= last)
    if not kept:
        raise DataError(f"no problem of LiveCodeBench is from {first} to {last}; the files have others.")
    return kept


def _limited(benchmark: Benchmark, limit: int | None) -> Benchmark:
    if limit is None or limit >= len(benchmark.problems):
        return benchmark
    ranked = sorted(benchmark.problems, key=lambda p: hashlib.blake2b(p.question.encode()).digest())
    kept = {problem.problem_id for problem in ranked[:limit]}
    return replace(benchmark, problems=tuple(p for p in benchmark.problems if p.problem_id in kept))

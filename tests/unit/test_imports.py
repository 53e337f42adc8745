"""Who may import whom. The table is written here, once; `docs/structure.md` shows it."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "k15"

# (level, rooms, what they may import apart from themselves). A digit means every room of that level; a
# name with a dot means that one file. Rooms without a level stand beside the house.
TABLE: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("0", ("errors", "crashpoints"), ()),
    ("0", ("types",), ("errors",)),
    ("1", ("config", "algo"), ("0",)),
    ("2", ("sandbox", "record", "models", "tasks"), ("0", "1")),
    ("2", ("weights",), ("0", "1", "models")),
    ("2", ("engine",), ("0", "1", "models", "weights")),
    (
        "3",
        ("prompts", "rewards", "rollout", "train"),
        ("0", "1", "tasks", "sandbox", "models", "weights", "engine.base"),
    ),
    ("4", ("eval", "cluster"), ("0", "1", "2", "3")),
    ("5", ("stages",), ("0", "1", "2", "3", "4", "report")),
    ("6", ("cli",), ("0", "config", "stages")),
    ("6", ("__main__",), ("cli",)),
    ("-", ("report", "viewer"), ("0", "record")),
    ("-", ("testing",), ("0", "1", "2", "3")),
)
# Inside its functions a subcommand may import any room but this one.
LAZY_ROOMS, NEVER_LAZY = ("cli", "__main__"), "testing"
# A heavy library has one home.
HOMES = {
    "vllm": "engine/vllm.py",
    "ray": "cluster/ray.py",
    "math_verify": "rewards/symbolic.py",
    "latex2sympy2_extended": "rewards/symbolic.py",
    "sympy": "rewards/symbolic.py",
    "datasets": "eval/load.py",
    "lm_eval": "eval/ifeval.py",
}
# These are not dependencies: whoever uses that file installs them.
NOT_INSTALLED = ("vllm", "ray")
# Programs of k15/sandbox/inside, as they are called in a box.
IN_A_BOX = ("k15_call", "k15_values")
# Importing any file of these loads neither torch nor transformers.
LIGHT_ROOMS = (
    "errors",
    "types",
    "crashpoints",
    "config",
    "tasks",
    "report",
    "viewer",
    "cli",
    "__main__",
)


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, where, and whether importing the file runs it."""

    module: str
    line: int
    in_function: bool
    for_types_only: bool


def _imports(tree: ast.AST, package: Path) -> Iterator[Import]:
    """Every import of a file: at the top, in functions, under TYPE_CHECKING, by `import_module`."""

    def walk(node: ast.AST, in_function: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, in_function, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                below = package.parent / f"{base}.{alias.name}".replace(".", "/")
                is_module = base.startswith("k15") and (
                    below.with_suffix(".py").exists() or below.is_dir()
                )
                yield Import(
                    f"{base}.{alias.name}" if is_module else base, node.lineno, in_function, typing
                )
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield Import(str(node.args[0].value), node.lineno, in_function, typing)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from walk(child, inside, True)
            for child in node.orelse:
                yield from walk(child, inside, typing)
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside, typing)

    return walk(tree, False, False)


def _room(file: str) -> str:
    """The room of a file inside the package: `engine` for engine/pool.py, `types` for types.py."""
    return file.split("/")[0].removesuffix(".py")


def _allowed(room: str) -> tuple[str, ...]:
    """The rooms and files that a room may import, levels spelled out."""
    by_level = {
        level: [r for at, rooms, _ in TABLE for r in rooms if at == level] for level, _, _ in TABLE
    }
    entries = next(may for _, rooms, may in TABLE if room in rooms)
    return tuple(name for entry in entries for name in by_level.get(entry, [entry]))


def _violations(package: Path) -> list[str]:
    """What breaks the table, one line each, with file and line."""
    known = {room for _, rooms, _ in TABLE for room in rooms}
    found = []
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        room = _room(file)
        if room not in known and file != "__init__.py":
            found.append(f"k15/{file}: the room {room} is not in the table")
            continue
        for item in _imports(ast.parse(path.read_text()), package):
            where = f"k15/{file}:{item.line}"
            library, _, target = item.module.partition(".")
            if library in HOMES and file != HOMES[library]:
                found.append(f"{where}: only k15/{HOMES[library]} may import {library}")
            if item.module.startswith("."):
                found.append(f"{where}: relative import; write k15.{room}...")
            if library != "k15" or not target or _room(target.replace(".", "/")) == room:
                continue
            if file == "__init__.py":
                found.append(
                    f"{where}: k15/__init__.py imports nothing, so that every import stays quick"
                )
            elif item.in_function and room in LAZY_ROOMS:
                if target.split(".")[0] == NEVER_LAZY:
                    found.append(f"{where}: {room} may not import {target}")
            elif not any(target == name or target.startswith(f"{name}.") for name in _allowed(room)):
                found.append(f"{where}: {room} may not import {target}")
    return found


def _table_as_markdown() -> str:
    """The table as it stands in docs/structure.md."""

    def names(entries: tuple[str, ...]) -> str:
        levels = [entry for entry in entries if entry.isdigit()]
        words = (
            [f"level {levels[0]}" if len(levels) == 1 else f"levels {levels[0]}–{levels[-1]}"]
            if levels
            else []
        )
        return ", ".join(words + [f"`{entry}`" for entry in entries if not entry.isdigit()]) or "nothing"

    rows = ["| Level | Room | May import |", "| --- | --- | --- |"]
    for level, rooms, may in TABLE:
        lazy = "; any room but `testing` inside a function" if rooms == ("cli",) else ""
        rows.append(f"| {level.replace('-', '–')} | {names(rooms)} | {names(may)}{lazy} |")
    return "\n".join(rows)


def test_imports_keep_to_the_table():
    found = _violations(PACKAGE)
    assert not found, "\n".join(["imports against the table in docs/structure.md:", *found])


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("train/step.py", "from k15.algo.policy import loss", None),
        ("train/step.py", "from k15.stages import rl", "train may not import k15.stages"),
        (
            "train/step.py",
            "def f():\n    from k15.eval import score",
            "step.py:2: train may not import eval",
        ),
        (
            "train/step.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import k15.cluster",
            "cluster",
        ),
        (
            "train/step.py",
            "import importlib\nimportlib.import_module('k15.cli')",
            "train may not import cli",
        ),
        ("train/step.py", "from k15.prompts.load import Row", "train may not import prompts.load"),
        ("rollout/work.py", "from k15.engine.base import Engine", None),
        ("rollout/work.py", "from k15.engine import base", None),
        ("rollout/work.py", "from k15.engine import embedded", "rollout may not import engine.embedded"),
        (
            "rollout/work.py",
            "from k15.engine.baseline import Engine",
            "rollout may not import engine.baseline",
        ),
        ("rollout/work.py", "from . import journal", "relative import"),
        ("engine/pool.py", "from k15.models.load import Policy", None),
        ("models/load.py", "from k15.engine.base import Engine", "models may not import engine.base"),
        ("engine/pool.py", "import vllm", "only k15/engine/vllm.py may import vllm"),
        ("engine/vllm.py", "def f():\n    import vllm.sampling", None),
        (
            "cluster/local.py",
            "def f():\n    from ray.util import state",
            "only k15/cluster/ray.py may import ray",
        ),
        ("report/html.py", "from k15.record.reader import read", None),
        ("report/html.py", "from k15.config.rl import RLConfig", "report may not import config.rl"),
        (
            "rewards/math.py",
            "from k15.testing.fakes import Fake",
            "rewards may not import testing.fakes",
        ),
        ("cli.py", "def main():\n    from k15.report.html import write_report", None),
        ("cli.py", "from k15.report.html import write_report", "cli may not import report.html"),
        ("cli.py", "def main():\n    from k15.testing import fakes", "cli may not import testing"),
        ("helpers/strings.py", "", "the room helpers is not in the table"),
        ("__init__.py", "from k15.errors import K15Error", "k15/__init__.py imports nothing"),
    ],
)
def test_the_check_sees(tmp_path: Path, file: str, source: str, complaint: str | None):
    package = tmp_path / "k15"
    for name in ("engine/base.py", "engine/embedded.py", "rollout/journal.py", "stages/rl.py", file):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    (package / file).write_text(source)

    found = _violations(package)

    if complaint is None:
        assert found == []
    else:
        assert len(found) == 1
        assert complaint.replace("import k15.", "import ") in found[0]


def test_the_table_points_down():
    graph = {
        room: {name.split(".")[0] for name in _allowed(room)} for _, rooms, _ in TABLE for room in rooms
    }
    graph = {room: {below for below in rooms if below != room} for room, rooms in graph.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"the table has a circle: {' -> '.join(error.args[1])}")


def test_files_do_not_import_in_circles():
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        items = _imports(ast.parse(path.read_text()), PACKAGE)
        graph[name] = {i.module for i in items if not i.in_function and not i.for_types_only}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"files import each other: {' -> '.join(error.args[1])}")


def _homes_as_markdown() -> str:
    libraries = {
        home: [f"`{name}`" for name, at in HOMES.items() if at == home] for home in HOMES.values()
    }
    return "\n".join(f"- {', '.join(names)}: `{home}`" for home, names in libraries.items())


def test_structure_page_shows_the_table():
    table = f"{_table_as_markdown()}\n\nA heavy library has one home:\n\n{_homes_as_markdown()}\n"
    assert table in (ROOT / "docs" / "structure.md").read_text(), (
        f"docs/structure.md should show:\n\n{table}\n"
    )


@pytest.mark.parametrize(
    "room", [r for r in LIGHT_ROOMS if (PACKAGE / r).is_dir() or (PACKAGE / f"{r}.py").exists()]
)
def test_light_rooms_load_without_torch(room: str):
    files = [PACKAGE / f"{room}.py", *sorted((PACKAGE / room).rglob("*.py"))]
    modules = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files if f.exists()]
    program = (
        "import sys, importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_every_library_is_declared():
    """What k15 imports is what its install brings, not what happens to lie in this environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [
        line
        for name, lines in project["optional-dependencies"].items()
        if name != "dev"
        for line in lines
    ]
    declared = {
        _normal(re.split(r"[\s\[<>=!~;]", line)[0]) for line in [*project["dependencies"], *extras]
    }
    distributions = importlib.metadata.packages_distributions()
    missing = set()
    for path in PACKAGE.rglob("*.py"):
        for item in _imports(ast.parse(path.read_text()), PACKAGE):
            library = item.module.split(".")[0]
            if library in ("", "k15", *sys.stdlib_module_names, *NOT_INSTALLED, *IN_A_BOX):
                continue
            if not declared & {_normal(name) for name in distributions.get(library, [library])}:
                missing.add(f"{path.relative_to(ROOT)}:{item.line} imports {library}")
    assert not missing, "not in pyproject.toml: " + ", ".join(sorted(missing))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

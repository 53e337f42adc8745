"""The map of the paper names functions and tests that exist; the page of deviations names true defaults."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from k15.config.base import config_keys
from k15.config.long2short import Long2ShortConfig
from k15.config.parts import TaskConfig
from k15.config.rl import RLConfig
from k15.config.sft import SFTConfig, SFTStageConfig

ROOT = Path(__file__).parents[2]
MAP, DEVIATIONS = ROOT / "docs" / "paper.md", ROOT / "docs" / "deviations.md"


def _names(path: Path) -> set[str]:
    """Top-level functions and classes of a file, and `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)
            }
    return names


def _links() -> list[tuple[str, str]]:
    return re.findall(r"\[`([\w.]+)`\]\(\.\./([\w./]+\.py)\)", MAP.read_text())


def test_the_map_names_what_exists() -> None:
    links = _links()
    assert len(links) > 50
    wrong = [f"{name} is not in {file}" for name, file in links if name not in _names(ROOT / file)]
    assert wrong == []


def test_the_map_tells_tests_from_functions() -> None:
    for name, file in _links():
        assert file.startswith("tests/") == (name.startswith("test_") or name.endswith("Machine")), name


def _defaults() -> dict[str, Any]:
    tables = [
        ("", Long2ShortConfig),
        ("", SFTConfig),
        ("", RLConfig),
        ("stages.", SFTStageConfig),
        ("prompts.tasks.", TaskConfig),
    ]
    return {key: default for prefix, table in tables for key, default, _ in config_keys(table, prefix)}


def _stated() -> list[tuple[str, str]]:
    return re.findall(r"`([a-z_0-9.]+) = ([^`]+)`", DEVIATIONS.read_text())


@pytest.mark.parametrize(("key", "text"), _stated(), ids=[key for key, _ in _stated()])
def test_a_stated_default_is_the_default(key: str, text: str) -> None:
    stated = None if text == "none" else tomllib.loads(f"value = {text}")["value"]
    assert _defaults()[key] == stated


def test_every_setting_on_the_page_exists() -> None:
    named = set(re.findall(r"`((?:[a-z_0-9]+\.)+[a-z_0-9]+)`", DEVIATIONS.read_text()))
    tables = {"prompts.tasks"}
    assert len(_stated()) > 40
    assert named - set(_defaults()) - tables == set()


def test_deviations_are_numbered_in_order_and_the_map_points_at_them() -> None:
    numbers = [int(n) for n in re.findall(r"^\*\*D(\d+)\. ", DEVIATIONS.read_text(), re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {int(n) for n in re.findall(r"\bD(\d+)\b", MAP.read_text())} <= set(numbers)

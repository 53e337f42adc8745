"""What the documents point at exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)[^)]*\)")
# Paths of files that are named in the text: k15/stages/rl.py, recipes/gsm8k.toml, tests/unit/test_docs.py.
FILE = re.compile(
    r"(?<![\w/.])(?:k15|recipes|tests|benchmarks|studies|scripts|docs)/[\w./-]+\.(?:py|toml|md|sh)\b"
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(document: Path):
    text = document.read_text()
    wanted = {document.parent / target for target in LINK.findall(text)}
    wanted |= {ROOT / file for file in FILE.findall(text) if not re.search("NAME|FILE", file)}
    assert sorted(str(path.relative_to(ROOT)) for path in wanted if not path.exists()) == []


def test_make_targets_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"(?:^|`)make ([a-z]+)", path.read_text(), re.MULTILINE)
    }
    assert {"demo", "test", "check", "learn"} <= named
    assert named <= targets

"""A report read back by a parser: elements, attributes, texts and tables, for the tests to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"br", "meta", "link", "hr"}


@dataclass
class Node:
    """One element with its attributes, its children and its own text."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Node] = field(default_factory=list)
    own_text: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside, in no particular order of nesting."""
        return "".join(self.own_text) + "".join(child.text for child in self.children)

    def all(self, tag: str, **attributes: str) -> list[Node]:
        """Elements below this one with that tag and those attributes (`class_` means class)."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        found = []
        for child in self.children:
            if child.tag == tag and all(child.attributes.get(k) == v for k, v in wanted.items()):
                found.append(child)
            found += child.all(tag, **attributes)
        return found

    def one(self, tag: str, **attributes: str) -> Node:
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{len(found)} of {tag} {attributes}"
        return found[0]


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("root", {})
        self.open = [self.root]
        self.strange: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(node.attributes) == len(attrs), "an attribute is given twice"
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].own_text.append(data)

    def handle_comment(self, data: str) -> None:
        self.strange.append(data)

    def handle_pi(self, data: str) -> None:
        self.strange.append(data)

    def unknown_decl(self, data: str) -> None:
        self.strange.append(data)


def read_page(path: Path) -> Node:
    """The page as a tree. Every element must be closed in order; comments and the like must not occur."""
    builder = _Builder()
    builder.feed(path.read_text(encoding="utf-8"))
    builder.close()
    assert builder.open == [builder.root], f"left open: {[node.tag for node in builder.open]}"
    assert not builder.strange
    return builder.root


def every_node(node: Node) -> list[Node]:
    return [node, *(below for child in node.children for below in every_node(child))]


def figure(page: Node, title: str) -> Node:
    """The figure with that title."""
    found = [f for f in page.all("figure") if f.all("h3")[0].text == title]
    assert len(found) == 1, f"{len(found)} figures are called {title!r}"
    return found[0]


def numbers(page: Node, title: str) -> list[dict[str, str]]:
    """The table behind a figure, one dictionary a row."""
    table = figure(page, title).one("table")
    names = [cell.text for cell in table.one("thead").all("th")]
    return [
        dict(zip(names, (cell.text for cell in row.all("td")), strict=True))
        for row in table.one("tbody").all("tr")
    ]

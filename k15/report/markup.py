"""HTML and SVG built so that no text can become markup: a plain `str` is always escaped.

Only `element` and `join` make `Markup`; everything else that reaches a page, whether it came from a model,
a data set, a config or a file name, is a `str` and is escaped on the way in.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

VOID = frozenset({"br", "hr", "link", "meta"})
"""HTML elements without content and without an end tag."""
LEAVES = frozenset({"circle", "line", "path", "rect"})
"""SVG elements that are closed in the start tag when they have no content."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters other than tab and newline
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"  # bidirectional controls, zero width
    "\ud800-\udfff"  # lone surrogates: they cannot be written as UTF-8
    "\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f]"  # noncharacters, invisible tags
)


class Markup(str):
    """Text that is already safe HTML. Slicing or adding gives a plain `str`, which is escaped again."""

    __slots__ = ()


Content = str | int | float | None
"""What may stand in an element: `Markup` as it is, other text escaped, None left out."""


def visible(text: str) -> str:
    """The text with every invisible or direction-changing character written out, as in ⟨U+202E⟩.

    NULs, control characters, bidirectional controls, zero-width characters and lone surrogates would be
    dropped by a browser, change how the rest reads, or make the page impossible to write.
    """
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match.group()):04X}⟩", text.replace("\r\n", "\n"))


def escape(content: Content) -> Markup:
    """Content as safe HTML, in text and in quoted attributes."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, float):
        content = compact(content)
    return Markup(html.escape(visible(str(content)), quote=True))


def compact(number: float) -> str:
    """A coordinate with one decimal at most, without trailing zeros."""
    text = f"{number:.1f}"
    return text[:-2] if text.endswith(".0") else text


def element(tag: str, /, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """One element. `class_` writes class, `stroke_width` stroke-width; None and False leave out, True is bare."""
    parts = [f"<{tag}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelled = key.rstrip("_").replace("_", "-")
        parts.append(f" {spelled}" if value is True else f' {spelled}="{escape(value)}"')
    if tag in LEAVES and not content:
        parts.append("/>")
    else:
        parts.append(">")
        if tag not in VOID:
            parts.extend(escape(part) for part in content)
            parts.append(f"</{tag}>")
    return Markup("".join(parts))


def join(parts: Iterable[Content]) -> Markup:
    """Parts one after the other, each escaped unless it is markup."""
    return Markup("".join(escape(part) for part in parts))

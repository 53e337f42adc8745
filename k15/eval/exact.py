"""Exact match of words: case, width, articles and the punctuation around them do not count."""

from __future__ import annotations

import re
import unicodedata

_LATEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}")
_BEFORE = re.compile(r"^[\W_]*?(?=-?\.?\d|[^\W_]|$)")
_AFTER = re.compile(r"(?:[^\w%]|_)+$")
_ARTICLE = re.compile(r"^(?:the|an|a)\s+(?=\S)")


def normalise(text: str) -> str:
    r"""The form in which two texts are compared: "\text{The  Nile.}" and "nile" are equal, "-3" and "3" are not.

    NFKC, no commands of LaTeX around text, no case, single spaces, no punctuation at the edges (but a sign
    or a point before a digit stays, and a percent sign), no leading English article.
    """
    text = _LATEX.sub(r"\1", unicodedata.normalize("NFKC", text)).replace("−", "-")
    text = " ".join(text.casefold().split())
    return _ARTICLE.sub("", _AFTER.sub("", _BEFORE.sub("", text, count=1)))

r"""One way of writing: `\dfrac12`, `½` and `\frac{1}{2}` become the same text.

Only notation changes here, never a value. The result is LaTeX that Math-Verify can read.
"""

from __future__ import annotations

import re
import unicodedata

from k15.rewards.words import expand_number_words

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/",
    "π": r"\pi ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": "", "′": "'", "’": "'",
    "“": '"', "”": '"', "²": "^{2}", "³": "^{3}", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "，": ",", "：": ":", "（": "(", "）": ")", "％": "%",
    "€": "", "£": "", "¥": "", "₹": "",
}  # fmt: skip
_TO_ASCII = str.maketrans(_UNICODE)
_MACROS = (
    (re.compile(r"(?<!\\)\\!\s*"), ""),
    (re.compile(r"(?<=\d)\\,(?=\d{3}(?!\d))"), ""),  # 12\,345
    (re.compile(r"(?<!\\)\\(?:[,;: ]|(?:q?quad|thinspace)(?![a-zA-Z]))|~"), " "),
    (re.compile(r"(?<!\\)\\hspace\s*\{\s*[0-9.]+\s*[a-z]{2}\s*\}"), " "),
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|rm|bf|it|mathstrut)(?![a-zA-Z])"), ""),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})|\\degree(?![a-zA-Z])"), ""),
    (re.compile(r"\\(?:text(?:rm|bf|it|normal|sf|tt)|math(?:rm|bf|it|sf|tt)|[mh]box|operatorname)\s*\{"), r"\\text{"),
    (re.compile(r"\\(?:emptyset|varnothing)(?![a-zA-Z])"), r"\\emptyset "),
    (re.compile(r"\\(?:leqslant|leq)(?![a-zA-Z])"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq)(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"\\equiv(?![a-zA-Z])"), "="),
    (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\lbrack(?![a-zA-Z])"), "["),
    (re.compile(r"\\rbrack(?![a-zA-Z])"), "]"),
    (re.compile(r"\\[lr]?vert(?![a-zA-Z])"), "|"),
    (re.compile(r"\\(?:\$|£)|\$"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\?%|\\?\bper\s?cent(?:age)?\b"), "%"),
    (re.compile(r"\\text\{\s*([0-9.,\s]*%?)\s*\}"), r"\1"),
    (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"(?<![\\a-zA-Z])(?:exp)\s*\("), r"\\exp("),
    (re.compile(r"(?<![\\a-zA-Z])(arcsin|arccos|arctan|sin|cos|tan|cot|log|ln|sqrt|pi|infty)(?![a-zA-Z])"), r"\\\1"),
    (re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf)(?![a-zA-Z])"), r"\\infty"),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\*\*(?=[\d({-])"), "^"),
)  # fmt: skip
_PREFIX = re.compile(
    r"(?:\\text\{)?\s*(?:so|thus|hence|therefore)?,?\s*(?:the|my|our)?\s*(?:final|correct)?\s*answer\s*(?:is|:)\s*:?\s*(?P<close>\})?",
    re.IGNORECASE,
)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
# At the start or after "=", and with nothing behind it but words: 1,000 | x = 1,000 | 1,000 dollars.
_THOUSANDS = re.compile(
    r"((?:^|=)\s*[+-]?)([0-9]{1,3}(?:,[0-9]{3})+)(?=(?:\.[0-9]*)?[^0-9,;]*(?:\^\{?[0-9]\}?)?$)"
)


def hidden_character(text: str) -> str | None:
    """The first character that a reader cannot see or that Unicode does not assign, as U+XXXX.

    Zero-width joiners, direction marks and lone surrogates have no business in an answer: with them
    two texts can look alike and be different, or the other way round. Foreign digits are refused too.
    """
    for char in text:
        category = unicodedata.category(char)
        is_foreign_digit = category == "Nd" and not char.isascii()
        if is_foreign_digit or (category[0] == "C" and char not in "\t\n\r") or category in ("Mn", "Me"):
            return f"U+{ord(char):04X}"
    return None


def normalise(text: str) -> str:
    """The same answer in one notation: no delimiters, spacing commands, styles, currency signs or degrees."""
    text = " ".join(text.translate(_TO_ASCII).split())
    text = _strip_delimiters(text)
    for pattern, replacement in _MACROS:
        text = pattern.sub(replacement, text)
    prefix = _PREFIX.match(text)
    if prefix:
        text = text[prefix.end() :] if prefix["close"] or not text.startswith(r"\text{") else text
    text = expand_number_words(_strip_delimiters(" ".join(text.split())))
    return _THOUSANDS.sub(lambda match: match[1] + match[2].replace(",", ""), text)


def as_list(text: str) -> str | None:
    """`100,200` read as two numbers instead of one; None where only one reading exists."""
    text = " ".join(text.split())
    return text.replace(",", ", ") if _THOUSANDS.fullmatch(text) else None


def key(text: str) -> str:
    """Normalised text as it is compared: without spaces and case, text commands unwrapped."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\s+", "", text).casefold()


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts between separators that stand outside all brackets, stripped."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(text):
        char = text[position]
        match = separator.match(text, position) if depth == 0 else None
        if match and match.end() > position:
            parts.append(text[start:position].strip())
            start = position = match.end()
            continue
        if char == "\\":
            # an escaped brace is a bracket like any other; a command is skipped by its first letter
            depth += {"{": 1, "}": -1}.get(text[position + 1 : position + 2], 0)
            position += 2
            continue
        depth = max(0, depth + {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(char, 0))
        position += 1
    parts.append(text[start:].strip())
    return parts


def is_balanced(text: str, *, max_depth: int) -> bool:
    """Whether every bracket is closed, by whatever kind ([0, 1) is fine), and none nests deeper."""
    depth = 0
    for token in re.findall(r"\\[{}]|\\.|[()\[\]{}]", text, re.DOTALL):
        depth += (token in ("(", "[", "{", "\\{")) - (token in (")", "]", "}", "\\}"))
        if not 0 <= depth <= max_depth:
            return False
    return depth == 0


def is_enclosed(text: str, opening: str, closing: str) -> bool:
    """Whether one pair of brackets spans the whole text: (1+2), but not (1)(2)."""
    if not (
        text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing)
    ):
        return False
    depth, position = 0, 0
    end = len(text) - len(closing)
    while position < end:
        step = 2 if text[position] == "\\" else 1
        token = text[position : position + step]
        if token in ("(", "[", "{", "\\{"):
            depth += 1
        elif token in (")", "]", "}", "\\}"):
            depth -= 1
            if depth <= 0:
                return False
        position += step
    return depth == 1


def _strip_delimiters(text: str) -> str:
    for _ in range(20):  # one layer a turn
        before = text
        text = text.strip().rstrip(",;").strip()
        while text.endswith("\\") or (text.endswith(".") and not text.endswith("..")):
            text = text[:-1].rstrip()
        for opening, closing in _DELIMITERS:
            if (
                len(text) > len(opening) + len(closing)
                and text.startswith(opening)
                and text.endswith(closing)
            ):
                inner = text[len(opening) : -len(closing)]
                if opening not in inner and closing not in inner:
                    text = inner
        if is_enclosed(text, "{", "}"):
            text = text[1:-1]
        if text == before:
            break
    return text

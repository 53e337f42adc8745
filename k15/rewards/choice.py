r"""Multiple choice: which options an answer chooses: `B`, `(B)`, `B) 3/11`, `\text{option b}`, or the option's text.

k1.5 trains on no such questions, because they can be guessed (section 2.1). They are judged all the same:
for measuring, and for data that has nothing else.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from k15.rewards.compare import RIGHT, Match
from k15.rewards.notation import key, normalise
from k15.rewards.rational import rational
from k15.types import Outcome

LETTERS = string.ascii_uppercase

_LABEL = re.compile(
    r"(?:the\s+)?(?:options?|choices?|answers?|letters?)\s*(?:is|are|:)?\s*", re.IGNORECASE
)
_ONE = r"[(\[]?\s*([A-Za-z])\s*[)\]]?"
_SINGLE = re.compile(_ONE)
_LISTED = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,\s*and|,|;|and|&|\s)\s*\(?[A-Z]\)?)+")
_JOINED = re.compile(r"[A-Z]{2,6}")
_CORRECTED = re.compile(r"not\s+\(?([A-Z])\)?\s*,?\s*but\s+\(?([A-Z])\)?", re.IGNORECASE)
_WITH_TEXT = re.compile(
    r"(?:[(\[]([A-Za-z])[)\]]\s*[.:]?|([A-Za-z])\s*[.:)\]])\s*(?P<text>\S.*)", re.DOTALL
)
_HEDGE = re.compile(r"\b(?:or|either|maybe|perhaps|possibly|neither|none)\b", re.IGNORECASE)


def compare_choices(gold: str, answer: str, choices: Sequence[str]) -> Match:
    """Judge a choice of options; a hedge chooses nothing.

    Args:
        gold: the right letter, several ("A, C"), or an option's text.
        answer: what the policy gave as its final answer.
        choices: the options' texts, in the order of the letters; may be empty.
    """
    right = chosen(gold, choices)
    if not right:
        return Match(Outcome.FAULT, "the gold answer names no option; correct the row")
    given = chosen(answer, choices)
    if not given:
        return Match(Outcome.NO_ANSWER, "no answer: it names no option")
    if len(right) == 1 < len(given):
        return Match(Outcome.NO_ANSWER, "no answer: several options, and the gold answer is one")
    if given == right:
        return RIGHT
    return Match(Outcome.WRONG, f"it chooses {', '.join(sorted(given))}")


def chosen(text: str, choices: Sequence[str]) -> frozenset[str]:
    """The letters of the options that a text chooses; none if it hedges, or cannot be told."""
    plain = _plain(text)
    known = LETTERS[: len(choices)] if choices else LETTERS
    if (single := _SINGLE.fullmatch(plain)) and single[1].upper() in known:
        return frozenset(single[1].upper())
    named = [letter for letter, choice in zip(LETTERS, choices, strict=False) if _same(choice, text)]
    if named:
        return frozenset(named) if len(named) == 1 else frozenset()
    if corrected := _CORRECTED.fullmatch(plain):
        kept, dropped = corrected[2].upper(), corrected[1].upper()
        return frozenset(kept if kept != dropped and kept in known else "")
    if _LISTED.fullmatch(plain) or _JOINED.fullmatch(plain):
        letters = re.findall(r"[A-Z]", plain.replace("and", " "))
        is_clear = len(set(letters)) == len(letters) and set(letters) <= set(known)
        return frozenset(letters) if is_clear else frozenset()
    led = _WITH_TEXT.fullmatch(plain)
    if led is None or (letter := (led[1] or led[2]).upper()) not in known:
        return frozenset()
    return frozenset(letter if _fits(letter, led["text"], choices) else "")


def _fits(letter: str, text: str, choices: Sequence[str]) -> bool:
    """Whether the text behind a letter is the option's own, or at least names no other option."""
    if choices:
        return _same(choices[LETTERS.index(letter)], text)
    return not _HEDGE.search(text) and not re.search(r"(?<![A-Za-z\\])[A-Z](?![A-Za-z])", text)


def _same(choice: str, text: str) -> bool:
    left, right = normalise(choice), normalise(text)
    value = rational(left)
    return key(left) == key(right) or (value is not None and value == rational(right))


def _plain(text: str) -> str:
    """Without mark-up, a leading "option" and the punctuation around it."""
    before = ""
    while before != text:
        before, text = text, re.sub(r"\\(?:text\w*|math\w+|[mf]box|boxed)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"[$*`]|\\[()\[\]]", "", text).strip(" \t\r\n\"'.,")
    return _LABEL.sub("", text, count=1).strip(" \t\r\n\"'.,") if _LABEL.match(text) else text

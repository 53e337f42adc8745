"""Multiple choice: a question with its options as a prompt, and the one option that a reply chooses.

k1.5 trains on no such questions, because they can be guessed (section 2.1); this is for measuring only.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from k15.eval.exact import normalise
from k15.rewards.extract import THINK_CLOSE, THINK_OPEN, extract_answer
from k15.types import Outcome, Verdict

LETTERS = string.ascii_uppercase

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|boxed)\s*\{([^{}]*)\}")
_LABEL = re.compile(
    r"^(?:the\s+)?(?:option|choice|answer|letter|选项|答案)\s*(?:is|:|：|为|是)?\s*", re.IGNORECASE
)
# The letter, bare or in brackets; then the end, a mark with the option's text, or a reason.
_LEADING = re.compile(
    r"^[(\[（]?([A-Z])(?:[)\]）]|(?=\W|$))(?:\s*$|\s*[.:：、)）-]\s*(?P<text>.*)$|\s*,?\s+(?:because|since|as)\b.*$"
    r"|(?<=[)\]）])\s*(?P<after>.*)$|\s*[(（](?P<inside>.*)[)）]$)",
    re.DOTALL,
)
_CORRECTED = re.compile(r"\bnot\s+[(]?([A-Z])[)]?\s*,?\s*but\s+[(]?([A-Z])[)]?(?![A-Za-z])")
_SINGLE = re.compile(r"(?<![A-Za-z'])[(]?([A-Z])[)]?(?![A-Za-z'])")


def ask(question: str, options: Sequence[str]) -> str:
    """The question, then one line an option, "A. ..." and on."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return f"{question.strip()}\n\n" + "\n".join(lines)


def judge_choice(gold: str, options: Sequence[str], reply: str, *, in_thought: bool = False) -> Verdict:
    """Whether a reply chooses the right letter; a hedge chooses nothing.

    The answer is looked for as in mathematics (a box, "the answer is ...", after the thought), else the reply
    as a whole must be one. It is a letter, with or without brackets and the option's text, or the text of
    exactly one option.

    Args:
        gold: the right letter.
        options: their texts, in the order of the letters.
        in_thought: the prompt ended with an opened thought.
    """
    extraction = extract_answer(reply, in_thought=in_thought)
    answer = extraction.text
    if not answer:
        tail = reply.rpartition(THINK_CLOSE)[2]
        if THINK_OPEN in tail or (in_thought and THINK_CLOSE not in reply):
            return Verdict(Outcome.NO_ANSWER, extraction.reason)
        answer = tail.strip()
    letter = chosen_letter(answer, options)
    if not letter:
        return Verdict(
            Outcome.NO_ANSWER, "no answer: it does not choose exactly one option", answer[:200]
        )
    if letter == gold:
        return Verdict(Outcome.RIGHT, "the right option", letter)
    return Verdict(Outcome.WRONG, f"it chooses {letter}", letter)


def chosen_letter(answer: str, options: Sequence[str]) -> str:
    """The letter of the one option that an answer names; "" if it names none or several."""
    letters = LETTERS[: len(options)]
    named = [letter for letter, option in zip(letters, options, strict=True) if _same(option, answer)]
    plain = _plain(answer)
    bare = plain.strip("()[]（）").upper()
    if len(bare) == 1 and bare in letters:
        return bare
    if len(named) == 1:
        return named[0]
    if corrected := _CORRECTED.search(plain):
        return corrected[2] if corrected[2] in letters and corrected[1] != corrected[2] else ""
    leading = _LEADING.match(plain)
    if leading is None or leading[1] not in letters:
        return ""
    rest = leading["text"] or leading["after"] or leading["inside"] or ""
    return leading[1] if _agrees(rest, leading[1], options) else ""


def _agrees(rest: str, letter: str, options: Sequence[str]) -> bool:
    """Whether what follows a letter names no other option."""
    others = [o for i, o in enumerate(options) if LETTERS[i] != letter]
    if _same(options[LETTERS.index(letter)], rest):
        return True
    if any(_same(other, rest) for other in others):
        return False
    return not any(
        found in LETTERS[: len(options)] and found != letter for found in _SINGLE.findall(rest)
    )


def _same(option: str, answer: str) -> bool:
    return bool(normalise(option)) and normalise(option) == normalise(answer)


def _plain(answer: str) -> str:
    """Without mark-up, a leading "option" and the punctuation around it."""
    text = answer
    while (shorter := _WRAPPER.sub(r"\1", text)) != text:
        text = shorter
    text = text.replace("$", "").replace("*", "").replace("`", "").strip(" \t\r\n\"'。.,")
    return _LABEL.sub("", text).strip(" \t\r\n\"'。.,")

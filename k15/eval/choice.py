"""Multiple choice: a question with its options as a prompt, and the one option that a reply chooses.

k1.5 trains on no such questions, because they can be guessed (section 2.1); this is for measuring only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from k15.rewards.choice import LETTERS, chosen
from k15.rewards.extract import THINK_CLOSE, THINK_OPEN, extract_answer
from k15.types import Outcome, Verdict

_CHINESE_LABEL = re.compile(r"^(?:正确)?(?:选项|答案)\s*(?:是|为|:)?\s*")
_REASON = re.compile(r"^(\(?[A-Z]\)?)\s*,?\s+(?:because|since|as)\b.*$", re.DOTALL)
_IN_BRACKETS = re.compile(r"^([A-Z])\s*\((.+)\)$")


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
    if letters := chosen(answer, options):
        return min(letters) if len(letters) == 1 else ""
    plain = _CHINESE_LABEL.sub("", unicodedata.normalize("NFKC", answer).strip().rstrip("。"))
    plain = _REASON.sub(r"\1", plain)
    plain = _IN_BRACKETS.sub(r"(\1) \2", plain)
    letters = chosen(plain, options)
    return min(letters) if len(letters) == 1 else ""


def is_ambiguous(gold: str, options: Sequence[str]) -> bool:
    """Whether the text of the right option is that of another option too."""
    text = options[LETTERS.index(gold)]
    return bool(text.strip()) and chosen(text, options) not in (frozenset(gold), frozenset(text.upper()))

r"""The auditor: a second grader that shares no code with the verifier "math", asked about a sample of every run.

It has a reader of replies, of notation and of formulas of its own, says "right" or "wrong" only where it is sure,
and "unsure" otherwise. Where it is sure of the opposite of the verdict, one of the two has a defect (or the data
has): such completions are stored, counted and shown (docs/rewards.md). It never changes a reward.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from k15.rewards.strict_formula import UnreadableError, are_equal, read_formula
from k15.types import DEFAULT_RULES, AnswerKind, AnswerRules, Audit

_MAX_CHARS = 1000
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_STATED = re.compile(r"####|\banswer\b(?:\s*\*\*)?\s*(?:is\b|[:=])", re.IGNORECASE)
_NOISE = re.compile(
    r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?|displaystyle|textstyle)(?![a-zA-Z])|\\!\s*"
    r"|\\[,;: ]|\\q?quad(?![a-zA-Z])|\\\$|\$|~"
)
_WORDS = re.compile(r"\\(?:text\w*|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?<=[0-9})])\s*(?:\\(?:text\w*|mathrm|mbox)\s*\{\s*([a-zA-Z. ]{2,30})\}|\s([a-z]{2,15}))\s*$"
)
_DEGREE = re.compile(r"\\circ|\\degree|°")
_CELLS = {"(": ")", "[": "]", r"\{": r"\}"}
_NAME = re.compile(r"\s*(?:\\?[a-zA-Z]+|[a-zA-Z]_\{?\w+\}?|[a-zA-Z]\([a-zA-Z]\))\s*")
_REPLACED = {
    "−": "-",
    "–": "-",
    "×": r"\times ",
    "÷": "/",
    "π": r"\pi ",
    "·": r"\cdot ",
    "½": r"\frac{1}{2}",
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"^\circ": "",
    r"^{\circ}": "",
    r"\degree": "",
    r"{,}": ",",
    r"\%": "%",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\dbinom": r"\binom",
    r"\tbinom": r"\binom",
}
_BEYOND = re.compile(  # read by the verifier in ways that this grader does not try to repeat
    r"\\(?:pm|mp|cup|cap|in|le|ge|leq|geq|lt|gt|ne|neq|approx|infty|begin|sum|int|prod|lim|mathbb|emptyset|overline"
    r"|log|dots|ldots|cdots|equiv|mid|bmod|pmod|to|vec|hat|circ|angle|triangle)(?![a-zA-Z])|[<>_&'°∞≤≥≈∈∪]|[0-9]:[0-9]|\*\*"
    r"|(?<![\\a-zA-Z])(?:exp|sin|cos|tan|cot|log|ln|sqrt|pi|inf)(?![a-zA-Z])|\^\s*\{\s*-\s*1\s*\}\s*[a-zA-Z(\\]"
)


def audit_reply(
    gold: str, reply: str, *, in_thought: bool = False, rules: AnswerRules = DEFAULT_RULES
) -> Audit:
    """What the second grader says of a reply to a problem of mathematics.

    Args:
        gold: the ground truth, without box.
        in_thought: the prompt ended with `<think>`.
        rules: of the row; beyond the type "choice" and a tolerance it does not judge by them.
    """
    answer = find_answer(reply, in_thought=in_thought)
    if answer is None:
        return Audit.UNSURE
    if not answer or len(answer) > _MAX_CHARS or not answer.isprintable():
        return Audit.WRONG
    if any(r"\$" in one and _DEGREE.search(other) for one, other in ((gold, answer), (answer, gold))):
        return Audit.UNSURE
    try:
        return _by_rules(gold, answer, rules)
    except (UnreadableError, RecursionError, ArithmeticError):
        return Audit.UNSURE


def find_answer(reply: str, *, in_thought: bool = False) -> str | None:
    """The final answer of a reply, "" if it has none, None if several boxes stand at its end."""
    tail = reply[reply.rfind("</think>") + len("</think>") :] if "</think>" in reply else reply
    if "<think>" in tail or (in_thought and "</think>" not in reply):
        return ""
    starts = [found.end() for found in _BOX.finditer(tail)]
    if not starts:
        stated = list(_STATED.finditer(tail))
        line = tail[stated[-1].end() :].strip(" *:\n\t") if stated else ""
        return re.split(r"\.\s|\.$|\n", line, maxsplit=1)[0].strip()
    if len(starts) > 40:
        return None
    boxes = [(start, _closing(tail, start)) for start in starts]
    last_start, last_end = boxes[-1]
    if last_end < 0:
        return "" if "\\}" not in tail[last_start:] else None
    around = [(start, end) for start, end in boxes[:-1] if end > last_end]
    if around or any(0 <= last_start - end < 60 for _, end in boxes[:-1]):
        return None
    return tail[last_start:last_end].strip()


def _closing(text: str, start: int) -> int:
    """Where the brace that was opened before `start` is closed, or -1."""
    depth, position = 1, start
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return -1


def _by_rules(gold: str, answer: str, rules: AnswerRules) -> Audit:
    if rules == DEFAULT_RULES:
        return _compare(_tidy(gold), _tidy(answer))
    if rules.kind is AnswerKind.CHOICE and len(gold.strip()) == 1:
        letters = re.findall(r"(?<![A-Za-z\\])[A-Z](?![A-Za-z])", _WORDS.sub(r"\1", answer))
        if len(letters) != 1:
            return Audit.UNSURE
        return _sure(letters[0] == gold.strip().upper())
    if rules.absolute_tolerance is not None and rules.relative_tolerance is None and not rules.require:
        values = [read_formula(_tidy(side)) for side in (gold, answer)]
        if all(not value.variables for value in values):
            left, right = (complex(value.at({})) for value in values)
            gap = abs(left - right) / rules.absolute_tolerance if rules.absolute_tolerance else 2.0
            return Audit.UNSURE if 0.999 < gap < 1.001 else _sure(gap < 1 or left == right)
    return Audit.UNSURE


def _compare(gold: str, answer: str) -> Audit:
    if gold.replace(" ", "") == answer.replace(" ", ""):
        return Audit.RIGHT
    if not answer:
        return Audit.WRONG
    gold, answer, is_unit_clear = _without_units(gold, answer)
    if not is_unit_clear:
        return Audit.UNSURE
    if _is_words(gold) or _is_words(answer):
        return _compare_words(gold, answer)
    if _BEYOND.search(gold) or _BEYOND.search(answer):
        return Audit.UNSURE
    gold, answer = _value_side(gold), _value_side(answer)
    if _is_grouped(gold) and not _is_grouped(answer) and "," in answer:
        return Audit.UNSURE  # 1,234 is a number or a list
    gold, answer = (side.replace(",", "") if _is_grouped(side) else side for side in (gold, answer))
    gold_parts, answer_parts = _parts(gold), _parts(answer)
    if gold_parts is None and answer_parts is None:
        return _compare_values(gold, answer)
    if gold_parts is None or answer_parts is None:
        return _one_against_several(gold, gold_parts, answer_parts)
    return _compare_parts(gold_parts, answer_parts)


def _one_against_several(
    gold: str, gold_parts: tuple[str, list[str]] | None, answer_parts: tuple[str, list[str]] | None
) -> Audit:
    """Sure only of this: a list of different numbers is not one number."""
    if gold_parts is not None or answer_parts is None or not re.fullmatch(r"-?[0-9]+", gold):
        return Audit.UNSURE
    is_hedge = all(re.fullmatch(r"-?[0-9]+", part) for part in answer_parts[1])
    return _sure(False) if is_hedge and len(set(answer_parts[1])) > 1 else Audit.UNSURE


def _compare_values(gold: str, answer: str) -> Audit:
    left, right = read_formula(gold), read_formula(answer)
    same = are_equal(left, right)
    if not same and "%" in gold and "%" not in answer:  # 50% may be written 50
        same = are_equal(read_formula(gold.replace("%", "")), right) or same
    return Audit.UNSURE if same is None else _sure(same)


def _compare_parts(gold: tuple[str, list[str]], answer: tuple[str, list[str]]) -> Audit:
    (gold_bracket, left), (answer_bracket, right) = gold, answer
    is_ordered = gold_bracket not in ("", r"\{")
    if gold_bracket != answer_bracket:
        both_bare = {gold_bracket, answer_bracket} == {"", r"\{"}
        if not both_bare or len(set(left)) < len(left) or len(set(right)) < len(right):
            return Audit.UNSURE if both_bare else Audit.WRONG
    if any("=" in part for part in (*left, *right)) or all(
        re.fullmatch("[a-zA-Z]", part) for part in left
    ):
        return Audit.UNSURE
    if len(left) != len(right):
        return Audit.UNSURE if gold_bracket == r"\{" else Audit.WRONG
    if is_ordered:
        return _all([_compare(g, a) for g, a in zip(left, right, strict=True)])
    table = [[_compare(g, a) for a in right] for g in left]
    if any(cell is Audit.UNSURE for row in table for cell in row):
        return Audit.UNSURE
    for row in table:  # equality is transitive: the first free equal one will do
        if Audit.RIGHT not in row:
            return Audit.WRONG
        taken = row.index(Audit.RIGHT)
        for other in table:
            other[taken] = Audit.WRONG
    return Audit.RIGHT


def _all(audits: Sequence[Audit]) -> Audit:
    if Audit.WRONG in audits:
        return Audit.WRONG
    return Audit.UNSURE if Audit.UNSURE in audits else Audit.RIGHT


def _parts(text: str) -> tuple[str, list[str]] | None:
    """The opening bracket ("" for none) and what stands between the commas; None for a single value."""
    text = text.strip()
    bracket = next((b for b in _CELLS if text.startswith(b) and text.endswith(_CELLS[b])), "")
    inside = _split(text[len(bracket) : -len(bracket)]) if bracket else None
    if inside is not None and len(inside) > 1:
        return bracket, inside
    cells = _split(text)
    if cells is None:
        raise UnreadableError
    return ("", cells) if len(cells) > 1 else None


def _split(text: str) -> list[str] | None:
    """At commas and "and"/"or" outside brackets; None if a bracket is closed that was not opened."""
    cells, depth, start = [], 0, 0
    text = re.sub(r",?\s*\\(?:text|mbox)\s*\{\s*(?:and|or)\s*\}|,?\s+(?:and|or)\s+", ",", text)
    for position, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return None
        if char in ",;" and depth == 0:
            cells.append(text[start:position].strip())
            start = position + 1
    return [cell for cell in (*cells, text[start:].strip()) if cell]


def _is_grouped(text: str) -> bool:
    return re.fullmatch(r"\s*-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?\s*%?\s*", text) is not None


def _value_side(text: str) -> str:
    """What `x = 3` says of x; an equation that names nothing is not judged."""
    sides = text.split("=")
    if len(sides) == 1 or "," in text:
        return text
    if len(sides) == 2 and _NAME.fullmatch(sides[0]):
        return sides[1].strip()
    raise UnreadableError


def _without_units(gold: str, answer: str) -> tuple[str, str, bool]:
    """Both without a unit at the end, and whether the units leave no doubt."""
    found, unit = _UNIT.search(gold), _UNIT.search(answer)
    if found is None and unit is None:
        return gold, answer, True
    names = {(m[1] or m[2]).strip(" .").lower() for m in (found, unit) if m}
    telling = {
        "or",
        "and",
        "not",
        "is",
        "no",
        "wrong",
        "million",
        "thousand",
        "hundred",
        "billion",
        "percent",
        "pi",
    }
    is_clear = len(names) == 1 and telling.isdisjoint(" ".join(names).split())
    return _UNIT.sub("", gold).strip(), _UNIT.sub("", answer).strip(), is_clear and found is not None


def _is_words(text: str) -> bool:
    inside = " ".join(_WORDS.findall(text))
    outside = re.sub(r"\\[a-zA-Z]+", " ", _WORDS.sub(" ", text))
    inside = re.sub(r"\b(?:and|or)\b", " ", inside)
    return bool(re.search(r"[^\W\d_]{2}", inside) or re.search(r"[^\W\d_]{4}", outside))


def _compare_words(gold: str, answer: str) -> Audit:
    left, right = (_letters(side) for side in (gold, answer))
    if left == right:
        return Audit.RIGHT
    is_telling = _is_words(gold) and all(key.isalpha() and len(key) > 2 for key in (left, right))
    return Audit.WRONG if is_telling and not _is_nothing((left, right)) else Audit.UNSURE


def _letters(text: str) -> str:
    return re.sub(r"\b(?:the|an?)\b|[\W_]", "", _WORDS.sub(r"\1", text).lower())


def _is_nothing(keys: Sequence[str]) -> bool:
    """ "None", "no solution", "does not exist": there are too many ways to say it."""
    return any(key.startswith(("no", "dne", "doesnot", "undefined", "empty", "all")) for key in keys)


def _sure(is_right: bool) -> Audit:
    return Audit.RIGHT if is_right else Audit.WRONG


def _tidy(text: str) -> str:
    for written, plain in _REPLACED.items():
        text = text.replace(written, plain)
    text = _NOISE.sub(lambda found: " " if "quad" in found[0] else "", text)
    text = text[2:-2] if len(text) > 4 and text.startswith("**") and text.endswith("**") else text
    text = re.sub(r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*([0-9])\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*([0-9])", r"\1{\2}", text)
    text = re.sub(r"\\sqrt\s*([0-9a-z])", r"\\sqrt{\1}", text)
    text = re.sub(r"\^\s*([0-9a-zA-Z])", r"^{\1}", text)
    text = re.sub(r"\\text\s*\{\s*([0-9.]+)\s*\}", r"\1", " ".join(text.split())).strip()
    return text[:-1].strip() if text.endswith((".", ",")) else text

r"""Whether an answer is the gold answer: by type first, then element by element.

Most wrong payments come from comparing things of different types: one number with a list that holds
it, a pair with a set, a formula with an equation. So the type of the gold decides what may be equal to
it, and only single values reach the comparison of formulas (`rational`, then Math-Verify).

The rules, where text leaves a choice:
- One gold value and several candidates ("42 or 43", "41, 42") is no answer: a hedge is never paid.
- `a = b` stands for b if a is a name, or if both sides are equal; `41 = 42` is no answer.
- `3 \approx 3.14` stands for what is left of the sign: approximations are never right for exact golds.
- Bare lists and sets of values have no order; pairs, intervals, vectors and lists of letters have one.
- In a bare list an element counts as often as it stands there; in a set once.
- 50% is 1/2. A gold of 50% also accepts 50. A gold without a percent sign accepts no 100-fold.
- A unit may be missing, but not be another one. A base (101_2) may be missing in the answer.
- Words are compared as words, without case; nothing is worth paying in a sentence about a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from k15.rewards.notation import as_list, is_balanced, is_enclosed, key, normalise, split_top
from k15.rewards.rational import rational
from k15.rewards.words import are_different_units, is_prose, split_unit, synonym, word_key
from k15.types import Outcome

Equal = Callable[[str, str], bool]

_MAX_ITEMS = 50
_MAX_DEPTH = 6
_MAX_BRACKETS = 40
_LIST = re.compile(
    r"\s*(?:[,;]\s*(?:\\text\{\s*)?(?:and|or)\b(?:\s*\})?|[,;]|(?:\\text\{\s*|\b)(?:and|or)\b(?:\s*\})?)\s*"
)
_COMMA = re.compile(r"\s*[,;]\s*")
_EQUALS = re.compile(r"(?<![\\<>!:~])=(?!=)")
_APPROX = re.compile(r"\\approx(?![a-zA-Z])|~=|\\simeq(?![a-zA-Z])")
_SUBSCRIPT = re.compile(r"[0-9]\s*\}?\s*_")
_MEMBER = re.compile(r"[a-zA-Z](?:_\{?\w+\}?)?\s*\\in(?![a-zA-Z])\s*")
_NAME = re.compile(
    r"(?:\\text\{[^{}]*\}|\\?[a-zA-Z]+'*(?:_\{?\w+\}?)?)(?:\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\))?|"
    r"\(\s*[a-zA-Z]\w?(?:\s*,\s*[a-zA-Z]\w?)*\s*\)"
)
_MATRIX = re.compile(r"\\begin\{([pbB]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}")
_RATIO = re.compile(r"[0-9.]+(?:\s*:\s*[0-9.]+)+")
_BASE = re.compile(r"([0-9A-Fa-f]+)_(?:\{(\d+)\}|(\d+))")
_DEGREE = re.compile(r"\^\s*\{?\s*\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|°")
_WITH_INFINITY = re.compile(r"\[\s*-\s*\\infty(?![a-zA-Z])|\\infty\s*\]")
_LETTERS = re.compile(r"(?:\\text\{)?\s*\(?[a-zA-Z]\)?\s*\}?")


@dataclass(frozen=True, slots=True)
class Match:
    """What the comparison found, with one sentence why."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class _Items:
    """Several values. kind: "list", "set", a pair of brackets such as "()" or "[)", "rows", or ":"."""

    kind: str
    items: tuple[str, ...]


RIGHT = Match(Outcome.RIGHT, "equal to the gold answer")
WRONG = Match(Outcome.WRONG, "not equal to the gold answer")


def compare(gold: str, answer: str, equal: Equal) -> Match:
    """Judge an answer by the gold answer (both as written, without the box).

    Args:
        gold: the ground truth.
        answer: what the policy gave as its final answer.
        equal: decides whether two single formulas in LaTeX are equal, where their type does not.
    """
    if not normalise(answer):
        return Match(Outcome.NO_ANSWER, "no answer: it is empty")
    if {_mark(gold), _mark(answer)} == {"degree", "dollar"}:
        return Match(Outcome.WRONG, "degrees against dollars")
    if _WITH_INFINITY.search(normalise(answer)) and not _WITH_INFINITY.search(normalise(gold)):
        return Match(Outcome.WRONG, "the brackets differ: infinity is no member of an interval")

    def equal_if_readable(left: str, right: str) -> bool:
        is_readable = all(is_balanced(side, max_depth=_MAX_BRACKETS) for side in (left, right))
        return is_readable and equal(left, right)

    match = _compare(normalise(gold), normalise(answer), equal_if_readable, 0)
    if match is not RIGHT and "," in gold:
        # 58,500 is a number first; as a list it is only what stands there, in that order.
        for other_gold, other_answer in (
            (_in_order(as_list(gold)), _in_order(answer)),
            (gold, as_list(answer)),
        ):
            if other_gold and other_answer:
                other = _compare(normalise(other_gold), normalise(other_answer), equal_if_readable, 0)
                match = other if other is RIGHT else match
    return match


def _in_order(text: str | None) -> str | None:
    """A bare list as a tuple, whose order counts; what has brackets already stays as it is."""
    return f"({text})" if text and not text.strip().startswith(("(", "[", r"\{")) else text


def _mark(text: str) -> str:
    """A sign that stands for a unit; `normalise` takes it away."""
    return "dollar" if r"\$" in text else "degree" if _DEGREE.search(text) else ""


def _compare(gold: str, answer: str, equal: Equal, depth: int) -> Match:
    gold, gold_unit = split_unit(gold)
    answer, answer_unit = split_unit(answer)
    if are_different_units(gold_unit, answer_unit):
        return Match(Outcome.WRONG, f"the unit is {answer_unit}, and {gold_unit} in the gold answer")
    if key(gold) == key(answer) or synonym(key(gold)) == synonym(key(answer)):
        return RIGHT
    if depth > _MAX_DEPTH:
        return Match(Outcome.WRONG, "nested too deep to be compared")
    whole_gold, whole_answer = gold, answer
    gold, answer = _bare(gold), _bare(answer)
    if key(gold) == key(answer):
        return RIGHT
    gold_items, answer_items = _items(gold), _items(answer)
    is_list = any(items is not None and items.kind == "list" for items in (gold_items, answer_items))
    if not is_list and (_is_equation(gold) or _is_equation(answer)):
        return _compare_equations(gold, answer, equal, depth)
    if gold_items is not None or answer_items is not None:
        if _are_one_set(gold, gold_items, answer, answer_items):
            return _verdict(equal(whole_gold, whole_answer))
        return _compare_items((gold, gold_items), (answer, answer_items), equal, depth)
    if is_prose(gold) or is_prose(answer):
        return _compare_words(gold, answer)
    return _compare_values(gold, answer, equal)


def has_base(text: str) -> bool:
    """Whether a normalised text is a numeral with its base, as 101_2 is."""
    return _BASE.fullmatch(text) is not None


def bare_value(text: str) -> str:
    r"""A normalised value without a name before it (`x = 3`), `x \in`, an approximation behind it, or brackets."""
    parts = split_top(text, _EQUALS)
    return _bare(parts[1] if len(parts) == 2 and _NAME.fullmatch(parts[0]) else text)


def _bare(text: str) -> str:
    r"""Without what may stand around a value: `x \in`, an approximation after it, one pair of brackets."""
    parts = split_top(text, _APPROX)
    if len(parts) > 1:
        text = parts[1] if not parts[0] or _NAME.fullmatch(parts[0]) else parts[0]
    member = _MEMBER.match(text)
    text = text[member.end() :] if member else text
    for _ in range(_MAX_DEPTH):
        if not is_enclosed(text, "(", ")") or len(split_top(text[1:-1], _COMMA)) > 1:
            break
        text = text[1:-1].strip()
    return text


def _items(text: str) -> _Items | None:
    """The several values that a text consists of, or None for a single one."""
    if _RATIO.fullmatch(text):
        return _Items(":", tuple(part.strip() for part in text.split(":")))
    parts = [part for part in split_top(text, _LIST) if part]
    if len(parts) > 1:
        return _Items("list", tuple(value for part in parts for value in _both_signs(part)))
    if len(_both_signs(text)) > 1:
        return _Items("list", _both_signs(text))
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        return _matrix(matrix[2])
    if is_enclosed(text, r"\{", r"\}") and not re.search(r"\||:|\\mid", text):
        parts = [part for part in split_top(text[2:-2].strip(), _LIST) if part]
        return _Items("set", tuple(value for part in parts for value in _both_signs(part)))
    for opening, closing in (("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), (r"\langle", r"\rangle")):
        if is_enclosed(text, opening, closing):
            parts = split_top(text[len(opening) : -len(closing)], _COMMA)
            kind = "()" if opening == r"\langle" else opening + closing
            return _Items(kind, tuple(parts)) if len(parts) > 1 else None
    return None


def _are_one_set(gold: str, gold_items: _Items | None, answer: str, answer_items: _Items | None) -> bool:
    """Whether one side is a set, interval or matrix, and the other a formula that may describe it."""
    if gold_items is not None and answer_items is not None:
        return False
    items, formula = (gold_items, answer) if answer_items is None else (answer_items, gold)
    return (
        items is not None
        and items.kind not in ("list", ":")
        and not (items.kind == "set" and len(items.items) == 1)
        and not is_prose(formula)
        and rational(formula) is None
    )


def _both_signs(text: str) -> tuple[str, ...]:
    r"""`3 \pm 2` as its two values."""
    if not re.search(r"\\pm(?![a-zA-Z])", text):
        return (text,)
    return tuple(
        re.sub(r"\\pm(?![a-zA-Z])", sign, text).strip().removeprefix("+").strip() for sign in "+-"
    )


def _matrix(body: str) -> _Items:
    rows = [row.split("&") for row in re.split(r"\\\\", body) if row.strip()]
    return _Items(f"matrix of {len(rows)} rows", tuple(cell.strip() for row in rows for cell in row))


def _compare_items(
    gold: tuple[str, _Items | None], answer: tuple[str, _Items | None], equal: Equal, depth: int
) -> Match:
    (gold_text, gold_items), (answer_text, answer_items) = gold, answer
    if gold_items is None or answer_items is None:
        single, several = (gold_text, answer_items) if gold_items is None else (answer_text, gold_items)
        assert several is not None
        if several.kind in ("list", "set") and several.items and _are_one_value(several.items):
            left, right = (
                (single, several.items[0]) if gold_items is None else (several.items[0], single)
            )
            return _compare(left, right, equal, depth + 1)
        if several.kind == "list" and gold_items is None:
            return Match(
                Outcome.NO_ANSWER, "no answer: several candidates, and the gold answer is one value"
            )
        return Match(Outcome.WRONG, "one value against several")
    kinds = {gold_items.kind, answer_items.kind}
    if kinds <= {"list", "set"}:
        return _compare_collections(gold_items, answer_items, equal, depth)
    is_vector = "()" in kinds and any(kind.startswith("matrix") for kind in kinds)
    if len(kinds) > 1 and not is_vector:
        return Match(
            Outcome.WRONG, f"the brackets differ: {answer_items.kind} against {gold_items.kind}"
        )
    return _compare_in_order(gold_items.items, answer_items.items, equal, depth)


def _compare_collections(gold: _Items, answer: _Items, equal: Equal, depth: int) -> Match:
    left, right = gold.items, answer.items
    if "set" in (gold.kind, answer.kind):
        left, right = _without_repeats(left), _without_repeats(right)
    if len(left) != len(right) or len(left) > _MAX_ITEMS:
        return Match(Outcome.WRONG, f"{len(right)} values against {len(left)}")
    names = [_assigned_name(item) for item in left]
    if None not in names and len(set(names)) == len(names):
        answer_names = [_assigned_name(item) for item in right]
        if sorted(map(str, answer_names)) == sorted(map(str, names)):
            right = tuple(right[answer_names.index(name)] for name in names)
        return _compare_in_order(left, right, equal, depth)
    if gold.kind == "list" and all(_LETTERS.fullmatch(item) for item in left):
        return _compare_in_order(left, right, equal, depth)
    rest = list(right)
    for item in left:
        found = next((r for r in rest if _compare(item, r, equal, depth + 1) is RIGHT), None)
        if found is None:
            return Match(Outcome.WRONG, "a value of the gold answer is missing")
        rest.remove(found)
    return RIGHT


def _compare_in_order(gold: tuple[str, ...], answer: tuple[str, ...], equal: Equal, depth: int) -> Match:
    if len(gold) != len(answer):
        return Match(Outcome.WRONG, f"{len(answer)} values against {len(gold)}")
    pairs = list(zip(gold, answer, strict=True))
    if not all(_compare(g, a, equal, depth + 1) is RIGHT for g, a in pairs):
        return Match(Outcome.WRONG, "not the same values in the same order")
    return RIGHT


def _are_one_value(items: tuple[str, ...]) -> bool:
    values = [rational(item) for item in items]
    return len(items) == 1 or (values[0] is not None and len(set(values)) == 1)


def _without_repeats(items: tuple[str, ...]) -> tuple[str, ...]:
    first = {}
    for item in items:
        value = rational(item)
        first.setdefault(key(item) if value is None else value, item)
    return tuple(first.values())


def _compare_words(gold: str, answer: str) -> Match:
    if not is_prose(gold):
        return Match(Outcome.NO_ANSWER, "no answer: words where the gold answer has none")
    if word_key(gold) == word_key(answer):
        return RIGHT
    return Match(Outcome.WRONG, "other words than in the gold answer")


def _is_equation(text: str) -> bool:
    return len(split_top(text, _EQUALS)) > 1


def _assigned_name(text: str) -> str | None:
    parts = split_top(text, _EQUALS)
    return key(parts[0]) if len(parts) == 2 and _NAME.fullmatch(parts[0]) else None


def _compare_equations(gold: str, answer: str, equal: Equal, depth: int) -> Match:
    gold_name, answer_name = _assigned_name(gold), _assigned_name(answer)
    if not _is_equation(gold):
        return _compare_with_chain(gold, split_top(answer, _EQUALS), equal, depth)
    if gold_name is None:
        if not _is_equation(answer):
            return Match(Outcome.WRONG, "the gold answer is an equation")
        return _verdict(equal(gold, answer))
    value = split_top(gold, _EQUALS)[1]
    if not _is_equation(answer):
        return _compare(value, answer, equal, depth + 1)
    if answer_name is not None and (
        answer_name == gold_name or _are_function_names(gold_name, answer_name)
    ):
        return _compare(value, split_top(answer, _EQUALS)[1], equal, depth + 1)
    return _verdict(equal(gold, answer))


def _are_function_names(left: str, right: str) -> bool:
    """y and f(x) name the same thing."""
    return "y" in (left, right) and any(re.fullmatch(r"[a-z]\(x\)", name) for name in (left, right))


def _compare_with_chain(gold: str, parts: list[str], equal: Equal, depth: int) -> Match:
    """`x = a = b` against one value: right if b is, and if a and b are equal."""
    if _NAME.fullmatch(parts[0]):
        parts = parts[1:]
    for left, right in pairwise(parts):
        if _compare_values(left, right, equal) is not RIGHT:
            return Match(Outcome.NO_ANSWER, "no answer: an equation between two different values")
    return _compare(gold, parts[-1], equal, depth + 1)


def _compare_values(gold: str, answer: str, equal: Equal) -> Match:
    if _BASE.fullmatch(gold) or _BASE.fullmatch(answer):
        return _compare_in_base(gold, answer)
    if _SUBSCRIPT.search(answer) and not _SUBSCRIPT.search(gold):
        return Match(Outcome.WRONG, "a number with a subscript")
    left, right = rational(gold), rational(answer)
    if left is None or right is None:
        return _verdict(equal(gold, answer))
    is_bare_percentage = "%" in gold and "%" not in answer and right == 100 * left
    return _verdict(left == right or is_bare_percentage)


def _compare_in_base(gold: str, answer: str) -> Match:
    gold_match, answer_match = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if gold_match is None:
        return Match(Outcome.WRONG, "a base that the gold answer does not have")
    digits = gold_match[1].lstrip("0").casefold()
    if answer_match is None:
        return _verdict(digits == answer.lstrip("0").casefold())
    same_base = (gold_match[2] or gold_match[3]) == (answer_match[2] or answer_match[3])
    return _verdict(same_base and digits == answer_match[1].lstrip("0").casefold())


def _verdict(is_right: bool) -> Match:
    return RIGHT if is_right else WRONG

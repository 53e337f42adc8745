r"""Words in an answer: units, number words, "no solution", and sentences.

A unit after a number is allowed and may be left out. A sentence about a number is not an answer:
"7 is wrong, the answer is 8" must not be paid for 7, so words other than a short unit end the
comparison of values.
"""

from __future__ import annotations

import re

_ALIASES = {
    "centimetre": "cm centimeter centimeters centimetre centimetres",
    "metre": "m meter meters metre metres",
    "millimetre": "mm millimeter millimeters millimetre millimetres",
    "kilometre": "km kilometer kilometers kilometre kilometres",
    "inch": "in inch inches",
    "foot": "ft foot feet",
    "yard": "yd yard yards",
    "mile": "mi mile miles",
    "second": "s sec secs second seconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "dollar": "dollar dollars usd",
    "cent": "cent cents",
    "gram": "g gram grams",
    "kilogram": "kg kilogram kilograms",
    "pound": "lb lbs pound pounds",
    "ounce": "oz ounce ounces",
    "litre": "l liter liters litre litres",
    "millilitre": "ml milliliter milliliters millilitre millilitres",
    "mile per hour": "mph",
    "degree": "deg degree degrees",
    "square": "unit units squareunit squareunits sq",
    "people": "people person persons",
}
_UNITS = {word: unit for unit, words in _ALIASES.items() for word in words.split()}
# A word that changes a value, or makes a sentence, is never taken for a unit.
_NO_UNITS = frozenset(
    """
    or and not is isn are was no non none wrong either neither but nor if then than minus plus times over half third
    quarter quarters thirds negative percent hundred thousand million billion trillion dozen squared cubed factorial
    mod modulo base root approximately about maybe pi infinity answer only at to for x y z i e per
    """.split()  # noqa: SIM905
)
_MULTIPLIERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MULTIPLIER = re.compile(
    r"(?<=[0-9.])\s*(?:\\text\{\s*)?(hundred|thousand|million|billion|trillion)\b(?:(\s*\})|(?=[^}]*$))",
    re.IGNORECASE,
)
_UNIT = re.compile(
    r"(?P<value>.*[0-9})])\s*"
    r"(?:\\text\{(?P<boxed>[a-zA-Z. ]{1,40})\}|(?P<plain>[a-zA-Z]{2,20}(?: [a-zA-Z]{2,20}){0,2}))"
    r"\s*(?P<power>\^(?:[23]|\{[23]\}))?"
)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_CONNECTIVES = re.compile(r"\b(?:and|or)\b")
_NOTHING = "no solution"
_SYNONYMS = {
    **dict.fromkeys(
        (
            "nosolution",
            "nosolutions",
            "norealsolution",
            "norealsolutions",
            "none",
            r"\emptyset",
            r"\{\}",
            "emptyset",
        ),
        _NOTHING,
    ),
    **dict.fromkeys(("dne", "doesnotexist", "undefined"), "does not exist"),
    **dict.fromkeys(
        ("allrealnumbers", r"\mathbb{r}", r"(-\infty,\infty)", r"(-\infty,+\infty)"), "all real numbers"
    ),
}


def synonym(key: str) -> str:
    """One name for the ways to write the empty set, a value that does not exist, and all real numbers."""
    return _SYNONYMS.get(key, key)


def expand_number_words(text: str) -> str:
    r"""`1 million` becomes `1 \cdot 10^{6}`."""
    return _MULTIPLIER.sub(lambda match: rf" \cdot 10^{{{_MULTIPLIERS[match[1].lower()]}}}", text)


def split_unit(text: str) -> tuple[str, str]:
    r"""The value and its unit: `4 \text{ cm}^2` gives "4" and "centimetre^2"; the unit is "" without one.

    In a `\text{}` any short word counts as a unit; outside only the words listed here.
    """
    match = _UNIT.fullmatch(text)
    if match is None:
        return text, ""
    words = (match["boxed"] or match["plain"]).replace(".", " ").lower().split()
    is_known = "".join(words) in _UNITS or all(word in _UNITS for word in words)
    is_allowed = match["boxed"] is not None and len(words) <= 3 and all(len(word) > 1 for word in words)
    if not words or _NO_UNITS & set(words) or not (is_known or is_allowed):
        return text, ""
    unit = " ".join(_UNITS.get(word, word) for word in words)
    return match["value"].strip(), unit + (match["power"] or "").replace("{", "").replace("}", "")


def has_telling_word(text: str) -> bool:
    """Whether a word in it says something about a value ("or", "not", "is"), so that it names no unit."""
    return not _NO_UNITS.isdisjoint(re.findall(r"[a-z]+", text.replace(r"\text", " ").lower()))


def are_different_units(gold: str, answer: str) -> bool:
    """Whether both are units that this module knows, and not the same one."""
    known = set(_ALIASES)
    return gold != answer and gold.split("^")[0] in known and answer.split("^")[0] in known


def is_prose(text: str) -> bool:
    r"""Whether words stand in it, other than "and", "or" and names of one letter: `\text{odd}`, `Evelyn`."""
    outside = re.sub(r"\\[a-zA-Z]+", " ", _TEXT.sub(" ", text))
    inside = " ".join(_TEXT.findall(text))
    has_word = re.search(r"[^\W\d_]{2}", _CONNECTIVES.sub(" ", inside))
    return bool(has_word or re.search(r"[^\W\d_]{4}", outside))


def word_key(text: str) -> str:
    """Words as they are compared: lower case, without articles, commands, dots and spaces."""
    text = _TEXT.sub(r" \1 ", text).lower()
    return re.sub(r"\b(?:the|a|an)\b|[\s'\"*]|(?<![0-9])[.,]|[.,](?![0-9])", "", text)

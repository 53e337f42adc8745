r"""Units of measurement: read from text, told apart, converted exactly.

    read_unit("km/h"), read_unit(r"\text{kilometres per hour}")    the same unit
    read_unit("square feet"), read_unit("ft^2")                    the same unit

A unit is a product of powers of base quantities (length, time, ...) and an exact factor. A word that is
no unit here ("apples") is a quantity of its own, so 5 apples are not 5 pears where units are required.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_TABLE = """
length 1 m meter meters metre metres
length 1/1000 mm millimeter millimeters millimetre millimetres
length 1/100 cm centimeter centimeters centimetre centimetres
length 1/10 dm decimeter decimeters decimetre decimetres
length 1000 km kilometer kilometers kilometre kilometres
length 0.0254 in inch inches
length 0.3048 ft foot feet
length 0.9144 yd yard yards
length 1609.344 mi mile miles
time 1 s sec secs second seconds
time 1/1000 ms millisecond milliseconds
time 60 min mins minute minutes
time 3600 h hr hrs hour hours
time 86400 day days
time 604800 week weeks
month 1 month months
month 12 yr yrs year years
money 1 dollar dollars usd
money 1/100 cent cents
mass 1 g gram grams
mass 1/1000 mg milligram milligrams
mass 1000 kg kilogram kilograms
mass 1000000 tonne tonnes
mass 453.59237 lb lbs pound pounds
mass 28.349523125 oz ounce ounces
angle 1 deg degree degrees
count 1 people person persons
"""
_WORDS = {
    word: (quantity, Fraction(factor))
    for quantity, factor, *words in (line.split() for line in _TABLE.split("\n") if line)
    for word in words
}
# name -> (quantities with their powers, factor)
_COMPOUNDS: dict[str, tuple[dict[str, int], Fraction]] = {
    **dict.fromkeys(("l", "liter", "liters", "litre", "litres"), ({"length": 3}, Fraction(1, 1000))),
    **dict.fromkeys(
        ("ml", "milliliter", "milliliters", "millilitre", "millilitres"),
        ({"length": 3}, Fraction(1, 10**6)),
    ),
    "mph": ({"length": 1, "time": -1}, Fraction("1609.344") / 3600),
    "kph": ({"length": 1, "time": -1}, Fraction(1000, 3600)),
    **dict.fromkeys(("n", "newton", "newtons"), ({"mass": 1, "length": 1, "time": -2}, Fraction(1000))),
    **dict.fromkeys(("j", "joule", "joules"), ({"mass": 1, "length": 2, "time": -2}, Fraction(1000))),
    **dict.fromkeys(("w", "watt", "watts"), ({"mass": 1, "length": 2, "time": -3}, Fraction(1000))),
    **dict.fromkeys(("hz", "hertz"), ({"time": -1}, Fraction(1))),
}
_NO_WORDS = frozenset(("unit", "units"))  # "12 square units": there is no unit to get wrong
_POWER_WORDS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3}
_TOKEN = re.compile(
    r"\s*(?:(?P<word>[a-zA-Z]+)\.?|\^\s*\{?\s*(?P<power>-?[1-9])\s*\}?|(?P<sign>/|\*|\\cdot))"
)
_MAX_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measurement.

    Attributes:
        quantity: what it measures: names of base quantities and their powers, in the order of the names.
        factor: how many base units it is.
        is_known: whether every word in it is a unit of this module.
    """

    quantity: tuple[tuple[str, int], ...]
    factor: Fraction
    is_known: bool = True


def read_unit(text: str) -> Unit | None:
    """The unit that a text names, in LaTeX or words; None if it names none.

    "per" and "/" turn what follows into the denominator. A number other than a power is no part of a unit.
    """
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).replace("²", "^2").replace("³", "^3")
    powers: dict[str, int] = {}
    factor, side, coming, is_known = Fraction(1), 1, 1, True
    last: tuple[dict[str, int], Fraction] | None = None  # of the word before, without its power
    position, count = 0, 0
    while position < len(text.rstrip()):
        token = _TOKEN.match(text, position)
        count += 1
        if token is None or count > _MAX_TOKENS:
            return None
        position = token.end()
        word = (token["word"] or "").lower()
        if token["sign"] == "/" or word == "per":
            side = -1
        elif token["power"] or word in ("squared", "cubed"):
            if last is None:
                return None
            exponent = int(token["power"]) if token["power"] else _POWER_WORDS[word]
            factor *= _multiply(powers, last, side * (exponent - 1))
            last = None
        elif word in _POWER_WORDS:
            coming = _POWER_WORDS[word]
        elif word and word not in _NO_WORDS:
            found = _COMPOUNDS.get(word) or _simple(word)
            is_known &= found[1] != 0
            last = (found[0], found[1] or Fraction(1))
            factor *= _multiply(powers, last, side * coming)
            coming = 1
    kept = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(kept, factor, is_known) if kept else None


def _simple(word: str) -> tuple[dict[str, int], Fraction]:
    """A unit of one quantity; a word that is none counts itself, and has the factor 0."""
    if word in _WORDS:
        quantity, factor = _WORDS[word]
        return {quantity: 1}, factor
    return {word.removesuffix("s") if len(word) > 3 else word: 1}, Fraction(0)


def _multiply(powers: dict[str, int], unit: tuple[dict[str, int], Fraction], exponent: int) -> Fraction:
    quantities, factor = unit
    for quantity, power in quantities.items():
        powers[quantity] = powers.get(quantity, 0) + power * exponent
    return factor**exponent

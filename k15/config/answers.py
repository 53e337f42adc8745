"""The rules that a row of data sets for its answers: read from JSON, and written back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NoReturn, get_args

from k15.errors import DataError
from k15.types import DEFAULT_RULES, AnswerKind, AnswerRules

Requirement = Literal["order", "unit", "percent", "base", "reduced", "case"]

_KEYS = (
    "type",
    "accept",
    "choices",
    "require",
    "convert_units",
    "log",
    "decimals",
    "significant_digits",
    "absolute_tolerance",
    "relative_tolerance",
)
_MAX_DIGITS = 30
_MAX_CHOICES = 26


def read_rules(value: object) -> AnswerRules:
    """The rules that the JSON object of a row means; None means the rules for all.

    Raises:
        DataError: a key is unknown, a value breaks its rule, or two rules contradict each other.
    """
    if value is None:
        return DEFAULT_RULES
    if not isinstance(value, Mapping):
        _refuse(
            "rules must be a JSON object", value, 'Write for instance {"type": "number", "decimals": 2}'
        )
    if unknown := sorted(set(map(str, value)) - set(_KEYS)):
        _refuse("rules has an unknown key", unknown[0], f"Use {', '.join(_KEYS)}")
    rules = AnswerRules(
        kind=_kind(value.get("type", "auto")),
        accept=_texts(value, "accept"),
        choices=_texts(value, "choices"),
        require=frozenset(_texts(value, "require")),
        convert_units=_flag(value, "convert_units"),
        log=None if value.get("log") is None else str(value["log"]),
        decimals=_count(value, "decimals", least=0),
        significant_digits=_count(value, "significant_digits", least=1),
        absolute_tolerance=_share(value, "absolute_tolerance"),
        relative_tolerance=_share(value, "relative_tolerance"),
    )
    _check(rules)
    return rules


def rules_as_row(rules: AnswerRules) -> dict[str, Any] | None:
    """The JSON object that `read_rules` reads as these rules; None for the rules for all."""
    row: dict[str, Any] = {
        "type": rules.kind.value,
        "accept": list(rules.accept),
        "choices": list(rules.choices),
        "require": sorted(rules.require),
        "convert_units": rules.convert_units,
        "log": rules.log,
        "decimals": rules.decimals,
        "significant_digits": rules.significant_digits,
        "absolute_tolerance": rules.absolute_tolerance,
        "relative_tolerance": rules.relative_tolerance,
    }
    plain = {"type": "auto", "convert_units": False}
    kept = {key: v for key, v in row.items() if v not in ([], None) and v != plain.get(key)}
    return kept or None


def _check(rules: AnswerRules) -> None:
    known = set(get_args(Requirement))
    if unknown := sorted(rules.require - known):
        _refuse('"require" has an unknown word', unknown[0], f"Use {', '.join(sorted(known))}")
    if rules.log not in (None, "e", "10"):
        _refuse('"log" must be "e" or "10"', rules.log, "Correct or remove it")
    if rules.has_tolerance and rules.kind is not AnswerKind.NUMBER:
        _refuse(
            'a tolerance needs "type": "number"',
            rules.kind.value,
            "Set the type, or remove the tolerance",
        )
    if rules.decimals is not None and rules.significant_digits is not None:
        _refuse('"decimals" and "significant_digits" exclude each other', "both", "Keep one of them")
    if rules.convert_units and rules.kind is not AnswerKind.NUMBER:
        _refuse('"convert_units" needs "type": "number"', rules.kind.value, "Set the type")
    if rules.choices and rules.kind is not AnswerKind.CHOICE:
        _refuse(
            '"choices" needs "type": "choice"', rules.kind.value, "Set the type, or remove the choices"
        )
    if len(rules.choices) > _MAX_CHOICES:
        _refuse(f'"choices" may have {_MAX_CHOICES} texts', len(rules.choices), "Shorten it")
    folded = [" ".join(choice.split()).casefold() for choice in rules.choices]
    if len(set(folded)) < len(folded):
        _refuse('"choices" must not have the same text twice', rules.choices, "Drop or correct the row")


def _kind(value: object) -> AnswerKind:
    try:
        return AnswerKind(value)
    except ValueError:
        _refuse('"type" is unknown', value, f"Use {', '.join(kind.value for kind in AnswerKind)}")


def _texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        _refuse(f'"{key}" must be a list of texts that are not empty', value, "Correct or remove it")
    return tuple(value)


def _flag(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key, False)
    if not isinstance(value, bool):
        _refuse(f'"{key}" must be true or false', value, "Correct or remove it")
    return value


def _count(row: Mapping[str, Any], key: str, *, least: int) -> int | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MAX_DIGITS:
        _refuse(
            f'"{key}" must be a whole number from {least} to {_MAX_DIGITS}',
            value,
            "Correct or remove it",
        )
    return value


def _share(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        _refuse(f'"{key}" must be a number, 0 or more', value, "Correct or remove it")
    return float(value)


def _refuse(rule: str, value: object, cure: str) -> NoReturn:
    shown = repr(value)
    raise DataError(f"{rule}; got {shown if len(shown) <= 60 else shown[:57] + '...'}. {cure}.")

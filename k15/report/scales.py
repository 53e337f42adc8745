"""From values to places in a chart: scales that end at round numbers, ticks, and numbers as words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["percent", "tokens", "seconds", "count", "plain"]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to chart units; `log` takes values above zero only."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        place = math.log10(max(value, self.low)) if self.log else value
        return self.start + (place - low) / (high - low) * (self.end - self.start)


@dataclass(frozen=True)
class Axis:
    """A scale with its ticks and their step."""

    scale: Scale
    ticks: tuple[float, ...]
    step: float


def axis_of(
    values: Sequence[float], start: float, end: float, *, from_zero: bool = True, count: int = 4
) -> Axis:
    """An axis that holds all values between round numbers, with about `count` steps.

    Args:
        values: at least one.
        start, end: where the axis lies, in chart units.
        from_zero: take zero in, so that heights compare.
    """
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        pad = max(abs(high) * 0.1, 1e-3)
        low, high = (low if from_zero and low == 0 else low - pad), high + pad
    step = nice_step(high - low, count)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    ticks = tuple(low + i * step for i in range(round((high - low) / step) + 1))
    return Axis(Scale(low, high, start, end), ticks, step)


def log_axis_of(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis of decades that holds all values, which lie above zero."""
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)
    every = math.ceil((high - low) / 5)
    ticks = tuple(10.0**i for i in range(low, high + 1, every))
    return Axis(Scale(10.0**low, 10.0**high, start, end, log=True), ticks, 10.0**low)


def nice_step(span: float, count: int) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that splits `span` into at most `count` parts."""
    raw = max(span, 1e-12) / count
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1.0, 2.0, 2.5, 5.0):
        if factor * power >= raw * (1 - 1e-9):
            return factor * power
    return 10.0 * power


def whole_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Round whole numbers between low and high, for iterations and steps."""
    step = max(1.0, nice_step(max(high - low, 1.0), count))
    step = 5.0 if step == 2.5 else step
    first = math.ceil(low / step) * step
    return tuple(first + i * step for i in range(int((high - first) / step + 1e-9) + 1))


def format_value(value: float, unit: Unit) -> str:
    """A value as a reader wants it: 34.2 %, 1,204, 0.037."""
    return with_minus(_format_value(value, unit))


def _format_value(value: float, unit: Unit) -> str:
    if unit == "percent":
        return f"{100 * value:.1f} %"
    if abs(value) >= 1000 or (unit == "count" and value == int(value)):
        return f"{value:,.0f}"
    if unit == "tokens":
        return f"{value:.1f}"
    return f"{value:.3g}"


def format_tick(value: float, step: float, unit: Unit) -> str:
    """A value beside a grid line, with no more digits than the step needs."""
    return with_minus(_format_tick(value, step, unit))


def with_minus(number: str) -> str:
    """A number with a minus sign, not a hyphen, in front."""
    return f"−{number[1:]}" if number.startswith("-") else number


def _format_tick(value: float, step: float, unit: Unit) -> str:
    if unit == "percent":
        return f"{100 * value:.{_decimals(100 * step)}f} %"
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if value and abs(step) >= size:
            return f"{value / size:g}{letter}"
    if value and abs(step) < 1e-4:
        return format_decade(value)
    return f"{value:,.{_decimals(step)}f}"


def format_decade(value: float) -> str:
    """A power of ten, as in 1e-5."""
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _decimals(step: float) -> int:
    decimals = 0
    while decimals < 6 and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1
    return decimals

"""The little statistics a report needs: running means, intervals, a straight line, thinning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Fit:
    """Least-squares line y = intercept + slope * x, with Pearson's r."""

    slope: float
    intercept: float
    r: float


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its standard error; `error` is None where it cannot be known (one group)."""

    value: float
    error: float | None


def linear_fit(points: Sequence[Point]) -> Fit | None:
    """The line through the points, or None for fewer than three points or no spread in x or y."""
    if len(points) < 3:
        return None
    mean_x = math.fsum(x for x, _ in points) / len(points)
    mean_y = math.fsum(y for _, y in points) / len(points)
    xx = math.fsum((x - mean_x) ** 2 for x, _ in points)
    yy = math.fsum((y - mean_y) ** 2 for _, y in points)
    xy = math.fsum((x - mean_x) * (y - mean_y) for x, y in points)
    if xx <= 1e-12 * max(1.0, mean_x**2) or yy <= 1e-12 * max(1.0, mean_y**2):
        return None
    return Fit(slope=xy / xx, intercept=mean_y - mean_x * xy / xx, r=xy / math.sqrt(xx * yy))


def running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Centred mean over `window` neighbouring points; at both ends over those that there are."""
    half = max(window // 2, 0)
    means = []
    for i, (x, _) in enumerate(points):
        near = points[max(i - half, 0) : i + half + 1]
        means.append((x, math.fsum(y for _, y in near) / len(near)))
    return means


def running_band(means: Sequence[tuple[float, Mean]], window: int) -> list[tuple[float, float, float]]:
    """(x, low, high): 95 % interval of each running mean, the points being independent.

    Points without a standard error (a single group) are left out of the interval's width.
    """
    half = max(window // 2, 0)
    band = []
    for i, (x, _) in enumerate(means):
        near = [mean for _, mean in means[max(i - half, 0) : i + half + 1]]
        errors = [mean.error for mean in near if mean.error is not None]
        if not errors:
            continue
        middle = math.fsum(mean.value for mean in near) / len(near)
        reach_y = 1.96 * math.sqrt(math.fsum(e * e for e in errors)) / len(errors)
        band.append((x, middle - reach_y, middle + reach_y))
    return band


def mean_of(values: Sequence[float]) -> Mean | None:
    """Mean and standard error of independent values; None if there are none."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(mean, None)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return Mean(mean, math.sqrt(variance / len(values)))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, by linear interpolation. `values` is not empty."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def histogram(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many values lie in each bin [edge, next edge); the last bin takes its upper edge and all above."""
    counts = [0] * (len(edges) - 1)
    width = edges[1] - edges[0]
    for value in values:
        counts[min(max(int((value - edges[0]) / width), 0), len(counts) - 1)] += 1
    return counts


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points that keep every extreme: of each stretch its lowest and its highest, in order."""
    if len(points) <= most:
        return list(points)
    stretches = max(most // 2, 1)
    kept: list[Point] = []
    for i in range(stretches):
        stretch = points[i * len(points) // stretches : (i + 1) * len(points) // stretches]
        low, high = min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])
        kept.extend(sorted({low, high}))
    return kept


def spread(items: Sequence[int], most: int) -> list[int]:
    """At most `most` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most < 2:
        return list(items[:most])
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]

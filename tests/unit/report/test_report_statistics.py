"""The report's statistics, scales and placements against numpy and against their promises."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.report.axes import separate
from k15.report.scales import axis_of, format_tick, format_value, log_axis_of, whole_ticks
from k15.report.statistics import (
    histogram,
    linear_fit,
    mean_of,
    quantile,
    running_band,
    running_mean,
    spread,
    thin,
)

numbers = st.floats(-1e6, 1e6, allow_nan=False)


def test_the_fitted_line_is_that_of_numpy():
    rng = np.random.default_rng(0)
    xs = rng.uniform(100, 300, 30)
    ys = 0.2 + 0.002 * xs + rng.normal(0, 0.05, 30)
    fit = linear_fit(list(zip(xs, ys, strict=True)))
    assert fit is not None
    slope, intercept = np.polyfit(xs, ys, 1)
    assert fit.slope == pytest.approx(slope)
    assert fit.intercept == pytest.approx(intercept)
    assert fit.r == pytest.approx(np.corrcoef(xs, ys)[0, 1])


@pytest.mark.parametrize("points", [[], [(1, 2), (2, 3)], [(1, 2)] * 5, [(1, 2), (2, 2), (3, 2)]])
def test_no_line_is_fitted_to_points_without_spread(points):
    assert linear_fit(points) is None


def test_a_running_mean_keeps_a_constant_and_uses_all_neighbours():
    assert running_mean([(x, 3.0) for x in range(9)], 5) == [(x, 3.0) for x in range(9)]
    means = running_mean([(x, float(x == 4)) for x in range(9)], 3)
    assert [y for _, y in means] == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0])


def test_the_band_is_1_96_standard_errors_of_the_pooled_mean():
    rng = np.random.default_rng(1)
    groups = rng.random((7, 12))
    means = [(float(i), mean_of(list(row))) for i, row in enumerate(groups)]
    errors = groups.std(axis=1, ddof=1) / np.sqrt(12)
    x, low, high = running_band(means, 3)[3]
    middle = groups[2:5].mean(axis=1).mean()
    half = 1.96 * np.sqrt((errors[2:5] ** 2).sum()) / 3
    assert (x, low, high) == pytest.approx((3.0, middle - half, middle + half))


def test_one_group_has_a_mean_but_no_error():
    mean = mean_of([0.25])
    assert mean is not None
    assert (mean.value, mean.error) == (0.25, None)
    assert mean_of([]) is None


@given(st.lists(numbers, min_size=1, max_size=30), st.floats(0, 1))
@settings(max_examples=50)
def test_quantiles_are_those_of_numpy(values, share):
    assert quantile(values, share) == pytest.approx(np.quantile(values, share), abs=1e-6)


def test_a_histogram_counts_everything_once():
    edges = [0.0, 10.0, 20.0, 30.0]
    assert histogram([0, 9, 10, 19.9, 30, 45], edges) == [2, 2, 2]


@given(st.lists(numbers, min_size=1, max_size=400), st.integers(2, 60))
@settings(max_examples=50)
def test_thinning_keeps_the_extremes_and_the_order(values, most):
    points = [(float(i), y) for i, y in enumerate(values)]
    kept = thin(points, most)
    assert len(kept) <= max(most, 2)
    assert kept == sorted(set(kept))
    assert max(y for _, y in kept) == max(values)
    assert min(y for _, y in kept) == min(values)


def test_spread_items_include_both_ends():
    assert spread(range(100), 5) == [0, 25, 50, 74, 99]
    assert spread([3, 4], 5) == [3, 4]


@given(st.lists(numbers, min_size=1, max_size=20), st.booleans())
@settings(max_examples=200)
def test_an_axis_holds_every_value_between_its_ticks(values, from_zero):
    axis = axis_of(values, 230.0, 30.0, from_zero=from_zero)
    slack = 1e-6 * max(1.0, *map(abs, values))
    assert axis.ticks[0] - slack <= min(values) <= max(values) <= axis.ticks[-1] + slack
    assert 2 <= len(axis.ticks) <= 8
    assert all(29.9 <= axis.scale(v) <= 230.1 for v in values)
    assert not from_zero or axis.ticks[0] <= slack >= -axis.ticks[-1]


@given(st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=20))
@settings(max_examples=100)
def test_a_log_axis_holds_every_value_in_decades(values):
    axis = log_axis_of(values, 230.0, 30.0)
    assert all(29.9 <= axis.scale(v) <= 230.1 for v in values)
    assert all(np.log10(t) == pytest.approx(round(np.log10(t))) for t in axis.ticks)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=100)
def test_iterations_are_numbered_by_whole_round_ticks(low, span):
    ticks = whole_ticks(float(low), float(low + span))
    assert all(t == int(t) and low <= t <= low + span for t in ticks)
    assert len(ticks) <= 7


def test_numbers_are_written_for_readers():
    assert format_value(0.3417, "percent") == "34.2 %"
    assert format_value(-13.2, "plain") == "−13.2"
    assert format_value(12345.6, "tokens") == "12,346"
    assert format_tick(0.25, 0.25, "percent") == "25 %"
    assert format_tick(15000, 5000, "count") == "15k"
    assert format_tick(2e-6, 1e-6, "plain") == "2e-6"


@given(st.lists(st.floats(0, 200), min_size=1, max_size=9))
@settings(max_examples=100)
def test_labels_are_moved_apart_and_stay_in_order(places):
    moved = separate(places, 17.0, 30.0, 200.0)
    order = sorted(range(len(places)), key=lambda i: places[i])
    gaps = [moved[b] - moved[a] for a, b in pairwise(order)]
    assert all(gap > 12 for gap in gaps)
    assert all(30.0 <= place <= 200.0 for place in moved)

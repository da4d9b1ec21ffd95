"""The exact test of evenness against Kolmogorov's law, brute force and its own level."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import beta, binom, kstwo

from emulate import uniformity


@pytest.mark.parametrize(("n", "distance"), [(1, 0.7), (5, 0.3), (20, 0.25), (60, 0.12), (140, 0.1)])
def test_bounds_at_one_distance_give_kolmogorovs_law(n, distance):
    i = np.arange(1, n + 1)
    found = uniformity.within((i / n - distance).clip(0, 1), ((i - 1) / n + distance).clip(0, 1))
    assert found == pytest.approx(kstwo.cdf(distance, n), abs=1e-10)


def test_bounds_on_a_grid_are_counted_by_hand():
    """P over the ways to put three numbers into quarters, each equally likely."""
    low, high = np.array([0.0, 0.25, 0.5]), np.array([0.5, 0.75, 1.0])
    good = sum(all(a <= c / 4 and (c + 1) / 4 <= b for a, c, b in zip(low, sorted(cells), high, strict=True))
               for cells in itertools.product(range(4), repeat=3))  # fmt: skip
    assert uniformity.within(low, high) == pytest.approx(good / 64, abs=1e-14)


def test_bounds_that_cannot_hold_have_no_probability():
    assert uniformity.within(np.array([0.6, 0.6]), np.array([0.5, 0.5])) == 0
    assert uniformity.within(np.zeros(3), np.ones(3)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("n", [1, 5, 20, 100])
def test_even_numbers_are_called_uneven_as_often_as_said(n):
    rng = np.random.default_rng(n)
    p = np.array([uniformity.p_value(rng.random(n)) for _ in range(800)])
    for level in (0.05, 0.2, 0.5):
        assert abs((p < level).mean() - level) < 4 * math.sqrt(level * (1 - level) / 800)


def test_the_statistic_is_the_least_tail_of_the_order_statistics():
    """Two samples with the same least tail have the same p-value, whichever number has it."""
    tail, n = 0.003, 12
    for i, p in ((1, tail), (12, 1 - tail)):
        u = beta.median(np.arange(1, n + 1), n - np.arange(n))
        u[i - 1] = beta.ppf(p, i, n + 1 - i)
        found = uniformity.p_value(u)
        assert found == pytest.approx(uniformity._outside(n, tail), rel=1e-6)
        assert 2 * tail < found < 2 * n * tail


def test_uneven_ends_are_seen_where_kolmogorov_sees_nothing():
    from scipy.stats import kstest

    u = np.concatenate([np.linspace(0, 1e-4, 4), np.linspace(0.02, 0.98, 96)])
    assert kstest(u, "uniform").pvalue > 0.5
    assert uniformity.p_value(u) < 1e-6


def test_far_from_even_is_the_least_p_value_and_no_number_is_none():
    assert uniformity.p_value(np.full(500, 0.5)) == 1e-12
    assert uniformity.p_value(np.full(500, 1e-300)) == 1e-12
    assert math.isnan(uniformity.p_value(np.array([0.5, math.nan])))
    assert math.isnan(uniformity.p_value(np.array([])))
    assert math.isnan(uniformity.p_value(np.array([1.1])))


@pytest.mark.parametrize("n", [5, 20, 100])
def test_the_band_holds_the_whole_line_as_often_as_said(n):
    rng, t = np.random.default_rng(n), np.linspace(0, 1, 1001)
    low, high = uniformity.bands(n, 0.9, t)
    lines = [np.searchsorted(np.sort(rng.random(n)), t, "right") / n for _ in range(1000)]
    kept = np.mean([((low <= x) & (x <= high)).all() for x in lines])
    assert abs(kept - 0.9) < 4 * math.sqrt(0.09 / 1000) + 0.01  # a line is looked at on a grid
    middle = len(t) // 2  # wider than the binomial's own 90 % at one place, narrower than that divided by all places
    assert binom.ppf(0.05, n, 0.5) / n >= low[middle] >= binom.ppf(0.05 / n / 2, n, 0.5) / n - 1 / n


def test_the_worst_level_is_the_one_that_is_off():
    level, share = uniformity.worst(np.concatenate([np.linspace(0, 0.02, 50), np.linspace(0.03, 1, 50)]))
    assert level == pytest.approx(0.02)
    assert share == 0.5

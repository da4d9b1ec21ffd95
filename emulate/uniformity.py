"""Are n numbers between 0 and 1 evenly spread? An exact test that sees the ends as well as the middle, and its bands."""

from functools import lru_cache

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import betainc, betaincinv, gammaln

_LEAST = 1e-12  # p-values below are rounding


def within(low: np.ndarray, high: np.ndarray) -> float:
    """P(low_i <= U_(i) <= high_i for all i) of n ordered independent uniform numbers; low and high `[n]` rise.

    The count of a Poisson process of rate n that has n points at time 1 is followed from bound to bound (Moscovich and
    Nadler 2017): it must stay below i until low_i and reach i by high_i. Exact to rounding.

    >>> round(within(np.array([0.0, 0.5]), np.array([0.5, 1.0])), 12)  # one in each half
    0.5
    """
    n = len(low)
    times = np.concatenate([low, high, [1.0]]).clip(0, 1)
    kinds = np.repeat([0, 1, 2], [n, n, 1])
    numbers = np.concatenate([np.arange(1, n + 1), np.arange(1, n + 1), [n + 1]])
    chance, first, now = np.ones(1), 0, 0.0  # of the counts first, first + 1, ...
    for k in np.lexsort((kinds, times)):
        rate, now, i = n * (times[k] - now), times[k], int(numbers[k])
        if rate > 0:
            more = np.arange(n - first + 1)
            chance = np.convolve(chance, np.exp(more * np.log(rate) - rate - gammaln(more + 1)))[: n - first + 1]
        if kinds[k] == 0:
            chance = chance[: max(i - first, 0)]
        elif kinds[k] == 1 and i > first:
            chance, first = chance[i - first :], i
        if not len(chance):
            return 0.0
    return float(chance[n - first] / np.exp(n * np.log(n) - n - gammaln(n + 1))) if n - first < len(chance) else 0.0


def p_value(u: np.ndarray) -> float:
    """The probability that n uniform numbers are spread as unevenly as u `[n]`, or more; NaN where one is not in [0, 1].

    The i-th smallest is Beta(i, n + 1 - i): the statistic is the smallest two-sided tail probability over all i, as in the
    simultaneous bands of Aldor-Noiman et al. (2013) and Sailynoja, Buerkner and Vehtari (2022), which give every place of
    the distribution the same weight, where Kolmogorov's distance sees little but the middle. Its law is that of `within`,
    exact for every n. Never below 1e-12.

    >>> p_value(np.array([0.1, 0.35, 0.6, 0.85])) > 0.5, p_value(np.array([0.01, 0.02, 0.03, 0.04])) < 1e-4
    (True, True)
    """
    u = np.sort(np.asarray(u, np.float64))
    n = len(u)
    if not n or not (u[0] >= 0 and u[-1] <= 1):
        return float("nan")
    i = np.arange(1, n + 1)
    tails = np.minimum(betainc(i, n + 1 - i, u), betainc(n + 1 - i, i, 1 - u))
    return max(_outside(n, float(tails.min())), _LEAST)


def bands(n: int, confidence: float, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends at t of the band that holds the whole distribution function of n uniform numbers with that
    probability: the numbers whose `p_value` is above 1 - confidence.

    >>> low, high = bands(20, 0.95, np.array([0.5]))
    >>> low.round(2), high.round(2)
    (array([0.2]), array([0.8]))
    """
    low, high = _bounds(n, _tail(n, confidence))
    return np.searchsorted(high, t, "right") / n, np.searchsorted(low, t, "right") / n


def worst(u: np.ndarray) -> tuple[float, float]:
    """The level at which the share of u `[n]` below it is farthest from it, in standard errors, and that share.

    >>> worst(np.array([0.1, 0.2, 0.3, 0.4]))
    (0.4, 1.0)
    """
    u = np.sort(np.asarray(u, np.float64))
    n = len(u)
    levels = np.concatenate([u, u])
    shares = np.concatenate([np.arange(1, n + 1), np.arange(n)]) / n  # with the number itself, and just before it
    error = np.sqrt(np.maximum(levels * (1 - levels), 1 / (4 * n)) / n)
    k = int(np.argmax(np.abs(shares - levels) / error))
    return float(levels[k]), float(shares[k])


def _bounds(n: int, tail: float) -> tuple[np.ndarray, np.ndarray]:
    i = np.arange(1, n + 1)
    return betaincinv(i, n + 1 - i, tail), 1 - betaincinv(n + 1 - i, i, tail)


def _outside(n: int, tail: float) -> float:
    if 2 * n * tail < _LEAST:  # even the sum over all of them is less, and the bounds would be rounding
        return 0.0
    return 1 - within(*_bounds(n, tail))


@lru_cache(maxsize=64)
def _tail(n: int, confidence: float) -> float:
    """The tail probability of each bound with which all hold together with probability `confidence`."""
    least, most = np.log((1 - confidence) / (2 * n)) - 1e-9, np.log((1 - confidence) / 2) + 1e-9
    found = root_scalar(
        lambda x: _outside(n, float(np.exp(x))) - (1 - confidence), bracket=(least, most), method="brentq", xtol=1e-6
    )
    return float(np.exp(found.root))

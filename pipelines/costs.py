r"""What runs cost: seconds of a run as a function of its parameters, and the hours of those that are still to do.

    ln seconds = x^T beta + sigma epsilon,   x = (1, u_1 .. u_d) or with squares and products, u the scaled parameters

The richest of constant, linear and quadratic that predicts runs left out best is taken. beta and sigma are drawn from
their posterior (flat in beta, a prior of sigma worth two runs), the scatter from the residuals of the runs themselves,
so that a total says how little a short pilot knows. A failed run costs what it took.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emulate.errors import InputError
from emulate.space import Space
from pipelines.terminal import duration

_SPREAD, _TRUST = 0.5, 2.0  # prior of sigma: a factor of 1.6 between runs, worth two runs
_SHORTEST = 1e-4  # s; clocks say 0 for less
_DRAWS, _POINTS = 300, 2000  # draws of a total; points it is summed over, the rest in proportion
_ENOUGH = 20  # runs, with fewer their scatter is taken as normal


@dataclass(frozen=True)
class Interval:
    """A middle with an interval of 90 %."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{span(self.middle)} ({span(self.low)} to {span(self.high)})"


@dataclass(frozen=True)
class Bill:
    """What runs still to do take: seconds of all of them one after the other, and of the wall."""

    work: Interval
    wall: Interval


@dataclass(frozen=True)
class CostModel:
    """Seconds of a run over the space of a study; made by `fit`.

    >>> from emulate.space import Parameter, Uniform
    >>> space = Space((Parameter("n", Uniform(0, 1)),))
    >>> n = np.linspace(0, 1, 20)[:, None]
    >>> model = CostModel.fit(space, n, 10 * 2 ** n[:, 0])
    >>> model.seconds([[0.5]]).round(1).tolist()
    [14.1]
    """

    space: Space
    degree: int  # 0, 1 or 2
    beta: np.ndarray  # [p]
    factor: np.ndarray  # [p, p], F F^T = (X^T X)^-1
    residuals: np.ndarray  # [n], of ln seconds, inflated to the scatter of new runs
    square: float  # sum of squares with the prior's
    freedom: float

    @staticmethod
    def fit(space: Space, theta: Any, seconds: Any) -> "CostModel":
        """From the seconds `[n]` of runs at theta `[n, d]`."""
        theta, seconds = np.asarray(theta, float).reshape(-1, space.d), np.asarray(seconds, float)
        good = np.isfinite(seconds)
        theta, y = theta[good], np.log(np.maximum(seconds[good], _SHORTEST))
        if not len(y):
            raise InputError("costs need at least one run that is stored with its seconds. Got none; run a few points "
                             "first, with --pilot 5.")  # fmt: skip
        fits = [_solve(_terms(space, theta, degree), y) for degree in (0, 1, 2)]
        best = 0
        for degree, found in enumerate(fits):
            if found is not None and found[-1] < 0.9 * fits[best][-1]:  # a tenth better, or the simpler one stays
                best = degree
        beta, factor, residuals, _ = fits[best]
        freedom = len(y) - len(beta) + _TRUST
        return CostModel(
            space, best, beta, factor, residuals, float(residuals @ residuals) + _TRUST * _SPREAD**2, freedom
        )

    @property
    def runs(self) -> int:
        return len(self.residuals)

    @property
    def sigma(self) -> float:
        """Scatter of ln seconds at one point."""
        return float(np.sqrt(self.square / self.freedom))

    def seconds(self, theta: Any) -> np.ndarray:
        """The median seconds `[n]` of a run at theta `[n, d]`."""
        return np.exp(_terms(self.space, np.asarray(theta, float), self.degree) @ self.beta)

    def draws(self, theta: Any, *, seed: int, count: int = _DRAWS) -> np.ndarray:
        """Seconds `[count, n]` of runs at theta `[n, d]`: what is not known of beta and sigma, and the runs' scatter."""
        rng = np.random.default_rng(seed)
        x = _terms(self.space, np.asarray(theta, float), self.degree)
        sigma = np.sqrt(self.square / rng.chisquare(self.freedom, count))[:, None]
        beta = self.beta + sigma * (rng.standard_normal((count, len(self.beta))) @ self.factor.T)
        if self.runs < _ENOUGH or self.residuals.std() < 1e-9:  # clocks that say the same for all runs
            scatter = rng.standard_normal((count, len(x)))
        else:
            scatter = rng.choice(self.residuals / self.residuals.std(), (count, len(x)))
        return np.exp(beta @ x.T + sigma * scatter)

    def slopes(self) -> dict[str, float]:
        """By what factor the seconds change from the low to the high end of each parameter, the others in the middle."""
        middle = torch.full((2, self.space.d), 0.5, dtype=torch.float64)
        found = {}
        for i, name in enumerate(self.space.names):
            u = middle.clone()
            u[:, i] = torch.tensor([0.05, 0.95], dtype=torch.float64)
            low, high = self.seconds(self.space.from_unit(u).numpy())
            found[name] = float(high / low)
        return found

    def sentence(self) -> str:
        """What a run takes, and which parameter makes it longer."""
        middle = self.seconds(self.space.from_unit(torch.full((1, self.space.d), 0.5, dtype=torch.float64)).numpy())[0]
        said = f"A run takes about {span(middle)} in the middle of the prior, give or take a factor of {np.exp(self.sigma):.2g}"  # fmt: skip  # noqa: E501
        name, factor = max(self.slopes().items(), key=lambda item: abs(np.log(item[1])))
        if abs(np.log(factor)) < max(0.1, self.sigma / np.sqrt(self.runs)):
            return f"{said}; no parameter changes that."
        longer, end = (factor, "high") if factor > 1 else (1 / factor, "low")
        return f"{said}; most of all {name} changes it, {longer:.2g} times longer at its {end} end."


def bill(parts: Sequence[tuple[CostModel, np.ndarray]], workers: int, *, seed: int) -> Bill:
    """What the runs at theta `[n, d]` of each part take together, on `workers` at a time, started in this order."""
    totals, walls = np.zeros(_DRAWS), np.zeros(_DRAWS)
    for i, (model, theta) in enumerate(parts):
        if not len(theta):
            continue
        shown = theta[:: -(-len(theta) // _POINTS)]
        more = len(theta) / len(shown)
        seconds = model.draws(shown, seed=seed + i)
        totals += more * seconds.sum(1)
        tail = np.array([schedule(s, workers) for s in seconds]) - seconds.sum(1) / workers
        walls = walls + more * seconds.sum(1) / workers + tail
    return Bill(_interval(totals), _interval(walls))


def span(seconds: float) -> str:
    """A time in words, two digits of it where it is short.

    >>> span(0.00123), span(4.56), span(4000)
    ('0.0012 s', '4.6 s', '1 h 06 min')
    """
    return f"{seconds:.2g} s" if seconds < 1 else duration(seconds)


def schedule(seconds: Sequence[float], workers: int) -> float:
    """When the last of these runs ends, each started on the worker that is free first.

    >>> schedule([3.0, 1.0, 1.0, 1.0], 2)
    3.0
    """
    free = [0.0] * min(workers, max(1, len(seconds)))
    for s in seconds:
        heapq.heapreplace(free, free[0] + float(s))
    return max(free)


def _interval(draws: np.ndarray) -> Interval:
    return Interval(*(float(q) for q in np.quantile(draws, [0.05, 0.5, 0.95])))


def _terms(space: Space, theta: np.ndarray, degree: int) -> np.ndarray:
    """X `[n, p]`: ones, then u about its middle, then squares and products."""
    u = space.scaled(torch.from_numpy(np.ascontiguousarray(theta))).numpy() - 0.5
    parts = [np.ones((len(u), 1))]
    if degree > 0:
        parts.append(u)
    if degree > 1:
        i, j = np.triu_indices(space.d)
        parts.append(u[:, i] * u[:, j])
    return np.concatenate(parts, 1)


def _solve(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | None:
    """beta, a factor of (X^T X)^-1, residuals, and the mean square of the residuals of runs left out (with the prior's
    share); None where the runs are fewer than twice the terms."""
    n, p = x.shape
    if n < 2 * p and p > 1:
        return None
    q, r = np.linalg.qr(x)
    if np.abs(np.diag(r)).min() < 1e-8 * np.abs(np.diag(r)).max():
        return None
    beta = np.linalg.solve(r, q.T @ y)
    rest = y - x @ beta
    lever = np.minimum((q**2).sum(1), 1 - 1e-9)
    left_out = float(((rest / (1 - lever)) ** 2).mean()) if n > p else _SPREAD**2
    return beta, np.linalg.inv(r), rest / np.sqrt(1 - lever) if n > p else rest, left_out + 1e-6

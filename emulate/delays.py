r"""Delay-differential equations, solved to order 4 through their breakpoints and differentiable in the delays.

    dy/dt = f(t, y(t), y(t - tau_1), ..., y(t - tau_k)) for t > 0,    y(t) = phi(t) for t < 0,    y(0) = start, else phi(0)

Where phi joins y the slope jumps, and every delay carries that on: at xi = n_1 tau_1 + ... + n_k tau_k the derivative of order
1 + n_1 + ... + n_k jumps. A step across such a breakpoint loses its order, and a derivative with respect to a delay that
takes the breakpoints for fixed is wrong, however short the steps (Baker and Paul 1997). Here the mesh has a point at every
breakpoint that matters, and the points of the mesh are numbers made of the delays: they carry derivatives like all else,
so that what is differentiated is what the computer runs.

A step is the classical one of Kutta. Over it y is a polynomial of degree 4: Hermite's cubic of both ends, bent to the slope at
a fifth place (Enright, Jackson, Norsett and Thomsen 1986). Its error is of order 5, so that neither y nor its derivatives fall
under order 4 where a delay is no multiple of the step (Bellen and Zennaro 2003, ch. 6).

A number is whatever adds, multiplies and divides: a float, a complex number (for complex steps), a tensor with its graph.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise
from typing import Any

import torch
from torch import Tensor

from emulate.errors import InputError

Past = Callable[[int, int], Any]  # (j, i) -> component i of y(t - tau_j)
Slope = Callable[[Any, tuple, Past], tuple]  # (t, the components of y, past) -> those of dy/dt

DEPTH = 5  # delays added up in a breakpoint; beyond it no derivative jumps that a step of order 4 sees
_MOST = 1_000_000  # steps
_ALIKE = 1e-7  # of a step, within which two breakpoints are one
_EDGE = 1e-4  # of a step, by which its ends look inwards: a breakpoint is seen from the side of the step
_PLACE = 0.5 - math.sqrt(1 / 12)  # of a step, where the cubic is bent: there x (1 - x) (1 - 2 x) is largest
_BEND = 2 * _PLACE * (1 - _PLACE) * (1 - 2 * _PLACE)


class Solution:
    """y(t) `[components]` from the history up to the last step: a call gives it at any such t, a number of any kind."""

    def __init__(self, history: Callable[[Any], tuple]):
        self.history = history
        self.begins: list[Any] = []  # of the steps
        self.lengths: list[Any] = []
        self.reals: list[float] = []  # the begins, to look them up
        self.pieces: list[list[tuple]] = []  # of each component, the five coefficients in (t - begin) / length

    def __call__(self, t: Any) -> tuple:
        return tuple(self.component(t, i, real(t)) for i in range(len(self.pieces[0])))

    def component(self, t: Any, i: int, near: float) -> Any:
        """Component i at t; `near` lies close to t, on the side from which a breakpoint is to be seen."""
        n = bisect_right(self.reals, near) - 1
        if n < 0:
            return self.history(t)[i]
        x = (t - self.begins[n]) / self.lengths[n]
        a, b, c, d, e = self.pieces[n][i]
        return a + x * (b + x * (c + x * (d + x * e)))

    def add(self, begin: Any, length: Any, piece: list[tuple]) -> None:
        """One more step, with its polynomials."""
        self.begins.append(begin)
        self.lengths.append(length)
        self.reals.append(real(begin))
        self.pieces.append(piece)


def solve(slope: Slope, history: Callable[[Any], tuple], delays: Sequence[Any], horizon: float, step: float, *,
          start: tuple | None = None) -> Solution:  # fmt: skip
    """The solution from 0 to the horizon.

    slope: (t, y, past) -> dy/dt, all by components, with past(j, i) = component i of y(t - delays[j]). history: t < 0 -> y(t),
    smooth up to 0. delays: constants above 0, of any number, none of which need be a multiple of anything. step: none is
    longer, nor longer than the shortest delay. start: y(0), if it is not history(0).

    >>> y = solve(lambda t, y, past: (-past(0, 0),), lambda t: (1.0,), [1.0], 3.0, 0.1)
    >>> round(y(3.0)[0], 12)
    -0.166666666667
    """
    solution, points = Solution(history), _breakpoints(delays, horizon, step)
    lags = [real(d) for d in delays]
    longest = min(step, *lags) if lags else step
    needed = [math.ceil((real(b) - real(a)) / longest - 1e-9) or 1 for a, b in pairwise(points)]
    if sum(needed) > _MOST:
        raise InputError(f"a solution must take at most {_MOST} steps. Got {sum(needed)}, for steps are no longer than "
                         f"{longest:g}; raise the step, or keep delays away from 0.")  # fmt: skip
    y = history(0.0) if start is None else start
    for a, b, steps in zip(points, points[1:], needed):
        h = (b - a) / steps
        k = None
        for n in range(steps):
            t = a + n * h
            y, k, piece = _step(slope, t, h, y, k, _Lagged(solution, delays, lags, t, h))
            solution.add(t, h, piece)
    return solution


def real(x: Any) -> float:
    """The value of a number without its derivatives."""
    return float(x.detach().real if isinstance(x, Tensor) else x.real)


class _Lagged:
    """What was, seen from places c of the step from t to t + h; each value is looked up once."""

    def __init__(self, solution: Solution, delays: Sequence[Any], lags: list[float], t: Any, h: Any):
        self.solution, self.delays, self.lags, self.t, self.h = solution, delays, lags, t, h
        self.real_t, self.real_h = real(t), real(h)

    def at(self, c: float) -> Past:
        known: dict[tuple[int, int], Any] = {}
        now, near = self.t + c * self.h, self.real_t + (c + _EDGE * (0.5 - c)) * self.real_h

        def past(j: int, i: int) -> Any:
            if (j, i) not in known:
                known[j, i] = self.solution.component(now - self.delays[j], i, near - self.lags[j])
            return known[j, i]

        return past


def _step(
    slope: Slope, t: Any, h: Any, y: tuple, k1: tuple | None, lagged: _Lagged
) -> tuple[tuple, tuple, list[tuple]]:
    """y and its slope at t + h, and the polynomials between; k1 is the slope at t, where the last step knows it."""
    half, middle, end = 0.5 * h, lagged.at(0.5), lagged.at(1.0)
    k1 = slope(t, y, lagged.at(0.0)) if k1 is None else k1
    k2 = slope(t + half, tuple(a + half * k for a, k in zip(y, k1)), middle)
    k3 = slope(t + half, tuple(a + half * k for a, k in zip(y, k2)), middle)
    k4 = slope(t + h, tuple(a + h * k for a, k in zip(y, k3)), end)
    after = tuple(a + h * ((p + 2 * (q + r) + s) / 6) for a, p, q, r, s in zip(y, k1, k2, k3, k4))
    last = slope(t + h, after, end)
    cubic, value, tilt = [], [], []
    for a, b, p, q in zip(y, after, k1, last):
        c1, rest, turn = h * p, b - a - h * p, h * (q - p)
        c2, c3 = 3 * rest - turn, turn - 2 * rest
        cubic.append((a, c1, c2, c3))
        value.append(a + _PLACE * (c1 + _PLACE * (c2 + _PLACE * c3)))
        tilt.append(c1 + _PLACE * (2 * c2 + 3 * _PLACE * c3))
    there = slope(t + _PLACE * h, tuple(value), lagged.at(_PLACE))
    piece = []
    for (a, c1, c2, c3), k, was in zip(cubic, there, tilt):
        bend = (h * k - was) / _BEND  # of x^2 (1 - x)^2
        piece.append((a, c1, c2 + bend, c3 - 2 * bend, bend))
    return after, last, piece


def _breakpoints(delays: Sequence[Any], horizon: float, step: float) -> list[Any]:
    """0, every sum of up to `DEPTH` delays below the horizon, and the horizon; of two that are alike, the shorter sum."""
    if not (math.isfinite(horizon) and horizon > 0 and step > 0):
        raise InputError(f"horizon and step must be times above 0. Got {horizon!r} and {step!r}.")
    for delay in delays:
        if not (math.isfinite(real(delay)) and real(delay) > 0):
            raise InputError(f"a delay must be a time above 0. Got {real(delay):g}; narrow its prior.")
    sums = [(real(s), n, s) for n in range(1, DEPTH + 1) for of in combinations_with_replacement(delays, n)
            for s in [sum(of[1:], of[0])]]  # fmt: skip
    kept: list[tuple[float, int, Any]] = [(0.0, 0, 0.0)]
    for point in sorted((s for s in sums if s[0] < horizon - _ALIKE * step), key=lambda s: s[:2]):
        if point[0] - kept[-1][0] > _ALIKE * step:
            kept.append(point)
        elif point[1] < kept[-1][1]:
            kept[-1] = point
    return [*(p for _, _, p in kept), horizon]


@dataclass(frozen=True)
class DDE:
    """y `[m]` = readout(theta, states `[len(times), ...]`) of a delay-differential equation whose state is a tensor.

    rhs: theta `[d]`, state, the states at t - tau_1, ..., t - tau_k, t -> d state/dt, of the state's shape. history: theta,
    t < 0 -> state, smooth up to 0. delays: theta -> tau `[k]`, each above 0. times: at which the states are read, rising from
    0, the last being the horizon. step: the longest. start: theta -> the state at 0, if the history does not lead there.

    It is a callable f(theta), so that every estimator takes it; complex theta gives complex steps.

    >>> dde = DDE(lambda theta, y, lagged, t: -lagged[0], lambda theta, t: torch.ones_like(theta), lambda theta: theta,
    ...           (3.0,), 0.1, lambda theta, states: states[:, 0])
    >>> theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    >>> y = dde(theta)
    >>> round(float(y), 9), round(float(torch.autograd.grad(y, theta)[0]), 9)
    (-0.166666667, -1.0)
    """

    rhs: Callable[[Tensor, Tensor, tuple[Tensor, ...], Any], Tensor]
    history: Callable[[Tensor, Any], Tensor]
    delays: Callable[[Tensor], Tensor]
    times: tuple[float, ...]
    step: float
    readout: Callable[[Tensor, Tensor], Tensor]
    start: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.times or list(self.times) != sorted(set(self.times)) or not self.times[0] >= 0:
            raise InputError(f"times must be numbers of at least 0 that rise. Got {list(self.times)}.")

    def __call__(self, theta: Tensor) -> Tensor:
        delays = list(self.delays(theta))

        def slope(t: Any, y: tuple, past: Past) -> tuple:
            return (self.rhs(theta, y[0], tuple(past(j, 0) for j in range(len(delays))), t),)

        start = None if self.start is None else (self.start(theta),)
        solution = solve(slope, lambda t: (self.history(theta, t),), delays, self.times[-1], self.step, start=start)
        return self.readout(theta, torch.stack([solution(t)[0] for t in self.times]))

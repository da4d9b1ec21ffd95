"""The marginal likelihood of one Gaussian process, its derivatives, and its maximum; what `gp.py` is made of.

z = h(u)^T beta + g(u), g ~ GP(0, s^2 [k(u, u') + eta delta]). With beta under a flat prior and s^2 at its maximum,
C = K + eta 1 = L L^T, L^-1 H = Q R, and P = C^-1 - C^-1 H (H^T C^-1 H)^-1 H^T C^-1, f = n - k degrees of freedom:

    s^2 = z^T P z / f,    -ln E = f/2 ln s^2 + 1/2 ln|C| + ln|R|,    d(-ln E) = 1/2 tr[(P - P z z^T P / s^2) dC]

(Rasmussen and Williams 2006, eq. 2.45 and section 5.4.1). Left-out residuals are (P z)_i / P_ii with variance s^2 / P_ii
(Dubrule 1983). The search is Newton's, with the mean of the observed and the expected information in the place of second
derivatives, for it takes no products of matrices (Gilmour, Thompson and Cullis 1995): with m_i = dC/dx_i P z,

    I_ij = 1/2 [m_i^T P m_j / s^2 - (m_i^T P z) (m_j^T P z) / (f s^4)]

What is symmetric is packed as LAPACK does it: the lower triangle, column by column, `[n (n + 1) / 2]`.
"""

import importlib
import math
from collections.abc import Callable, Iterator
from itertools import islice
from types import ModuleType
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from emulate.emulators._kernels import basis, correlation, correlation_slope

LENGTH = (
    math.log(0.02),
    math.log(1e4),
)  # bounds of ln(length / box width); a parameter without effect gets the upper one
LENGTH_PRIOR = (math.log(2.0), 4.0)  # centre and sd of the normal prior on ln(length): weak, four decades
ORDER = 9.0  # largest |ln a| of the additive kernel: from no interactions to all of them
_LARGE = 600.0  # of d ln a, so that (1 + a)^d is a number
ORDER_PRIOR = (0.0, 4.0)
_LEAST, _MOST = 1e-15, 1e-3  # bounds of eta without noise; the lower one for each run, and for a hundred at least
NUGGET_PRIOR = (math.log(1e-8), 20.0)
ROUGH = math.log(1e-4)  # ln(eta) of a start: from a tiny one alone, short lengths take what is below the runs' distance
NOISE = (math.log(1e-9), math.log(1e4))  # bounds of ln(eta) where the noise is fitted
NOISE_PRIOR = (math.log(1e-2), 3.0)
_AHEAD = 8  # steps from every start, before the best alone goes on
_ENOUGH = 0.05  # nats that a step must promise: the evidence cannot tell less
_FAR = 2.0  # the longest step of any x


def nugget(n: int) -> tuple[float, float]:
    """Bounds of ln(eta) without noise. C has a condition of up to n / eta, and rounding takes eps of that from a prediction:
    with less than 1e-15 n that is more than the error of the process (2,000 runs of the borehole: as much again)."""
    return math.log(_LEAST * max(n, 100)), math.log(_MOST)


Array = TypeVar("Array", np.ndarray, Tensor)


class Factors(NamedTuple, Generic[Array]):
    lower: Array  # L, with anything above the diagonal
    q: Array
    r: Array
    white: Array  # L^-1 z [n, c]
    residual: Array  # (1 - Q Q^T) L^-1 z [n, c]
    variance: Array  # s^2 [c]

    def without(self: "Factors[np.ndarray]", rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals and variances `[b, c]` of rows `[n]` (of bool) by the others: P_bb^-1 (P z)_b, and the diagonal of P_bb^-1
        times the s^2 of the others."""
        lapack = _compiled("lapack")
        white, _ = lapack.dtrtrs(self.lower, np.eye(len(rows))[:, rows], lower=1)
        white = white - self.q @ (self.q.T @ white)
        spread, pz = np.linalg.inv(white.T @ white), white.T @ self.residual
        residual, free = spread @ pz, len(rows) - self.q.shape[1]
        variance = (free * self.variance - (residual * pz).sum(0)) / (free - len(pz))
        return residual, spread.diagonal()[:, None] * variance.clip(1e-20)


def _compiled(library: str) -> ModuleType:
    """`lapack` or `blas` of scipy: here, because loading an emulator does not need it, and as a module whose names no type
    checker knows."""
    return importlib.import_module(f"scipy.linalg.{library}")


def factors(c: np.ndarray, h: np.ndarray, z: np.ndarray) -> Factors[np.ndarray] | None:
    """The letters above, of C by its lower triangle; None where it is not positive definite in float64."""
    lapack = _compiled("lapack")
    lower, info = lapack.dpotrf(c, lower=1, clean=0)
    if info > 0:
        return None
    k = h.shape[1]
    both, _ = lapack.dtrtrs(lower, np.concatenate([h, z], 1), lower=1)
    packed, scales, *_ = lapack.dgeqrf(both[:, :k])
    q, white = lapack.dorgqr(packed, scales)[0], both[:, k:]
    residual = white - q @ (q.T @ white)
    variance = (residual**2).sum(0) / (len(z) - k)
    return Factors(lower, q, np.triu(packed[:k]), white, residual, variance.clip(1e-20))


class Evidence:
    """-ln E of components z `[n, c]` that share a kernel, less the ln of weak priors, as a function of x = (ln lengths,
    order of the additive kernel, ln eta)."""

    more, rest = 0, 0.0  # numbers of noise alone that were seen beside z, and the sum of their squares

    def __init__(self, u: Tensor, z: Tensor, kernel: str, mean: str, *, noisy: bool):
        self.z, self.h, self.d = z.numpy(), basis(u, mean).numpy(), u.shape[-1]
        self.covariance = _Additive(u.numpy()) if kernel == "additive" else _Stationary(u.numpy(), kernel)
        self.diagonal = np.append(0, np.arange(len(u), 1, -1)).cumsum()
        order = kernel == "additive"
        bounds = (
            [LENGTH] * self.d + [(-ORDER, min(ORDER, _LARGE / self.d))] * order + [NOISE if noisy else nugget(len(u))]
        )
        priors = [LENGTH_PRIOR] * self.d + [ORDER_PRIOR] * order + [NOISE_PRIOR if noisy else NUGGET_PRIOR]
        (self.low, self.high), (self.centre, self.width) = np.array(bounds).T, np.array(priors).T

    def factors(self, x: np.ndarray) -> Factors[np.ndarray]:
        """Those at x; with a larger eta where C is not positive definite in float64 without."""
        while (f := self._factors(self.covariance(x[:-1])[0], math.exp(x[-1]))) is None:
            x = np.append(x[:-1], x[-1] + 1)
        return f

    def _factors(self, k: np.ndarray, eta: float) -> Factors[np.ndarray] | None:
        lapack = _compiled("lapack")
        k[self.diagonal] += eta
        return factors(lapack.dtpttr(len(self.z), k, uplo="L")[0], self.h, self.z)

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """The value and its gradient."""
        value, derivatives = self.at(x)
        return value, derivatives()[0]

    def at(self, x: np.ndarray) -> tuple[float, Callable[[], tuple[np.ndarray, np.ndarray]]]:
        """The value, infinite where C is not positive definite in float64, and what finds its gradient and information."""
        eta, (k, rates) = math.exp(x[-1]), self.covariance(x[:-1])
        f = self._factors(k, eta)
        if f is None:
            return math.inf, lambda: (np.zeros_like(x), np.eye(len(x)))
        free = len(self.z) - self.h.shape[1]
        s2 = (free * f.variance + self.rest / eta) / (free + self.more)
        pull = (x - self.centre) / self.width
        volume = np.log(f.lower.diagonal()).sum() + np.log(np.abs(f.r.diagonal())).sum()
        value = 0.5 * (free + self.more) * np.log(s2).sum() + len(s2) * volume + 0.5 * (self.more * x[-1] + pull @ pull)
        return float(value), lambda: self._derivatives(x, rates, f, s2)

    def _derivatives(self, x: np.ndarray, rates: Iterator[np.ndarray], f: Factors[np.ndarray],
                     s2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        blas, lapack = _compiled("blas"), _compiled("lapack")
        (n, c), k, eta = self.z.shape, self.h.shape[1], math.exp(x[-1])
        back, _ = lapack.dtrtrs(f.lower, np.concatenate([f.q, f.residual / np.sqrt(s2)], 1), lower=1, trans=1)
        trend, data = back[:, :k], back[:, k:]  # data = P z / s
        whole, _ = lapack.dpotri(f.lower, lower=1)
        whole = blas.dsyrk(-c, trend, c, whole, lower=1, overwrite_c=1)
        whole = blas.dsyrk(-1.0, data, 1.0, whole, lower=1, overwrite_c=1)
        slope, _ = lapack.dtrttp(whole, uplo="L")  # of -ln E by C; what is off the diagonal stands twice in C
        slope[self.diagonal] *= 0.5
        gradient, turned = [], []
        for rate in rates:
            gradient.append(rate @ slope)
            turned.append([blas.dspmv(n, 1.0, rate, one, lower=1) for one in data.T])
        gradient, turned = np.append(gradient, eta * slope[self.diagonal].sum()), np.array([*turned, eta * data.T])
        white, _ = lapack.dtrtrs(f.lower, turned.reshape(-1, n).T, lower=1)
        white = (white - f.q @ (f.q.T @ white)).T.reshape(len(x), -1)
        along = (turned * data.T).sum(-1)
        seen = self.rest / (eta * s2[0])
        gradient[-1] += 0.5 * (self.more - seen)
        along[-1] += seen
        information = 0.5 * (white @ white.T - along @ along.T / (n + self.more - k))
        information[-1, -1] += 0.5 * seen
        return gradient + (x - self.centre) / self.width**2, information + np.diag(self.width**-2)

    def climb(self, starts: list[np.ndarray], steps: int = 50) -> np.ndarray:
        """The most probable x: where the path leads that after a few steps from its start was ahead of the others. A start
        is the ln lengths, with the ln eta or without, or a whole x."""
        paths = [self._path(self._whole(s)) for s in starts]
        ahead = [list(islice(path, _AHEAD if len(starts) > 1 else 1))[-1] for path in paths]
        best = min(range(len(paths)), key=lambda i: ahead[i][0])
        return [ahead[best], *islice(paths[best], steps)][-1][1]

    def _path(self, x: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
        """-ln E and x at a start and after every step downhill, damped as by Levenberg (1944) and within the bounds."""
        value, derivatives = self.at(x := x.clip(self.low, self.high))
        while value == math.inf and x[-1] < self.high[-1]:
            value, derivatives = self.at(x := np.append(x[:-1], x[-1] + 1).clip(self.low, self.high))
        yield value, x
        damping = 1.0
        while True:
            gradient, information = derivatives()
            free = np.where(gradient > 0, x > self.low, x < self.high)
            gain, promised = -math.inf, 0.0
            while gain <= 1e-3 * promised:
                step = np.zeros_like(x)
                step[free] = np.linalg.solve(information[free][:, free] + damping * np.eye(free.sum()), -gradient[free])
                step *= min(1.0, _FAR / max(np.abs(step).max(), _FAR))
                new = (x + step).clip(self.low, self.high)
                promised = -(gradient + 0.5 * information @ (new - x)) @ (new - x)
                if promised < _ENOUGH:
                    return
                lower, derivatives = self.at(new)
                gain = value - lower
                damping *= 4 if gain < 0.25 * promised else 0.25 if gain > 0.75 * promised else 1
            value, x = lower, new
            yield value, x

    def _whole(self, start: np.ndarray) -> np.ndarray:
        x = self.centre.copy()
        if len(start) == len(x):
            return start
        x[: self.d] = start[: self.d]
        x[-1] = start[-1] if len(start) > self.d else x[-1]
        return x


def packed(whole: Tensor) -> np.ndarray:
    """What is symmetric `[n, n]`, in the form of the kernels here."""
    return whole.numpy()[np.triu_indices(len(whole))]


def _squares(u: np.ndarray) -> np.ndarray:
    """(u_i - v_i)^2 of every pair of points and parameter i, `[d, n (n + 1) / 2]`."""
    first, second = np.triu_indices(len(u))
    return np.stack([(x[first] - x[second]) ** 2 for x in u.T])


class _Stationary:
    """k at ln lengths, and dk/d ln l_i = dk/de (u_i - v_i)^2 / l_i^2 of each."""

    def __init__(self, u: np.ndarray, kernel: str):
        self.squares, self.name = _squares(u), kernel

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        far = np.exp(-2 * x)
        e = torch.from_numpy(-0.5 * far @ self.squares)

        def rates() -> Iterator[np.ndarray]:
            by_e = correlation_slope(e, self.name).numpy()
            yield from (by_e * (q * r) for q, r in zip(self.squares, far))

        return correlation(e, self.name).numpy(), rates()


class _Additive:
    """The same for ln lengths and ln a: with W = prod_i (1 + a e_i) - 1 and c = 1 / [(1 + a)^d - 1],
    dk/de_i = c a (1 + W) / (1 + a e_i) and dk/d ln a = c (1 + W) sum_i a e_i / (1 + a e_i) - k d a / (1 + a) (1 + c)."""

    def __init__(self, u: np.ndarray):
        self.squares = _squares(u)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        d, a, far = len(self.squares), math.exp(x[-1]), np.exp(-2 * x[:-1])
        parts = self.squares * (-0.5 * far[:, None])
        np.multiply(np.exp(parts, out=parts), a, out=parts)  # a e_i
        whole = parts[0].copy()
        for part in parts[1:]:
            whole += part * (1 + whole)
        c = 1 / math.expm1(d * math.log1p(a))

        def rates() -> Iterator[np.ndarray]:
            top, total = c * (1 + whole), np.zeros_like(whole)
            for part, q, r in zip(parts, self.squares, far):
                share = top * part / (1 + part)
                total += share
                yield share * (q * r)
            yield total - whole * (c * d * a / (1 + a) * (1 + c))

        return whole * c, rates()

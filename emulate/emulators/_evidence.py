"""The marginal likelihood of one Gaussian process, its gradient, and its maximum; what `gp.py` is made of.

z = h(u)^T beta + g(u), g ~ GP(0, s^2 [k(u, u') + eta delta]). With beta under a flat prior and s^2 at its maximum,
C = K + eta 1 = L L^T, L^-1 H = Q R, and P = C^-1 - C^-1 H (H^T C^-1 H)^-1 H^T C^-1, f = n - k degrees of freedom:

    s^2 = z^T P z / f,    -ln E = f/2 ln s^2 + 1/2 ln|C| + ln|R|,    d(-ln E) = 1/2 tr[(P - P z z^T P / s^2) dC]

(Rasmussen and Williams 2006, eq. 2.45 and section 5.4.1). Left-out residuals are (P z)_i / P_ii with variance s^2 / P_ii
(Dubrule 1983).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

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
_KEPT = 2**27  # numbers
ORDER_PRIOR = (0.0, 4.0)
NUGGET = (math.log(1e-13), math.log(1e-3))  # bounds of ln(eta) without noise: with less Cholesky fails
NUGGET_PRIOR = (math.log(1e-8), 20.0)
ROUGH = math.log(1e-4)  # ln(eta) of a start: from a tiny one alone, short lengths take what is below the runs' distance
NOISE = (math.log(1e-9), math.log(1e4))  # bounds of ln(eta) where the noise is fitted
NOISE_PRIOR = (math.log(1e-2), 3.0)


class Factors(NamedTuple):
    lower: Tensor  # L
    q: Tensor
    r: Tensor
    white: Tensor  # L^-1 z [n, c]
    residual: Tensor  # (1 - Q Q^T) L^-1 z [n, c]
    variance: Tensor  # s^2 [c]


def factors(k: Tensor, eta: float, h: Tensor, z: Tensor) -> Factors | None:
    """The letters above; None where C is not positive definite in float64."""
    lower, info = torch.linalg.cholesky_ex(k + eta * torch.eye(len(k), dtype=k.dtype))
    if info > 0:
        return None
    both = torch.linalg.solve_triangular(lower, torch.cat([h, z], 1), upper=False)
    q, r = torch.linalg.qr(both[:, : h.shape[1]])
    white = both[:, h.shape[1] :]
    residual = white - q @ (q.T @ white)
    variance = residual.square().sum(0) / (len(z) - h.shape[1])
    return Factors(lower, q, r, white, residual, variance.clamp_min(1e-20))


class Evidence:
    """-ln E of components z `[n, c]` that share a kernel, less the ln of weak priors, as a function of x = (ln lengths,
    order of the additive kernel, ln eta)."""

    def __init__(self, u: Tensor, z: Tensor, kernel: str, mean: str, *, noisy: bool):
        self.z, self.h, self.d = z, basis(u, mean), u.shape[-1]
        self.covariance = _Additive(u) if kernel == "additive" else _Stationary(u, kernel)
        order = kernel == "additive"
        self.bounds = [LENGTH] * self.d + [(-ORDER, min(ORDER, _LARGE / self.d))] * order + [NOISE if noisy else NUGGET]
        priors = [LENGTH_PRIOR] * self.d + [ORDER_PRIOR] * order + [NOISE_PRIOR if noisy else NUGGET_PRIOR]
        self.centre, self.width = np.array(priors).T

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        eta = math.exp(x[-1])
        k, pull_back = self.covariance(x[:-1])
        f = factors(k, eta, self.h, self.z)
        if f is None:
            return 1e10, np.zeros_like(x)
        free = len(self.z) - self.h.shape[1]
        volume = f.lower.diagonal().log().sum() + f.r.diagonal().abs().log().sum()
        value = 0.5 * free * f.variance.log().sum() + self.z.shape[1] * volume
        back = torch.linalg.solve_triangular(f.lower.T, torch.cat([f.q, f.residual], 1), upper=True)
        trend, data = back[:, : self.h.shape[1]], back[:, self.h.shape[1] :]
        p = torch.cholesky_inverse(f.lower) - trend @ trend.T
        slope = 0.5 * (self.z.shape[1] * p - (data / f.variance) @ data.T)
        gradient = np.append(pull_back(slope), float(slope.diagonal().sum()) * eta)
        pull = (x - self.centre) / self.width
        return float(value) + 0.5 * float(pull @ pull), gradient + pull / self.width

    def climb(self, starts: list[np.ndarray], steps: int = 200) -> np.ndarray:
        """The most probable x that L-BFGS-B (Byrd et al. 1995) reaches from starts: ln lengths, with the ln eta or without,
        or a whole x."""
        from scipy.optimize import minimize  # here, because loading an emulator does not need it

        options = {"maxiter": steps, "ftol": 1e-8}  # of about n nats: far below what the evidence can tell
        found = [minimize(self, self._whole(s), jac=True, method="L-BFGS-B", bounds=self.bounds, options=options)
                 for s in starts]  # fmt: skip
        return min(found, key=lambda f: f.fun).x

    def _whole(self, start: np.ndarray) -> np.ndarray:
        x = self.centre.copy()
        if len(start) == len(x):
            return start
        x[: self.d] = start[: self.d]
        x[-1] = start[-1] if len(start) > self.d else x[-1]
        return x


class _Pairs:
    """(u_i - v_i)^2 of all pairs of points, `[n (n - 1) / 2]` for each parameter; kept where that is below a gigabyte."""

    def __init__(self, u: Tensor):
        self.n, self.columns, self.kept = len(u), u.T.contiguous(), None
        self.rows, self.others = torch.tril_indices(self.n, self.n, -1)
        if self.columns.numel() * self.n < _KEPT:
            self.kept = list(self)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.kept) if self.kept else ((x[self.rows] - x[self.others]).square_() for x in self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def matrix(self, k: Tensor) -> Tensor:
        """`[n, n]` with k below the diagonal and 1 on it; above stands nothing, for Cholesky reads nothing there."""
        whole = torch.eye(self.n, dtype=k.dtype)
        whole[self.rows, self.others] = k
        return whole

    def of(self, slope: Tensor) -> Tensor:
        """What a symmetric dL/dk `[n, n]` says of the pairs, each of which stands in it twice."""
        return 2 * slope[self.rows, self.others]

    def against(self, weights: Iterable[Tensor]) -> np.ndarray:
        """The sums of weight x square, `[d]`."""
        return np.array([float(torch.dot(w, q)) for w, q in zip(weights, self)])


class _Stationary:
    """k `[n, n]` at ln lengths, and what turns dL/dk into dL/d ln lengths: dk/d ln l_i = dk/de (u_i - v_i)^2 / l_i^2."""

    def __init__(self, u: Tensor, kernel: str):
        self.pairs, self.name = _Pairs(u), kernel

    def __call__(self, x: np.ndarray) -> tuple[Tensor, Callable[[Tensor], np.ndarray]]:
        rate = np.exp(-2 * x)
        e = sum(q * (-0.5 * r) for q, r in zip(self.pairs, rate))

        def pull_back(slope: Tensor) -> np.ndarray:
            return self.pairs.against(repeat(self.pairs.of(slope) * correlation_slope(e, self.name))) * rate

        return self.pairs.matrix(correlation(e, self.name)), pull_back


class _Additive:
    """The same for ln lengths and ln a: with W = prod_i (1 + a e_i) - 1 and c = 1 / [(1 + a)^d - 1],
    dk/de_i = c a (1 + W) / (1 + a e_i) and dk/d ln a = c (1 + W) sum_i a e_i / (1 + a e_i) - k d a / (1 + a) (1 + c)."""

    def __init__(self, u: Tensor):
        self.pairs = _Pairs(u)

    def __call__(self, x: np.ndarray) -> tuple[Tensor, Callable[[Tensor], np.ndarray]]:
        d, a, rate = len(self.pairs), math.exp(x[-1]), np.exp(-2 * x[:-1])
        parts = [(q * (-0.5 * r)).exp_().mul_(a) for q, r in zip(self.pairs, rate)]  # a e_i
        whole = parts[0].clone()
        for part in parts[1:]:
            whole.addcmul_(part, 1 + whole)
        c = 1 / math.expm1(d * math.log1p(a))
        k = whole * c

        def pull_back(slope: Tensor) -> np.ndarray:
            slope = self.pairs.of(slope)
            weight = slope * (1 + whole) * c
            shares = [weight * part / (1 + part) for part in parts]
            by_a = sum(s.sum() for s in shares) - torch.dot(slope, k) * d * a / (1 + a) * (1 + c)
            return np.append(self.pairs.against(shares) * rate, float(by_a))

        return self.pairs.matrix(k), pull_back

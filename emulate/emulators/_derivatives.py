"""The marginal likelihood of a Gaussian process that is seen in value and in slope; what `gradient_gp.py` is made of.

Of n points u `[n, d]` are known z and, scaled by the lengths, l_i dz/du_i: N = n (1 + d) numbers, the values first, then
the slopes of one parameter after the other. With x = u / l, D = x - x', e = -|D|^2 / 2 and k = f(e)

    cov(g, g') = f,    cov(g, dg'/dx'_j) = f' D_j,    cov(dg/dx_i, dg'/dx'_j) = f' delta_ij - f'' D_i D_j

(Morris, Mitchell and Ylvisaker 1993; Rasmussen and Williams 2006, section 9.4). In these units the diagonal is 1 for
values and f'(0) for slopes whatever the lengths, which keeps C = K + nuggets fit for float64. The letters h, beta, s^2, P
are those of `_evidence.py`, with the slopes of h as rows of H; the density of what was observed, dz/du, has a factor l_i
for each slope:

    -ln E = (N - k)/2 ln s^2 + 1/2 ln|C| + ln|R| - n sum_i ln l_i
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from emulate.emulators._arithmetic import LIBRARY, Library, Portable
from emulate.emulators._kernels import basis, basis_slopes

KERNELS = ("rbf", "matern52")  # a slope has a covariance where k has two derivatives
LENGTH, LENGTH_PRIOR = (math.log(0.02), math.log(1e8)), (math.log(2.0), 20.0)  # of ln(length / box width)
NUGGET, NUGGET_PRIOR = (math.log(1e-11), math.log(1e-3)), (math.log(1e-8), 20.0)  # of the values, without noise
NOISE, NOISE_PRIOR = (math.log(1e-9), math.log(1e4)), (math.log(1e-2), 3.0)  # of the values, where noise is fitted
SLOPE, SLOPE_PRIOR = (math.log(1e-10), math.log(1e4)), (math.log(1e-6), 20.0)  # slopes may be as wrong as they like;
# with less than these lower bounds the weights are so large that their sum is rounded to 1e-9 of its scale
ROUGH = (math.log(1e-4), math.log(1e-2))  # ln eta of a start, of values and of slopes
_SMALLEST = 1e-30  # of r^2: keeps derivatives finite where two points meet


def radial(e: Tensor, kernel: str, by: Library | Portable = LIBRARY) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f, f', f'' and f''' of k = f(e), e = -r^2 / 2; the last is infinite at 0 for matern52, where D^3 makes it 0."""
    if kernel == "rbf":
        f = by.exp(e)
        return f, f, f, f
    r = math.sqrt(5) * by.sqrt((-2 * e).clamp_min(_SMALLEST))
    f = by.exp(-r)
    return (1 + r + r.square() / 3) * f, 5 / 3 * (1 + r) * f, 25 / 3 * f, 125 / 3 * f / r


def covariance(gap: Tensor, kernel: str) -> Tensor:
    """C without nuggets `[(1 + d) a, (1 + d) b]` of D `[d, a, b]`."""
    d, a, b = gap.shape
    f, f1, f2, _ = radial(-0.5 * gap.square().sum(0), kernel)
    k, cross = gap.new_empty(1 + d, a, 1 + d, b), f1 * gap
    k[0, :, 0] = f
    k[0, :, 1:] = cross.movedim(0, 1)
    k[1:, :, 0] = -cross
    torch.mul((-f2 * gap)[:, :, None], gap.movedim(0, 1), out=k[1:, :, 1:])
    k[1:, :, 1:].diagonal(dim1=0, dim2=2).add_(f1[..., None])
    return k.view((1 + d) * a, (1 + d) * b)


def stacked(value: Tensor, slopes: Tensor, length: Tensor) -> Tensor:
    """`[(1 + d) n, c]` of value `[n, c]` and slopes `[n, c, d]` with respect to u."""
    return torch.cat([value, *(slopes * length).unbind(-1)])


def trend(u: Tensor, mean: str) -> tuple[Tensor, Tensor]:
    """h `[n, k]` and dh/du `[n, k, d]`."""
    return basis(u, mean), basis_slopes(u, mean)


def determined(u: Tensor, mean: str) -> bool:
    """Whether values and slopes at the points u `[n, d]` fix every coefficient of the mean, with one number to spare."""
    h = stacked(*trend(u, mean), torch.ones(u.shape[-1], dtype=u.dtype))
    return len(h) > h.shape[-1] and int(torch.linalg.matrix_rank(h, rtol=1e-8)) == h.shape[-1]


class Factors(NamedTuple):
    lower: Tensor  # L
    q: Tensor
    r: Tensor
    white: Tensor  # L^-1 y [N, c]
    residual: Tensor  # (1 - Q Q^T) L^-1 y [N, c]
    variance: Tensor  # s^2 [c]


@dataclass(frozen=True)
class Seen:
    """What the runs say: u `[n, d]`, z `[n, c]` and dz/du `[n, c, d]` of components that share a kernel and a trend."""

    u: Tensor
    z: Tensor
    slopes: Tensor
    kernel: str
    mean: str

    def select(self, rows: Tensor) -> "Seen":
        return Seen(self.u[rows], self.z[rows], self.slopes[rows], self.kernel, self.mean)

    @cached_property
    def trend(self) -> tuple[Tensor, Tensor]:
        return trend(self.u, self.mean)

    def factors(self, k: Tensor, length: Tensor, eta: Tensor) -> Factors | None:
        """The letters above, of C = k + eta, which is written into k; None where it is not positive definite in float64.

        eta `[1 + d]` is the share of the prior variance that the error of a value has, and that of each slope.
        """
        n = len(self.u)
        k.diagonal().add_(nuggets(eta, n, self.kernel))
        lower, info = torch.linalg.cholesky_ex(k)
        if info > 0:
            return None
        h = stacked(*self.trend, length)
        both = torch.cat([h, stacked(self.z, self.slopes, length)], 1)
        both = torch.linalg.solve_triangular(lower, both, upper=False)
        q, r = torch.linalg.qr(both[:, : h.shape[1]])
        white = both[:, h.shape[1] :]
        residual = white - q @ (q.T @ white)
        variance = residual.square().sum(0) / (len(h) - h.shape[1])
        return Factors(lower, q, r, white, residual, variance.clamp_min(1e-20))


def nuggets(eta: Tensor, n: int, kernel: str) -> Tensor:
    """The diagonal `[(1 + d) n]` that errors add to C."""
    steepness = 1.0 if kernel == "rbf" else 5 / 3  # f'(0)
    return torch.cat([eta[:1], eta[1:] * steepness]).repeat_interleave(n)


class Evidence:
    """-ln E less the ln of weak priors, as a function of x = (ln lengths, ln eta of values, ln eta of each slope)."""

    def __init__(self, seen: Seen, *, noisy: bool):
        self.seen, self.d = seen, seen.u.shape[-1]
        self.gap = seen.u.T[:, :, None] - seen.u.T[:, None, :]  # [d, n, n]
        self.bounds = [LENGTH] * self.d + [NOISE if noisy else NUGGET] + [SLOPE] * self.d
        priors = np.array([LENGTH_PRIOR] * self.d + [NOISE_PRIOR if noisy else NUGGET_PRIOR] + [SLOPE_PRIOR] * self.d)
        self.centre, self.width = priors[:, 0], priors[:, 1]

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        length, eta = torch.from_numpy(np.exp(x)).split([self.d, 1 + self.d])
        gap = self.gap / length[:, None, None]
        k = covariance(gap, self.seen.kernel)
        f = self.seen.factors(k, length, eta)
        if f is None:
            return 1e10, np.zeros_like(x)
        (n, c), trend_size = self.seen.z.shape, f.q.shape[1]
        volume = f.lower.diagonal().log().sum() + f.r.diagonal().abs().log().sum() - n * float(x[: self.d].sum())
        value = 0.5 * (len(k) - trend_size) * f.variance.log().sum() + c * volume
        back = torch.linalg.solve_triangular(f.lower.T, torch.cat([f.q, f.residual], 1), upper=True)
        by_trend, data = back[:, :trend_size], back[:, trend_size:]
        slope = torch.cholesky_inverse(f.lower).T  # symmetric, and now its rows lie in one piece
        slope.addmm_(by_trend, by_trend.T, alpha=-1)  # P
        slope.mul_(0.5 * c).addmm_(data / f.variance, data.T, alpha=-0.5)  # d(-ln E) / dC
        gradient = np.append(self._by_length(gap, k, slope), self._by_eta(slope, eta))
        pull = (x - self.centre) / self.width
        return float(value) + 0.5 * float(pull @ pull), gradient + pull / self.width

    def _by_length(self, gap: Tensor, k: Tensor, slope: Tensor) -> np.ndarray:
        """tr(slope dC / d ln l_m) `[d]`: D_m^2 from e, -1 from each D_m, and -1 for each slope that is scaled by l_m."""
        d, n = self.d, gap.shape[1]
        s = slope.view(1 + d, n, 1 + d, n)
        _, f1, f2, f3 = radial(-0.5 * gap.square().sum(0), self.seen.kernel)
        cross, block = s[0, :, 1:].movedim(1, 0), s[1:, :, 1:]
        turned = torch.einsum("iajb,jab->iab", block, gap)  # i, j parameters, a, b runs
        by_e = s[0, :, 0] * f1 + f2 * (2 * (cross * gap).sum(0) + block.diagonal(dim1=0, dim2=2).sum(-1))
        by_e -= f3 * (turned * gap).sum(0)
        inner = (gap * (by_e * gap - 2 * f1 * cross + 2 * f2 * turned)).sum((1, 2))
        scaled = (slope[n:] * k[n:]).view(d, -1).sum(1)
        return (inner - 2 * scaled).numpy()

    def _by_eta(self, slope: Tensor, eta: Tensor) -> np.ndarray:
        each = slope.diagonal() * nuggets(eta, self.gap.shape[1], self.seen.kernel)
        return each.view(1 + self.d, -1).sum(1).numpy()

    def starts(self, n: int, seed: int) -> list[np.ndarray]:
        """n points x to start from: lengths with which what the trend leaves of the slopes scatters as the prior has it, and
        errors that the search can lower (from tiny ones it ends in short lengths); lengths at least of the box with slopes
        that say nothing, for wrong ones; then lengths at random about the first."""
        d, length = self.d, np.clip(np.log(self._rough().numpy()), *LENGTH)
        errors = np.append(ROUGH[0], np.full(d, ROUGH[1]))
        values = np.concatenate([np.maximum(length, 0.0), self.centre[[d]], np.zeros(d)])
        noise = np.random.default_rng(seed).standard_normal((max(0, n - 2), d))
        return [np.append(length, errors), values, *(np.append(length + e, errors) for e in noise)][:n]

    def _rough(self) -> Tensor:
        """Of what the trend leaves, the scatter of the values over that of each slope `[d]`: where lengths about 1 are right."""
        one = torch.ones(self.d, dtype=self.seen.u.dtype)
        h, y = stacked(*self.seen.trend, one), stacked(self.seen.z, self.seen.slopes, one)
        left = (y - h @ (torch.linalg.pinv(h) @ y)).view(1 + self.d, -1)
        value, *slope = left.square().mean(1).sqrt().clamp_min(1e-9)
        return value / torch.stack(slope)

    def climb(self, starts: list[np.ndarray], steps: int = 200) -> np.ndarray:
        """The most probable x that L-BFGS-B (Byrd et al. 1995) reaches from the starts."""
        from scipy.optimize import minimize  # here, because loading an emulator does not need it

        options = {"maxiter": steps, "ftol": 1e-7}  # of about 10 N nats: far below what the evidence can tell
        found = [minimize(self, s, jac=True, method="L-BFGS-B", bounds=self.bounds, options=options) for s in starts]
        return min(found, key=lambda f: f.fun).x

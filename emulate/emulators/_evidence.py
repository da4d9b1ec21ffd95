"""The marginal likelihood of one Gaussian process, its gradient, and its maximum; what `gp.py` is made of.

z = h(u)^T beta + g(u), g ~ GP(0, s^2 [k(u, u') + eta delta]). With beta under a flat prior and s^2 at its maximum,
C = K + eta 1 = L L^T, L^-1 H = Q R, and P = C^-1 - C^-1 H (H^T C^-1 H)^-1 H^T C^-1, f = n - k degrees of freedom:

    s^2 = z^T P z / f,    -ln E = f/2 ln s^2 + 1/2 ln|C| + ln|R|,    d(-ln E) = 1/2 tr[(P - P z z^T P / s^2) dC]

(Rasmussen and Williams 2006, eq. 2.45 and section 5.4.1). Left-out residuals are (P z)_i / P_ii with variance s^2 / P_ii
(Dubrule 1983).
"""

import math
from collections.abc import Iterable, Iterator
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
_CACHE = 2**15  # numbers that one step of a loop may touch: they stay in the cache


def correlation(e: Tensor, kernel: str) -> Tensor:
    """k with k(0) = 1, of e = -r^2 / 2 with r the distance in units of the lengths (Rasmussen and Williams 2006, 4.2)."""
    if kernel == "rbf":
        return e.exp()
    r2 = (-2 * e).clamp_min(1e-30)  # the clamp keeps the gradient finite at a training point
    r = r2.sqrt()
    if kernel == "matern32":
        return (1 + math.sqrt(3) * r) * (-math.sqrt(3) * r).exp()
    return (1 + math.sqrt(5) * r + 5 / 3 * r2) * (-math.sqrt(5) * r).exp()


class _Exponents(torch.autograd.Function):
    """The loops of `exponents`; its derivatives are products, in which nothing cancels that has not done so in the sum."""

    @staticmethod
    def forward(u: Tensor, columns: Tensor, length: Tensor) -> Tensor:
        return _exponents(u, columns, length)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        u, columns, length = ctx.saved_tensors
        pull = g @ (columns[:, 0].T - 0.5) - g.sum(-1, keepdim=True) * (u - 0.5)  # [..., a, d]
        return (pull / length.square()[..., None, :]).sum_to_size(u.shape), None, None

    @staticmethod
    def jvp(ctx: Any, du: Tensor, *_: None) -> Tensor:
        u, columns, length = ctx.saved_tensors
        step = du / length.square()[..., None, :]
        return step @ (columns[:, 0] - 0.5) - (step * (u - 0.5)).sum(-1, keepdim=True)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: Tensor, columns: Tensor, length: Tensor) -> tuple[Tensor, int]:
        if in_dims[1] is not None or in_dims[2] is not None:
            raise NotImplementedError("torch.func.vmap must go over points u. Got points or lengths of the kernel.")
        u = u.movedim(in_dims[0], 0)  # a batch of batches is one batch of points
        e = _Exponents.apply(u.flatten(0, 1), columns, length)
        return e.unflatten(-2, u.shape[:2]).movedim(-3, 0), 0


def exponents(u: Tensor, columns: Tensor, length: Tensor) -> Tensor:
    """-|(u - v) / length|^2 / 2 `[..., a, b]` of u `[a, d]`, `columns_of(v)` and length `[..., d]`, differentiable in u.

    Squares of differences, added parameter by parameter: each point has the same bits alone and in any batch. One
    product, |u|^2 + |v|^2 - 2 u v, is faster, but cancels, in another way for each batch: weights of 1e6, which
    noise-free runs have, made 3e-10 of the outputs' scale of that.
    """
    if torch.compiler.is_compiling():
        return _exponents_of_any(u, columns, length)
    return _Exponents.apply(u, columns, length)


def _exponents(u: Tensor, columns: Tensor, length: Tensor) -> Tensor:
    rate = -0.5 / length.square()
    single = rate.tolist() if rate.ndim == 1 else rate.ravel().tolist() if len(rate) == 1 else None
    e = u.new_zeros((*length.shape[:-1], len(u), columns.shape[-1]))
    x, rate = u.T[..., None].contiguous(), rate.movedim(-1, 0)[..., None, None]
    few = x.numel() * columns.shape[-1] <= _CACHE  # all differences in one call, to the same bits
    rows = len(u) if few else max(1, _CACHE // columns.shape[-1])
    for a in range(0, len(u), rows):
        piece, part = x[:, a : a + rows], e[..., a : a + rows, :]
        gaps = piece - columns if few else map(torch.sub, piece, columns)
        for i, gap in enumerate(gaps):
            if single:
                part.addcmul_(gap, gap, value=single[i])
            else:
                part.addcmul_(gap.square_(), rate[i])
    return e


def _exponents_of_any(u: Tensor, columns: Tensor, length: Tensor) -> Tensor:
    """The same sums as one expression for any number of points: what torch.export and torch.compile can follow."""
    rates, gaps = (-0.5 / length.square()).movedim(-1, 0)[..., None, None], u.T[..., None] - columns
    single = length.ndim == 1 or length.shape[0] == 1
    e = u.new_zeros((*length.shape[:-1], 1, 1))
    for gap, rate in zip(gaps.unbind(0), rates.unbind(0), strict=True):
        e = torch.addcmul(e, rate * gap, gap) if single else torch.addcmul(e, gap.square(), rate)
    return e


def columns_of(v: Tensor) -> Tensor:
    """`[d, 1, b]` of points v `[b, d]`: each parameter in one piece."""
    return v.T[:, None].contiguous()


def basis(u: Tensor, mean: str) -> Tensor:
    """h `[..., k]`: 1, then x = 2u - 1, then the products x_i x_j."""
    x = 2 * u - 1
    parts = [torch.ones_like(x[..., :1])]
    if mean != "constant":
        parts.append(x)
    if mean == "quadratic":
        i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
        parts.append(x[..., i] * x[..., j])
    return torch.cat(parts, -1)


def determined(u: Tensor, mean: str) -> bool:
    """Whether the points u `[n, d]` fix every coefficient of the mean, with one run to spare."""
    h = basis(u, mean)
    return len(h) > h.shape[-1] and int(torch.linalg.matrix_rank(h, rtol=1e-8)) == h.shape[-1]


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


class _Squares:
    """(u_i - v_i)^2 `[n, n]` for each parameter, kept as long as that takes less than a gigabyte."""

    def __init__(self, u: Tensor):
        self.columns, self.kept = u.T.contiguous(), None
        if u.shape[-1] * len(u) ** 2 < _KEPT:
            self.kept = list(self)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.kept) if self.kept else ((x[:, None] - x).square_() for x in self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def against(self, weights: Iterable[Tensor]) -> Tensor:
        """The sums of weight x square, `[d]`."""
        return torch.stack([torch.dot(w.flatten(), q.flatten()) for w, q in zip(weights, self)])


class _Stationary:
    """k `[n, n]` at ln lengths, and what turns dL/dk into dL/d ln lengths: dk/d ln l_i = dk/de (u_i - v_i)^2 / l_i^2."""

    def __init__(self, u: Tensor, kernel: str):
        self.squares, self.name = _Squares(u), kernel

    def __call__(self, x: np.ndarray):
        rate = np.exp(-2 * x)
        e = sum(q * (-0.5 * r) for q, r in zip(self.squares, rate))

        def pull_back(slope: Tensor) -> np.ndarray:
            weight = slope * correlation_slope(e, self.name)
            return self.squares.against(repeat(weight)).numpy() * rate

        return correlation(e, self.name), pull_back


class _Additive:
    """The same for ln lengths and ln a: with W = prod_i (1 + a e_i) - 1 and c = 1 / [(1 + a)^d - 1],
    dk/de_i = c a (1 + W) / (1 + a e_i) and dk/d ln a = c (1 + W) sum_i a e_i / (1 + a e_i) - k d a / (1 + a) (1 + c)."""

    def __init__(self, u: Tensor):
        self.squares = _Squares(u)

    def __call__(self, x: np.ndarray):
        d, a, rate = len(self.squares), math.exp(x[-1]), np.exp(-2 * x[:-1])
        parts = [(q * (-0.5 * r)).exp_().mul_(a) for q, r in zip(self.squares, rate)]  # a e_i
        whole = parts[0].clone()
        for part in parts[1:]:
            whole.addcmul_(part, 1 + whole)
        c = 1 / math.expm1(d * math.log1p(a))
        k = whole * c

        def pull_back(slope: Tensor) -> np.ndarray:
            weight = slope * (1 + whole) * c
            shares = [weight * part / (1 + part) for part in parts]
            by_a = sum(s.sum() for s in shares) - (slope * k).sum() * d * a / (1 + a) * (1 + c)
            return np.append(self.squares.against(shares).numpy() * rate, float(by_a))

        return k, pull_back

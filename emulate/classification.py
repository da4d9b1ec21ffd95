r"""Binary Gaussian-process classification by expectation propagation, differentiable in where it is asked.

A latent f ~ GP(0, k) on coordinates x `[..., d]` of about the unit cube, and P(label = 1 | f) = Phi(f), with

    k(x, x') = b^2 + s^2 (1 + r + r^2 / 3) exp(-r),     r^2 = 5 sum_i (x_i - x'_i)^2 / l_i^2   (Matern 5/2)

Each label's Phi is replaced by a normal site exp(c + nu f - tau f^2 / 2) that matches the moments of f given the others
(Minka 2001; Rasmussen and Williams 2006, section 3.6); averaged over the posterior of f the probability is
Phi(m / sqrt(1 + v)). Lengths and s maximise the evidence under weak priors. Laplace's approximation finds the same
boundary but says 0.77 where it should say 0.99. A label may count several times: `weight` is for how many points it
stands, and its equal sites are raised to that power.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor
from torch.special import log_ndtr

_BIAS = 2.0  # sd of the constant b: 95 % of base rates between 3e-5 and 1 - 3e-5
_LENGTH, _SCALE = (math.log(0.7), 1.0), (math.log(2.0), 0.8)  # mean and sd of the normal priors on ln l and ln s
_DAMPING, _SWEEPS, _TOLERANCE = 0.8, 100, 1e-4


class Classifier(torch.nn.Module):
    """A fitted classifier; all that it knows are float64 buffers: points `[n, d]`, length `[d]`, scale `[]`, and the
    sites tau and nu `[n]`, the weights in them."""

    points: Tensor
    length: Tensor
    scale: Tensor
    tau: Tensor
    nu: Tensor

    def __init__(self, points: Tensor, length: Tensor, scale: Tensor, tau: Tensor, nu: Tensor):
        super().__init__()
        for name, t in {"points": points, "length": length, "scale": scale, "tau": tau, "nu": nu}.items():
            self.register_buffer(name, t.detach().clone(memory_format=torch.contiguous_format))
        k = covariance(self.points, self.points, self.length, self.scale)
        self._root = self.tau.sqrt()
        self._lower = _factor(k, self._root)
        self._pull = nu - self._root * torch.cholesky_solve((self._root * (k @ nu))[:, None], self._lower)[:, 0]

    def latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance `[...]` of f at x `[..., d]`."""
        flat = x.reshape(-1, x.shape[-1])
        k = covariance(flat, self.points, self.length, self.scale)
        v = torch.linalg.solve_triangular(self._lower, (k * self._root).T, upper=False)
        variance = (self.scale**2 + _BIAS**2 - v.square().sum(0)).clamp_min(0)
        return (k @ self._pull).reshape(x.shape[:-1]), variance.reshape(x.shape[:-1])

    def log_prob(self, x: Tensor) -> Tensor:
        """ln P(label = 1) `[...]` at x `[..., d]`: finite wherever x is, with a finite gradient."""
        mean, variance = self.latent(x)
        return log_ndtr(mean / (1 + variance).sqrt())


def train(points: Tensor, label: Tensor, weight: Tensor, *, rows: int = 200, seed: int) -> Classifier:
    """Fit to points `[n, d]` with labels `[n]` (bool), both kinds among them; lengths are found on `rows` of them."""
    sign = torch.where(label, 1.0, -1.0).to(points)
    part, gain = thinned(label, rows, seed)
    found = min((_climb(points[part], sign[part], weight[part] * gain, start) for start in _starts(points.shape[-1])),
                key=lambda r: r.fun)  # fmt: skip
    best = torch.from_numpy(np.exp(found.x))
    length, scale = best[:-1], best[-1]
    sites = _propagate(covariance(points, points, length, scale), sign, weight)
    return Classifier(points, length, scale, weight * sites.tau, weight * sites.nu)


def thinned(label: Tensor, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of at most `rows` points, half of them of the rarer kind where there are enough, and for how many points
    of its kind each stands."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(label)))
    kinds = order[label[order]], order[~label[order]]
    few = min(*map(len, kinds), rows // 2)
    kept = [k[: few if len(k) == min(map(len, kinds)) else rows - few] for k in kinds]
    gain = [torch.full((len(k),), len(whole) / max(1, len(k)), dtype=torch.float64) for k, whole in zip(kept, kinds)]
    index, place = torch.cat(kept).sort()
    return index, torch.cat(gain)[place]


def evidence(x: Tensor, sign: Tensor, weight: Tensor, length: Tensor, scale: Tensor,
             start: "Sites | None" = None) -> tuple[Tensor, "Sites"]:  # fmt: skip
    """ln p(labels | lengths, s), differentiable in length and scale, and the sites.

    Where the sites have converged the evidence does not change with them, so they carry no graph.
    """
    k = covariance(x, x, length, scale)
    with torch.no_grad():
        sites = _propagate(k.detach(), sign, weight, start)
    root, nu = (weight * sites.tau).sqrt(), weight * sites.nu
    lower = _factor(k, root)
    half = torch.linalg.solve_triangular(lower, (root * (k @ nu))[:, None], upper=False)[:, 0]
    volume = lower.diagonal().log().sum()
    return weight @ sites.c + 0.5 * (nu @ k @ nu - half @ half) - volume, sites


def covariance(a: Tensor, b: Tensor, length: Tensor, scale: Tensor) -> Tensor:
    """k(a, b) `[n, m]`; the square root is kept from 0, where its slope is infinite and the kernel's is 0."""
    a, b = a / length, b / length
    square = (a.square().sum(-1)[:, None] + b.square().sum(-1) - 2 * a @ b.T).clamp_min(1e-14)
    r = (5 * square).sqrt()
    return _BIAS**2 + scale**2 * (1 + r + r.square() / 3) * (-r).exp()


class Sites(NamedTuple):
    tau: Tensor
    nu: Tensor
    c: Tensor


def _propagate(k: Tensor, sign: Tensor, weight: Tensor, start: Sites | None = None) -> Sites:
    """All sites at once, damped, until the posterior of f stands still."""
    tau, nu, c = start or Sites(*torch.zeros(3, len(k), dtype=k.dtype))
    before, least, step = torch.full_like(nu, torch.inf), math.inf, max(_DAMPING / float(weight.max()), 0.2)
    for _ in range(_SWEEPS):
        root, total = (weight * tau).sqrt(), weight * nu
        half = torch.linalg.solve_triangular(_factor(k, root), root[:, None] * k, upper=False)
        variance = k.diagonal() - half.square().sum(0)
        mean = k @ total - half.T @ (half @ total)
        cavity = 1 / variance - tau
        shift = mean / variance - nu
        m, v = shift / cavity, 1 / cavity
        z = sign * m / (1 + v).sqrt()
        ratio = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi) - log_ndtr(z)).exp()
        matched = v - v.square() * ratio * (z + ratio) / (1 + v)
        centre = m + sign * v * ratio / (1 + v).sqrt()
        c = log_ndtr(z) - _normaliser(cavity + tau, shift + nu) + _normaliser(cavity, shift)
        moved = float(((mean - before) / (1 + mean.abs())).abs().max())
        if moved < _TOLERANCE:
            break
        step = max(0.7 * step, 0.05) if moved > least else step  # it swings
        before, least = mean, min(moved, least)
        tau = tau + step * ((1 / matched - cavity).clamp_min(0) - tau)
        nu = nu + step * (centre / matched - shift - nu)
    return Sites(tau, nu, c)


def _normaliser(tau: Tensor, nu: Tensor) -> Tensor:
    """ln of the integral of exp(nu f - tau f^2 / 2), without a constant."""
    return 0.5 * nu.square() / tau - 0.5 * tau.log()


def _factor(k: Tensor, root: Tensor) -> Tensor:
    """The Cholesky factor of 1 + T^1/2 K T^1/2, whose eigenvalues are never below 1."""
    return torch.linalg.cholesky(torch.eye(len(k), dtype=k.dtype) + root[:, None] * k * root)


def _starts(d: int) -> list[np.ndarray]:
    return [np.append(np.full(d, _LENGTH[0]), _SCALE[0]), np.append(np.full(d, math.log(0.3)), math.log(3.0))]


def _climb(x: Tensor, sign: Tensor, weight: Tensor, start: np.ndarray) -> OptimizeResult:
    mean = torch.tensor([*[_LENGTH[0]] * x.shape[-1], _SCALE[0]], dtype=x.dtype)
    sd = torch.tensor([*[_LENGTH[1]] * x.shape[-1], _SCALE[1]], dtype=x.dtype)
    last: list[Sites] = []

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        t = torch.tensor(v, dtype=x.dtype, requires_grad=True)
        with torch.enable_grad():
            value, sites = evidence(x, sign, weight, t[:-1].exp(), t[-1].exp(), *last)
            loss = 0.5 * ((t - mean) / sd).square().sum() - value
            (slope,) = torch.autograd.grad(loss, t)
        last[:] = [sites]
        return float(loss.detach()), slope.numpy()

    bounds = [(math.log(0.03), math.log(30.0))] * x.shape[-1] + [(math.log(0.05), math.log(30.0))]
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60, "ftol": 1e-7})

"""Exact Gaussian processes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.costs import Cost, affordable, steps
from emulate.distributions import Correlated
from emulate.emulators import _calibration as calibration
from emulate.emulators._arithmetic import Arithmetic, choice, made
from emulate.emulators._evidence import ROUGH, Evidence, Factors
from emulate.emulators._kernels import KERNELS, MEANS, basis, basis_slopes, columns_of, determined, kernel, slopes
from emulate.emulators._places import dealt
from emulate.emulators._threads import calm
from emulate.errors import InputError

Kernel = Literal["auto", "rbf", "matern52", "matern32", "additive"]
_LEADING = 3  # components on which "auto" compares
_FOLDS = 5  # by which error bars are scaled
_MANY, _SOME = 600, 500  # with more runs than the first, the search begins on so many of them
_ROUNDING = 1e-20  # variance of z that sums of thousands of float64 products have, where the trend explains everything
_ROWS = 256  # of a batch whose slopes are found at once
_EACH = ("variance", "weights", "beta")  # of every component; the rest of a fit is that of its kernel
_SHARED = ("length", "order", "eta", "inverse", "q", "r_inverse")


class _Fitted(Core):
    """Prediction in closed form from cached factors: no solve, no graph but that of u."""

    closed = True
    choice: Tensor  # kernel and mean, by their places in KERNELS and MEANS, and arithmetic; once without
    points: Tensor
    group: Tensor
    mix: Tensor
    variance: Tensor
    weights: Tensor
    beta: Tensor
    length: Tensor
    order: Tensor
    eta: Tensor
    inverse: Tensor
    q: Tensor
    r_inverse: Tensor

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        before = {"group": torch.arange(len(state["variance"])), "order": torch.zeros_like(state["eta"]),
                  "mix": state["eta"].new_zeros(0, 0)}  # fmt: skip
        state = {**before, **state}  # once each component had a kernel of its own, and none correlated
        for name in ("choice", "points", "group", "mix", *_EACH, *_SHARED):
            self.register_buffer(name, state[name])
        self._kernel, self._mean = KERNELS[int(self.choice[0])], MEANS[int(self.choice[1])]
        self._columns = columns_of(self.points)
        self._sizes = torch.bincount(self.group).tolist()  # components of each kernel; those of one follow each other
        self._by = made(int(self.choice[2:].sum()), self.inverse, self.q)
        self._rows = max(self._by.rows, self._by.cache // self.weights.numel())

    @property
    def log(self) -> Callable[[Tensor], Tensor]:
        return self._by.log

    def forward(self, u: Tensor) -> Normal | Correlated:
        flat = u.reshape(-1, u.shape[-1])
        if torch.compiler.is_compiling() or len(flat) <= self._rows or (torch.is_grad_enabled() and u.requires_grad):
            mean, sd = self._moments(flat)
        else:
            parts = [self._moments(part) for part in flat.split(self._rows)]
            mean, sd = (torch.cat(some, -1) for some in zip(*parts, strict=True))
        shape = (*u.shape[:-1], len(self.group))
        mean, sd = mean.T.reshape(shape), sd.T.reshape(shape)
        return Correlated(mean, sd, self.mix) if len(self.mix) else Normal(mean, sd, validate_args=False)

    def _moments(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd `[p, N]` at u `[N, d]`."""
        h = basis(u, self._mean)
        k = kernel(u, self._columns, self.length, self.order, self._kernel, self._by)  # [g, N, n]
        every = k if len(k) == len(self.group) else k[self.group]
        mean = self._by.total(every * self.weights[:, None]) + self._by.total(h * self.beta[:, None])
        v = self._by.whitened(k, self.inverse)
        t = self._by.lack(h, v, self.r_inverse, self.q)
        spread = (1 - self._by.total(v.square())).clamp_min(0) + self._by.total(t.square()) + self.eta[:, None]
        return mean, (self.variance[:, None] * spread[self.group] + _ROUNDING).sqrt()

    @property
    def noise(self) -> Tensor:
        """The part `[p]` of the variance that belongs to a run and not to the mean: s^2 eta."""
        return self.variance * self.eta[self.group] + _ROUNDING

    @torch.no_grad()
    def covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """cov(mean(a), mean(b)) `[p, A, B]` of the process given its runs, at a `[A, d]` and b `[B, d]`."""
        (v, t), (w, s) = (self._white(x) for x in (a, b))
        k = kernel(a, columns_of(b), self.length, self.order, self._kernel)
        return (self.variance[:, None, None]) * (k - v @ w.mT + t @ s.mT)[self.group]

    def _white(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """L^-1 k(u) `[g, N, n]` and R^-T h - Q^T L^-1 k(u) `[g, N, k]`."""
        v = kernel(u, self._columns, self.length, self.order, self._kernel) @ self.inverse.mT
        return v, basis(u, self._mean) @ self.r_inverse - v @ self.q

    def slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self._slopes(part) for part in ([u] if torch.compiler.is_compiling() else u.split(_ROWS))]
        mean, variance = (torch.cat(some, 1).movedim(1, 0) for some in zip(*parts, strict=True))
        return mean, variance

    def _slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The formulas of `_moments` differentiated, `[p, N, d]`."""
        h, dh = basis(u, self._mean), basis_slopes(u, self._mean)
        of_kernel = (u, self._columns, self.length, self.order, self._kernel, self._by)
        k, by_kernel = kernel(*of_kernel), slopes(*of_kernel)  # [d, g, N, n]
        parts = zip(by_kernel.unbind(1), self.weights.split(self._sizes))
        mean = torch.cat([self._by.weighted(rate, w) for rate, w in parts], -1).permute(2, 1, 0)
        mean = mean + torch.einsum("pk,nkd->pnd", self.beta, dh)
        v = self._by.whitened(k, self.inverse)
        t = self._by.lack(h, v, self.r_inverse, self.q)
        inside = (v.square().sum(-1, keepdim=True) < 1) * v
        pulled = -2 * (inside + t @ self.q.mT) @ self.inverse
        spread = (by_kernel * pulled).sum(-1).movedim(0, -1)
        spread = spread + 2 * torch.einsum("gnk,nkd->gnd", t @ self.r_inverse.mT, dh)
        return mean, self.variance[:, None, None] * spread[self.group]


@dataclass(frozen=True, kw_only=True)
class GP(Recipe):
    r"""Exact Gaussian process for each component: the first choice for smooth simulators, up to a thousand runs.

    z = h(u)^T beta + g(u), g ~ GP(0, s^2 [k + eta delta]), one length per parameter. Lengths and eta maximise the
    marginal likelihood under weak priors by Newton's steps from several starts; beta is integrated out and s^2 profiled.
    Prediction (universal kriging; Rasmussen and Williams 2006, eq. 2.42) with C = L L^T, L^-1 H = Q R, v = L^-1 k(u):

        mean = k^T C^-1 (z - H beta) + h^T beta,    variance = s^2 (1 - |v|^2 + |R^-T h - Q^T v|^2 + eta)

    A deterministic simulator has no noise: eta is a nugget between 1e-15 n (1e-13 up to a hundred runs) and 1e-3, for
    Cholesky and for structure finer than the distance of the runs. (With 1e-6 as the bound short lengths took that
    structure; the derivative of P(k) of 128 N-body runs was then off by 0.79 % and not 0.62 %.) The variance is what is left of
    1, so a standard deviation below some 1e-4 s may be rounding's, and too wide. For a stochastic one
    eta is free and the prediction is that of a single run, noise included. "auto" takes the kernel and mean with the
    highest leave-one-out log density on the three leading components; a richer one must win by two standard errors.
    The additive kernel weighs every order of interaction: where parameters hardly interact it errs a quarter of what
    the rbf does (100 runs of the wing's weight).
    Components come in the order of their variance: from the ninth on (`kernels`) they share lengths and eta, which maximise
    the sum of their likelihoods, so that a spectrum costs little more than eight numbers.

    `calibrate` leaves each fifth of the runs out in turn, lengths and all, and scales the standard deviations so that
    intervals of 80, 90 and 95 % would have held so many of them; components err together as they did there. Over 96 fits
    of four functions, 100 runs, intervals of 95 % then hold 95 % of new points. Those of one fit scatter: half of the fits lie
    between 94 and 98 %.

    Smooth functions have weights C^-1 (z - H beta) of 1e4 to 1e9 that cancel and magnify the last bits of exp and of sums,
    which differ between machines and libraries: up to 4e-6 of what a component of 200 runs varies by, far less than the
    process errs, and 9 % of a small variance. With `arithmetic: portable` all round alike (see `_arithmetic.py`), also an
    exported graph in onnxruntime, which then differs by 1e-14, for 1.2 to 1.8 times the time of one point and 2 to 7 times
    that of thousands. "auto" is portable for up to 32 runs with weights above 1e4, and else the libraries of torch.

    >>> GP(mean="quadratic").minimum_runs(2)
    8
    """

    log: bool | Literal["auto"] = "auto"  # ln y for positive fields; auto: by the density of runs that were left out
    kernel: Kernel = "auto"  # rbf and additive have all derivatives, matern52 two, matern32 one
    mean: Literal["auto", "constant", "linear", "quadratic"] = "auto"  # the trend below the process
    noise: Literal["auto", "fixed", "fitted"] = "auto"  # auto: fitted for a stochastic simulator, else a tiny nugget
    kernels: Annotated[int, Ge(1)] = 8  # components with lengths and eta of their own; the rest share theirs
    starts: Annotated[int, Ge(1)] = 3  # starting points of the search for the lengths and eta
    arithmetic: Arithmetic = (
        "auto"  # of predictions; portable: the same bits everywhere, and longer; auto: where it matters
    )

    def minimum_runs(self, d: int) -> int:
        return 2 + {"linear": 1 + d, "quadratic": (d + 1) * (d + 2) // 2}.get(self.mean, 1)

    def quick(self) -> "GP":
        kernel, mean = (
            ("additive" if self.kernel == "auto" else self.kernel),
            ("constant" if self.mean == "auto" else self.mean),
        )
        quicker = replace(self, kernel=kernel, mean=mean, kernels=1, calibrate=False)
        return self if self == quicker else quicker

    def cost(self, n: int, d: int, p: int) -> Cost:
        """As long as 15 steps for each kernel, folds included, and 60 for the choice, which some hundred runs make; n^2 numbers
        of each kernel are kept."""
        kernels = min(p, self.kernels + 1)
        seconds = 15 * kernels * steps(n, d) + 60 * min(p, _LEADING) * steps(min(n, _MANY), d)
        return Cost(seconds, 8 * n**2 * (16 + d + 2 * kernels), "use svgp, or a network such as mlp")

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int) -> Core:
        affordable("gp", self.cost(len(u), u.shape[1], z.shape[1]), f"{len(u)} runs")
        noisy = noisy if self.noise == "auto" else self.noise == "fitted"
        d, rng = u.shape[-1], np.random.default_rng(seed)
        known = [np.zeros(d), np.append(np.zeros(d), ROUGH), np.full(d, np.log(0.4))]
        starts = [*known, *rng.normal(0.0, 1.0, (max(0, self.starts - len(known)), d))][: self.starts]
        with calm(len(u)):
            kernel, mean, found = self._choose(u, z[:, :_LEADING], noisy, starts)
            own = max(self.kernels, len(found)) if z.shape[1] > self.kernels + 1 else z.shape[1]
            parts = [*z[:, :own].split(1, 1), *([z[:, own:]] if own < z.shape[1] else [])]
            found += [_fit(u, part, kernel, mean, noisy, starts) for part in parts[len(found) :]]
            core = _Fitted(_joined(u, kernel, mean, found, self.arithmetic))
            left_out = [torch.cat([getattr(f, name) for f in found], 1) for name in ("left_out", "spread")]
            if self.calibrate:
                left_out = _blind(u, parts, kernel, mean, noisy, found) or left_out
                scale = calibration.scale(left_out[0] / left_out[1].sqrt())
                core.variance, left_out[1] = core.variance * scale.square(), left_out[1] * scale.square()
                core.mix = calibration.mix(left_out[0] / left_out[1].sqrt())
        residual, sd = left_out[0], left_out[1].sqrt()
        core.left_out = Correlated(z - residual, sd, core.mix) if len(core.mix) else Normal(z - residual, sd)
        return core

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Fitted(state)

    def _choose(self, u: Tensor, z: Tensor, noisy: bool, starts: list[np.ndarray]) -> tuple[str, str, list["_Fit"]]:
        """Kernel, mean, and the fits of the leading components."""
        some = _part(len(u))
        first, *richer = self._means(u, some)
        kernel = "rbf" if self.kernel == "auto" else self.kernel
        v, parts = u[some], z[some].split(1, 1)
        best = kernel, first, [_fit(v, x, kernel, first, noisy, starts) for x in parts]
        rivals = [(None, mean) for mean in richer]
        rivals += [(k, None) for k in ("matern52", "additive")[: v.shape[-1]]] if self.kernel == "auto" else []
        for rival in rivals:
            kernel, mean = rival[0] or best[0], rival[1] or best[1]
            found = [_fit(v, x, kernel, mean, noisy, [_lengths(f.x, v.shape[-1]), starts[0]])
                     for x, f in zip(parts, best[2], strict=True)]  # fmt: skip
            pairs = zip(found, best[2], strict=True)
            gain = reduce(add, (new.log_density - old.log_density for new, old in pairs))  # of every run
            if gain.sum() > 2 * gain.std() * len(gain) ** 0.5:
                best = kernel, mean, found
        if len(v) < len(u):
            kernel, mean, found = best
            pairs = zip(z.split(1, 1), found, strict=True)
            best = kernel, mean, [_fit(u, x, kernel, mean, noisy, [f.x]) for x, f in pairs]
        return best

    def _means(self, u: Tensor, some: Tensor) -> list[str]:
        """The means to try: the one asked for, or a constant and the richest with half of the runs to spare."""
        if self.mean != "auto":
            if not (determined(u, self.mean) and determined(u[some], self.mean)):
                raise InputError(f"gp: mean must have coefficients that the runs determine. Got mean = {self.mean!r} and "
                                 f"{len(u)} runs, too few or at too few places; choose a simpler mean.")  # fmt: skip
            return [self.mean]
        u = u[some]
        rich = [m for m in ("quadratic", "linear") if 2 * basis(u[:1], m).shape[-1] <= len(u) and determined(u, m)]
        return ["constant", *rich[:1]]


class _Fit(NamedTuple):
    """Of components `[n, c]` with one kernel."""

    x: np.ndarray  # ln lengths, the additive kernel's order, ln eta
    left_out: Tensor  # [n, c], residual of every run left out in turn
    spread: Tensor  # [n, c], its variance
    state: dict[str, Tensor]

    @property
    def log_density(self) -> np.ndarray:
        """`[n]`, of every run left out in turn, summed over the components."""
        return (-0.5 * (self.left_out.square() / self.spread + self.spread.log())).sum(1).numpy()


def _part(n: int) -> Tensor:
    """Rows on which a search begins: all, or evenly spread ones of many."""
    return torch.arange(n) if n <= _MANY else torch.linspace(0, n - 1, _SOME).long()


def _lengths(x: np.ndarray, d: int) -> np.ndarray:
    return np.append(x[:d], x[-1])


def _joined(u: Tensor, kernel: str, mean: str, fits: list[_Fit], arithmetic: Arithmetic) -> dict[str, Tensor]:
    """The state of a core of several fits."""
    state = {name: torch.cat([f.state[name] for f in fits]) for name in _EACH}
    state |= {name: torch.stack([f.state[name] for f in fits]) for name in _SHARED}
    sizes = torch.tensor([len(f.state["variance"]) for f in fits])
    kinds = torch.tensor([KERNELS.index(kernel), MEANS.index(mean), choice(arithmetic, state["weights"], len(u))])
    return {**state, "group": torch.repeat_interleave(sizes), "points": u.contiguous(), "choice": kinds}


def _fit(u: Tensor, z: Tensor, name: str, mean: str, noisy: bool, starts: list[np.ndarray]) -> _Fit:
    some = _part(len(u))
    if len(some) < len(u) and len(starts) > 1:
        starts = [Evidence(u[some], z[some], name, mean, noisy=noisy).climb(starts)]
    evidence, d = Evidence(u, z, name, mean, noisy=noisy), u.shape[-1]
    x = evidence.climb(starts)
    f: Factors[Tensor] = Factors(*map(torch.from_numpy, evidence.factors(x)))
    inverse = torch.linalg.solve_triangular(f.lower, torch.eye(len(u), dtype=u.dtype), upper=False)
    r_inverse = torch.linalg.inv(f.r)
    outside = inverse - f.q @ (f.q.T @ inverse)  # P = outside^T outside
    precision = outside.square().sum(0)[:, None]
    solved = torch.linalg.solve_triangular(f.lower.T, f.residual, upper=True)  # not by `inverse`, whose rounding grows
    weights, beta = solved.T, (r_inverse @ (f.q.T @ f.white)).T
    state = {"variance": f.variance, "weights": weights.contiguous(), "beta": beta.contiguous(),
             "length": torch.from_numpy(np.exp(x[:d])),
             "order": torch.tensor(x[d] if len(x) > d + 1 else 0.0, dtype=u.dtype),
             "eta": torch.tensor(np.exp(x[-1]), dtype=u.dtype), "inverse": inverse, "q": f.q.contiguous(),
             "r_inverse": r_inverse}  # fmt: skip
    return _Fit(x, solved / precision, f.variance / precision, state)


def _blind(
    u: Tensor, parts: list[Tensor], kernel: str, mean: str, noisy: bool, fits: list[_Fit]
) -> list[Tensor] | None:
    """Residuals and variances `[n, p]` of runs by folds whose process, and its lengths, never saw them."""
    fold = dealt(u, _FOLDS).numpy()
    folds = [fold == i for i in np.unique(fold)]
    if not all(determined(u[~out], mean) for out in folds):
        return None
    residual, spread = ([np.empty(z.shape) for z in parts] for _ in range(2))
    for i, (z, f) in enumerate(zip(parts, fits, strict=True)):
        evidence = Evidence(u, z, kernel, mean, noisy=noisy)
        for out in folds:
            x = Evidence(u[~out], z[~out], kernel, mean, noisy=noisy).climb([f.x])
            residual[i][out], spread[i][out] = evidence.factors(x).without(out)
    return [torch.from_numpy(np.concatenate(some, 1)) for some in (residual, spread)]

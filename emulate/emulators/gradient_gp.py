"""Exact Gaussian processes of runs that carry their Jacobians."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.costs import Cost
from emulate.emulators._agreement import doubt
from emulate.emulators._arithmetic import Arithmetic, choice, made
from emulate.emulators._derivatives import KERNELS, Evidence, Seen, covariance, determined, radial, trend
from emulate.emulators._kernels import MEANS, basis
from emulate.emulators._places import dealt
from emulate.emulators._threads import calm
from emulate.errors import InputError
from emulate.runs import Runs

_LEADING = 3  # components on which "auto" compares
_FOLDS = 5
_SHORT = 40  # iterations of a search that starts at lengths found before
_ROUNDING = 1e-20  # variance of z that sums of thousands of float64 products have, where the trend explains everything
_EACH = ("variance", "weights", "beta")  # of every component; the rest of a fit is that of its kernel
_SHARED = ("length", "eta", "inverse", "q", "r_inverse")
_EXACT = 1e-7  # of the size of a component's slopes: where some are exactly 0, only an error keeps ln E finite
_SINGULAR = 1e-12  # of a run that alone determines a coefficient of the mean


class _Fitted(Core):
    """Prediction in closed form from cached factors: no solve, no graph but that of u."""

    closed = True
    choice: Tensor  # kernel and mean, by their places in KERNELS and MEANS
    points: Tensor
    group: Tensor
    variance: Tensor
    weights: Tensor
    beta: Tensor
    length: Tensor
    eta: Tensor
    inverse: Tensor
    q: Tensor
    r_inverse: Tensor

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        for name in ("choice", "points", "group", *_EACH, *_SHARED):
            self.register_buffer(name, state[name])
        self._kernel, self._mean = KERNELS[int(self.choice[0])], MEANS[int(self.choice[1])]
        self._by = made(int(self.choice[2:].sum()), self.inverse, self.q)
        self._rows = max(1, 4 * self._by.cache // max(self.weights.numel(), self.inverse[..., 0].numel()))

    @property
    def log(self) -> Callable[[Tensor], Tensor]:
        return self._by.log

    def forward(self, u: Tensor) -> Normal:
        flat = u.reshape(-1, u.shape[-1])
        if torch.compiler.is_compiling() or len(flat) <= self._rows or (torch.is_grad_enabled() and u.requires_grad):
            mean, sd = self._moments(flat)
        else:
            parts = [self._moments(part) for part in flat.split(self._rows)]
            mean, sd = (torch.cat(some, -1) for some in zip(*parts, strict=True))
        shape = (*u.shape[:-1], len(self.group))
        return Normal(mean.T.reshape(shape), sd.T.reshape(shape), validate_args=False)

    def slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        rows = max(1, self._rows // (1 + u.shape[-1]))
        parts = [self._slopes(part) for part in ([u] if torch.compiler.is_compiling() else u.split(rows))]
        mean, variance = (torch.cat(some) for some in zip(*parts, strict=True))
        return mean, variance

    def _gaps(self, u: Tensor) -> list[Tensor]:
        """D_j `[g, N, n]` of each parameter j, in units of the lengths of g kernels."""
        return [(u[:, i, None] - self.points[:, i]) / self.length[:, i, None, None] for i in range(u.shape[-1])]

    def _moments(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd `[p, N]` at u `[N, d]`."""
        gaps, h = self._gaps(u), basis(u, self._mean)
        f, f1, _, _ = radial(-0.5 * reduce(add, (gap.square() for gap in gaps)), self._kernel, self._by)
        k = torch.cat([f, *(f1 * gap for gap in gaps)], -1)  # [g, N, (1 + d) n]
        every = k if len(k) == len(self.group) else k[self.group]
        mean = self._by.total(every * self.weights[:, None]) + self._by.total(h * self.beta[:, None])
        v, t = self._whitened(k, h)
        spread = (1 - self._by.total(v.square())).clamp_min(0) + self._by.total(t.square()) + self.eta[:, :1]
        return mean, (self.variance[:, None] * spread[self.group] + _ROUNDING).sqrt()

    def _whitened(self, k: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """v = L^-1 k `[g, N, (1 + d) n]` and t = R^-T h - Q^T v `[g, N, k]`."""
        v = self._by.whitened(k, self.inverse)
        return v, self._by.lack(h, v, self.r_inverse, self.q)

    def _slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        gaps = self._gaps(u)
        h, by_u = trend(u, self._mean)
        f, f1, f2, _ = radial(-0.5 * reduce(add, (gap.square() for gap in gaps)), self._kernel, self._by)
        v, t = self._whitened(torch.cat([f, *(f1 * gap for gap in gaps)], -1), h)
        inside = v.square().sum(-1, keepdim=True) < 1  # elsewhere rounding has cut that part of the variance off at 0
        pulled = (torch.where(inside, v, 0.0) + t @ self.q.mT) @ self.inverse
        spread = torch.einsum("gNk,Nkd->gNd", t @ self.r_inverse.mT, by_u)
        spread = 2 * (spread - self._along(gaps, f1, f2, pulled, self.length))
        mean = torch.einsum("Nkd,pk->pNd", by_u, self.beta)
        if len(self.length) < len(self.group):
            gaps, f1, f2 = [gap[self.group] for gap in gaps], f1[self.group], f2[self.group]
        mean = mean + self._along(gaps, f1, f2, self.weights[:, None], self.length[self.group])
        return mean.movedim(0, 1), (self.variance[:, None, None] * spread[self.group]).movedim(0, 1)

    def _along(self, gaps: list[Tensor], f1: Tensor, f2: Tensor, weights: Tensor, length: Tensor) -> Tensor:
        """dk/du^T w `[..., N, d]` of weights w, those of the values and then those of the slopes."""
        value, *slope = weights.chunk(1 + len(gaps), -1)
        steep = f1 * value + f2 * reduce(add, (gap * w for gap, w in zip(gaps, slope, strict=True)))
        pulls = [self._by.total(f1 * w - gap * steep) for gap, w in zip(gaps, slope, strict=True)]
        return torch.stack(pulls, -1) / length[:, None]


@dataclass(frozen=True, kw_only=True)
class GradientGP(Recipe):
    r"""Gaussian process that learns from values and Jacobians: several times fewer runs for the same error.

    Each run says 1 + d numbers of every component instead of one (gradient-enhanced kriging; Morris, Mitchell and
    Ylvisaker 1993; Rasmussen and Williams 2006, section 9.4; Wu et al. 2017). It pays where a run with its Jacobian costs
    less than the runs it saves: three of the N-body spectrum with four parameters, more with more parameters. The process,
    its trend and its variance are those of `gp`, for y = (z, dz/du) and with the slopes of k and h beside their values:

        mean = k^T C^-1 (y - H beta) + h^T beta,    variance = s^2 (1 - |v|^2 + |R^-T h - Q^T v|^2 + eta)

    The values have a nugget, and the slopes by each parameter one of their own, which is always fitted, in units of their
    prior variance, and may be large: Jacobians of finite differences, or of a function with kinks, are trusted as far as
    the runs bear them out, and wrong ones are left aside; where the values contradict them, as in another unit, `fit` warns.
    (With one nugget for all of them 50 runs of the borehole had an error of 0.39 % and not 0.11 %: where one slope is steep
    at the edge of the box, it spoiled the others.) "auto" takes the kernel and mean with the highest log density of the
    values of runs that are left out whole, with their slopes, in closed form; a richer one must win by two standard errors.
    The slopes of matern32 have no derivative, so it is not offered. `calibrate` and `arithmetic` are those of `gp`.

    Cost: some hundred steps for each of the first `kernels` components, each of which solves one system of N = n (1 + d)
    numbers; N^2 numbers of each are kept for the variance. `most` is there lest a fit takes hours and a file a gigabyte.

    >>> GradientGP().minimum_runs(8)
    3
    """

    takes: ClassVar[tuple[str, ...]] = ("slopes",)
    needs_slopes: ClassVar[bool] = True

    kernel: Literal["auto", "rbf", "matern52"] = "auto"  # smoothness: infinite, 2 derivatives
    mean: Literal["auto", "constant", "linear", "quadratic"] = "auto"  # the trend below the process
    noise: Literal["auto", "fixed", "fitted"] = "auto"  # of the values; auto: fitted for a stochastic simulator
    kernels: Annotated[int, Ge(1)] = 8  # components with lengths and nuggets of their own; the rest share theirs
    starts: Annotated[int, Ge(1)] = 2  # starting points of the search for the lengths and nuggets
    arithmetic: Arithmetic = (
        "auto"  # of predictions; portable: the same bits everywhere, and longer; auto: where it matters
    )
    most: Annotated[int, Ge(1)] = 3000  # size of the system, runs x (1 + parameters), from which on it is refused

    def minimum_runs(self, d: int) -> int:
        return {"quadratic": d + 2}.get(self.mean, 3)

    def cost(self, n: int, d: int, p: int) -> Cost:
        size, kernels = n * (1 + d), min(p, self.kernels + 1)
        return Cost(65 * kernels * 1e-10 * size**3, 8 * size**2 * (8 + kernels), "use gp, which reads the values alone")

    def doubt(self, runs: Runs) -> str:
        return doubt(runs) if runs.jacobian is not None else ""

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int, slopes: Tensor) -> Core:
        noisy = noisy if self.noise == "auto" else self.noise == "fitted"
        self._refuse(*u.shape)
        noise = np.random.default_rng(seed).standard_normal(slopes.shape)
        size = slopes.square().mean((0, 2), keepdim=True).sqrt()
        slopes = slopes + _EXACT * size * torch.from_numpy(noise)
        with calm(slopes[:, 0].numel() + len(u)):
            leading = [(z[:, [i]], slopes[:, [i]]) for i in range(min(_LEADING, z.shape[1]))]
            kernel, mean, fits = self._choose(u, leading, noisy, seed)
            own = max(self.kernels, len(fits)) if z.shape[1] > self.kernels + 1 else z.shape[1]
            parts = [slice(i, i + 1) for i in range(len(fits), own)] + [slice(own, None)] * (own < z.shape[1])
            rest = [Seen(u, z[:, part], slopes[:, part], kernel, mean) for part in parts]
            fits += [_fit(seen, noisy, self.starts, seed=seed) for seen in rest]
            factors = [_inflation(f, noisy) if self.calibrate else torch.ones_like(f.spread[0]) for f in fits]
        state, inflation = _joined(fits, self.arithmetic), torch.cat(factors)
        core = _Fitted({**state, "variance": state["variance"] * inflation})
        residual, spread = (torch.cat(some, 1) for some in zip(*((f.residual, f.spread) for f in fits), strict=True))
        core.left_out = Normal(z - residual, (spread * inflation + _ROUNDING).sqrt(), validate_args=False)
        return core

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Fitted(state)

    def _refuse(self, n: int, d: int) -> None:
        if (size := n * (1 + d)) > self.most:
            raise InputError(f"gradient_gp: runs x (1 + parameters) must be at most most = {self.most}. Got {n} x {1 + d} = "
                             f"{size}, which takes up to {8e-9 * size**2 * (8 + self.kernels):.3g} GB of memory and "
                             f"{1e-10 * size**3:.3g} s on one core for each of some hundred steps. Train on fewer runs, use gp, "
                             "which reads the values alone, or raise most.")  # fmt: skip

    def _choose(self, u: Tensor, parts: list[tuple[Tensor, Tensor]], noisy: bool,
                seed: int) -> tuple[str, str, list["_Fit"]]:  # fmt: skip
        """Kernel, mean, and the fits of the leading components."""
        first, *richer = self._means(u)
        kernel = "rbf" if self.kernel == "auto" else self.kernel
        best = kernel, first, [_fit(Seen(u, *part, kernel, first), noisy, self.starts, seed=seed) for part in parts]
        rivals = [(kernel, mean) for mean in richer] + [("matern52", None)] * (self.kernel == "auto")
        for kernel, mean in rivals:
            mean = mean or best[1]
            found = [_fit(Seen(u, *part, kernel, mean), noisy, f.x) for part, f in zip(parts, best[2], strict=True)]
            gain = reduce(
                add, ((new.density - old.density).sum(1) for new, old in zip(found, best[2], strict=True))
            )  # per run
            if gain.sum() > 2 * gain.std() * len(gain) ** 0.5:
                best = kernel, mean, found
        return best

    def _means(self, u: Tensor) -> list[str]:
        """The means to try: the one asked for, or a linear one, which two runs determine, and a quadratic one that leaves
        half of the numbers to spare."""
        if self.mean != "auto":
            if not determined(u, self.mean):
                raise InputError(f"gradient_gp: mean must have coefficients that the runs determine. Got mean = {self.mean!r} "
                                 f"and {len(u)} runs, too few or at too few places; choose a simpler mean.")  # fmt: skip
            return [self.mean]
        room = 2 * basis(u[:1], "quadratic").shape[-1] <= u.numel() + len(u)
        return ["linear", *(["quadratic"] if room and determined(u[1:], "quadratic") else [])]


class _Fit(NamedTuple):
    """Of components `[n, c]` with one kernel; each run left out in turn, its value and its slopes together."""

    seen: Seen
    x: np.ndarray  # ln lengths, ln eta
    residual: Tensor  # [n, c] of the values that were left out
    spread: Tensor  # [n, c], their variance
    state: dict[str, Tensor]

    @property
    def density(self) -> Tensor:
        """ln p `[n, c]` but for a constant."""
        spread = self.spread.clamp_min(_ROUNDING)
        return -0.5 * (self.residual.square() / spread + spread.log())


def _joined(fits: list[_Fit], arithmetic: Arithmetic = "library") -> dict[str, Tensor]:
    """The state of a core of several fits with the same kernel and mean."""
    seen = fits[0].seen
    state = {name: torch.cat([f.state[name] for f in fits]) for name in _EACH}
    state |= {name: torch.stack([f.state[name] for f in fits]) for name in _SHARED}
    sizes = torch.tensor([len(f.state["variance"]) for f in fits])
    kinds = torch.tensor(
        [KERNELS.index(seen.kernel), MEANS.index(seen.mean), choice(arithmetic, state["weights"], len(seen.u))]
    )
    return {**state, "group": torch.repeat_interleave(sizes), "points": seen.u.contiguous(), "choice": kinds}


def _fit(seen: Seen, noisy: bool, start: int | np.ndarray, *, seed: int = 0, steps: int = 200) -> _Fit:
    """From so many starts, or from one x that is known."""
    n, d = seen.u.shape
    evidence = Evidence(seen, noisy=noisy)
    x = evidence.climb(evidence.starts(start, seed) if isinstance(start, int) else [start], steps)
    length, eta = torch.from_numpy(np.exp(x)).split([d, 1 + d])
    gap = (seen.u.T[:, :, None] - seen.u.T[:, None, :]) / length[:, None, None]
    while (f := seen.factors(covariance(gap, seen.kernel), length, eta)) is None:
        eta = 10 * eta  # rounding differs a little from that of the search
    inverse = torch.linalg.solve_triangular(f.lower, torch.eye(len(f.lower), dtype=gap.dtype), upper=False)
    r_inverse = torch.linalg.inv(f.r)
    weights = torch.linalg.solve_triangular(f.lower.T, f.residual, upper=True)
    state = {"variance": f.variance, "weights": weights.T.contiguous(),
             "beta": (r_inverse @ (f.q.T @ f.white)).T.contiguous(), "length": length, "eta": eta, "inverse": inverse,
             "q": f.q.contiguous(), "r_inverse": r_inverse}  # fmt: skip
    return _Fit(seen, x, *_left_out(inverse - f.q @ (f.q.T @ inverse), f.residual, f.variance, n), state)


def _left_out(outside: Tensor, residual: Tensor, variance: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Residuals of the values `[n, c]` of runs left out whole, and their variance.

    With P = B^T B and the columns B_i = Q_i R_i of run i, y_i less its prediction by the others is P_ii^-1 (P y)_i =
    R_i^-1 Q_i^T B y, of covariance s^2 (R_i^T R_i)^-1 (Dubrule 1983, for blocks); a value is the first of its run.
    """
    block = outside.view(len(outside), -1, n).movedim(2, 0)  # [n, N, 1 + d]
    q, r = torch.linalg.qr(block)
    r.diagonal(dim1=1, dim2=2).add_(_SINGULAR)
    first = torch.zeros_like(r[..., :1])
    first[:, 0] = 1
    row = torch.linalg.solve_triangular(r.mT, first, upper=False)  # the first row of R^-1
    return (row * (q.mT @ residual)).sum(1), row.square().sum(1) * variance


def _inflation(fit: _Fit, noisy: bool) -> Tensor:
    """Mean square of the standardised residuals of runs that neither the process nor its lengths saw, and its error, `[c]`."""
    seen, fold, square = fit.seen, dealt(fit.seen.u, _FOLDS), []
    for out in (fold == i for i in fold.unique()):
        inside, left = seen.select(~out), seen.select(out)
        if determined(inside.u, seen.mean):
            p = _Fitted(_joined([_fit(inside, noisy, fit.x, steps=_SHORT)]))(left.u)
            square.append((left.z - p.mean).square() / p.variance)
    if len(square) < 2:
        return torch.ones_like(seen.z[0])
    error = torch.stack([fold.mean(0) for fold in square]).std(0) / len(square) ** 0.5
    return (torch.cat(square).mean(0) + error).clamp_min(0.5)

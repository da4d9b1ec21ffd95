"""Gaussian processes of many runs by inducing points."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, cast

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.costs import Cost, affordable, products, steps
from emulate.devices import chosen
from emulate.distributions import Correlated
from emulate.emulators import _calibration as calibration
from emulate.emulators._evidence import NOISE, ROUGH, Evidence, nugget
from emulate.emulators._iterative import Covariance
from emulate.emulators._kernels import KERNELS, MEANS, basis, columns_of, determined, kernel
from emulate.emulators._threads import calm
from emulate.emulators.gp import _EACH, _SHARED, _Fitted
from emulate.errors import InputError

_ALIKE = 1e-11  # share of its variance that is left of a point which the inducing points before it explain: rounding
_NUMBERS = 2**22  # that one part of a batch may hold
_SOLVED = 1e-6  # of the right-hand side that a solve by conjugate gradients may leave
_ROWS = 2048  # runs whose kernel is held at a time
_SHRINK = (1.0, 0.7, 0.5, 0.35, 0.25)  # of lengths that some of the runs show
_TRIED = 40  # values of ln eta


class _Exact(Core):
    """The mean by all runs, the variance by the inducing points."""

    runs: Tensor
    by_runs: Tensor
    trend: Tensor

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.sparse = _Fitted({n.removeprefix("sparse."): t for n, t in state.items() if n.startswith("sparse.")})
        for name in ("runs", "by_runs", "trend"):
            self.register_buffer(name, state[name])
        self._columns = columns_of(self.runs)
        self._rows = max(1, _NUMBERS // self.by_runs.numel())

    def forward(self, u: Tensor) -> Normal | Correlated:
        p, flat = self.sparse(u), u.reshape(-1, u.shape[-1])
        parts = [flat] if torch.compiler.is_compiling() else flat.split(self._rows)
        mean = torch.cat([self._mean(part) for part in parts], -1).T.reshape(p.stddev.shape)
        mix = self.sparse.mix
        return Correlated(mean, p.stddev, mix) if len(mix) else Normal(mean, p.stddev, validate_args=False)

    def _mean(self, u: Tensor) -> Tensor:
        """`[p, N]` at u `[N, d]`."""
        sparse = self.sparse
        k = kernel(u, self._columns, sparse.length, sparse.order, sparse._kernel)
        every = k if len(k) == len(sparse.group) else k[sparse.group]
        return (every * self.by_runs[:, None]).sum(-1) + self.trend @ basis(u, sparse._mean).T


@dataclass(frozen=True, kw_only=True)
class SVGP(Recipe):
    r"""Sparse Gaussian process: thousands to 10^5 runs, seen through some hundred inducing points.

    z = h(u)^T beta + g(u) as in `gp`, with g known by its values at m inducing points (Titsias 2009; here with beta
    integrated out and s^2 profiled): with K_mm = L L^T, A = K_nm L^-T and A^T A = V diag(lambda) V^T, C = A A^T + eta 1,

        mean = k_m^T L^-T (A^T A + eta)^-1 A^T (z - H beta) + h^T beta,
        variance = s^2 (1 - |v|^2 + |t|^2 + eta),    v = diag(lambda / (lambda + eta))^(1/2) V^T L^-1 k_m(u)

    with t the share of the trend as in `gp`, so that the fitted core is that of `gp`. The lengths maximise the marginal
    likelihood of `part` runs in closed form; inducing points are runs, each the one that the others before it explain least
    (Burt, Rasmussen and van der Wilk 2020); eta maximises the density of every run left out in turn, in closed form too.
    So nothing is drawn in minibatches, and a fit costs n m^2 for every kernel and component. `calibrate` is that of `gp`,
    by the runs left out, one at a time: the other runs of its point stay, and of repeated runs the error bars know the noise
    but less of the mean between the points.

    With `exact` the mean is that of the exact process of all runs with those lengths and eta, by conjugate gradients before
    which the inducing points stand (Gardner et al. 2018), on a GPU where `device` says so: for functions of which some
    hundred points miss too much. The error bars stay those of the inducing points, which are wider, and every run is kept.

    >>> SVGP(inducing=100).minimum_runs(3)
    3
    """

    log: bool | Literal["auto"] = "auto"  # ln y for positive fields; auto: by the density of runs that were left out
    kernel: Literal["rbf", "matern52", "matern32", "additive"] = "rbf"  # rbf and additive for smooth outputs
    mean: Literal["auto", "constant", "linear", "quadratic"] = "auto"  # the trend; auto: the richest that pays
    noise: Literal["auto", "fixed", "fitted"] = "auto"  # auto: fitted for a stochastic simulator, else what is missed
    inducing: Annotated[int, Ge(1)] = 500  # points through which the runs are seen, m
    part: Annotated[int, Ge(10)] = 1000  # runs by which the lengths are found
    kernels: Annotated[int, Ge(1)] = 4  # components with lengths and eta of their own; the rest share theirs
    exact: bool = False  # the mean by all runs at once
    device: Literal["cpu", "cuda", "auto"] = "cpu"  # of exact; auto: a GPU where there is one

    def minimum_runs(self, d: int) -> int:
        return 2 + {"linear": 1 + d, "quadratic": (d + 1) * (d + 2) // 2}.get(self.mean, 1)

    def cost(self, n: int, d: int, p: int) -> Cost:
        """As long as 10 steps of a search for each kernel, then the factors of n x m, for two lengths or three."""
        kernels, m, part = min(p, self.kernels + 1), min(self.inducing, n), min(self.part, n)
        seconds = kernels * (10 * steps(part, d) + 3 * products(6 * n * m**2))
        held = 8 * (5 * n * m + (8 + d / 2) * part**2 + (2 * kernels + 4) * m**2)
        return Cost(seconds, held, "lower inducing, or use a network such as mlp")

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int) -> Core:
        affordable("svgp", self.cost(len(u), u.shape[1], z.shape[1]), f"{len(u)} runs")
        device = chosen(self.device, "svgp: device")
        noisy = noisy if self.noise == "auto" else self.noise == "fitted"
        rng, mean = np.random.default_rng(seed), self._mean(u)
        own = self.kernels if z.shape[1] > self.kernels + 1 else z.shape[1]
        parts = [*z[:, :own].split(1, 1), *([z[:, own:]] if own < z.shape[1] else [])]
        some = torch.from_numpy(rng.permutation(len(u))[: self.part])
        with calm(len(some)):
            at, fits = self._shrunk(
                u, parts, [self._kernel_of(u[some], x[some], mean, noisy) for x in parts], mean, noisy
            )
            state = _state(u[at], fits, self.kernel, mean)
            residual, spread = (torch.cat([getattr(f, n) for f in fits], 1) for n in ("residual", "spread"))
            sparse = _Fitted(state)
            if self.calibrate:
                scale = calibration.scale(residual / spread.sqrt()).square()
                sparse.variance, spread = sparse.variance * scale, spread * scale
                sparse.mix = calibration.mix(residual / spread.sqrt())
            exact = _Exact(_all_runs(u, parts, fits, sparse, self.kernel, mean, device)) if self.exact else None
        core, sd, mix = exact or sparse, spread.sqrt(), (exact.sparse if exact else sparse).mix
        core.left_out = Correlated(z - residual, sd, mix) if len(mix) else Normal(z - residual, sd)
        return core

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Exact(state) if "runs" in state else _Fitted(state)

    def _mean(self, u: Tensor) -> str:
        if self.mean != "auto":
            if not determined(u, self.mean):
                raise InputError(f"svgp: mean must have coefficients that the runs determine. Got mean = {self.mean!r} and "
                                 f"{len(u)} runs, too few or at too few places; choose a simpler mean.")  # fmt: skip
            return self.mean
        rich = (m for m in ("quadratic", "linear") if 2 * basis(u[:1], m).shape[-1] <= min(self.part, len(u)))
        return next((m for m in rich if determined(u[: self.part], m)), "constant")

    def _shrunk(self, u: Tensor, parts: list[Tensor], kernels: list["_Kernel"], mean: str,
                noisy: bool) -> tuple[Tensor, list["_Fit"]]:  # fmt: skip
        """Rows of the inducing points, and the fits. All runs show finer structure than some: the lengths shrink together
        as long as runs that are left out become the likelier."""
        best: tuple[Tensor, list[_Fit]] = torch.empty(0), []
        density = -math.inf
        for factor in _SHRINK:
            rows = _chosen(u, tried := [k.shrunk(factor) for k in kernels], self.kernel, self.inducing)
            fits = [
                _fit(u, z, rows, k, self.kernel, mean, noisy).keeping(self.exact)
                for z, k in zip(parts, tried, strict=True)
            ]
            if (found := sum(f.density for f in fits)) <= density:
                break
            best, density = (rows, fits), found
        return best

    def _kernel_of(self, u: Tensor, z: Tensor, mean: str, noisy: bool) -> "_Kernel":
        d, z = u.shape[-1], z - z.mean(0)
        starts = [np.append(np.zeros(d), ROUGH), np.full(d, math.log(0.4))]
        if (few := len(u) // 4) > 10 * d:
            starts[1] = Evidence(u[:few], z[:few], self.kernel, "constant", noisy=noisy).climb(starts)
        x = Evidence(u, z, self.kernel, mean, noisy=noisy).climb(starts)
        order = x[d] if self.kernel == "additive" else 0.0
        return _Kernel(torch.from_numpy(np.exp(x[:d])), torch.tensor(order, dtype=u.dtype))


class _Kernel(NamedTuple):
    length: Tensor  # [d]
    order: Tensor

    def shrunk(self, factor: float) -> "_Kernel":
        return self._replace(length=self.length * factor)

    def __call__(self, u: Tensor, v: Tensor, name: str) -> Tensor:
        return kernel(u, columns_of(v), self.length, self.order, name)


class _Fit(NamedTuple):
    """Of components `[n, c]` with one kernel."""

    state: dict[str, Tensor]
    residual: Tensor  # [n, c], of every run left out in turn
    spread: Tensor  # [n, c], its variance
    density: float  # of all of them, but for a constant
    near: tuple[Tensor, Tensor] | None = None  # U and lambda

    def keeping(self, near: bool) -> "_Fit":
        return self if near else self._replace(near=None)


def _all_runs(u: Tensor, parts: list[Tensor], fits: list[_Fit], core: _Fitted, name: str, mean: str,
              device: torch.device) -> dict[str, Tensor]:  # fmt: skip
    """The state of `_Exact`: beta by generalised least squares, and C^-1 (z - H beta), for all runs."""
    h, weights, trend = basis(u, mean), [], []
    for z, f in zip(parts, fits, strict=True):
        state = f.state
        c = Covariance(
            u, state["length"], state["order"], name, float(state["eta"]), cast(tuple[Tensor, Tensor], f.near), device
        )
        solved, left = c.solve(torch.cat([h, z], 1))
        if left > _SOLVED:
            raise InputError(f"svgp: conjugate gradients must solve for all runs to {_SOLVED:g}. Got {left:.1e}; raise inducing, "
                             "set noise: fitted, or leave exact out.")  # fmt: skip
        by_h, by_z = solved[:, : h.shape[1]], solved[:, h.shape[1] :]
        beta = torch.linalg.lstsq(h.T @ by_h, h.T @ by_z, driver="gelsd").solution  # the default's bits vary
        weights.append((by_z - by_h @ beta).T)
        trend.append(beta.T)
    sparse = {f"sparse.{n}": t for n, t in core.state_dict().items()}
    return {**sparse, "runs": u.contiguous(), "by_runs": torch.cat(weights), "trend": torch.cat(trend)}


def _chosen(u: Tensor, kernels: list[_Kernel], name: str, m: int) -> Tensor:
    """Rows of the inducing points: those of a pivoted Cholesky factor of the mean of the kernels, fewer where all that is
    left is rounding."""
    left, rows, factor = torch.ones(len(u), dtype=u.dtype), [], u.new_zeros(len(u), min(m, len(u)))
    for j in range(factor.shape[1]):
        i = int(left.argmax())
        if left[i] < _ALIKE:
            break
        k = sum(k(u, u[[i]], name)[:, 0] for k in kernels) / len(kernels)
        factor[:, j] = (k - factor[:, :j] @ factor[i, :j]) / left[i].sqrt()
        left -= factor[:, j].square()
        left[i] = 0
        rows.append(i)
    return torch.tensor(rows)


def _fit(u: Tensor, z: Tensor, at: Tensor, k: _Kernel, name: str, mean: str, noisy: bool) -> _Fit:
    inverse = _inverse(k(u[at], u[at], name))
    a = torch.cat([k(some, u[at], name) @ inverse.T for some in u.split(_ROWS)])
    q, triangle = torch.linalg.qr(
        a
    )  # of the products A^T A the small eigenvalues, which carry the detail, are rounding
    left, root, right = torch.linalg.svd(triangle)
    seen = _Seen(q @ left, root.square().clamp_min(1e-30), basis(u, mean), z)
    low, high = NOISE if noisy else nugget(len(at))
    tried = torch.linspace(low, high, _TRIED, dtype=u.dtype).exp()
    best = max((seen.solved(float(eta)) for eta in tried), key=lambda s: s.density)
    white, both = (seen.size + best.eta).sqrt()[:, None], root[:, None] * (right @ inverse)
    both = both / white
    r_inverse = torch.linalg.inv(best.r)
    weights = both.T @ ((seen.z_in - seen.h_in @ best.beta) / white)
    state = {"variance": best.variance, "weights": weights.T.contiguous(), "beta": best.beta.T.contiguous(),
             "length": k.length, "order": k.order, "eta": torch.tensor(best.eta, dtype=u.dtype),
             "inverse": both, "q": (seen.h_in / white) @ r_inverse, "r_inverse": r_inverse}  # fmt: skip
    return _Fit(state, best.residual, best.spread, best.density, (seen.basis, seen.size))


def _inverse(k: Tensor) -> Tensor:
    """L^-1 of K = L L^T."""
    one, jitter = torch.eye(len(k), dtype=k.dtype), 0.0
    while True:
        lower, info = torch.linalg.cholesky_ex(k + jitter * one)
        if info == 0:
            return torch.linalg.solve_triangular(lower, one, upper=False)
        jitter = max(10 * jitter, 1e-14)


class _Solved(NamedTuple):
    eta: float
    beta: Tensor  # [k, c]
    r: Tensor
    variance: Tensor  # s^2 [c]
    residual: Tensor
    spread: Tensor
    density: float


class _Seen:
    """h and z in the span of A = U diag(lambda)^(1/2) V^T and outside of it, where C^-1 is 1 / eta."""

    def __init__(self, basis: Tensor, size: Tensor, h: Tensor, z: Tensor):
        self.basis, self.size = basis, size
        self.h_in, self.z_in = basis.T @ h, basis.T @ z
        self.h_out, self.z_out = h - basis @ self.h_in, z - basis @ self.z_in
        self.q, self.r = torch.linalg.qr(self.h_out)
        self.z_trend = self.q.T @ self.z_out
        self.rest = (self.z_out - self.q @ self.z_trend).square().sum(0)
        self.share = basis.square()
        self.outside = (1 - self.share.sum(1)).clamp_min(0)
        self.missed = (1 - (self.share @ size[:, None])).clamp_min(0)  # of k(u, u), by the inducing points: [n, 1]

    def solved(self, eta: float) -> _Solved:
        """Least squares for beta, and P = C^-1 - C^-1 H (H^T C^-1 H)^-1 H^T C^-1 times z and on its diagonal."""
        white, low = (self.size + eta)[:, None], math.sqrt(eta)
        q, r = torch.linalg.qr(torch.cat([self.r / low, self.h_in / white.sqrt()]))
        given = torch.cat([self.z_trend / low, self.z_in / white.sqrt()])
        met = q.T @ given
        beta = torch.linalg.solve_triangular(r, met, upper=True)
        variance = (self.rest / eta + (given - q @ met).square().sum(0)) / (len(self.z_out) - len(r))
        variance = variance.clamp_min(1e-20)
        trend = self.h_out / eta + self.basis @ (self.h_in / white)
        pz = self.z_out / eta + self.basis @ (self.z_in / white) - trend @ beta
        trend = torch.linalg.solve_triangular(r.T, trend.T, upper=False)
        precision = self.outside / eta + (self.share @ (1 / white))[:, 0] - trend.square().sum(0)
        precision = precision.clamp_min(1e-12 / eta)[:, None]
        residual, spread = pz / precision, variance * (1 / precision + self.missed)
        density = float(-0.5 * (residual.square() / spread + spread.log()).sum())
        return _Solved(eta, beta, r, variance, residual, spread, density)


def _state(points: Tensor, fits: list[_Fit], name: str, mean: str) -> dict[str, Tensor]:
    state = {n: torch.cat([f.state[n] for f in fits]) for n in _EACH}
    state |= {n: torch.stack([f.state[n] for f in fits]) for n in _SHARED}
    sizes = torch.tensor([len(f.state["variance"]) for f in fits])
    choice = torch.tensor([KERNELS.index(name), MEANS.index(mean)])
    return {**state, "group": torch.repeat_interleave(sizes), "points": points.contiguous(), "choice": choice}

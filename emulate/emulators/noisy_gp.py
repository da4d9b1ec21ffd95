"""Gaussian processes of simulators whose noise depends on the parameters, best of runs that repeat them."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.distributions import Correlated
from emulate.emulators import _calibration as calibration
from emulate.emulators._arithmetic import Arithmetic, choice
from emulate.emulators._evidence import Evidence, Factors, packed
from emulate.emulators._kernels import KERNELS, MEANS, determined
from emulate.emulators._threads import calm
from emulate.emulators.gp import _EACH, _SHARED, _Fitted
from emulate.errors import InputError

_ENOUGH = 8  # places with repeated runs from which these alone tell the noise
_LEAST = 1e-12  # of a component's variance, of which the logarithm is taken


class _Noisy(Core):
    """A process, and around it the noise of a run, s^2 eta exp(g) with g the mean of another process."""

    closed = True
    level: Tensor
    mix: Tensor

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.process, self.noise = (
            _Fitted({n.removeprefix(part): t for n, t in state.items() if n.startswith(part)})
            for part in ("process.", "noise.")
        )
        self.register_buffer("level", state["level"])
        self.register_buffer("mix", state.get("mix", self.level.new_zeros(0, 0)))

    def forward(self, u: Tensor) -> Normal | Correlated:
        p = self.process(u)
        sd = (p.variance + self.level * self.noise(u).mean.exp()).sqrt()
        return Correlated(p.mean, sd, self.mix) if len(self.mix) else Normal(p.mean, sd, validate_args=False)

    def slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = self.process.slopes(u)
        noise = self.level * self.noise(u).mean.exp()
        return mean, variance + noise[..., None] * self.noise.slopes(u)[0]


@dataclass(frozen=True, kw_only=True)
class NoisyGP(Recipe):
    r"""Gaussian process whose noise depends on the parameters: for stochastic simulators, best with repeated runs.

    z_ij = h(u_i)^T beta + f(u_i) + e_ij with e_ij ~ N(0, s^2 eta w(u_i)) for run j of r_i at place i (stochastic kriging;
    Ankenman, Nelson and Staum 2010). ln w is a Gaussian process of its own, of the logarithms of the runs' sample variances
    at each place, whose error is known: trigamma((r_i - 1) / 2), with the bias of the logarithm taken off. The likelihood
    of lengths and eta is that of all n runs at the cost of their k places (Binois, Gramacy and Ludkovski 2018), B the sum
    of squares within places, each over its w, and C = K + eta diag(w_i / r_i):

        s^2 = (z^T P z + B / eta) / (n - q),    -2 ln E = (n - q) ln s^2 + ln|C| + 2 ln|R| + (n - k) ln eta

    Where fewer than eight places have two runs, the noise is read from the residuals of a process with one noise (Goldberg,
    Williams and Bishop 1998; Kersting et al. 2007), which needs many runs. The prediction is that of a single run, noise
    included. Repeat points with other seeds, by `design.replicates` of a study or in a table for `Runs.of`: five to ten runs
    each, at ten places per parameter. A fit costs k^3 for each of p components, so it is for some hundred places.
    `arithmetic` is that of `gp`.

    >>> NoisyGP().minimum_runs(3)
    3
    """

    kernel: Literal["rbf", "matern52", "matern32"] = "rbf"  # of the mean; the noise is always rbf
    mean: Literal["constant", "linear", "quadratic"] = "constant"  # the trend below the process
    starts: Annotated[int, Ge(1)] = 2  # starting points of the search for the lengths and eta
    arithmetic: Arithmetic = (
        "auto"  # of predictions; portable: the same bits everywhere, and longer; auto: where it matters
    )

    def minimum_runs(self, d: int) -> int:
        return 2 + {"linear": 1 + d, "quadratic": (d + 1) * (d + 2) // 2}.get(self.mean, 1)

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int) -> Core:
        places, at, repeats = torch.unique(u, dim=0, return_inverse=True, return_counts=True)
        if not determined(places, self.mean):
            raise InputError(f"noisy_gp: mean must have coefficients that the runs determine. Got mean = {self.mean!r} and runs "
                             f"at {len(places)} places; choose a simpler mean, or run more places.")  # fmt: skip
        rng, d = np.random.default_rng(seed), u.shape[-1]
        starts = [np.zeros(d), np.full(d, math.log(0.4)), *rng.normal(0.0, 1.0, (max(0, self.starts - 2), d))]
        fits, noises = [], []
        with calm(len(places)):
            for x in z.split(1, 1):
                seen = _Seen.of(places, x, at, repeats)
                noise = _noise(seen, self._fit(seen, noisy, starts), starts) if noisy else _even(seen)
                noises.append(noise)
                fits.append(self._fit(seen.weighted(_told(noise, places)), noisy, starts))
            process = _joined(fits, self.kernel, self.mean, self.arithmetic)
            state = {f"process.{n}": t for n, t in process.items()}
            state |= {f"noise.{n}": t for n, t in _joined(noises, "rbf", "constant").items()}
            level = torch.cat([f.level for f in fits])
            core = _Noisy({**state, "level": level})
            single = level * core.noise(u).mean.exp()  # [n, p], the variance of one run
            residual = z - torch.cat([f.left_out for f in fits], 1)[at]
            spread = torch.cat([f.spread for f in fits], 1)[at] + single * (1 - 1 / repeats[at, None])
            if self.calibrate:
                scale = calibration.scale(residual / spread.sqrt()).square()
                core.level, core.process.variance = core.level * scale, core.process.variance * scale
                spread = spread * scale
                core.mix = calibration.mix(residual / spread.sqrt())
        sd = spread.sqrt()
        core.left_out = Correlated(z - residual, sd, core.mix) if len(core.mix) else Normal(z - residual, sd)
        return core

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Noisy(state)

    def _fit(self, seen: "_Seen", noisy: bool, starts: list[np.ndarray]) -> "_Fit":
        return _fit(seen, self.kernel, self.mean, noisy, starts[: self.starts])


class _Seen(NamedTuple):
    """Runs by their places: u `[k, d]`, means z `[k, 1]`, repeats and sums of squares within `[k]`, relative noise w `[k]`."""

    u: Tensor
    z: Tensor
    repeats: Tensor
    within: Tensor
    noise: Tensor

    @staticmethod
    def of(places: Tensor, z: Tensor, at: Tensor, repeats: Tensor) -> "_Seen":
        total = z.new_zeros(len(places), 1).index_add_(0, at, z)
        mean = total / repeats[:, None]
        within = z.new_zeros(len(places)).index_add_(0, at, (z - mean[at]).square()[:, 0])
        return _Seen(places, mean, repeats, within, torch.ones_like(within))

    def weighted(self, noise: Tensor) -> "_Seen":
        return self._replace(noise=noise)

    @property
    def root(self) -> Tensor:
        """Of the relative variance of a place's mean, `[k, 1]`."""
        return (self.noise / self.repeats).sqrt()[:, None]

    @property
    def rest(self) -> float:
        return float((self.within / self.noise).sum())

    @property
    def more(self) -> int:
        return int(self.repeats.sum()) - len(self.u)


class _Places(Evidence):
    """-ln E of all runs, in units of each place's noise: there the covariance is D^-1/2 K D^-1/2 + eta 1."""

    def __init__(self, seen: _Seen, kernel: str, mean: str, *, noisy: bool):
        super().__init__(seen.u, seen.z / seen.root, kernel, mean, noisy=noisy)
        self.h, self.rest, self.more = self.h / seen.root.numpy(), seen.rest, seen.more
        plain, inverse = self.covariance, packed(1 / (seen.root @ seen.root.T))

        def scaled(x):
            k, rates = plain(x)
            return k * inverse, (rate * inverse for rate in rates)

        self.covariance = scaled


class _Fit(NamedTuple):
    """Of one component."""

    points: Tensor
    state: dict[str, Tensor]
    left_out: Tensor  # [k, 1], the mean of every place by the others
    spread: Tensor  # [k, 1], the variance of that place's mean
    level: Tensor  # [1], s^2 eta


def _fit(seen: _Seen, name: str, mean: str, noisy: bool, starts: list[np.ndarray]) -> _Fit:
    evidence, d = _Places(seen, name, mean, noisy=noisy), seen.u.shape[-1]
    x = evidence.climb(starts)
    f: Factors[Tensor] = Factors(*map(torch.from_numpy, evidence.factors(x)))
    eta, root = math.exp(x[-1]), seen.root
    s2 = (f.residual.square().sum(0) + seen.rest / eta) / (len(f.residual) + seen.more - f.q.shape[1])
    s2 = s2.clamp_min(1e-20)
    inverse = torch.linalg.solve_triangular(f.lower, torch.diag(1 / root[:, 0]), upper=False)
    outside = inverse - f.q @ (f.q.T @ inverse)  # P = outside^T outside
    precision, r_inverse = outside.square().sum(0)[:, None], torch.linalg.inv(f.r)
    weights = torch.linalg.solve_triangular(f.lower.T, f.residual, upper=True) / root
    state = {"variance": s2, "weights": weights.T.contiguous(), "beta": (r_inverse @ (f.q.T @ f.white)).T.contiguous(),
             "length": torch.from_numpy(np.exp(x[:d])), "order": torch.zeros((), dtype=s2.dtype),
             "eta": torch.zeros((), dtype=s2.dtype), "inverse": inverse, "q": f.q.contiguous(),
             "r_inverse": r_inverse}  # fmt: skip
    return _Fit(seen.u, state, seen.z - weights / precision, s2 / precision, s2 * eta)


def _noise(seen: _Seen, even: _Fit, starts: list[np.ndarray]) -> _Fit:
    """The process of ln w: of sample variances, or of residuals of a process with one noise where runs are not repeated."""
    free = seen.repeats.to(seen.z.dtype) - 1
    some = seen.repeats > 1
    variance = seen.within / free.clamp_min(1)
    if int(some.sum()) < _ENOUGH:
        off = (seen.z - even.left_out)[:, 0]
        variance, free, some = off.square() * even.level / even.spread[:, 0], torch.ones_like(free), free >= 0
    free, floor = free[some] / 2, _LEAST * (1 + float(seen.z.square().mean()))
    seen_ln = variance[some].clamp_min(floor).log() - torch.digamma(free) + free.log()
    error = torch.polygamma(1, free)  # the variance of each
    ones = torch.ones_like(seen.repeats[some])
    told = _Seen(seen.u[some], seen_ln[:, None], ones, torch.zeros_like(error), error)
    return _fit(told, "rbf", "constant", True, starts[:1])


def _even(seen: _Seen) -> _Fit:
    """No noise to tell: w = 1."""
    flat = seen._replace(z=torch.zeros_like(seen.z), within=torch.zeros_like(seen.within))
    return _fit(flat, "rbf", "constant", True, [np.zeros(seen.u.shape[-1])])


def _told(noise: _Fit, u: Tensor) -> Tensor:
    """w at u."""
    return _Fitted(_joined([noise], "rbf", "constant"))(u).mean[:, 0].exp()


def _joined(fits: list[_Fit], name: str, mean: str, arithmetic: Arithmetic = "library") -> dict[str, Tensor]:
    state = {n: torch.cat([f.state[n] for f in fits]) for n in _EACH}
    state |= {n: torch.stack([f.state[n] for f in fits]) for n in _SHARED}
    kinds = torch.tensor(
        [KERNELS.index(name), MEANS.index(mean), choice(arithmetic, state["weights"], len(fits[0].points))]
    )
    return {**state, "group": torch.arange(len(fits)), "points": fits[0].points.contiguous(), "choice": kinds}

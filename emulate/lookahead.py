r"""What runs at other points would teach an emulator, before they are made: the closed form for Gaussian processes.

The covariance of a process at two points after runs at c (c_1 ... c_q) needs their parameters, not their answers:

    cov(u, v | c) = cov(u, v) - cov(u, c) cov(v, c) / (cov(c, c) + noise)

so a batch is chosen point by point, each as if those before it were run. A point is worth what it takes off the
variance over the targets (Sacks, Schiller and Welch 1989; Cohn 1996; Gramacy and Apley 2015).
"""

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.special import ndtr

from emulate import guided
from emulate.contracts import Core
from emulate.emulator import Emulator
from emulate.feasibility import Feasibility
from emulate.posterior import Posterior
from emulate.transforms import OutputTransform

_SHARE, _COMPONENTS = 0.999, 16  # components are read until they hold so much of the variance, and no more than that
_NUGGET = 1e-9  # of a component's variance, below which a point has nothing left to teach
_NUMBERS = 2**23  # of a batch of covariances, 64 MiB
_EVEN = 0.5  # runs like the mean of all, so that a few left-out runs do not say too much
_EDGE = 2.0**-52


@dataclass(frozen=True)
class Batch:
    """Rows of the candidates in the order chosen, and the mean variance `[q + 1]` over the targets before and after
    each, in the units of the weights."""

    rows: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Lookahead:
    """Candidates and targets in the unit cube, with what emulator error at a target costs.

    candidates `[c, d]`, targets `[t, d]`; weight `[t, p]`: what a unit of variance of component j costs at target t, over
    t; worth `[c]`: probability that a run there finishes; doubt `[t]`: by how much more than the emulator says it errs
    near a target, see `doubt`. `error` is the root of the mean cost: see `look`. posterior, with draws theta `[k, d]` of it,
    where that is aimed at.
    """

    emulator: Emulator
    candidates: Tensor
    targets: Tensor
    weight: Tensor
    worth: Tensor
    doubt: Tensor | None = None
    posterior: Posterior | None = None
    draws: Tensor | None = None

    @property
    def error(self) -> float:
        """The root mean square error over the targets, by the emulator's own variance."""
        v, _ = _variance(self.emulator.core, self._scaled(self.targets))
        return float((self.weight * v.T).sum().sqrt())

    def choose(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """u `[n, d]` to run in parallel, and the error `[n + 1]` to expect before and after each."""
        found = greedy(self.emulator.core, self._scaled(self.candidates), self._scaled(self.targets), self.weight, n,
                       worth=self.worth, doubt=self.doubt, near=_spacing(self.emulator.design))  # fmt: skip
        return self.candidates[found.rows].numpy(), found.variance.clamp_min(0).sqrt().numpy()

    def _scaled(self, u: Tensor) -> Tensor:
        return self.emulator.space.scaled(self.emulator.space.from_unit(u))


@torch.no_grad()
def look(emulator: Emulator, *, posterior: Posterior | None = None, feasibility: Feasibility | None = None, seed: int,
         candidates: int = 1024, targets: int = 512) -> Lookahead:  # fmt: skip
    """Where an emulator should be better: over the prior, or over the posterior of one observation.

    Over the prior the error is that of the mean output, in units of the spread of the outputs over the runs (of their
    logarithms, where the emulator works on those). Over the posterior, which is that through this emulator, it is

        sqrt(E[tr((C + V)^-1 V)]),   V the emulator's covariance, C that of the observation's noise,

    the standard deviation that emulator error gives ln p(data | theta) where the residuals are as large as C + V says: at
    0.1 the posterior's density is known to a tenth. With C alone in the inverse, far points of which nothing is known
    would outweigh the posterior. Over the prior, runs that were left out weigh the targets in the choice (`doubt`), not in
    the error. Candidates are a Sobol sequence over the prior,
    half of them draws of the posterior where that is aimed at. `feasibility` weighs both by the probability that a run
    finishes. Components that err together count as if they did not.
    """
    space, draws = emulator.space, None
    if posterior is None:
        u = _sobol(candidates + targets, space.d, seed)
        pool, aimed = u[:candidates], u[candidates:]
        weight = (emulator.transform.basis / emulator.transform.scale).square().mean(-1).expand(targets, -1)
    else:
        x = guided.draws(
            posterior, 2 * targets, seed=seed, near=None if emulator.design is None else space.unscaled(emulator.design)
        )
        u = ndtr(x).clamp(_EDGE, 1 - _EDGE)
        draws = posterior.theta(x)
        order = torch.randperm(len(u), generator=torch.Generator().manual_seed(seed))
        aimed, near = u[order[:targets]], u[order[targets:]].unique(dim=0)[: candidates // 2]
        pool = torch.cat([near, _sobol(candidates - len(near), space.d, seed)])
        weight = _whitened(emulator, posterior, space.from_unit(aimed))
    worth = torch.ones(len(pool), dtype=torch.float64)
    share = torch.full((len(aimed),), 1 / len(aimed), dtype=torch.float64)
    if feasibility is not None:
        worth, finish = (feasibility.probability(space.from_unit(part)) for part in (pool, aimed))
        share = finish / finish.sum().clamp_min(_EDGE)
    scaled = space.scaled(space.from_unit(aimed))
    more = doubt(emulator, scaled, weight[0]) if posterior is None else None
    return Lookahead(emulator, pool, aimed, weight * share[:, None], worth, more, posterior, draws)


@torch.no_grad()
def greedy(core: Core, candidates: Tensor, targets: Tensor, weight: Tensor, n: int, *,
           worth: Tensor | None = None, doubt: Tensor | None = None, near: float = 0.1) -> Batch:  # fmt: skip
    """n candidates, each the one that takes most off sum_tj doubt_t weight_tj var_j(t), given those before it.

    Points in the core's coordinates: candidates `[c, d]`, targets `[t, d]`; weight `[t, p]`; doubt `[t]` only chooses, the
    variance of the batch is without it; worth `[c]` multiplies what a candidate takes off. No point is taken twice. Of
    components those are read that hold nearly all of the cost.
    """
    cost = (weight * _variance(core, targets)[0].T).sum(0)
    order = cost.argsort(descending=True)
    few = order[: min(_COMPONENTS, int((cost[order].cumsum(0) < _SHARE * cost.sum()).sum()) + 1)]
    a, total = weight.T[few].contiguous(), cost.sum()
    c = covariance(core, targets, candidates, near=near)[few]  # [p, t, c]
    v, noise = (part[few] for part in _variance(core, candidates))
    floor, free = _NUGGET * v.amax(1, keepdim=True), torch.ones(len(candidates), dtype=torch.bool)
    worth = torch.ones_like(v[0]) if worth is None else worth
    told = a if doubt is None else a * doubt
    rows, variance, chosen = [], [total], []
    for _ in range(min(n, len(candidates))):
        gain = (torch.einsum("pt,ptc->pc", told, c.square()) / (v + noise + floor)).sum(0)
        row = int(torch.where(free, gain * worth, -torch.inf).argmax())
        off = torch.einsum("pt,pt->p", a, c[:, :, row].square()) / (v + noise + floor)[:, row]
        variance.append(variance[-1] - off.sum())
        column = covariance(core, candidates, candidates[row : row + 1], near=near)[few][..., 0]
        for g in chosen:
            column = column - g * g[:, row : row + 1]
        root = (v[:, row] + noise[:, row] + floor[:, 0]).sqrt()[:, None]
        g = column / root
        c -= (c[:, :, row] / root)[:, :, None] * g[:, None, :]
        v = (v - g.square()).clamp_min(0)
        free[row] = False
        chosen.append(g)
        rows.append(row)
    return Batch(torch.tensor(rows, dtype=torch.long), torch.stack(variance))


class _Process(Protocol):
    """A core that keeps its runs: a Gaussian process with the factors of its matrix."""

    points: Tensor
    inverse: Tensor
    q: Tensor
    group: Tensor
    weights: Tensor
    variance: Tensor


@torch.no_grad()
def doubt(emulator: Emulator, targets: Tensor, weight: Tensor) -> Tensor | None:
    """By how much the squared errors of runs near each target `[t, d]` exceed the variance that they were given, `[t]`.

    Each run is left out in turn, in closed form (Dubrule 1983): residual w_i / P_ii of variance s^2 / P_ii, both summed
    over the components by `weight` `[p]`. A process with one length is as unsure where the function does nothing as where
    it turns; the runs it missed know better (Liu, Cai and Ong 2017). The sums are taken over a Gaussian about the target
    whose width is the distance between runs, with a share of the mean over all. None where a core does not keep its runs.
    """
    design = emulator.design
    kept = all(hasattr(emulator.core, name) for name in ("points", "inverse", "q", "group"))
    core = cast(_Process, emulator.core)
    if not kept or design is None or not len(design) == len(core.points) == core.inverse.shape[-1]:
        return None
    outside = core.inverse - core.q @ (core.q.mT @ core.inverse)  # P = outside^T outside
    precision = outside.square().sum(-2)[core.group]  # [p, n]
    precision = precision.clamp_min(_NUGGET * precision.mean())  # of a run that alone fixes a trend nothing is left
    missed = weight @ (core.weights / precision).square()
    expected = weight @ (core.variance[:, None] / precision)
    share = (-0.5 * (torch.cdist(targets, core.points) / _spacing(design)).square()).exp()
    return (share @ missed + _EVEN * missed.mean()) / (share @ expected + _EVEN * expected.mean())


def covariance(core: Core, a: Tensor, b: Tensor, *, near: float) -> Tensor:
    """cov(z(a), z(b)) `[p, A, B]` of the means at a `[A, d]` and b `[B, d]`, by the core where it knows it.

    Other cores know the variance of one point only. Their errors are then taken to correlate as a Matern process of
    smoothness 5/2 and length `near`, about the distance between neighbouring runs, which spreads a batch out.
    """
    if (own := getattr(core, "covariance", None)) is not None:
        return own(a, b)
    r = 5**0.5 * torch.cdist(a, b) / near
    sd = [core(u).variance.sqrt().T for u in (a, b)]
    return sd[0][:, :, None] * sd[1][:, None, :] * ((1 + r + r.square() / 3) * (-r).exp())


def _variance(core: Core, u: Tensor) -> tuple[Tensor, Tensor]:
    """Of the mean `[p, N]`, which runs make smaller, and of a run about it, which they do not."""
    v = core(u).variance.T
    own = getattr(core, "noise", None)
    noise = 1e-3 * v if own is None else own[:, None].expand_as(v)
    return (v - noise).clamp_min(0), noise


def _whitened(emulator: Emulator, posterior: Posterior, theta: Tensor) -> Tensor:
    """dy/dz_j^T (C + V)^-1 dy/dz_j `[t, p]`."""
    t, m = emulator.transform, posterior.data.shape[-1]
    return torch.cat([_whitened_part(t, posterior, part) for part in theta.split(max(1, _NUMBERS // m**2))])


def _whitened_part(t: OutputTransform, posterior: Posterior, theta: Tensor) -> Tensor:
    prediction = posterior.predict(theta)
    rate = torch.where(t.log, prediction.mean, 1.0)
    root = torch.linalg.cholesky(posterior.likelihood.covariance(posterior.data, prediction))
    slopes = (rate[:, None, :] * t.basis).mT  # [t, m, p]
    return torch.linalg.solve_triangular(root, slopes, upper=False).square().sum(-2)


def _spacing(design: Tensor | None) -> float:
    """The median distance of a run from its nearest neighbour, in scaled coordinates."""
    if design is None or len(design) < 2:
        return 0.1
    return max(float(torch.cdist(design, design).fill_diagonal_(torch.inf).amin(1).median()), 1e-6)


def _sobol(n: int, d: int, seed: int) -> Tensor:
    u = torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    return u.clamp(_EDGE, 1 - _EDGE)

r"""Draws of a posterior that may be a needle in its prior: led from where climbs end, and from the prior, by degrees.

A population that comes from the prior alone loses a mode that is narrow and deep: while the power of the likelihood is low
such a mode has no particle, and what is wide and shallow takes them all. Climbs from the best of many points find it. With
the modes m of curvature H_m the start is

    q(x) = N(x; 0, 1) / 2 + sum_m w_m t_5(x; x_m, H_m^-1) / 2,    w_m ~ p(x_m) |H_m|^(-1/2),

and q^(1 - power) p^power leads to the posterior p (Del Moral, Doucet and Jasra 2006; the half of the prior keeps the weights
bounded where Laplace is wrong, Hesterberg 1995). The shares of the modes come from weights, and not from w_m. Where the
density has no gradient to climb by, q is the prior.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.densities import Mode, climb, value_and_gradient
from emulate.errors import InputError
from emulate.posterior import Posterior
from emulate.summits import differentiable
from emulate.tempering import cleaned, led, prior

_LOOKED_AT, _CLIMBED = 512, 8  # points of the prior that are looked at beside those given; how many are climbed from
_BESIDE = 6  # neighbours that a point is held against
_TAILS, _MOVES = 5.0, 5  # degrees of freedom of the start about a mode; Metropolis steps at each power
_SAME = 1.0  # standard deviations within which two modes are one


@torch.no_grad()
def draws(posterior: Posterior, n: int, *, seed: int, near: Tensor | None = None) -> Tensor:
    """x `[n, d]`, equally likely under the posterior; `near`, theta `[r, d]`, are points that may lie at a mode, such as runs.

    `InputError` when the likelihood is zero at every point.

    >>> from emulate.distributions import Exact
    >>> from emulate.likelihoods.gaussian import Gaussian
    >>> from emulate.space import Normal, Parameter, Space
    >>> space = Space((Parameter("a", Normal(0.0, 1.0)),))
    >>> needle = Posterior(space, Exact, Gaussian(absolute_error=1e-4), torch.tensor([1.5], dtype=torch.float64))
    >>> round(float(draws(needle, 200, seed=1).mean()), 3)
    1.5
    """
    d, generator = posterior.space.d, torch.Generator().manual_seed(seed)
    start = _Start.of(posterior, prior(_LOOKED_AT, d, seed) if near is None else torch.cat(
        [posterior.inside(near), prior(_LOOKED_AT, d, seed)]))  # fmt: skip
    scales = [*start.roots, None]  # of the modes, and of the population itself

    def ratio(x: Tensor) -> Tensor:
        return (cleaned(posterior.log_density(x[0, 0])) - start.log_prob(x[0, 0]))[None, None]

    def move(x: Tensor, value: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
        x, value = x[0, 0], value[0, 0]
        for i in range(_MOVES * len(scales)):
            root = scales[i % len(scales)]
            root = _root(x) if root is None else root
            size = 2.38 / d**0.5 * 4.0 ** (torch.rand(len(x), 1, generator=generator, dtype=x.dtype) - 0.75)
            new = x + size * torch.randn(len(x), d, generator=generator, dtype=x.dtype) @ root.mT
            other = ratio(new[None, None])[0, 0]
            rise = power * (other - value) + start.log_prob(new) - start.log_prob(x)
            accept = torch.rand(len(x), generator=generator, dtype=x.dtype).log() < rise  # never where that is NaN
            x, value = torch.where(accept[:, None], new, x), torch.where(accept, other, value)
        return x[None, None], value[None, None]

    return led(ratio, start.sample(n, seed, generator)[None, None], move, generator).x[0, 0]


@dataclass(frozen=True)
class _Start:
    """q: the prior and the modes; centre `[k, d]`, roots `[k, d, d]` of their covariances, share `[k]`."""

    centre: Tensor
    roots: Tensor
    share: Tensor

    @staticmethod
    def of(posterior: Posterior, points: Tensor) -> "_Start":
        value, d = cleaned(posterior.log_density(points)), points.shape[1]
        if not value.isfinite().any():
            raise InputError("the likelihood must be above 0 somewhere in the prior. Got 0 at every one of "
                             f"{len(points)} points; look at the observation, its errors and the prior.")  # fmt: skip
        best = points[_summits(points, value)]
        if differentiable(posterior.log_density, points[:_CLIMBED]):
            best = best[value_and_gradient(posterior.log_density, best)[0] > -torch.inf]
        else:
            best = best[:0]
        if not len(best):  # nothing to climb by: the prior alone
            return _Start(best, points.new_zeros(0, d, d), best[:, 0])
        modes = climb(posterior.log_density, best, iterations=40)
        kept = _apart(modes)
        roots = torch.linalg.cholesky(modes.covariance[kept])
        weight = modes.log_density[kept] + roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return _Start(modes.x[kept], roots, weight.softmax(0).clamp_min(1e-3))

    def sample(self, n: int, seed: int, generator: torch.Generator) -> Tensor:
        """Half of them from the prior."""
        d, near = self.centre.shape[1], n // 2 if len(self.centre) else 0
        if not near:
            return prior(n, d, seed)
        which = torch.multinomial(self.share, near, replacement=True, generator=generator)
        noise = torch.randn(near, d, generator=generator, dtype=torch.float64)
        chi2 = torch.randn(near, int(_TAILS), generator=generator, dtype=torch.float64).square().sum(1, keepdim=True)
        t = noise * (_TAILS / chi2).sqrt()
        return torch.cat([prior(n - near, d, seed), self.centre[which] + (self.roots[which] @ t[..., None])[..., 0]])

    def log_prob(self, x: Tensor) -> Tensor:
        d, nu = x.shape[1], _TAILS
        wide = -0.5 * x.square().sum(-1) - 0.5 * d * math.log(2 * math.pi)
        if not len(self.centre):
            return wide
        z = torch.linalg.solve_triangular(self.roots, (x[:, None] - self.centre)[..., None], upper=False)[..., 0]
        constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - 0.5 * d * math.log(nu * math.pi)
        spread = self.roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        near = constant - spread - 0.5 * (nu + d) * torch.log1p(z.square().sum(-1) / nu)
        near = torch.logsumexp(near + (self.share / self.share.sum()).log(), -1)
        return torch.logaddexp(near, wide) - math.log(2)


def _summits(points: Tensor, value: Tensor) -> Tensor:
    """Rows to climb from: the best of those that are higher than all their neighbours, and the best of the others."""
    beside = (
        torch.cdist(points, points).fill_diagonal_(torch.inf).topk(min(_BESIDE, len(points) - 1), largest=False).indices
    )
    summit = value > value[beside].amax(1)
    order = value.masked_fill(~summit, -torch.inf).argsort(descending=True)[: int(summit.sum())]
    rest = value.masked_fill(summit, -torch.inf).argsort(descending=True)
    order = torch.cat([order, rest])
    return order[value[order].isfinite()][:_CLIMBED]


def _apart(modes: Mode) -> Tensor:
    """Rows of the modes that differ, the highest first."""
    kept: list[int] = []
    for i in modes.log_density.argsort(descending=True).tolist():
        off = modes.x[i] - modes.x[kept]
        if not kept or ((modes.hessian[kept] @ off[..., None])[..., 0] * off).sum(-1).min() > _SAME**2:
            kept.append(i)
    return torch.tensor(kept)


def _root(x: Tensor) -> Tensor:
    """A square root of the population's covariance."""
    spread = x.T.cov().reshape(x.shape[1], x.shape[1])
    return torch.linalg.cholesky(spread + (1e-12 + 1e-9 * spread.trace() / len(spread)) * torch.eye(len(spread)).to(x))

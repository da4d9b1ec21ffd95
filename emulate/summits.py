"""The highest place of a density that has no gradient, and whether a density has one that tells the truth."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.contracts import LogDensity
from emulate.densities import CONVERGED, value_and_gradient
from emulate.tempering import cleaned, led, prior

_REACH = 0.05  # of a standard normal prior: over so far slopes must add up to differences
_WRONG = 0.5  # share of a difference by which half of the points may miss it
_PARTICLES, _FEWEST, _MOVES = 512, 96, 8  # of all data sets together, of each at least, and after each temperature
_ROUNDS, _TRIES, _SHRINK = 60, 48, 0.85  # of the search from the highest particle


@dataclass(frozen=True)
class Summit:
    """The highest place found: x `[..., d]`, log_density and converged `[...]`; covariance `[..., d, d]` of particles
    `[n, ..., d]` that are draws of the density."""

    x: Tensor
    log_density: Tensor
    covariance: Tensor
    converged: Tensor
    particles: Tensor


def differentiable(log_density: LogDensity, x: Tensor) -> bool:
    """Whether slopes of ln p add up to its differences at half of the points x `[..., d]`, or more.

    Where an emulator or a likelihood carries no torch graph, what autograd gives is the slope of the rest; where it goes
    in steps, that of the steps. Slopes are added by Simpson's rule over a tenth of the prior's width.

    >>> x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    >>> differentiable(lambda x: -(x - 3).square().sum(-1), x)
    True
    >>> differentiable(lambda x: -(x.detach() - 3).square().sum(-1) - 0.5 * x.square().sum(-1), x)
    False
    """
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    step = _REACH * step / step.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        rise = log_density(x + step) - log_density(x - step)
    try:
        slopes = [(value_and_gradient(log_density, x + k * step)[1] * step).sum(-1) for k in (-1, 0, 1)]
    except RuntimeError:  # autograd's own word for a density without a graph
        return False
    told = (slopes[0] + 4 * slopes[1] + slopes[2]) / 3
    off = (rise - told).abs() / (rise.abs() + 1e-3)
    off = off[torch.isfinite(off)]
    return not len(off) or float(off.median()) < _WRONG


@torch.no_grad()
def summit(log_density: LogDensity, shape: tuple[int, ...], d: int, *, seed: int) -> Summit:
    """The highest place of ln p(x) for each of `shape` data sets, x `[n, *shape, d]`, by populations that are led there from
    a standard normal prior, and a search about the highest particle in steps that shrink.

    Converged where the last third of the search has gained less than 1e-4 in ln p.

    >>> found = summit(lambda x: -50 * (x - 1).square().sum(-1), (), 2, seed=1)
    >>> found.x.round(decimals=1).tolist(), bool(found.converged)
    ([1.0, 1.0], True)
    """
    generator = torch.Generator().manual_seed(seed)
    g = math.prod(shape)
    n = max(_FEWEST, _PARTICLES // g)

    def value(x: Tensor) -> Tensor:  # [g, k, d] -> [g, k]
        return cleaned(log_density(x.transpose(0, 1).reshape(-1, *shape, d))).reshape(-1, g).T.double()

    def log_likelihood(x: Tensor) -> Tensor:
        return value(x[:, 0])[:, None] + 0.5 * x.square().sum(-1) + 0.5 * d * math.log(2 * math.pi)

    def move(x: Tensor, told: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(_MOVES):
            a, b = torch.randint(n, (2, g, 1, n, 1), generator=generator).expand(2, g, 1, n, d)
            size = 2.38 / (2 * d) ** 0.5 * torch.rand(g, 1, n, 1, generator=generator, dtype=torch.float64)
            new = x + size * (x.gather(2, a) - x.gather(2, b))
            other = log_likelihood(new)
            rise = power[:, None, None] * (other - told) - 0.5 * (new.square() - x.square()).sum(-1)
            accept = torch.rand(told.shape, generator=generator, dtype=torch.float64).log() < rise
            x, told = torch.where(accept[..., None], new, x), torch.where(accept, other, told)
        return x, told

    seeds = torch.randint(2**31, (g,), generator=generator).tolist()
    x = led(log_likelihood, torch.stack([prior(n, d, s) for s in seeds])[:, None], move, generator).x[:, 0]
    rest = x - x.mean(1, keepdim=True)
    covariance = rest.mT @ rest / (n - 1)
    floor = torch.diag_embed(1e-9 * covariance.diagonal(dim1=-2, dim2=-1) + 1e-18)
    best, height, gain = _searched(value, x, torch.linalg.cholesky(covariance + floor), generator)
    return Summit(best.reshape(*shape, d), height.reshape(shape), (covariance + floor).reshape(*shape, d, d),
                  (gain < CONVERGED).reshape(shape), x.transpose(0, 1).reshape(n, *shape, d))  # fmt: skip


def _searched(value, x: Tensor, root: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Uphill from the highest of particles x `[g, n, d]`; the place `[g, d]`, its height and what was gained lately `[g]`."""
    g, _, d = x.shape
    told = value(x)
    height, row = told.max(1)
    best, late = x[torch.arange(g), row], height
    for i in range(_ROUNDS):
        z = torch.randn(g, _TRIES, d, generator=generator, dtype=torch.float64)
        tries = best[:, None] + _SHRINK**i * z @ root.mT
        told = value(tries)
        top, row = told.max(1)
        best = torch.where((top > height)[:, None], tries[torch.arange(g), row], best)
        height = torch.maximum(height, top)
        if i == _ROUNDS * 2 // 3:
            late = height
    return best, height, height - late

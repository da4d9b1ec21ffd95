"""Moves that ask no gradient, and how much points have forgotten after them.

g groups, N points of a group, d parameters. A `pool` `[g, M, d]` does not change while points move by it, so every move
leaves the density as it is, whatever lies in the pool.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.samplers._mixture import Mixture

_LEAP = 0.1  # of the differences that are taken whole, which leads from mode to mode
_STRETCH = 2.0  # the a of Goodman and Weare (2010)


def leaps(x: Tensor, mixture: Mixture, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of a mixture, whatever x `[g, N, d]`, and what Hastings adds to ln p, `[g, N]`."""
    new = mixture.draw(x.shape[1], generator)
    return new, mixture.log_prob(x) - mixture.log_prob(new)


def differences(x: Tensor, pool: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x + gamma (a - b), a and b of the pool, gamma up to 2.38 / sqrt(2 d), or 1 (ter Braak and Vrugt 2008)."""
    g, n, d = x.shape
    a, b = torch.randint(pool.shape[1], (2, g, n, 1), generator=generator).expand(2, g, n, d)
    u = torch.rand(g, n, 1, generator=generator, dtype=torch.float64)
    size = torch.where(u < _LEAP, 1.0, 2.38 / (2 * d) ** 0.5 * u)
    return x + size * (pool.gather(1, a) - pool.gather(1, b)), x.new_zeros(g, n)


def stretches(x: Tensor, pool: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """z + s (x - z), z of the pool, s between 1/2 and 2 with density ~ s^(-1/2) (Goodman and Weare 2010, eq. 7)."""
    g, n, d = x.shape
    z = pool.gather(1, torch.randint(pool.shape[1], (g, n, 1), generator=generator).expand(g, n, d))
    s = ((_STRETCH - 1) * torch.rand(g, n, generator=generator, dtype=torch.float64) + 1) ** 2 / _STRETCH
    return z + s[..., None] * (x - z), (d - 1) * s.log()


@dataclass(frozen=True)
class Axes:
    """Coordinates in which a population was white: centre `[g, 1, d]`, root `[g, d, d]`."""

    centre: Tensor
    root: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Axes":
        """Those of points x `[g, N, d]`."""
        centre = x.mean(1, keepdim=True)
        spread = (x - centre).mT @ (x - centre) / x.shape[1]
        floor = torch.diag_embed(1e-12 * spread.diagonal(dim1=-2, dim2=-1) + 1e-300)
        return cls(centre, torch.linalg.cholesky(spread + floor))

    def features(self, x: Tensor) -> Tensor:
        """The coordinates of x `[g, N, d]` and their squares, `[g, N, 2 d]`."""
        white = torch.linalg.solve_triangular(self.root, (x - self.centre).mT, upper=False).mT
        return torch.cat([white, white.square()], -1)


def correlation(before: Tensor, after: Tensor) -> Tensor:
    """Of every feature `[g, N, f]` over the points, `[g, f]`."""
    a, b = (f - f.mean(1, keepdim=True) for f in (before, after))
    return (a * b).mean(1) / (a.square().mean(1) * b.square().mean(1)).sqrt().clamp_min(1e-300)


def drift(before: Tensor, after: Tensor) -> Tensor:
    """How far the mean of every feature `[g, N, f]` went, in standard errors, `[g, f]`."""
    change = after - before
    return change.mean(1).abs() / (change.std(1) / change.shape[1] ** 0.5).clamp_min(1e-300)

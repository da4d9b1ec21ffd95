"""`Inverse`: z by the inverse of its distribution function, one number for each draw, differentiable in a and b."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate.lund.emission import Condition, Exact
from emulate.lund.keyed import Keyed

_LEFT, _RIGHT, _STEPS, _ROWS = 8, 12, 60, 512
_PANELS = _LEFT + _RIGHT
_X, _W = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(12))


@dataclass(frozen=True)
class Inverse(Exact):
    """Exact draws z = F^-1(u), to 1e-11, by Gauss-Legendre quadrature of the density in x = ln((1 - z) / z).

    The slow twin of `AcceptReject`, some 50 times its cost. z moves smoothly with a and b for the same numbers, which is
    what common random numbers want; `quantile` carries that derivative.
    """

    def sample(self, given: Condition, noise: Keyed) -> Tensor:
        (u,) = noise.uniform(1)
        return quantile(u, given.a, given.c)


def quantile(u: Tensor, a: Tensor, c: Tensor) -> Tensor:
    """z `[n]` with F(z | a, c) = u, differentiable once in a and c: dz/dtheta = -(dF/dtheta) / f.

    >>> z = quantile(*torch.tensor([[0.5], [0.68], [0.1]], dtype=torch.float64))
    >>> cdf(z, *torch.tensor([[0.68], [0.1]], dtype=torch.float64))
    tensor([0.5000], dtype=torch.float64)
    """
    return _Quantile.apply(u, *torch.broadcast_tensors(a, c))


def cdf(z: Tensor, a: Tensor, c: Tensor) -> Tensor:
    """F(z | a, c) `[n]`, the probability to lie below z."""
    a, c = torch.broadcast_tensors(a, c)
    parts = zip(*(x.split(_ROWS) for x in (z, a, c)), strict=True)
    return torch.cat([_Grid(n + 1, k).above(torch.log1p(-y) - torch.log(y))[0] for y, n, k in parts])


class _Grid:
    """exp(h(x) - h(mode)), h = n ln(t / (1 + t)) - c t, on panels around the mode, for rows n = a + 1 and c `[k]`."""

    def __init__(self, n: Tensor, c: Tensor) -> None:
        self.n, self.c = n[:, None, None], c[:, None, None]
        t = 2 * n / (c * (1 + torch.sqrt(1 + 4 * n / c)))
        width = torch.rsqrt(c * t * (1 + 1 / (1 + t)))
        mode = torch.log(t)[:, None, None]
        self.top = self._h(mode)
        low = (40 / n + 6 * width)[:, None]  # beyond lies less than exp(-40)
        high = torch.log(t + (45 + 4 * n) / c)[:, None] - mode[:, 0]
        left = torch.linspace(1, 0, _LEFT + 1, dtype=torch.float64)
        right = torch.linspace(0, 1, _RIGHT + 1, dtype=torch.float64)[1:]
        ends = mode[:, 0] + torch.cat((-low * left * (0.4 + 0.6 * left), high * right), 1)  # shorter near the mode
        self.edges = ends
        half = 0.5 * ends.diff(dim=1)[:, :, None]
        self.x = ends[:, :-1, None] + half * (1 + _X)
        self.weight = torch.exp(self._h(self.x) - self.top) * half * _W  # [k, panels, nodes]
        mass = self.weight.sum(2)
        self.total = mass.sum(1)
        self.beyond = torch.cat((mass.flip(1).cumsum(1).flip(1)[:, 1:], torch.zeros(len(n), 1, dtype=torch.float64)), 1)

    def _h(self, x: Tensor) -> Tensor:
        t = torch.exp(x)
        return self.n * (x - torch.log1p(t)) - self.c * t

    def above(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """P(above x), which is F(z), and its derivative with respect to x, each `[k]`."""
        _, weight, panel = self._to_the_end(x)
        share = weight.sum(1) + self.beyond.gather(1, panel)[:, 0]
        return share / self.total, -torch.exp(self._h(x[:, None, None]) - self.top)[:, 0, 0] / self.total

    def slopes(self, x: Tensor) -> Iterator[Tensor]:
        """The derivatives of P(above x) with respect to a and c, each `[k]`."""
        nodes, weight, panel = self._to_the_end(x)
        share = (weight.sum(1) + self.beyond.gather(1, panel)[:, 0]) / self.total
        for g in (lambda y: y - torch.log1p(torch.exp(y)), lambda y: -torch.exp(y)):
            each = (self.weight * g(self.x)).sum(2)
            later = (each * (torch.arange(_PANELS) > panel)).sum(1)
            yield ((weight * g(nodes)).sum(1) + later - share * each.sum(1)) / self.total

    def _to_the_end(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes `[k, nodes]` from x to the end of its panel, with their weights, and the panel `[k, 1]`."""
        inside = x[:, None].clamp(self.edges[:, :1], self.edges[:, -1:])
        panel = (torch.searchsorted(self.edges, inside) - 1).clamp(0, _PANELS - 1)
        half = 0.5 * (self.edges.gather(1, panel + 1) - inside)
        nodes = inside + half * (1 + _X)
        return nodes, torch.exp(self._h(nodes[:, None]) - self.top)[:, 0] * half * _W, panel


class _Quantile(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, a: Tensor, c: Tensor) -> Tensor:
        parts = [_solved(*part) for part in zip(*(x.split(_ROWS) for x in (u, a, c)), strict=True)]
        z, of_a, of_c = (torch.cat(p) for p in zip(*parts, strict=True))
        ctx.save_for_backward(of_a, of_c)
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor, Tensor]:
        of_a, of_c = ctx.saved_tensors
        return None, g * of_a, g * of_c


def _solved(u: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z, dz/da and dz/dc: Newton's steps on P(above x) = u, kept inside a bracket."""
    grid = _Grid(a + 1, c)
    panel = (grid.beyond > (u * grid.total)[:, None]).sum(1, keepdim=True).clamp(max=_PANELS - 1)
    low, high = grid.edges.gather(1, panel)[:, 0], grid.edges.gather(1, panel + 1)[:, 0]
    x = 0.5 * (low + high)
    for _ in range(_STEPS):
        share, slope = grid.above(x)
        low, high = torch.where(share > u, x, low), torch.where(share > u, high, x)
        step = x - (share - u) / slope
        new = torch.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        moved, x = (new - x).abs().max(), new
        if moved < 1e-8:  # then the next step would be below rounding
            break
    _, slope = grid.above(x)
    of_a, of_c = grid.slopes(x)
    z = torch.reciprocal(1 + torch.exp(x)).clamp(max=1 - 2.0**-53)
    per = z * (1 - z) / slope  # dz/dx = -z (1 - z) and dx/dtheta = -(dP/dtheta) / slope
    return z, per * of_a, per * of_c

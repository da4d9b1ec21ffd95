"""Mixtures that imitate a population, for moves that leave their place and reach every mode.

g groups, N points of a group, K components, d parameters; every group has a mixture of its own.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_DOF = 8  # of Student's t: tails that are heavier than a normal's, so that no far place is proposed too rarely
_SIZES = (1, 2, 4, 8)  # numbers of components that are tried
_ROUNDS = 15  # of expectation and maximisation
_MOST = 2000  # points that a mixture is fitted to
_FEW = 100_000  # numbers, up to which every point has a matrix of its own
_FLOOR = 1e-12  # of a component's variance over the population's


@dataclass(frozen=True)
class Mixture:
    """Student's t with 8 degrees of freedom: weight `[g, K]`, centre `[g, K, d]`, root `[g, K, d, d]` of the scale matrix."""

    weight: Tensor
    centre: Tensor
    root: Tensor

    @cached_property
    def _white(self) -> tuple[Tensor, Tensor, Tensor]:
        """All inverse roots side by side `[g, d, K d]`, the centres in them `[g, 1, K d]`, and the level of each `[g, 1, K]`."""
        g, k, d = self.centre.shape
        unit = torch.eye(d, dtype=self.root.dtype).expand_as(self.root)
        inverse = torch.linalg.solve_triangular(self.root, unit, upper=False)
        level = self.weight.log() - self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (
            inverse.permute(0, 3, 1, 2).reshape(g, d, k * d),
            (inverse @ self.centre[..., None]).reshape(g, 1, -1),
            level[:, None],
        )

    @cached_property
    def level(self) -> float:
        """What makes `log_prob` the logarithm of a density that integrates to 1."""
        d = self.root.shape[-1]
        return math.lgamma((_DOF + d) / 2) - math.lgamma(_DOF / 2) - 0.5 * d * math.log(_DOF * math.pi)

    @cached_property
    def _bounds(self) -> Tensor:
        return self.weight.cumsum(-1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """x `[g, n, d]`."""
        g, size, d = self.centre.shape
        u = torch.rand(g, n, _DOF // 2 + 1, generator=generator, dtype=torch.float64)
        z = torch.randn(g, n, d, generator=generator, dtype=torch.float64)
        k = torch.searchsorted(self._bounds, u[..., 0].contiguous()).clamp_max(size - 1)
        chi2 = -2 * u[..., 1:].prod(-1).clamp_min(1e-300).log()
        z = z * (_DOF / chi2).sqrt()[..., None]
        if g * n * d * d < _FEW:
            at = (torch.arange(g)[:, None], k)
            return self.centre[at] + (self.root[at] @ z[..., None])[..., 0]
        x = torch.empty_like(z)
        for i in range(size):
            x = torch.where((k == i)[..., None], self.centre[:, i, None] + z @ self.root[:, i].mT, x)
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """ln q `[g, N]` at x `[g, N, d]`, up to a constant."""
        return torch.logsumexp(self.terms(x), -1)

    def terms(self, x: Tensor) -> Tensor:
        """Of every component `[g, N, K]`."""
        inverse, centre, level = self._white
        squared = (x @ inverse - centre).square().unflatten(-1, (level.shape[-1], -1)).sum(-1)
        return level - 0.5 * (_DOF + x.shape[-1]) * torch.log1p(squared / _DOF)


def fitted(x: Tensor, generator: torch.Generator) -> Mixture:
    """A mixture for points x `[g, N, d]`: half of them choose the number of components that the other half is fitted with."""
    g, n, d = x.shape
    x = x[:, torch.randperm(n, generator=generator)[: max(_MOST // g, 200)]]
    n = x.shape[1]
    centre = x.mean(1, keepdim=True)
    rest = x - centre
    scale = rest.square().mean(1, keepdim=True).sqrt()
    scale = torch.where(scale > 0, scale, 1e-9 * centre.abs() + 1e-12)  # points that all lie at one place
    z = rest / scale
    sizes = [k for k in _SIZES if n >= 4 * k * (d + 2)] or [1]
    if len(sizes) > 1:
        one, other = z[:, ::2], z[:, 1::2]
        told = [float(_climbed(one, k, generator).log_prob(other).mean()) for k in sizes]
        sizes = [sizes[max(range(len(told)), key=told.__getitem__)]]
    m = _climbed(z, sizes[0], generator)
    return Mixture(m.weight, centre + scale * m.centre, scale[..., None] * m.root)


def _climbed(z: Tensor, k: int, generator: torch.Generator) -> Mixture:
    """Expectation and maximisation (McLachlan and Peel 2000) from k centres far apart; matrices are shrunk to their mean."""
    g, n, d = z.shape
    unit = torch.eye(d, dtype=z.dtype)
    centres = [z[:, int(torch.randint(n, (), generator=generator))]]
    nearest = (z - centres[0][:, None]).square().sum(-1)
    for _ in range(k - 1):  # k-means++ (Arthur and Vassilvitskii 2007)
        row = torch.multinomial(nearest.clamp_min(1e-300), 1, generator=generator)
        centres.append(z.gather(1, row[..., None].expand(g, 1, d))[:, 0])
        nearest = torch.minimum(nearest, (z - centres[-1][:, None]).square().sum(-1))
    distance = torch.stack([(z - c[:, None]).square().sum(-1) for c in centres], -1)
    share = torch.nn.functional.one_hot(distance.argmin(-1), k).to(z)
    for i in range(_ROUNDS if k > 1 else 1):
        mass = share.sum(1) + 1e-9
        centre = (share.mT @ z) / mass[..., None]
        spread = torch.stack([((z - centre[:, j, None]).mT * share[:, None, :, j]) @ (z - centre[:, j, None])
                              for j in range(k)], 1)  # fmt: skip
        within = spread.sum(1) / n
        spread = (spread + (d + 2) * within[:, None]) / (mass + d + 2)[..., None, None]
        mixture = Mixture((mass + 1) / (n + k), centre, torch.linalg.cholesky(spread + _FLOOR * unit))
        if i + 1 < _ROUNDS and k > 1:
            share = torch.softmax(mixture.terms(z), -1)
    return mixture

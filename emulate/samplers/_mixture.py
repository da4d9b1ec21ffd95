"""Mixtures that imitate a population, for moves that leave their place and reach every mode.

g groups, N points of a group, K components, d parameters; every group has a mixture of its own.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_DOF = 8  # of Student's t: tails that are heavier than a normal's, so that no far place is proposed too rarely
_SIZES = (1, 2, 4, 8)  # numbers of components that are tried
_ROUNDS = 15  # of expectation and maximisation
_MOST = 2000  # points that a mixture is fitted to
_FLOOR = 1e-12  # of a component's variance over the population's


@dataclass(frozen=True)
class Mixture:
    """Student's t with 8 degrees of freedom: weight `[g, K]`, centre `[g, K, d]`, root `[g, K, d, d]` of the scale matrix."""

    weight: Tensor
    centre: Tensor
    root: Tensor

    @cached_property
    def _white(self) -> tuple[Tensor, Tensor]:
        d = self.root.shape[-1]
        inverse = torch.linalg.solve_triangular(
            self.root, torch.eye(d, dtype=self.root.dtype).expand_as(self.root), upper=False
        )
        level = self.weight.log() - self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return inverse, level

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """x `[g, n, d]`."""
        g, _, d = self.centre.shape
        u = torch.rand(g, n, generator=generator, dtype=torch.float64)
        k = torch.searchsorted(self.weight.cumsum(-1), u).clamp_max(self.weight.shape[1] - 1)
        z = torch.randn(g, n, d, generator=generator, dtype=torch.float64)
        chi2 = -2 * torch.rand(g, n, _DOF // 2, generator=generator, dtype=torch.float64).clamp_min(1e-300).log().sum(
            -1
        )
        z = z * (_DOF / chi2).sqrt()[..., None]
        x = torch.empty_like(z)
        for i in range(self.weight.shape[1]):
            x = torch.where((k == i)[..., None], self.centre[:, i, None] + z @ self.root[:, i].mT, x)
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """ln q `[g, N]` at x `[g, N, d]`, up to a constant."""
        return torch.logsumexp(self._terms(x), -1)

    def _terms(self, x: Tensor) -> Tensor:
        inverse, level = self._white
        squared = torch.stack([((x - self.centre[:, i, None]) @ inverse[:, i].mT).square().sum(-1)
                               for i in range(level.shape[1])], -1)  # fmt: skip
        return level[:, None] - 0.5 * (_DOF + x.shape[-1]) * torch.log1p(squared / _DOF)


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
            share = torch.softmax(mixture._terms(z), -1)
    return mixture

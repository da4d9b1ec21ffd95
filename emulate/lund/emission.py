"""What an emission is: how z is drawn when a string end gives off a hadron. The exact one, and where another may stand in."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emulate.lund.fragmentation import log_density
from emulate.lund.keyed import Keyed

_ROWS = 8192  # emissions whose graph is in memory at once


@dataclass(frozen=True)
class Condition:
    """What is known of n emissions before z is drawn; every field has the shape `[n]`.

    The exact density of z depends on a and c = b mT^2 alone; the rest is for emissions that are learnt from elsewhere.
    """

    a: Tensor
    b: Tensor  # GeV^-2
    sigma: Tensor  # GeV
    mt2: Tensor  # mT^2 of the hadron, GeV^2
    mass2: Tensor  # squared mass of the string that is left before this hadron, GeV^2
    old: Tensor  # flavour of the end, an index into `Flavours.table().names`
    new: Tensor  # flavour of the new pair

    @property
    def c(self) -> Tensor:
        return self.b * self.mt2

    def select(self, index: Tensor) -> "Condition":
        return Condition(**{k: v.index_select(0, index) for k, v in vars(self).items()})


class Emission(ABC):
    """p(z | condition), 0 < z < 1: the fraction of the end's light-cone momentum that the hadron takes."""

    @abstractmethod
    def sample(self, given: Condition, noise: Keyed) -> Tensor:
        """z `[n]`, drawn with numbers of `noise` alone."""

    @abstractmethod
    def log_prob(self, z: Tensor, given: Condition) -> Tensor:
        """ln p(z) `[n]`, differentiable in a and b."""

    def scores(self, z: Tensor, given: Condition) -> tuple[Tensor, Tensor]:
        """d ln p / da and d ln p / db `[n]` at the same mT^2, by torch's graph."""
        found = []
        for rows in torch.arange(len(z)).split(_ROWS):
            part = given.select(rows)
            a, b = (x.detach().clone().requires_grad_() for x in (part.a, part.b))
            with torch.enable_grad():
                value = self.log_prob(z.index_select(0, rows), replace(part, a=a, b=b)).sum()
            found.append(torch.autograd.grad(value, (a, b), allow_unused=True, materialize_grads=True))
        of_a, of_b = (torch.cat(x) for x in zip(*found, strict=True))
        return of_a, of_b


class Exact(Emission):
    """The Lund density itself; how it is drawn is for those below."""

    def log_prob(self, z: Tensor, given: Condition) -> Tensor:
        return log_density(z, given.a, given.c)


_TRIES, _WIDE = 4, 2048  # several tries at once where the cost is that of the calls


@dataclass(frozen=True)
class AcceptReject(Exact):
    """Exact draws under a hat of three exponentials.

    In x = ln t = ln((1 - z) / z) the density exp(h), h = (a + 1) ln(t / (1 + t)) - c t, is log-concave, so that a flat
    line at its mode and a tangent at either side lie above it (Devroye 1986, section VII.2). The tangents touch at
    `left` and `right` widths 1 / sqrt(-h'') from the mode; any choice is exact, this one keeps seven of eight.
    """

    left: float = 1.2
    right: float = 1.0

    def sample(self, given: Condition, noise: Keyed) -> Tensor:
        hat = self._hat(given.a + 1, given.c)
        x, kept = self._first(hat, noise, 1 if len(given.mt2) > _WIDE else _TRIES)
        todo, where = (~kept).nonzero().view(-1), None
        while len(todo):  # the eighth that is left
            noise, hat = noise.select(todo), tuple(row.index_select(0, todo) for row in hat)
            found, kept = self._first(hat, noise, _TRIES)
            where = todo if where is None else where.index_select(0, todo)
            x.index_copy_(0, where, found)
            todo = (~kept).nonzero().view(-1)
        t = torch.exp(x)  # torch.sigmoid would have other bits at the end of an array than inside it
        return torch.reciprocal(1 + t).clamp_(max=1 - 2.0**-53)

    def _hat(self, n: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """n = a + 1, c, h at the mode, slope and area of the left tail, the same of the right one, where the flat part begins,
        and how long it is, each `[k]`."""
        t = 2 * n / (c * (1 + torch.sqrt(1 + 4 * n / c)))  # c t (1 + t) = n at the mode
        width = torch.reciprocal(torch.sqrt(c * t * (1 + torch.reciprocal(1 + t))))
        mode = torch.log(t)
        h = n * (mode - torch.log(1 + t)) - c * t
        low, high = torch.exp(-self.left * width) * t, torch.exp(self.right * width) * t
        rise, fall = n / (1 + low) - c * low, c * high - n / (1 + high)
        h_low = n * (torch.log(low) - torch.log(1 + low)) - c * low
        h_high = n * (torch.log(high) - torch.log(1 + high)) - c * high
        begin = mode - self.left * width + (h - h_low) / rise
        end = mode + self.right * width - (h - h_high) / fall
        return n, c, h, rise, torch.reciprocal(rise), fall, torch.reciprocal(fall), begin, end - begin

    @staticmethod
    def _first(hat: tuple[Tensor, ...], noise: Keyed, m: int) -> tuple[Tensor, Tensor]:
        """The first of m tries x `[k]` under the hat that stays, and whether one does."""
        n, c, h, rise, left, fall, right, begin, flat = hat
        u, v = noise.uniform(2 * m).view(m, 2, -1).unbind(1)  # the j-th try has the same numbers whatever m
        s = u * (left + flat + right)
        in_left, in_right = s * rise, (left + flat + right - s) * fall  # share of the tail that lies beyond, if below 1
        drop = torch.log(torch.minimum(in_left, in_right).clamp_(max=1.0))  # how far the hat has fallen
        x = begin + torch.minimum((s - left).clamp_(min=0.0), flat)
        x += drop * (left * (in_left < 1) - right * (in_right < 1))
        t = torch.exp(x)
        kept = n * (x - torch.log(1 + t)) - c * t - h - drop >= torch.log(v)
        found = x[-1]
        for way, good in zip(x.flip(0)[1:], kept.flip(0)[1:], strict=True):
            found = torch.where(good, way, found)
        return found, kept.any(0)

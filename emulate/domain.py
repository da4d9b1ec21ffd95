"""Where an emulator was taught: the box of its parameters, and how near its runs lie to a point of it."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.distributions import Joint, constant, fitting, gaussian_of
from emulate.errors import InputError, nearest
from emulate.runs import places
from emulate.space import Space

Outside = Literal["box", "warn", "refuse", "inflate", "ignore"]
CHOICES = ("box", "warn", "refuse", "inflate", "ignore")
THIN = 2.0  # remoteness above which the design is thin
_MASS, _LEAST = 0.05, 3  # share of the runs that counts as near, and the least number of them
_YARD = 0.95  # quantile of the runs' own distances that is the yardstick
_MOST = 512  # runs that distances are taken to: of more, a random part with the same density
_FINE = 1e-6  # box widths below which two runs are at one place
_NUMBERS = 2**15  # distances at a time: they stay in the cache


class Domain:
    r"""The box of a space, and the runs in it; design `[n, d]` in the coordinates `space.scaled`.

    Remoteness at x is the largest over projections P of r_P(x) / r_P, where r_P(x) is the distance from x to its k-th
    nearest run in the coordinates of P, k = max(3, 5 % of the runs), and r_P the 95 % quantile of the same over the
    runs themselves, each left out of the others. The projections are each parameter, each pair and all of them.

    A distance to a share of the mass is that of the design's density, whatever the number of runs (Loftsgaarden and
    Quesenberry 1965; Chazal, Cohen-Steiner and Merigot 2011), and a run that lies alone fills no hole. Projections,
    because in ten dimensions a slab without runs hardly changes the distance over all coordinates, in which every point
    is far from every other (Beyer et al. 1999). Over Sobol, Latin hypercube and random designs of 10 to 500 runs in 1
    to 10 dimensions 99 % of the box lies below 2, its corners reach 1.9 to 2.2 (they have runs on one side only), and the
    middle of a slab that holds no run is at 4 to 9 with 100 runs or more; with 30 or fewer it may go unseen. Random and
    Sobol designs of 30 runs in ten dimensions have holes by chance: 1 % and 7 % of the box is thin. A grid's own spacing
    is no hole: a run's nearest at another place bounds r_P.

    >>> from emulate.space import Parameter, Uniform
    >>> space = Space((Parameter("a", Uniform(0, 1)), Parameter("b", Uniform(0, 1))))
    >>> x = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(100, dtype=torch.float64)
    >>> domain = Domain(space, x[x.sum(1) < 1.2])
    >>> domain.remoteness(torch.tensor([[0.3, 0.3], [0.9, 0.9]], dtype=torch.float64)).round(decimals=1)
    tensor([0.6000, 2.9000], dtype=torch.float64)
    """

    def __init__(self, space: Space, design: Tensor | None,
                 lacking: str = "was saved before that was kept; train it again, or ask"):  # fmt: skip
        self.space, self.design, self.lacking = space, design, lacking

    def beyond(self, theta: Tensor) -> Tensor:
        """How far theta `[..., d]` lies outside the box, in box widths; 0 inside. Shape `[...]`."""
        return torch.linalg.vector_norm(self.space.beyond(theta), dim=-1)

    def remoteness(self, theta: Tensor) -> Tensor:
        """How many times farther theta `[..., d]` lies from its nearest runs than runs lie from each other, `[...]`."""
        return self._worst(theta)[0]

    def thin(self, theta: Tensor) -> Tensor:
        """bool `[...]`: outside the box, or where remoteness is above 2."""
        with torch.no_grad():
            return (self.remoteness(theta) > THIN) | (self.beyond(theta) > _FINE)

    def inflation(self, theta: Tensor) -> Tensor:
        """The factor `[...]` that "inflate" puts on the variance, (1 + 20 b + max(0, r / 2 - 1))^2.

        b are box widths outside and r is the remoteness: 1 where the design is dense, continuous, with a gradient. The
        error doubles where theta leaves the box by 5 % of its width, or is twice as remote as "thin". A rule of thumb.
        """
        remote = (self.remoteness(theta) / THIN - 1).clamp_min(0)
        out = self.space.beyond(theta).square().sum(-1)
        beyond = torch.where(out > 0, out.where(out > 0, 1.0).sqrt(), 0.0)  # a norm has no gradient at 0
        return (1 + beyond / _MASS + remote).square()

    def place(self, theta: Tensor) -> "Place":
        """The most remote of the points theta `[..., d]`."""
        with torch.no_grad():
            far, which = self._worst(theta)
        at = int(far.argmax())
        return Place(
            float(far.max()), tuple(self.space.names[i] for i in self._projections[int(which.reshape(-1)[at])])
        )

    def sentence(self, theta: Tensor) -> str:
        """Where theta `[..., d]` is thinnest, in words: `up to 3.2 times farther ...`; empty where none is thin."""
        with torch.no_grad():
            thin = self.remoteness(theta) > THIN
        if not bool(thin.any()):
            return ""
        place, share = (
            self.place(theta),
            f", in {float(thin.double().mean()):.0%} of the points" if thin.numel() > 1 else "",
        )
        return f"{place.remoteness:.2g} times as far from their nearest runs as runs are from each other, {place.words}{share}"

    def _worst(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Remoteness `[...]` and the number of the projection in which it is found."""
        runs, yards = self._yards
        x = self.space.scaled(theta).reshape(-1, self.space.d).to(runs.device)
        k, rows = _near(len(runs)), max(1, _NUMBERS // len(runs))
        ratios = [self._distances(part, runs, k) / yards[:, None] for part in x.split(rows)]
        found = [r.max(0) for r in ratios]
        far, which = torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
        if x.requires_grad:  # that of the one projection that counts
            used = torch.tensor([[i in p for i in range(self.space.d)] for p in self._projections], device=x.device)
            square = ((x[:, None] - runs).square() * used[which][:, None]).sum(-1)
            far = square.kthvalue(k, -1).values.clamp_min(1e-30).sqrt() / yards[which]
        return far.reshape(theta.shape[:-1]).to(theta.device), which.reshape(theta.shape[:-1])

    @cached_property
    def _projections(self) -> list[tuple[int, ...]]:
        axes = range(self.space.d)
        pairs = list(itertools.combinations(axes, 2))
        return [*((i,) for i in axes), *pairs, *([tuple(axes)] if self.space.d > 2 else [])]

    def _distances(self, x: Tensor, runs: Tensor, k: int, *, own: bool = False) -> Tensor:
        """To the k-th nearest run `[projections, N]` of x `[N, d]`; `own`: x are the runs, which are not their own."""
        square = (x.detach().T[:, :, None] - runs.T[:, None]).square().cpu().numpy()  # [d, N, n]
        if own:
            square[:, range(len(x)), range(len(x))] = np.inf
        found = [np.partition(sum(square[i] for i in p), k - 1, -1)[:, k - 1] for p in self._projections]
        return torch.from_numpy(np.sqrt(found)).to(x.device)

    @cached_property
    def _yards(self) -> tuple[Tensor, Tensor]:
        """The runs that distances are taken to, `[s, d]`, and r_P `[projections]`."""
        if self.design is None:
            raise InputError(
                f'this emulator must know where its runs lie. Got one that {self.lacking} with outside = "box".'
            )
        place = places(self.design.detach().cpu().numpy())
        runs = self.design[np.unique(place, return_index=True)[1]]  # replicates are one run: they fill no hole
        if len(runs) > _MOST:  # a stride would take a corner of a Sobol sequence
            keep = torch.randperm(len(runs), generator=torch.Generator().manual_seed(0))[:_MOST]
            runs = runs[keep.sort().values.to(runs.device)]
        if len(runs) < 2:
            return runs, runs.new_full((len(self._projections),), torch.inf)
        k = min(_near(len(runs)), len(runs) - 1)
        yards = self._distances(runs, runs, k, own=True).quantile(_YARD, dim=-1)
        if any(len(column.unique()) < len(runs) for column in runs.T):
            yards = torch.maximum(yards, self._spacing(runs))
        return runs, yards.clamp_min(_FINE)

    def _spacing(self, runs: Tensor) -> Tensor:
        """The 95 % quantile of the distance of each run to the nearest at another place, `[projections]`; 0 if none."""
        square = [(a[:, None] - a).square() for a in runs.T]
        found = []
        for p in self._projections:
            s = reduce(add, (square[i] for i in p))
            apart = s.where(s > _FINE**2, torch.inf).amin(-1).sqrt()
            found.append(apart.quantile(_YARD) if bool(apart.isfinite().all()) else apart.new_zeros(()))
        return torch.stack(found)


@dataclass(frozen=True)
class Place:
    """A remoteness and the parameters in which it is seen."""

    remoteness: float
    names: tuple[str, ...]

    @property
    def words(self) -> str:
        """`in omega_m`, `in omega_m and h`, `in all parameters together`."""
        return "in all parameters together" if len(self.names) > 2 else f"in {' and '.join(self.names)}"


def _near(n: int) -> int:
    return min(n, max(_LEAST, math.ceil(_MASS * n)))


def checked(outside: Any) -> None:
    """Complain about a choice that is none."""
    if outside not in CHOICES:
        raise InputError(
            f"outside must be one of {', '.join(CHOICES)}. Got {outside!r}.{nearest(str(outside), CHOICES)}"
        )


class Widened(Joint):
    """A prediction with its variance times `factor` `[...]`: y = mean + sqrt(factor) (y' - mean), whatever y' is.

    Outputs that no training run varied keep theirs.

    >>> from torch.distributions import Independent, Normal
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> Widened(Independent(Normal(one, one), 1), torch.tensor(4.0, dtype=torch.float64)).variance
    tensor([4., 4.], dtype=torch.float64)
    """

    def __init__(self, inner: Distribution, factor: Tensor):
        known = constant(inner)  # whatever lies where, such an output keeps its error
        self.inner, self.factor = inner, factor
        self._each = factor[..., None] if known is None else torch.where(known.isnan(), factor[..., None], 1.0)
        self.has_rsample = inner.has_rsample
        super().__init__(inner.batch_shape, inner.event_shape, validate_args=False)

    @property
    def _stretch(self) -> Tensor:
        return self._each.sqrt()

    @property
    def mean(self) -> Tensor:
        return self.inner.mean

    @property
    def variance(self) -> Tensor:
        return self.inner.variance * self._each

    @property
    def covariance_matrix(self) -> Tensor:
        return gaussian_of(self.inner)[1] * self._stretch[..., :, None] * self._stretch[..., None, :]

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """The mean `[..., m]` and covariance `[..., m, m]`."""
        return self.mean, self.covariance_matrix

    def rsample(self, sample_shape=(), **keywords: Any) -> Tensor:
        return self.mean + self._stretch * (self.inner.rsample(sample_shape, **keywords) - self.mean)

    def sample(self, sample_shape=(), **keywords: Any) -> Tensor:
        with torch.no_grad():
            return self.mean + self._stretch * (self.inner.sample(sample_shape, **keywords) - self.mean)

    def log_prob(self, value: Tensor) -> Tensor:
        value = fitting(self, value)
        inner = self.inner.log_prob(self.mean + (value - self.mean) / self._stretch)
        return inner - 0.5 * self._each.expand(*self._each.shape[:-1], *self.event_shape).log().sum(-1)

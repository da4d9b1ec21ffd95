"""Randomness keyed by (seed, site, replicate, step) and drawn by name, so that common random numbers survive a branch.

A stochastic program is a function `f(theta, noise)` that draws only through `noise`. What it draws at a site depends on
that site's name and step alone, never on what was drawn before: two values of theta that take different branches still
share the noise of every site that both reach (Glasserman & Yao 1992, on synchronisation). Naming the sites also opens
the program to estimators of derivatives, which decide how a draw is made or counted: see `Treatment`.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.errors import InputError
from emulate.families import inverse, valid
from emulate.seeds import replicate as seed_of

OWN = "~"  # sites of estimators begin with it, so that no program can share them


@dataclass(frozen=True, order=True)
class Place:
    """Where a program draws: the site's name, and how many times this run was there before, or the step it gave."""

    site: str
    step: int = 0

    def __str__(self) -> str:
        return f"{self.site}[{self.step}]" if self.step else self.site


class Treatment:
    """What becomes of a draw and of a hard decision. This one is the plain program; estimators have their own."""

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        """x with distribution function F(x | parameters) = u: differentiable in the parameters where x is continuous."""
        return inverse(distribution, u)

    def above(self, place: Place, margin: Tensor) -> Tensor:
        """1 where margin > 0, else 0."""
        return (margin.real > 0).to(margin.real.dtype)


@dataclass(frozen=True)
class Forced(Treatment):
    """The plain program with the noise of some places, and some decisions, set by hand."""

    u: Mapping[Place, Tensor] = field(default_factory=dict)
    decisions: Mapping[Place, Tensor] = field(default_factory=dict)

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        return inverse(distribution, self.u.get(place, u))

    def above(self, place: Place, margin: Tensor) -> Tensor:
        return self.decisions[place] if place in self.decisions else super().above(place, margin)


@dataclass
class Record:
    """What was seen of a program: the shape of the uniform numbers of each place in order, the shapes of its hard
    decisions, and whether it took a plain seed, which hides what it draws."""

    shapes: dict[Place, tuple[int, ...]] = field(default_factory=dict)
    decisions: dict[Place, tuple[int, ...]] = field(default_factory=dict)
    opaque: bool = False

    @property
    def sites(self) -> tuple[Place, ...]:
        """The places where the program itself draws."""
        return tuple(place for place in self.shapes if not place.site.startswith(OWN))


class Opaque(Exception):
    """The program left the places that its first replicate showed: its replicates cannot be batched."""


class Noise:
    """The noise of one run of one replicate of a program.

    seed, replicate: what the noise is keyed by, beside site and step. Uniform numbers come from Philox
    (Salmon et al. 2011), whose stream can be entered anywhere: replicate 10^6 costs what replicate 0 costs, and a batch
    of replicates is the same numbers as one by one. Draw vectors by a vector of parameters, not by a map of your own
    over `noise.draw`, which would see one number.

    >>> from torch.distributions import Normal
    >>> def walk(theta, noise):
    ...     return theta[0] + sum(noise.draw("step", Normal(0.0, theta[1])) for _ in range(3))
    >>> theta = torch.tensor([1.0, 0.5], dtype=torch.float64)
    >>> bool(walk(theta, Noise(7)) == walk(theta, Noise(7))), bool(walk(theta, Noise(7)) == walk(theta, Noise(8)))
    (True, False)
    """

    def __init__(self, seed: int, replicate: int = 0, *, given: Mapping[Place, Tensor] | None = None) -> None:
        self._key, self._replicate, self._given = int(seed), replicate, given
        self.treatment, self.record = Treatment(), Record()
        self._visits: Counter[str] = Counter()
        self._met: set[Place] = set()

    def again(self, treatment: Treatment | None = None) -> "Noise":
        """The same noise for one more run of the same replicate: every run takes one of its own."""
        other = Noise(self._key, self._replicate, given=self._given)
        other.record, other.treatment = self.record, treatment or Treatment()
        return other

    def resumed(self) -> "Noise":
        """The same noise from here on: what is run again with it comes to the same places. Take it before the first run."""
        other = self.again(self.treatment)
        other._visits = self._visits.copy()
        return other

    @property
    def draws(self) -> int:
        """How many places this run came to so far."""
        return len(self._met)

    @property
    def seed(self) -> int:
        """A plain seed for code that does not draw by name; replicate 0 gets the seed that the user gave."""
        if self._given is not None:
            raise Opaque
        self.record.opaque = True
        return seed_of(self._key, self._replicate)

    def draw(self, site: str, distribution: Distribution, *, step: int | None = None) -> Tensor:
        """x ~ distribution, shape batch_shape + event_shape. Without `step` a site's visits are counted 0, 1, 2..."""
        if not isinstance(distribution, Distribution):
            raise InputError(f"noise.draw({site!r}, ...) must be given a torch distribution, such as Normal(mean, sd). "
                             f"Got {type(distribution).__name__} {distribution!r}.")  # fmt: skip
        if self._given is None and not bool(valid(distribution)):  # some libraries turn torch's own check off
            raise InputError(f"noise.draw({site!r}, ...) must be given a distribution with allowed parameters. "
                             f"Got {distribution!r}.")  # fmt: skip
        place = self._place(site, step)
        u = self._uniforms(place, tuple(distribution.batch_shape + distribution.event_shape))
        x = self.treatment.draw(place, distribution, u)
        if self._given is None or not x.is_floating_point():
            return x
        return torch.where(
            valid(distribution), x, torch.nan
        )  # a batch takes no branch: the replicate is looked into later

    def above(self, site: str, margin: Any, *, step: int | None = None) -> Tensor:
        """1 where margin > 0, else 0: a hard decision that estimators may see. A plain `if` or `>` hides it from them."""
        place, margin = self._place(site, step), torch.as_tensor(margin)
        self.record.decisions[place] = tuple(margin.shape)
        return self.treatment.above(place, margin)

    def uniform(self, site: str, shape: tuple[int, ...] = (), *, step: int | None = None) -> Tensor:
        """Numbers in (0, 1) that carry no derivative."""
        return self._uniforms(self._place(site, step), tuple(shape))

    def own(self, name: str, shape: tuple[int, ...] = (), step: int = 0) -> Tensor:
        """Numbers in (0, 1) for an estimator, at a site that no program can name."""
        return self._uniforms(Place(OWN + name, step), tuple(shape))

    def _place(self, site: str, step: int | None) -> Place:
        if site.startswith(OWN):
            raise InputError(f"a site's name must not begin with {OWN!r}, which estimators use. Got {site!r}.")
        place = Place(site, self._visits[site] if step is None else step)
        if place in self._met:
            raise InputError(f"the place {place} must be drawn once in a run. Got a second draw: leave `step` out so that "
                             "visits are counted, or give every run a noise of its own (`noise.again()`).")  # fmt: skip
        self._visits[site] += 1
        self._met.add(place)
        return place

    def _uniforms(self, place: Place, shape: tuple[int, ...]) -> Tensor:
        if self._given is None:
            self.record.opaque |= self.record.shapes.setdefault(place, shape) != shape
            return uniforms(self._key, place, shape, range(self._replicate, self._replicate + 1))[0]
        if place not in self._given or self._given[place].shape != shape:
            raise Opaque
        return self._given[place]


def uniforms(seed: int, place: Place, shape: tuple[int, ...], of: range) -> Tensor:
    """u `[len(of), *shape]` float64 in the open interval (0, 1), of the replicates `of` (neighbours, in order).

    The numbers of a replicate come in segments of 4, 4, 8, 16, ..., each a stream of its own: a longer draw begins with
    the shorter one, and no two replicates share a number, whatever their lengths.
    """
    key = np.frombuffer(hashlib.sha256(f"{seed}:{place.step}:{place.site}".encode()).digest()[:16], np.uint64)
    k = int(np.prod(shape, dtype=np.int64))
    parts, size, segment = [], 0, 0
    while size < k:
        more = max(4, size)
        stream = np.random.Philox(key=key, counter=[of.start * (more // 4), segment + 1, 0, 0])  # four numbers a count
        parts.append(stream.random_raw((len(of), more)))
        size, segment = size + more, segment + 1
    bits = np.concatenate(parts, 1)[:, :k] if parts else np.empty((len(of), 0), np.uint64)
    u = ((bits >> np.uint64(12)) + 0.5) * 2.0**-52  # exact, and neither 0 nor 1
    return torch.from_numpy(u.reshape(len(of), *shape))

"""The simulator of a seismometer network: station coordinates -> how surely each likely earthquake is detected."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from emulate.contracts import Simulator, Truth
from emulate.errors import InputError
from emulate.runs import Field, Outputs
from emulate.simulators._mass_action import need_names
from emulate.simulators.seismometers import detection
from emulate.space import Parameter, Space, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = Uniform(-60.0, 60.0)
_SPACE = Space(tuple(Parameter(f"{c}{i}", _SIDE, unit="km", label=f"{c}_{i}") for i in (1, 2, 3) for c in "xy"))
_OLD = {"x4": -15.0, "y4": 20.0, "x5": 5.0, "y5": -15.0}
_ZONES = ({"x": 32.0, "y": 28.0, "sd": 8.0, "weight": 2.0}, {"x": -30.0, "y": -5.0, "sd": 8.0, "weight": 2.0},
          {"x": 25.0, "y": -35.0, "sd": 6.0, "weight": 1.0}, {"x": 0.0, "y": 0.0, "radius": 50.0, "weight": 1.0})  # fmt: skip
_LAKES = ({"x": 20.0, "y": 13.0, "radius": 8.0},)


@dataclass(frozen=True, kw_only=True)
class Seismometers(Simulator):
    r"""How surely a network of seismometers detects the earthquakes of a region; its parameters are where the stations stand.

    Station s at (x_s, y_s) records an earthquake of local magnitude M at the distance R from its hypocentre with the amplitude
    log10 A = M + 2.09 - 1.11 log10 R - 0.00189 R, A in nm (IASPEI 2013), and sees it with the probability
    Phi((log10 A - log10(snr noise_s)) / scatter). The network detects it if at least k of its n stations do: the tail of a
    Poisson binomial distribution, computed exactly (Schorlemmer and Woessner 2008 make the same map of real networks).

    The output `detection` is that probability for each of `events` epicentres that are equally likely under the zones, so that
    `mean(detection)` is the share of earthquakes that are detected. One run takes less than a millisecond; many theta
    `[..., d]` may be asked at once. The mean is smooth, and has local optima in which stations watch a zone that is watched
    already.

    Parameters are x1, y1, x2, y2 ... for as many stations as `noise` has values; what stands already is in `fixed`. The
    constraints `spacing` and `forbidden` keep stations apart, and out of the areas of that name; see `constraints`.

    Args:
        space: coordinates of the stations that are to be placed, km.
        fixed: coordinates of those that stand, km.
        noise: amplitude of each station's noise, nm.
        least: k, of how many stations an earthquake must be seen.
        zones: where earthquakes are: a normal distribution {x, y, sd} or an even disc {x, y, radius}, km, with its `weight`.
        events: epicentres in all, shared by the zones according to their weights.
        magnitude: M of the earthquakes that must not be missed.
        depth: of their hypocentres, km.
        snr: amplitude over noise from which on a station sees.
        scatter: standard deviation of log10 A about the formula.
        spacing: least distance of any two stations, km, where `spacing` is asked for.
        forbidden: discs {x, y, radius} in which none may stand, km, where `forbidden` is asked for.
        certainty: probability of detection that the map of the least magnitude is drawn for.

    >>> zones = ({"x": 12.0, "y": -7.0, "sd": 0.0},)
    >>> one = Seismometers(space=Space((Parameter("x1", _SIDE), Parameter("y1", _SIDE))), fixed={}, noise=(10.0,), least=1,
    ...                    zones=zones, events=1)
    >>> one.run(torch.tensor([[12.0, -7.0], [42.0, 33.0]], dtype=torch.float64), seed=0).round(decimals=4)
    tensor([[0.9467],
            [0.1034]], dtype=torch.float64)
    """

    space: Space = _SPACE
    fixed: dict[str, float] = field(default_factory=lambda: dict(_OLD))
    noise: tuple[Annotated[float, Gt(0)], ...] = (4.0, 5.0, 6.0, 10.0, 10.0)
    least: Annotated[int, Ge(1)] = 2
    zones: tuple[dict[str, float], ...] = _ZONES
    events: Annotated[int, Ge(1), Le(10_000)] = 40
    magnitude: Annotated[float, Ge(-3), Le(7)] = 1.0
    depth: Annotated[float, Gt(0)] = 10.0
    snr: Annotated[float, Gt(0)] = 3.0
    scatter: Annotated[float, Gt(0)] = 0.3
    spacing: Annotated[float, Gt(0)] = 15.0
    forbidden: tuple[dict[str, float], ...] = _LAKES
    certainty: Annotated[float, Gt(0), Lt(1)] = 0.9

    differentiable: ClassVar[bool] = True
    batched: ClassVar[bool] = True
    tracks: ClassVar[bool] = True
    incidental: ClassVar[tuple[str, ...]] = ("spacing", "forbidden", "certainty")

    def __post_init__(self):
        known = [f"{c}{i + 1}" for i in range(len(self.noise)) for c in "xy"]
        need_names("seismometers", known, self.space.names, self.fixed)
        if self.least > len(self.noise):
            raise InputError(f"seismometers: least must be at most the number of stations, for each of which noise has a value. "
                             f"Got {self.least} of {len(self.noise)}.")  # fmt: skip
        for zone in self.zones:
            _need_disc("zones", zone, {"sd", "radius"} & set(zone), {"weight"})
        for area in self.forbidden:
            _need_disc("forbidden", area, {"radius"}, set())
        if not self.zones or self.events < len(self.zones):
            raise InputError("seismometers: there must be at least one zone, and an event for each. Got "
                             f"{len(self.zones)} zones and {self.events} events.")  # fmt: skip

    @property
    def outputs(self) -> Outputs:
        at = tuple(float(i + 1) for i in range(self.events))
        return Outputs((Field("detection", coordinate="event", at=at),))

    @property
    def stochastic(self) -> bool:
        return False

    def run(self, theta: Tensor, *, seed: int = 0) -> Tensor:
        """y `[e]` at theta `[d]`, and `[..., e]` at many theta `[..., d]` at once."""
        return self.detected(theta, self.epicentres)

    @cached_property
    def epicentres(self) -> Tensor:
        """`[e, 2]`, km: zone after zone, each symmetric about its centre."""
        shares, parts = _shares([z.get("weight", 1.0) for z in self.zones], self.events), []
        for zone, n in zip(self.zones, shares, strict=True):
            unit = detection.gaussian(n) if "sd" in zone else detection.evenly(n)
            centre = torch.tensor([zone["x"], zone["y"]], dtype=torch.float64)
            parts.append(centre + (zone["sd"] if "sd" in zone else zone["radius"]) * unit)
        return torch.cat(parts)

    def stations(self, theta: Tensor) -> Tensor:
        """`[..., n, 2]`, km, in the order of their numbers: those of theta `[..., d]` and those that stand."""
        return torch.stack([self._station(i, theta) for i in range(len(self.noise))], -2)

    def detected(self, theta: Tensor, epicentres: Tensor, magnitude: float | None = None) -> Tensor:
        """P(the network detects) `[..., e]` at epicentres `[e, 2]`, km, by the stations of theta `[..., d]`."""
        distance = detection.distances(self.stations(theta), epicentres, self.depth)
        m = self.magnitude if magnitude is None else magnitude
        return detection.at_least(self.least, detection.seen(m, distance, self._threshold, self.scatter))

    def least_magnitude(self, theta: Tensor, epicentres: Tensor) -> Tensor:
        """The local magnitude `[..., e]` that is detected with `certainty` at epicentres `[e, 2]`, km."""
        distance = detection.distances(self.stations(theta), epicentres, self.depth)
        return detection.least_magnitude(self.least, self.certainty, distance, self._threshold, self.scatter)

    def constraints(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """`spacing_1_2` of stations 1 and 2, for every pair of which one is placed; `forbidden_1_2` of station 1 and the second
        area, for every station that is placed.

        Left sides in km, smooth where two stations meet: (l^2 - d^2) / 2l of a least distance l at a distance d, which is
        l - d near the bound.
        """
        n = len(self.noise)
        free = [i for i in range(n) if {f"x{i + 1}", f"y{i + 1}"} & set(self.space.names)]
        pairs = [(i, j) for i, j in combinations(range(n), 2) if i in free or j in free]
        found = {f"spacing_{i + 1}_{j + 1}": partial(self._apart, i, j) for i, j in pairs}
        areas = enumerate(self.forbidden, 1)
        return found | {f"forbidden_{i + 1}_{a}": partial(self._outside, i, area) for a, area in areas for i in free}

    def truths(self) -> tuple[Truth, ...]:
        """Amplitudes by the formula of IASPEI, a Poisson binomial tail, and where one and two stations must stand."""
        from emulate.simulators.seismometers._truths import truths

        return truths()

    def picture(self, points: Mapping[str, Tensor]) -> "Figure":
        """Left and middle: how surely an earthquake of the magnitude asked for is detected, by place, before and after; dots are
        likely epicentres, triangles stations, black those that stand already, hatched areas are forbidden, and lines are the
        way of each station from where the search began. Right: the least magnitude that is detected with the certainty asked for.
        """
        from emulate.simulators.seismometers._pictures import network

        return network(self, points)

    @property
    def _threshold(self) -> Tensor:
        """`[n]`, nm."""
        return self.snr * torch.tensor(self.noise, dtype=torch.float64)

    def _station(self, i: int, theta: Tensor) -> Tensor:
        """`[..., 2]`, km."""
        free, names = self.space.names, (f"x{i + 1}", f"y{i + 1}")
        xy = [theta[..., free.index(n)] if n in free else torch.full_like(theta[..., 0], self.fixed[n]) for n in names]
        return torch.stack(xy, -1)

    def _apart(self, i: int, j: int, theta: Tensor) -> Tensor:
        return _nearer(self._station(i, theta) - self._station(j, theta), self.spacing)

    def _outside(self, i: int, area: dict[str, float], theta: Tensor) -> Tensor:
        centre = torch.tensor([area["x"], area["y"]], dtype=torch.float64)
        return _nearer(self._station(i, theta) - centre, area["radius"])


def _nearer(apart: Tensor, least: float) -> Tensor:
    return (least**2 - apart.square().sum(-1)) / (2 * least)


def _shares(weights: list[float], n: int) -> list[int]:
    """n events shared by weight, at least one each, by the largest remainder."""
    beyond = [max(0.0, w / sum(weights) * n - 1) for w in weights]
    scale = (n - len(weights)) / max(sum(beyond), 1e-300)
    shares = [1 + math.floor(scale * b + 1e-9) for b in beyond]
    rest = sorted(range(len(weights)), key=lambda i: shares[i] - scale * beyond[i])
    return [s + (i in rest[: n - sum(shares)]) for i, s in enumerate(shares)]


def _need_disc(where: str, disc: dict[str, float], size: set[str], more: set[str]) -> None:
    """Complain unless a disc has a centre, one size, and weights above 0."""
    named = len(size) == 1 and {"x", "y"} | size <= set(disc) <= {"x", "y"} | size | more
    least = 0.0 if where == "zones" else 1e-9  # km; nobody stands in an area of no size
    if named and min(disc[n] for n in size) >= least and disc.get("weight", 1.0) > 0:
        return
    kinds = "{x, y, sd, weight} or {x, y, radius, weight}" if where == "zones" else "{x, y, radius}"
    raise InputError(f"seismometers: each of {where} must be {kinds}, km, with sizes of at least 0 and weights above 0. Got "
                     f"{disc}.")  # fmt: skip

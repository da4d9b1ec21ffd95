r"""Profile likelihoods and the confidence intervals that follow from them, of parameters and of derived ones.

    ln L_p(a) = max over all else of ln p(data | theta) with theta_i = a, or with g(theta) = a

The prior does not enter; its box does, for an emulator knows nothing outside: a parameter stays within its range, one
whose prior has no edges within 3 standard deviations. An interval of a level holds every a with 2 (ln L_max - ln L_p(a))
below the quantile of chi-squared with one degree of freedom (Wilks 1938; Murphy and van der Vaart 2000). It is exact for
a linear model with normal noise, and holds for many data otherwise; where the maximum lies at the edge of the box it is
too wide. An end that the likelihood does not reach before the box ends is open, and said to be.

All points and all starts are climbed in one batch by Newton's method (`densities.climb`). A derived parameter is held by a
spring: whatever maximises ln L - (g - c)^2 / 2 s^2 has the highest likelihood of all theta with the same g, so that it is
a point of the profile, exactly, if not at g = c.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from scipy import special
from torch import Tensor
from torch.special import ndtr, ndtri

from emulate.densities import climb, value_and_gradient
from emulate.derived import Derived, values
from emulate.errors import InputError, nearest
from emulate.posterior import Posterior
from emulate.space import Space

LEVELS = (0.68, 0.95)
_EDGE = 1e-9  # of the box
_RUNGS, _ROWS, _TURNS = (
    12,
    4096,
    12,
)  # halvings of the way to the edge; rows climbed at once; steps to an interval's end
_SHOWN = 4.5  # in ln L, how far below the maximum a profile is followed: three standard deviations
_SPRING = 40.0  # standard deviations that a spring pulls at most
_BURSTS, _STEPS, _ARRIVED = 8, 4, 1e-6  # Newton steps at a time, and the gain of so many in ln L that ends a climb
_SHARP = 1e-5  # standard deviations to which the end of an interval is known
_LOWEST = -1e30


@dataclass(frozen=True)
class Interval:
    """A confidence interval; an end is open where the box ends before the likelihood has fallen far enough."""

    level: float
    low: float
    high: float
    low_open: bool = False
    high_open: bool = False
    connected: bool = True  # False: some values between its ends lie outside

    def __str__(self) -> str:
        ends = f"{'at most ' if self.low_open else ''}{self.low:.4g} to {self.high:.4g}{' or more' if self.high_open else ''}"
        open_ = " (the box ends there)" if self.low_open or self.high_open else ""
        return ends + open_ + ("" if self.connected else ", not all between")


@dataclass(frozen=True)
class Profile:
    """ln L_p - ln L_max `[n]` at values `[n]` of one parameter, rising, with the theta `[n, d]` that reaches it.

    best is where L is highest. edges: the box of a parameter, or the least and greatest value that was met of a derived one.

    >>> x = torch.linspace(0, 2, 3, dtype=torch.float64)
    >>> Profile("a", x, -0.5 * (x - 1) ** 2, x[:, None], 1.0, -3.2, (0.0, 2.0), (), True).to_dict()["edges"]
    [0.0, 2.0]
    """

    name: str
    value: Tensor
    log_ratio: Tensor
    theta: Tensor
    best: float
    log_likelihood: float
    edges: tuple[float, float]
    intervals: tuple[Interval, ...]
    converged: bool

    def to_dict(self) -> dict:
        """Plain JSON."""
        return {"best": self.best, "log_likelihood": self.log_likelihood, "edges": list(self.edges),
                "converged": self.converged, "intervals": [{**vars(i), "said": str(i)} for i in self.intervals],
                "value": self.value.tolist(), "log_ratio": self.log_ratio.tolist()}  # fmt: skip


@dataclass(frozen=True)
class Plane:
    """ln L_p - ln L_max `[n1, n2]` over values `[n1]` and `[n2]` of two parameters; 68 % of confidence lie above -1.15."""

    names: tuple[str, str]
    first: Tensor
    second: Tensor
    log_ratio: Tensor


def profile(posterior: Posterior, names: Sequence[str] | None = None, *, derived: Sequence[Derived] = (), seed: int,
            levels: Sequence[float] = LEVELS, points: int = 41, starts: int = 2, most: int = 3) -> dict[str, Profile]:  # fmt: skip
    """The profile of each named parameter, all where none is named, derived ones among them, with its intervals.

    Each point is climbed to from the highest maximum, from the neighbouring points and from `starts` draws of the box. A
    higher maximum met on the way replaces the first, and all is done again, `most` times.

    >>> from emulate.distributions import Exact
    >>> from emulate.likelihoods.gaussian import Gaussian
    >>> from emulate.space import Parameter, Uniform
    >>> space = Space((Parameter("a", Uniform(0, 4)), Parameter("b", Uniform(-9, 9))))
    >>> made = lambda theta: Exact(torch.stack([theta[..., 0], theta[..., 0] + theta[..., 1]], -1))
    >>> posterior = Posterior(space, made, Gaussian(absolute_error=1.0), torch.tensor([1.5, 1.0], dtype=torch.float64))
    >>> found = profile(posterior, seed=1)
    >>> print(found["b"].intervals[0], "and", found["a"].intervals[1])
    -1.906 to 0.9064 and at most 0 to 3.46 (the box ends there)
    """
    known = (*posterior.space.names, *(d.name for d in derived))
    names = tuple(known if names is None else names)
    for name in names:
        if name not in known:
            raise InputError(
                f"a profile must be that of one of {', '.join(known)}. Got {name!r}.{nearest(name, known)}"
            )
    if not all(0 < x < 1 for x in levels) or points < 5:
        raise InputError(
            f"levels must be probabilities between 0 and 1, and points at least 5. Got {list(levels)} and {points}."
        )
    if posterior.data.ndim != 1:
        raise InputError(
            f"a profile must be that of one observation [m]. Got data of shape {tuple(posterior.data.shape)}."
        )
    box = _Box(posterior)
    top = box.highest(max(8, 4 * starts), seed)
    for _ in range(most):
        axes = [_axis(box, top, name, derived) for name in names]
        for axis in axes:
            axis.start(top)
        box.probe([(a, c) for a in axes for c in a.ladder()], starts, seed + 1)
        box.probe([(a, c) for a in axes for c in a.grid(points)], 0, seed)
        for _ in range(_TURNS):
            asked = [(a, c) for a in axes for level in levels for c in a.nearer(level)]
            if not asked:
                break
            box.probe(asked, 0, seed)
        better = max(axes, key=lambda a: float(a.height.max()))
        if float(better.height.max()) <= top.height + 1e-6 * (1 + abs(top.height)):
            break
        top = box.climbed(torch.cat([better.v[int(better.height.argmax())][None], top.others]))
    return {axis.name: axis.told(levels) for axis in axes}


def plane(posterior: Posterior, names: tuple[str, str], *, seed: int, points: int = 25, starts: int = 4) -> Plane:
    """The likelihood profiled over two parameters at once, on a grid that holds its 95 % region."""
    for name in names:
        if name not in posterior.space.names or names[0] == names[1]:
            raise InputError(
                f"a plane must be that of two parameters of {', '.join(posterior.space.names)}. Got {names}."
            )
    box, single = _Box(posterior), profile(posterior, names, seed=seed, levels=(0.995,))
    columns = [posterior.space.names.index(n) for n in names]
    ends = [single[n].intervals[0] for n in names]
    first, second = (torch.linspace(e.low, e.high, points, dtype=torch.float64) for e in ends)
    grid = torch.cartesian_prod(first, second)
    near = torch.stack([torch.cdist(grid, single[n].theta[:, columns]).argmin(1) for n in names], 1)
    theta = torch.stack([single[n].theta[near[:, i]] for i, n in enumerate(names)], 1)  # [rows, 2, d]
    theta[..., columns] = grid[:, None]
    v = torch.cat([box.v(theta), _draws((len(grid), starts, posterior.space.d), seed)], 1)
    v[:, :, columns] = box.v(theta)[:, :1, columns]
    height, _ = box.held(v, torch.tensor(columns).expand(len(grid), 2))
    best = max(float(height.max()), single[names[0]].log_likelihood)
    return Plane((names[0], names[1]), first, second, (height - best).reshape(points, points))


@dataclass(frozen=True)
class _Top:
    """The highest maximum: v `[d]`, its covariance by the curvature `[d, d]`, ln L; all maxima that were met beside it."""

    v: Tensor
    covariance: Tensor
    height: float
    others: Tensor  # v [modes, d]
    heights: Tensor


class _Box:
    """ln L over v `[..., d]`: theta is where the prior's distribution function is low + (high - low) Phi(v)."""

    def __init__(self, posterior: Posterior):
        self.posterior, self.space = posterior, posterior.space
        self.low, self.high = self.space.ends()

    def theta(self, v: Tensor) -> Tensor:
        return self.space.from_unit(self.low + (self.high - self.low) * ndtr(v).clamp(_EDGE, 1 - _EDGE))

    def v(self, theta: Tensor) -> Tensor:
        u = (self.space.to_unit(theta) - self.low) / (self.high - self.low)
        return ndtri(u.clamp(_EDGE, 1 - _EDGE))

    def height(self, v: Tensor) -> Tensor:
        value = self.posterior.log_likelihood(self.theta(v))
        return torch.where(torch.isfinite(value), value, _LOWEST)

    def highest(self, starts: int, seed: int) -> _Top:
        start = _draws((starts, self.space.d), seed)
        start[0] = 0.0
        return self.climbed(start)

    def climbed(self, start: Tensor) -> _Top:
        good = value_and_gradient(self.height, start)[0] > _LOWEST / 2
        if not good.any():
            raise InputError("the likelihood must be above 0 somewhere in the box. Got 0 at every start; look at the "
                             "observation and its errors.")  # fmt: skip
        modes = climb(self.height, start[good])
        i = int(modes.log_density.argmax())
        return _Top(modes.x[i], modes.covariance[i], float(modes.log_density[i]), modes.x, modes.log_density)

    def held(self, v: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """ln L `[rows]` and v `[rows, d]`, the highest of climbs from v `[rows, starts, d]` with columns `[rows, f]` held."""
        rows, starts, d = v.shape
        free = (
            torch.ones(rows, d)
            .scatter(1, columns, 0.0)
            .argsort(dim=-1, descending=True, stable=True)[:, : d - columns.shape[1]]
        )
        if not free.shape[1]:
            return self.height(v[:, 0]).detach(), v[:, 0]
        free, flat = free.repeat_interleave(starts, 0), v.reshape(-1, d)

        def density(w: Tensor, some: slice) -> Tensor:
            return self.height(flat[some].scatter(-1, free[some], w))

        return self._best(density, flat.gather(-1, free), rows, lambda w: flat.scatter(-1, free, w))

    def pulled(
        self, v: Tensor, g: Callable[[Tensor], Tensor], goal: Tensor, stiffness: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same under a spring that pulls g(theta) `[...]` to goal `[rows]`."""
        rows, starts, d = v.shape
        goal, stiffness = (x.repeat_interleave(starts) for x in (goal, stiffness))

        def density(w: Tensor, some: slice) -> Tensor:
            far = (g(self.theta(w)) - goal[some]) / stiffness[some]
            return self.height(w) - 0.5 * torch.where(torch.isfinite(far), far, 1e9).square()

        _, best = self._best(density, v.reshape(-1, d), rows, lambda w: w)
        return self.height(best).detach(), best

    def _best(self, density: Callable, start: Tensor, rows: int, whole: Callable) -> tuple[Tensor, Tensor]:
        """The highest climb of each row; starts where the density vanishes climb from where the row's others ended."""
        height, w = torch.full((len(start),), _LOWEST, dtype=torch.float64), start.clone()
        for at in range(0, len(start), _ROWS):
            part = torch.arange(at, min(at + _ROWS, len(start)))
            good = part[value_and_gradient(lambda x: density(x, part), start[part])[0] > _LOWEST / 2]  # noqa: B023
            for _ in range(_BURSTS):  # rows that have arrived are not climbed again with those that have not
                if not len(good):
                    break
                modes = climb(lambda x: density(x, good), w[good], iterations=_STEPS)  # noqa: B023
                gained = modes.log_density - height[good]
                height[good], w[good] = modes.log_density, modes.x
                good = good[gained > _ARRIVED]
        height, best = height.reshape(rows, -1).max(-1)
        return height, whole(w).reshape(rows, -1, self.space.d)[torch.arange(rows), best]

    def probe(self, asked: "list[tuple[_Axis, float]]", starts: int, seed: int) -> None:
        """Points of profiles, all climbed together; each axis keeps its own."""
        for kind in (True, False):
            some = [(a, c) for a, c in asked if (a.g is None) == kind]
            if not some:
                continue
            control = torch.tensor([c for _, c in some], dtype=torch.float64)
            v = torch.stack([torch.cat([a.near(c), _draws((starts, self.space.d), seed)]) for a, c in some])
            if kind:
                columns = torch.tensor([[a.column] for a, _ in some])
                v = v.scatter(
                    -1,
                    columns[:, None].expand(-1, v.shape[1], 1),
                    ndtri(control)[:, None, None].expand(-1, v.shape[1], 1),
                )
                height, v = self.held(v, columns)
            else:
                height, v = self._pulled_each(some, v, control)
            for axis in {id(a): a for a, _ in some}.values():
                mine = torch.tensor([a is axis for a, _ in some])
                axis.add(control[mine], height[mine], v[mine])

    def _pulled_each(self, some: "list[tuple[_Axis, float]]", v: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
        height, best = (
            torch.empty(len(some), dtype=torch.float64),
            torch.empty(len(some), v.shape[-1], dtype=torch.float64),
        )
        for axis, g in {id(a): (a, a.g) for a, _ in some if a.g is not None}.values():
            mine = torch.tensor([a is axis for a, _ in some])
            scale = torch.full((int(mine.sum()),), axis.scale, dtype=torch.float64)
            height[mine], best[mine] = self.pulled(v[mine], g, control[mine], scale)
        return height, best


@dataclass
class _Axis:
    """One profile as it grows: points in the order of their control, which is Phi(v_i), or where a spring pulls."""

    name: str
    box: _Box
    ends: tuple[float, float]
    centre: float
    column: int = -1
    g: Callable[[Tensor], Tensor] | None = None
    scale: float = 1.0
    control: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    height: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    v: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))

    def start(self, top: _Top) -> None:
        found = ndtr(top.others[:, self.column]) if self.g is None else self.g(self.box.theta(top.others))
        self.add(found.clamp(*self.ends), top.heights, top.others)

    def add(self, control: Tensor, height: Tensor, v: Tensor) -> None:
        v = torch.cat([self.v, v]) if len(self.v) else v
        control, order = torch.cat([self.control, control]).sort()
        self.control, self.height, self.v = control, torch.cat([self.height, height])[order], v[order]

    def near(self, control: float) -> Tensor:
        """v `[2, d]` of the nearest points on both sides."""
        i = int(torch.searchsorted(self.control, control))
        return self.v[[max(i - 1, 0), min(i, len(self.control) - 1)]]

    def ladder(self) -> list[float]:
        """From the best to either end, each way halved again and again; evenly from end to end."""
        width = self.ends[1] - self.ends[0]
        steps = [(end - self.centre) * 2.0**-k for end in self.ends for k in range(_RUNGS + 1)]
        even = [self.ends[0] + width * (k + 0.5) / _RUNGS for k in range(_RUNGS)]
        return [self.centre + s for s in steps if abs(s) > 1e-9 * width] + even

    def grid(self, points: int) -> list[float]:
        """An even grid over all that lies within three standard deviations."""
        inside = (self.height >= self.height.max() - _SHOWN).nonzero().flatten()
        first, last = max(int(inside[0]) - 1, 0), min(int(inside[-1]) + 1, len(self.control) - 1)
        low, high = (
            self._crossing(a, b, math.sqrt(2 * _SHOWN)) for a, b in ((first, int(inside[0])), (last, int(inside[-1])))
        )
        return torch.linspace(low, high, points, dtype=torch.float64).tolist()

    def nearer(self, level: float) -> list[float]:
        """Controls nearer to the ends of an interval, none where both are known well enough."""
        aim, asked = special.ndtri((1 + level) / 2), []
        for outer, inner in self._brackets(aim):
            if outer is None or self.control[outer] == self.control[inner]:
                continue
            roots = self._roots()[[outer, inner]]
            width = abs(float(self.control[outer] - self.control[inner]))
            if abs(float(roots[1]) - aim) > _SHARP and width > 1e-12 * (self.ends[1] - self.ends[0]):
                asked += [self._crossing(outer, inner, aim), float(self.control[outer] + self.control[inner]) / 2]
        return asked

    def _roots(self) -> Tensor:
        """sqrt(2 (ln L_max - ln L_p)): standard deviations away, straight on both sides of a parabola."""
        return (2 * (self.height.max() - self.height)).clamp_min(0).sqrt()

    def _brackets(self, aim: float) -> list[tuple[int | None, int]]:
        """(outside, inside) of the outermost crossings on either side; outside None where the box ends before."""
        inside = (self._roots() <= aim).nonzero().flatten()
        low, high = int(inside[0]), int(inside[-1])
        return [(low - 1 if low else None, low), (high + 1 if high + 1 < len(self.control) else None, high)]

    def _crossing(self, outer: int, inner: int, aim: float) -> float:
        """Where the straight line through two points has the root `aim`, kept away from their ends; half way where it bends."""
        a, b = (float(self.control[i]) for i in (inner, outer))
        ra, rb = (float(self._roots()[i]) for i in (inner, outer))
        share = (aim - ra) / (rb - ra) if rb > ra and rb < 1e3 else 0.5
        return a + (b - a) * min(max(share, 0.0 if outer == inner else 1e-3), 1.0 if outer == inner else 1 - 1e-3)

    def told(self, levels: Sequence[float]) -> Profile:
        theta = self.box.theta(self.v).detach()
        value = theta[:, self.column] if self.g is None else self.g(theta).detach()
        roots, top = self._roots(), int(self.height.argmax())
        shown = roots <= math.sqrt(2 * _SHOWN) * 1.1
        intervals = []
        for level in levels:
            aim = special.ndtri((1 + level) / 2)
            ends = [self._end(value, outer, inner, aim) for outer, inner in self._brackets(aim)]
            within = slice(self._brackets(aim)[0][1], self._brackets(aim)[1][1] + 1)
            intervals.append(Interval(level, ends[0], ends[1], *(outer is None for outer, _ in self._brackets(aim)),
                                      connected=bool((roots[within] <= aim + 1e-6).all())))  # fmt: skip
        edges = (float(value.min()), float(value.max()))
        gradient = value_and_gradient(self.box.height, self.v[top][None])[1]
        return Profile(self.name, value[shown], self.height[shown] - self.height.max(), theta[shown], float(value[top]),
                       float(self.height.max()), edges, tuple(intervals), bool(gradient.square().sum() < 1e-4))  # fmt: skip

    def _end(self, value: Tensor, outer: int | None, inner: int, aim: float) -> float:
        """The value at an end: between the last two points, or the edge itself."""
        if outer is None:
            edge = self.box.low if inner == 0 else self.box.high
            return float(value[inner] if self.g else self.box.space.from_unit(edge)[self.column])
        ra, rb = (float(self._roots()[i]) for i in (inner, outer))
        share = (aim - ra) / (rb - ra) if rb > ra and rb < 1e3 else 0.0
        return float(value[inner] + (value[outer] - value[inner]) * share)


def _axis(box: _Box, top: _Top, name: str, derived: Sequence[Derived]) -> _Axis:
    space: Space = box.space
    if name in space.names:
        i = space.names.index(name)
        return _Axis(name, box, (_EDGE, 1 - _EDGE), float(ndtr(top.v[i]).clamp(_EDGE, 1 - _EDGE)), column=i)
    i = [d.name for d in derived].index(name)

    def g(theta: Tensor) -> Tensor:
        return values(space, derived, theta)[..., i]

    centre, slope = value_and_gradient(lambda v: g(box.theta(v)), top.v[None])
    sd = float((slope[0] @ top.covariance @ slope[0]).clamp_min(0).sqrt())
    sd = sd if math.isfinite(sd) and sd > 0 else 1e-3 * (1 + abs(float(centre)))
    reach = _SPRING * sd
    return _Axis(name, box, (float(centre) - reach, float(centre) + reach), float(centre), g=g, scale=sd)


def _draws(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

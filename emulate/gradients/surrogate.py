"""Through an emulator of the neighbourhood of theta, with the disagreement of an ensemble as error."""

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from emulate.contracts import Estimate, Gradient, Recipe
from emulate.emulator import Emulator, fit
from emulate.errors import InputError
from emulate.gradients._averages import lengths
from emulate.gradients._taught import told
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import Program, each, lift
from emulate.runs import Field, Outputs, Runs
from emulate.seeds import replicate
from emulate.space import Parameter, Space, Uniform

_PROCESS = {"use": "gp", "log": False, "kernel": "rbf", "mean": "linear", "starts": 1, "truncation": 1e-20,
            "calibrate": False}  # fmt: skip
_SPARE = 4  # pairs in each half of the design beyond the parameters
_HOW_MANY = 5  # runs under a second seed, which tell whether f is random where one replicate was asked for
_FOLDS = 4  # of the design that look for structure finer than it, where the ensemble is one of replicates
_ALMOST = 1.5  # the bias of a straight line over all runs is 1.42 times what leaving the outer half out changes; at an
_ASKEW = 2.5  # edge of the space, where the box has theta on one side, 2.25 times


def _built(spec: Any = _PROCESS) -> Recipe:
    registry = importlib.import_module("emulate.registry")  # it stands above the rooms and opens all of them
    return registry.build("emulators", spec, path="surrogate.emulator")


@dataclass(frozen=True, kw_only=True)
class Surrogate(Gradient):
    r"""Emulator of f near theta, differentiated there; its error is the disagreement of an ensemble of such emulators.

    For what can only be run, where runs are dear and rough or noisy: all of them tell of every parameter. theta and pairs of
    scrambled Sobol points theta +- w x are run, half of the pairs in the whole box |x_i| <= 1 and half at half the width;
    n replicates of each under common random numbers. `emulator` is fitted to the means over the replicates, and its
    Jacobian at theta is the gradient: pairs keep even orders out of it.

    The ensemble are emulators g_k that each leave out one part of what g was fitted to, a part of the replicates where f
    is random, of the pairs where it is not; M parts, at most `members`. With h their mean (Quenouille 1949; Tukey 1958):

        covariance = (M - 1) / M sum_k (g_k - h)(g_k - h)^T

    The bias is what the box is too wide for. The bound is 1.5 times the difference to an emulator of the inner half alone,
    less twice the noise of that difference: 1.42 is right where a straight line is fitted to what bends in third order, and
    an emulator that follows the bends errs less. It is unknown (NaN) where emulators cannot tell left-out runs: f turns
    more often in the box than there are runs. `diagnostics["unresolved"]` names those outputs.

    @COVERAGE@

    An `Emulator` as f is asked itself, without a run: the error is the spread of the Jacobians of a network's members, not
    divided by root M, for they share their runs; or the standard deviation of the derivative of a Gaussian process given its
    runs. How far either is from the simulator beyond that, nobody knows without running it: the bias is NaN.

    "auto" never takes it: for the runs it needs, `common_random_numbers` needs fewer; name it where they are rough.

    >>> theta = torch.tensor([1.0, 0.5], dtype=torch.float64)
    >>> e = Surrogate().estimate(lambda t: torch.exp(t[0]) * t[1] ** 2, theta, seed=0)
    >>> e.gradient.round(decimals=3), e.calls
    (tensor([[0.6800, 2.7180]], dtype=torch.float64), 25)
    """

    example: ClassVar[dict] = {"emulator": {"use": "polynomial", "degree": 3}}  # the laws fit thousands

    emulator: Recipe = field(default_factory=_built)  # {use: NAME, ...}: what is fitted; a Gaussian process on a line
    width: Annotated[float, Gt(0)] = 0.1  # w, half the box, as a share of the scale; bias grows with it, noise falls
    scale: tuple[float, ...] = ()  # typical size of each parameter, in its unit; empty: |theta|, or 1 where theta is 0
    runs: Annotated[int, Ge(0)] = 0  # of a replicate, theta's included; 0: 4 d + 17, or what the emulator needs
    members: Annotated[int, Ge(2)] = 64  # most emulators of the ensemble; fewer where a fit is dear

    def __post_init__(self) -> None:
        if isinstance(self.emulator, str | Mapping):
            object.__setattr__(self, "emulator", _built(self.emulator))
        if not isinstance(self.emulator, Recipe) or "coarse" in self.emulator.takes or self.emulator.needs_slopes:
            met = self.emulator.entry_name() if isinstance(self.emulator, Recipe) else self.emulator
            raise InputError(f"surrogate.emulator: must be a recipe that needs the runs alone. Got {met!r}; choose gp, mlp or "
                             "polynomial.")  # fmt: skip

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        if isinstance(f.source, Emulator):
            return told(f.source, theta)
        with Meter() as meter, torch.no_grad():
            near = self._design(f, theta, seed)
            y, random, calls, alone = _run(f, theta + near.width * near.t, seed, n)
            near, y, failed = near.finite(y)
            every = torch.ones(len(near.t), dtype=torch.bool)
            mean = y.mean(0)
            whole = near.fit(every, mean, random)
            gradient = near.slope(whole)
            gap = gradient - near.slope(near.fit(near.inner, mean, random))
            blur, unresolved = torch.zeros_like(gap), torch.zeros(len(gap), dtype=torch.bool)
            if random and n > 1:
                parts = _parts(n, self.members)
                slopes = [near.slope(near.fit(every, y[~out].mean(0), random, k)) for k, out in enumerate(parts, 1)]
                blur = near.blur(y)
                folds = near.parts(_FOLDS)
                left = [near.fit(~out, mean, random, k) for k, out in enumerate(folds, 1)]
                unresolved = near.unresolved(left, folds, y)
            elif not random:
                parts = near.parts(self.members)
                left = [near.fit(~out, mean, random, k) for k, out in enumerate(parts, 1)]
                slopes, unresolved = [near.slope(e) for e in left], near.unresolved(left, parts, y)
            else:
                parts, slopes = [], [torch.full_like(gradient, math.nan)]
            others = torch.stack(slopes)
            off = others - others.mean(0)
            covariance = max(len(parts) - 1, 1) / max(len(parts), 1) * torch.einsum("kmi,kmj->mij", off, off)
            bias = near.reach * (gap.abs() - 2 * blur).clamp(min=0)
            bias = bias + torch.finfo(y.dtype).eps * y.abs().amax((0, 1))[:, None] / near.width
            moving = ((y != y[:, :1]).any(1)).sum(0)  # [m], replicates that do anything in the box
            if random:
                reach = (y.amax((0, 1)) - y.amin((0, 1)))[:, None] / (2 * near.width)
                bias = torch.where(moving[:, None] == 0, bias + 3 / n * reach, bias)
            bias = torch.where(unresolved[:, None], math.nan, bias)
        figures = {"width": near.width.tolist(), "runs": len(near.t), "members": len(parts), "alone": alone}
        if failed:
            figures["failed"] = failed
        if unresolved.any():
            figures["unresolved"] = unresolved.nonzero()[:, 0].tolist()
            figures["bias"] = "unknown: f turns more often in the box than there are runs; lower width, or raise runs"
        return Estimate(y[:, 0].mean(0), gradient, covariance.diagonal(dim1=-2, dim2=-1).sqrt(), calls, meter.seconds,
                        figures, covariance, bias, meter.peak_memory, _counted(moving, n, len(parts)))  # fmt: skip

    def _design(self, f: Program, theta: Tensor, seed: int) -> "_Near":
        """theta, and pairs about it, in the box that the space of f leaves."""
        d, least = len(theta), self.emulator.least_runs(len(theta))
        fewest = max(d + 1, least - d - 1, math.ceil((least - 1) / 2))  # of a half, which is fitted alone
        pairs = max(d + _SPARE, fewest) if not self.runs else (self.runs - 1) // 4
        if pairs < fewest:
            raise InputError(f"runs must be at least {4 * fewest + 1} for {d} parameters and {self.emulator.entry_name()}. Got "
                             f"{self.runs}; raise it, or choose an emulator that needs fewer.")  # fmt: skip
        low, high = _limits(f.source, theta)
        width = self.width * lengths(self.scale, theta)
        below, above = torch.minimum(width, theta - low), torch.minimum(width, high - theta)
        if not ((below >= 0) & (above >= 0)).all():
            raise InputError(f"theta must lie in the box of f's space. Got {theta.tolist()}; move it inside.")
        width, middle = (below + above) / 2, (above - below) / (below + above)
        key = int(2**31 * Noise(seed).own("design"))
        sobol = torch.quasirandom.SobolEngine(d, scramble=True, seed=key).draw(2 * pairs, dtype=torch.float64)
        x = torch.cat([sobol[:, :1], 2 * sobol[:, 1:] - 1], 1)  # the other half of a pair is its mirror image
        t = torch.stack([middle + x, middle - x], 1)
        t = torch.cat([t[0::2], t[1::2] / 2]).reshape(-1, d)
        t = torch.cat([torch.zeros_like(t[:1]), t])
        pair = torch.arange(-1, 2 * pairs).repeat_interleave(2)[1:]
        space = Space(tuple(Parameter(f"t{i}", Uniform(a, b)) for i, (a, b) in enumerate(zip(middle - 1, middle + 1))))
        reach = _ALMOST if bool((middle.abs() < 1e-9).all()) else _ASKEW
        return _Near(self.emulator, seed, space, width, t, pair, (pair < 0) | (pair >= pairs), reach)


@dataclass(frozen=True)
class _Near:
    """The design: t `[N, d]` in units of the width, theta first; the pair `[N]` of each run, -1 for theta; which are inner."""

    recipe: Recipe
    seed: int
    space: Space
    width: Tensor
    t: Tensor
    pair: Tensor
    inner: Tensor
    reach: float

    def fit(self, rows: Tensor, y: Tensor, noisy: bool, member: int = 0) -> Emulator:
        """An emulator of some of the runs y `[N, m]`."""
        outputs = Outputs((Field("y", coordinate="output", at=tuple(range(y.shape[-1]))),))
        runs = Runs.of(self.space, outputs, self.t[rows].numpy(), y[rows].numpy(), stochastic=noisy)
        return fit(self.recipe, runs, seed=replicate(self.seed, member))

    def slope(self, emulator: Emulator) -> Tensor:
        """dy/dtheta `[m, d]` at theta."""
        return emulator.jacobian(torch.zeros_like(self.width)) / self.width

    def parts(self, most: int) -> list[Tensor]:
        """The runs `[N]` of each part of the pairs."""
        return [(self.pair >= 0) & out for out in _parts(int(self.pair.max()) + 1, most, self.pair)]

    def finite(self, y: Tensor) -> tuple["_Near", Tensor, int]:
        """The design and runs `[n, N, m]` without points where a run is not finite, and how many those are."""
        good = y.isfinite().all(-1).all(0)
        if not good.any():
            raise InputError(f"f must be finite near theta. Got {len(good)} runs, none of which is; look at f there, or lower "
                             "width.")  # fmt: skip
        if not good[0]:
            raise InputError(f"f must be finite at theta. Got {y[:, 0].tolist()}; look at f there, or move theta.")
        least = self.recipe.least_runs(len(self.width))
        if int((good & self.inner).sum()) < least:
            raise InputError(f"f must be finite in at least {least} runs at half the width. Got {int((good & self.inner).sum())} "
                             f"of {int(self.inner.sum())}; lower width, or raise runs.")  # fmt: skip
        kept = {name: getattr(self, name)[good] for name in ("t", "pair", "inner")}
        return _Near(self.recipe, self.seed, self.space, self.width, reach=self.reach, **kept), y[:, good], int((~good).sum())

    def blur(self, y: Tensor) -> Tensor:
        """The standard error `[m, d]` that the replicates y `[n, N, m]` give the difference between all and inner runs: that
        of straight lines, which is the least that an emulator has."""
        made = []
        for rows in (torch.ones_like(self.inner), self.inner):
            basis = torch.cat([torch.ones_like(self.t[rows][:, :1]), self.t[rows]], 1)
            made.append(torch.einsum("dj,njm->nmd", torch.linalg.pinv(basis)[1:], y[:, rows]) / self.width)
        return (made[0] - made[1]).std(0) / len(y) ** 0.5

    def unresolved(self, emulators: list[Emulator], parts: list[Tensor], y: Tensor) -> Tensor:
        """Whether an output `[m]` does in the box what left-out runs do not tell: the odd part of pairs, (y+ - y-) / 2, which
        slopes come from, is missed by more than half, though it stands above noise and is no small part of what f does."""
        odd, missed = [], []
        for emulator, out in zip(emulators, parts, strict=True):
            plus, minus = self._halves(out)
            said = emulator.predict(self.t[torch.cat([plus, minus])], outside="ignore").mean
            said = (said[: len(plus)] - said[len(plus) :]) / 2
            odd.append((y[:, plus] - y[:, minus]) / 2)
            missed.append(odd[-1].mean(0) - said)
        odd, missed = torch.cat(odd, 1), torch.cat(missed).square().mean(0)
        noise = odd.var(0).mean(0) / len(y) if len(y) > 1 else torch.zeros_like(missed)
        whole, odd = y.mean(0).var(0), odd.mean(0).square().mean(0)
        beyond = missed - 3 * noise
        return (beyond > 0.5 * odd) & (beyond > 0.05 * whole) & (odd > 5 * noise)

    def _halves(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Where the two runs of each whole pair stand."""
        at = out.nonzero()[:, 0]
        first = at[:-1][self.pair[at[:-1]] == self.pair[at[1:]]]
        return first, first + 1


def _counted(moving: Tensor, n: int, members: int) -> int:
    """On how many replicates the error rests: the members, or the replicates that move where most do not, as at jumps."""
    few = moving[(moving > 0) & (moving < n)]
    return min(members, max(2, int(few.min()))) if n > 1 and len(few) else members


def _parts(n: int, most: int, of: Tensor | None = None) -> list[Tensor]:
    """At most so many parts of what is numbered to n."""
    k = min(n, most)
    number = torch.arange(n) if of is None else of
    return [number % k == i for i in range(k)]


def _limits(source: Any, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest theta `[d]` that f's space allows; infinite where it has none."""
    space = getattr(source, "space", None)
    priors = [p.prior for p in space.parameters] if isinstance(space, Space) and space.d == len(theta) else [None] * len(theta)
    return tuple(torch.tensor([getattr(p, name, far) for p in priors], dtype=theta.dtype)
                 for name, far in (("low", -math.inf), ("high", math.inf)))  # fmt: skip


def _run(f: Program, points: Tensor, seed: int, n: int) -> tuple[Tensor, bool, int, str]:
    """y `[n, N, m]` of n replicates, or `[1, N, m]` where f is not random; whether it is; calls; why they ran one by one."""

    def at(some: Tensor):
        return lambda noise: torch.stack([f(point, noise.again()) for point in some])

    first = each(at(points), seed, 1)
    y = first.answer.double()
    if not (first.record.sites or first.record.opaque):
        return y, False, len(points), ""
    some = points if n > 1 else points[:_HOW_MANY]
    more = each(at(some), seed, max(n - 1, 1), first=1)
    others = more.answer.double()
    random = bool(first.record.sites) or not torch.equal(others.nan_to_num(), y[:, : len(some)].expand_as(others).nan_to_num())
    calls = len(points) + more.calls * len(some)
    return torch.cat([y, others]) if random and n > 1 else y, random, calls, more.alone

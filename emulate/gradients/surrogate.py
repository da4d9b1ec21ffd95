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
from emulate.emulator import Emulator
from emulate.errors import InputError
from emulate.gradients._averages import lengths
from emulate.gradients._near import Near, dealt, design
from emulate.gradients._taught import told
from emulate.meter import Meter
from emulate.replication import Program, each, lift

_PROCESS = {"use": "gp", "log": False, "kernel": "rbf", "mean": "linear", "starts": 1, "truncation": 1e-20,
            "calibrate": False}  # fmt: skip
_HOW_MANY = 5  # runs under a second seed, which tell whether f is random where one replicate was asked for
_FOLDS = 4  # of the design that look for structure finer than it, where the ensemble is one of replicates


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

    Of 1000 intervals of 95 % so many held the truth: of (theta + Z)^2 with 16 replicates 94.8 %, of a jump with 200, by a
    line, 94.8 %, of noise that is not shared, by a line, 95.2 and 94.6 %. Of 200 by a process 98.5 % (the jump), 96.5 and
    98.5 %. Of seven smooth functions of one to ten parameters 95 to 100 % of 200: there the bound is cautious. Of a jump with
    20 and 60 replicates, of which a third moved, by a process, 91 and 94 % of 100 and 80.

    An `Emulator` as f is asked itself, without a run: the error is the spread of the Jacobians of a network's members, not
    divided by root M, for they share their runs; or the standard deviation of the derivative of a Gaussian process given its
    runs. How far either is from the simulator beyond that, nobody knows without running it: the bias is NaN.

    "auto" never takes it: its fits take up to a second, in which most programs run thousands of times. Name it where runs
    are dear. Default fits take 0.01 s each for up to ten parameters and a hundred runs, a network's some seconds: lower
    `members` there. Where f jumps, or noise is not shared, a line, {"use": "polynomial", "degree": 1}, has a third to two
    thirds of the process's noise; some twenty replicates should move within the box.

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
            near = design(
                self.emulator, theta, self.width * lengths(self.scale, theta), f.source, runs=self.runs, seed=seed
            )
            y, random, calls, alone = _run(f, theta + near.width * near.t, seed, n)
            near, y, failed = near.finite(y)
            every, mean = near.pair > -2, y.mean(0)
            gradient = near.slope(near.fit(every, mean, random))
            gap = (gradient - near.slope(near.fit(near.inner, mean, random))).abs()
            blur = near.blur(y) if len(y) > 1 else 0.0
            slopes, unresolved = self._ensemble(near, y, random)
            off = slopes - slopes.mean(0)
            m = len(slopes)
            covariance = torch.einsum("kmi,kmj->mij", off, off) * ((m - 1) / m if m > 1 else math.nan)
            bias = near.reach * (gap - 2 * blur).clamp(min=0)
            bias = bias + torch.finfo(y.dtype).eps * y.abs().amax((0, 1))[:, None] / near.width
            moving = (y != y[:, :1]).any(1).sum(0)  # [m], replicates that do anything in the box
            unseen = 3 / n * (y.amax((0, 1)) - y.amin((0, 1)))[:, None] / (2 * near.width)
            bias = torch.where(moving[:, None] == 0, bias + unseen, bias)
            bias = torch.where(unresolved[:, None], math.nan, bias)
        figures = {"width": near.width.tolist(), "runs": len(near.t), "members": m, "alone": alone}
        if failed:
            figures["failed"] = failed
        if unresolved.any():
            figures["unresolved"] = unresolved.nonzero()[:, 0].tolist()
            figures["bias"] = "unknown: f turns more often in the box than there are runs; lower width, or raise runs"
        return Estimate(y[:, 0].mean(0), gradient, covariance.diagonal(dim1=-2, dim2=-1).sqrt(), calls, meter.seconds,
                        figures, covariance, bias, meter.peak_memory, _counted(moving, len(y), m))  # fmt: skip

    def _ensemble(self, near: Near, y: Tensor, random: bool) -> tuple[Tensor, Tensor]:
        """The slopes `[M, m, d]` of emulators that leave a part out, one of them where there is no part to leave out; and
        which outputs `[m]` are unresolved."""
        mean, every, n = y.mean(0), near.pair > -2, len(y)
        if not random:
            parts = near.parts(self.members)
            left = [near.fit(~out, mean, random, k) for k, out in enumerate(parts, 1)]
            return torch.stack([near.slope(e) for e in left]), near.unresolved(left, parts, y)
        parts = dealt(torch.arange(n), n, self.members)
        folds = near.parts(_FOLDS) if n > 1 and near.bends(mean) else []
        left = [near.fit(~out, mean, random, k) for k, out in enumerate(folds, 1)]
        others = [y] if n == 1 else [y[~out] for out in parts]
        slopes = [near.slope(near.fit(every, some.mean(0), random, k)) for k, some in enumerate(others, 1)]
        return torch.stack(slopes), near.unresolved(left, folds, y)


def _counted(moving: Tensor, n: int, members: int) -> int:
    """On how many the error rests: the members, or those of n replicates that move at all, where others do not, as at jumps."""
    few = moving[(moving > 0) & (moving < n)]
    return min(members, max(2, int(few.min()))) if n > 1 and len(few) else members * (members > 1)


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
    random = bool(first.record.sites) or not torch.equal(
        others.nan_to_num(), y[:, : len(some)].expand_as(others).nan_to_num()
    )
    calls = len(points) + more.calls * len(some)
    return torch.cat([y, others]) if random and n > 1 else y, random, calls, more.alone

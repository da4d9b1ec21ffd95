"""Weather on a circle of latitude, chaotic, by the equations of Lorenz."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from emulate.contracts import Simulator, Truth
from emulate.dynamics import Trajectory
from emulate.errors import InputError, RunFailed
from emulate.runs import Field, Outputs
from emulate.simulators._mass_action import need_names
from emulate.space import Parameter, Space, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPACE = Space((Parameter("forcing", Uniform(6.0, 12.0), label="F"),
                Parameter("damping", Uniform(0.8, 1.25), label="c")))  # fmt: skip
_MEAN, _SD = 2.3, 3.6  # of x there, about: what starts are drawn from


@dataclass(frozen=True, kw_only=True)
class Lorenz96(Simulator):
    r"""Waves of weather around a circle of latitude: dx_i/dt = (x_(i+1) - x_(i-2)) x_(i-1) - c x_i + F, i mod N (Lorenz 1996).

    The outputs are averages over the circle and over the time `horizon`: the mean of x, its covariance with itself 0, 1, ...
    sites eastwards, and with itself a `lag` later. A unit of time is five days. The start is drawn by the seed, and forgotten
    in `spinup`; what the average of a finite time leaves to chance is the noise of a run. With N = 40, F = 8, c = 1 errors
    grow by exp(1.67 t), so that the derivative of a run of twenty units is 10^14 times that of its average.

    The advection keeps the energy |x|^2 / 2, so that on the attractor c <x^2> = F <x>, and volumes shrink by exp(-N c t): the
    exponents sum to -N c. Steps of Runge and Kutta's fourth order. Any of forcing and damping may be in the space; `fixed`
    holds the others. One run takes a twentieth of a second.

    >>> y = Lorenz96().run(torch.tensor([8.0, 1.0], dtype=torch.float64), seed=1)
    >>> bool((y[0] - 2.35).abs() < 0.3), bool((y[1] + y[0] ** 2 - 8 * y[0]).abs() < 0.5)  # <x>, and <x^2> = F <x>
    (True, True)
    """

    space: Space = _SPACE
    fixed: dict[str, float] = field(default_factory=dict)  # forcing or damping, where it is not in the space
    sites: Annotated[int, Ge(4)] = 40  # N, points of the circle
    horizon: Annotated[float, Gt(0)] = 20.0  # time that is averaged over
    spinup: Annotated[float, Ge(0)] = 5.0  # time before, in which the start is forgotten
    step: Annotated[float, Gt(0)] = 0.05  # of time
    distances: tuple[int, ...] = (0, 1, 2, 3)  # in sites, of the covariances
    lags: tuple[float, ...] = (0.1, 0.2, 0.4)  # in time, of the covariances; whole numbers of steps

    differentiable: ClassVar[bool] = True
    pathologies: ClassVar[tuple[str, ...]] = ("chaos",)
    example: ClassVar[dict] = {"horizon": 1.0, "spinup": 0.5}  # short of chaos: a derivative can still be measured

    def __post_init__(self):
        need_names("lorenz96", ("forcing", "damping"), self.space.names, self.fixed)
        if wrong := [k for k in self.distances if not 0 <= k < self.sites]:
            raise InputError(f"lorenz96: distances must be from 0 to {self.sites - 1} sites. Got {wrong[0]}.")
        for lag in self.lags:
            if not 0 < lag < self.horizon or abs(lag / self.step - round(lag / self.step)) > 1e-6:
                raise InputError(f"lorenz96: lags must be whole numbers of steps of {self.step:g}, above 0 and below the horizon "
                                 f"of {self.horizon:g}. Got {lag:g}.")  # fmt: skip

    @property
    def outputs(self) -> Outputs:
        return Outputs((Field("mean"), Field("covariance", coordinate="distance", at=tuple(map(float, self.distances))),
                        Field("memory", coordinate="lag", at=self.lags)))  # fmt: skip

    @property
    def stochastic(self) -> bool:
        return True

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        """y `[m]` at theta `[d]`."""
        states = torch.stack(list(self.states(theta, self.starts(1, seed=seed)[0], self.horizon, self.spinup)))
        if not bool(states[-1].isfinite().all()):
            raise RunFailed("nonfinite", f"steps of {self.step:g} must be short against the flow. Got winds that run away; give "
                                         "the simulator a smaller step, or narrow the prior.")  # fmt: skip
        return self.statistics(states)

    def starts(self, n: int, *, seed: int) -> Tensor:
        """Starts `[n, N]` near the attractor, drawn from the seed; theta does not move them."""
        generator = torch.Generator().manual_seed(seed)
        return _MEAN + _SD * torch.randn(n, self.sites, generator=generator, dtype=torch.float64)

    def states(self, theta: Tensor, x: Tensor, time: float, spinup: float = 0.0) -> Iterator[Tensor]:
        """x `[..., N]` after the spin-up and after each step of `time` from there, one by one."""
        for k in range(-round(spinup / self.step), round(time / self.step)):
            if k >= 0:
                yield x
            x = self.advance(theta, x)
        yield x

    def advance(self, theta: Tensor, x: Tensor) -> Tensor:
        """x `[..., N]` a step later."""
        of = {**self.fixed, **dict(zip(self.space.names, theta.unbind(-1), strict=True))}
        f, c, h = of["forcing"], of["damping"], self.step
        k = _slope(x, f, c)  # `emulate.dynamics.SCHEMES` in half its time
        l = _slope(torch.add(x, k, alpha=h / 2), f, c)
        m = _slope(torch.add(x, l, alpha=h / 2), f, c)
        n = _slope(torch.add(x, m, alpha=h), f, c)
        return torch.add(x, torch.add(k + n, l + m, alpha=2), alpha=h / 6)

    def statistics(self, states: Tensor) -> Tensor:
        """The outputs `[..., m]` of states `[t, ..., N]`."""
        mean = states.mean((0, -1))
        off = states - mean[..., None]
        found = [mean, *((off * off.roll(-k, -1)).mean((0, -1)) for k in self.distances)]
        for lag in self.lags:
            k = round(lag / self.step)
            found.append((off[k:] * off[:-k]).mean((0, -1)))
        return torch.stack(found, -1)

    def climate(self, time: float, *, members: int = 1, spinup: float | None = None, seed: int = 0,
                last: bool = False) -> Trajectory:  # fmt: skip
        """The mean of x over a time, or of the `last` state alone, as a `Trajectory` that estimators of derivatives take:
        members side by side that are spun up without derivative."""
        spun, steps = self.spinup if spinup is None else spinup, round(time / self.step)
        drawn = self.starts(members, seed=seed) if members > 1 else self.starts(1, seed=seed)[0]

        def start(theta: Tensor) -> Tensor:
            x = drawn
            for _ in range(round(spun / self.step)):
                x = self.advance(theta.detach(), x)
            return x

        def step(theta: Tensor, x: Tensor, k: int, noise: Any) -> Tensor:
            return self.advance(theta, x)

        at = () if last else tuple(range(1, steps + 1))
        return Trajectory(start, step, steps, lambda theta, x: x.mean(), at=at)

    def truths(self) -> tuple[Truth, ...]:
        from emulate.simulators import _lorenz96_facts as facts

        return facts.truths()

    def picture(self, points: Mapping[str, Tensor]) -> "Figure | None":
        """Waves that run round the circle (above); the exponents at which errors grow and shrink (below, left); and how the
        derivative of a run's mean scatters between runs, which passes the slope of the average at the horizon (right)."""
        from emulate.simulators import _lorenz96_picture as picture

        return picture.drawn(self, points)


def _slope(x: Tensor, forcing: Any, damping: Any) -> Tensor:
    """dx/dt of x `[..., N]`; one copy with the ends joined serves all neighbours, which are then views."""
    wide = torch.cat((x[..., -2:], x, x[..., :1]), -1)
    return torch.addcmul(forcing - damping * x, wide[..., 3:] - wide[..., :-3], wide[..., 1:-2])

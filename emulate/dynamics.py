"""A simulation that goes step by step, told in parts: what reverse modes with bounded memory and adjoints are built on."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.noise import Noise


@dataclass(frozen=True)
class Trajectory:
    """y `[m]` = readout(theta, state_n), state_(k+1) = step(theta, state_k, k, noise), state_0 = start(theta).

    start: theta `[d]` -> state, a tensor of any shape.
    step: theta, state, k from 0 to steps - 1, noise -> the next state, of the same shape. It draws by
    `noise.draw(site, distribution)` and reads theta from its argument alone: a tensor that carries a graph and comes in
    from outside is lost to those who run a step twice.
    steps: how many.
    readout: theta, the last state -> y `[m]`; if `at` is given, theta and the states `[len(at), ...]` after those steps.
    at: numbers of finished steps, in rising order, 0 being the start. A sum over all steps needs none: carry it in the
    state.

    It is a callable f(theta, noise), so that every estimator takes it.

    >>> decay = Trajectory(lambda theta: torch.ones_like(theta), lambda theta, y, k, noise: y - 0.1 * theta * y**2, 10,
    ...                    lambda theta, y: y)
    >>> decay(torch.tensor([1.0], dtype=torch.float64), Noise(0))
    tensor([0.4817], dtype=torch.float64)
    """

    start: Callable[[Tensor], Tensor]
    step: Callable[[Tensor, Tensor, int, Noise], Tensor]
    steps: int
    readout: Callable[[Tensor, Tensor], Tensor]
    at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(f"steps must be a whole number of at least 1. Got {self.steps!r}.")
        if list(self.at) != sorted(set(self.at)) or not all(0 <= k <= self.steps for k in self.at):
            raise InputError(f"at must be rising numbers of finished steps from 0 to {self.steps}. Got {self.at}.")

    def __call__(self, theta: Tensor, noise: Noise) -> Tensor:
        seen = self.at or (self.steps,)
        states = [state for k, state in enumerate(self.states(theta, noise)) if k in seen]
        return self.readout(theta, torch.stack(states) if self.at else states[0])

    def states(self, theta: Tensor, noise: Noise) -> Iterator[Tensor]:
        """The state after 0, 1, ..., `steps` steps, each when it is asked for."""
        state = self.start(theta)
        yield state
        for k in range(self.steps):
            state = self.step(theta, state, k, noise)
            yield state

    def segment(self, theta: Tensor, state: Tensor, of: range, noise: Noise) -> Tensor:
        """The state after the steps of a range, from the state before it."""
        for k in of:
            state = self.step(theta, state, k, noise)
        return state


@dataclass(frozen=True)
class Scheme:
    """An explicit Runge-Kutta scheme by its table (Butcher 1964): slope i is taken at t + c_i h from
    y + h sum_j a_ij k_j, and the step is h sum_i b_i k_i. at, weights: a quadrature over one step, of the same order."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    at: tuple[float, ...]
    weights: tuple[float, ...]

    def step(self, slope: Callable[[float, Tensor], Tensor], t: float, y: Tensor, h: float) -> Tensor:
        """y at t + h from y at t, with dy/dt = slope(t, y); h may be negative."""
        k: list[Tensor] = []
        for row in self.a:
            k.append(slope(t + h * sum(row), y + h * _weighted(row, k) if k else y))
        return y + h * _weighted(self.b, k)


def _weighted(by: tuple[float, ...], k: list[Tensor]) -> Any:
    return sum(w * k_i for w, k_i in zip(by, k) if w)


SCHEMES = {
    "euler": Scheme(((),), (1.0,), (0.0, 1.0), (1 / 2, 1 / 2)),
    "rk4": Scheme(((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 1 / 2, 1.0),
                  (1 / 6, 2 / 3, 1 / 6)),
}  # fmt: skip


@dataclass(frozen=True)
class ODE:
    """y `[m]` = readout(theta, state(horizon)), d state/dt = rhs(theta, state, t), state(0) = start(theta).

    rhs: theta `[d]`, state, t -> d state/dt, of the state's shape. start, readout: as of a `Trajectory`. horizon: the
    time integrated to, in the unit of t; steps: how many of equal length. scheme: `euler` or `rk4`.

    It is a callable f(theta), so that every estimator takes it; `discretised` are its steps.

    >>> decay = ODE(lambda theta, y, t: -theta * y**2, torch.ones_like, 1.0, 10, lambda theta, y: y, scheme="euler")
    >>> decay(torch.tensor([1.0], dtype=torch.float64))
    tensor([0.4817], dtype=torch.float64)
    """

    rhs: Callable[[Tensor, Tensor, float], Tensor]
    start: Callable[[Tensor], Tensor]
    horizon: float
    steps: int
    readout: Callable[[Tensor, Tensor], Tensor]
    scheme: Literal["euler", "rk4"] = "rk4"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise InputError(f"scheme must be one of {', '.join(SCHEMES)}. Got {self.scheme!r}.")
        if not math.isfinite(self.horizon) or self.horizon <= 0:
            raise InputError(f"horizon must be a time above 0. Got {self.horizon!r}.")
        self.discretised  # noqa: B018  a wrong number of steps is told now

    def __call__(self, theta: Tensor) -> Tensor:
        return self.discretised(theta, Noise(0))

    @property
    def discretised(self) -> Trajectory:
        """The steps of the scheme, which is what a computer runs."""
        h, scheme = self.horizon / self.steps if self.steps else 0.0, SCHEMES[self.scheme]
        return Trajectory(self.start, lambda theta, y, k, noise: scheme.step(lambda t, s: self.rhs(theta, s, t), k * h, y, h),
                          self.steps, self.readout)  # fmt: skip


def dynamics(f: Any) -> Any:
    """The `Trajectory` or `ODE` that f is, was lifted from, or offers as `dynamics`; else what f was lifted from."""
    source = getattr(f, "source", f)
    return getattr(source, "dynamics", source)


def trajectory(f: Any, method: str) -> Trajectory:
    """The `Trajectory` of f; `InputError` in the name of the method that needs one."""
    source = dynamics(f)
    source = source.discretised if isinstance(source, ODE) else source
    if not isinstance(source, Trajectory):
        raise InputError(f"{method} must be given an emulate.dynamics.Trajectory, which tells its steps. Got "
                         f"{type(source).__name__}; write f as one, or use reverse.")  # fmt: skip
    return source

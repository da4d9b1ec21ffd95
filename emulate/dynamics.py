"""A simulation that goes step by step, told in parts: what reverse modes with bounded memory and adjoints are built on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

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
    tensor([0.4818], dtype=torch.float64)
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


def trajectory(f: Any, method: str) -> Trajectory:
    """The `Trajectory` that f is, or was lifted from; `InputError` in the name of the method that needs one."""
    source = getattr(f, "source", f)
    if not isinstance(source, Trajectory):
        raise InputError(f"{method} must be given an emulate.dynamics.Trajectory, which tells its steps. Got "
                         f"{type(source).__name__}; write f as one, or use reverse.")  # fmt: skip
    return source

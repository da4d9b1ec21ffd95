"""Leapfrog steps of many chains at once, in numpy: the density alone is asked in torch.

On the small arrays between two gradients a product in numpy costs a fifth of one in torch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emulate.contracts import LogDensity
from emulate.densities import require_inside, value_and_gradient
from emulate.samplers._coordinates import Coordinates

_DIVERGENT = 1000.0  # energy error beyond which a trajectory has left the energy surface for good (Stan's limit)


class Density:
    """ln p `[g, c]` and its gradient `[g, c, d]` at x `[g, c, d]`, g groups of c chains, and how often it was asked."""

    def __init__(self, log_density: LogDensity, start: Tensor, groups: int):
        self.start = start.detach().double()
        self.shape = (groups, len(start) // groups, start.shape[1])
        self.log_density, self.calls = log_density, 1
        value, gradient = value_and_gradient(log_density, self.start)
        require_inside(value)
        self.first = self.shaped(value), self.shaped(gradient)
        self._ones = torch.ones_like(value)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls += 1
        at = torch.from_numpy(x.reshape(-1, self.shape[2])).to(self.start.device).requires_grad_()
        with torch.enable_grad():
            value = self.log_density(at)
            (gradient,) = torch.autograd.grad(value, at, self._ones.to(value))
        p, slope = self.shaped(value), self.shaped(gradient)
        if np.isfinite(p).all() and np.isfinite(slope).all():
            return p, slope
        good = np.isfinite(p) & np.isfinite(slope).all(-1)
        return np.where(good, p, -np.inf), np.where(good[..., None], slope, 0.0)

    def shaped(self, t: Tensor) -> np.ndarray:
        """Rows of all chains -> `[g, c, ...]`."""
        rows = t.detach().cpu().numpy().astype(np.float64, copy=False)
        return rows.reshape(self.shape[: 1 + rows.ndim])


@dataclass
class State:
    """Where the chains are: q, x and the gradient by q `[g, c, d]`, ln p `[g, c]`."""

    q: np.ndarray
    x: np.ndarray
    value: np.ndarray
    slope: np.ndarray

    def replaced(self, end: "State", where: np.ndarray) -> "State":
        w = where[..., None]
        return State(np.where(w, end.q, self.q), np.where(w, end.x, self.x), np.where(where, end.value, self.value),
                     np.where(w, end.slope, self.slope))  # fmt: skip


def state_at(q: np.ndarray, density: Density, coordinates: Coordinates) -> State:
    """The state at q, which costs one gradient."""
    x, place = coordinates.x(q)
    value, gradient = density(x)
    return State(q, x, value, coordinates.pull(gradient, place))


def trajectory(start: State, p: np.ndarray, density: Density, coordinates: Coordinates, size: np.ndarray,
               steps: int) -> tuple[State, np.ndarray, np.ndarray]:  # fmt: skip
    """The end, its momentum, and the error of H = |p|^2 / 2 - ln p `[g, c]`, inf where a chain diverged.

    A chain that diverges waits at its start for the others. `size` `[g]` of one step.
    """
    size = size[:, None, None]
    kinetic = 0.5 * np.einsum("gcd,gcd->gc", p, p)
    lowest, q, lost = start.value - kinetic - _DIVERGENT, start.q, None
    p, end = p - 0.5 * size * start.slope, start
    for _ in range(steps):
        p = p + size * end.slope
        q = q + size * p
        if lost is not None:
            q = np.where(lost[..., None], start.q, q)
        end = state_at(q, density, coordinates)
        gone = end.value < lowest
        if gone.any():
            lost = gone if lost is None else gone | lost
            p = np.where(lost[..., None], 0.0, p)
    p = p + 0.5 * size * end.slope
    error = 0.5 * np.einsum("gcd,gcd->gc", p, p) - end.value - kinetic + start.value
    error = np.where(error < _DIVERGENT, error, np.inf)  # NaN, too
    return end, p, error if lost is None else np.where(lost, np.inf, error)

"""Simulations in steps whose derivatives are known: `tests/reference/gradients/dynamics.py` derives them."""

import math

import torch
from torch import Tensor

from emulate.dynamics import ODE, Trajectory

THETA = torch.ones(2, dtype=torch.float64)


def decay(steps: int, scheme: str) -> ODE:
    """y(1) of y' = -p y^2 from y = 1; theta = (p,)."""
    return ODE(lambda theta, y, t: -theta[:1] * y**2, lambda theta: torch.ones_like(theta[:1]), 1.0, steps,
               lambda theta, y: y, scheme=scheme)  # fmt: skip


def heat(intervals: int, steps: int, scheme: str = "rk4") -> ODE:
    """Half the integral of u^2 at t = 0.5 of u_t = k u_xx by second differences; theta = (k,)."""
    x = torch.arange(1, intervals, dtype=torch.float64) / intervals

    def rhs(theta: Tensor, u: Tensor, t: float) -> Tensor:
        wide = torch.nn.functional.pad(u, (1, 1))
        return theta[0] * intervals**2 * (wide[2:] - 2 * u + wide[:-2])

    return ODE(rhs, lambda theta: torch.sin(math.pi * x) + 0 * theta[0], 0.5, steps,
               lambda theta, u: u.square().sum(-1, keepdim=True) / (2 * intervals), scheme=scheme)  # fmt: skip


def lorenz(steps: int, h: float = 0.01) -> Trajectory:
    """The mean of z over the steps, from a start near the attractor; theta = (rho,)."""

    def rhs(theta: Tensor, s: Tensor, t: float) -> Tensor:
        x, y, z = s.unbind()
        return torch.stack([10 * (y - x), x * (theta[0] - z) - y, x * y - 8 / 3 * z])

    start = torch.tensor([5.0, 9.0, 15.0], dtype=torch.float64)
    ode = ODE(rhs, lambda theta: start + 0 * theta[0], h * steps, steps, lambda theta, s: s)
    return Trajectory(
        ode.start, ode.discretised.step, steps, lambda theta, s: s[:, 2].mean(), tuple(range(1, steps + 1))
    )

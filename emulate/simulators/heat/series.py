"""The temperature of a graded rod in closed form: eigenfunctions of Euler and Cauchy's equation."""

import math

import numpy as np
import torch
from torch import Tensor

_NODES = 200  # of Gauss and Legendre's quadrature of the start


def temperature(
    diffusivity: Tensor, grading: Tensor, x: Tensor, *, length: float, time: float, terms: int = 40
) -> Tensor:
    r"""u(x, t) `[k]` at x `[k]` of u_t = (a(x) u_x)_x, a(x) = diffusivity s^2, s = 1 + grading x / L, from sin(pi x / L), 0 at
    both ends.

    With y = ln s the equation has constant coefficients, and its modes are

        s^-1/2 sin(n pi y / Y) exp(-lambda_n t),   lambda_n = diffusivity (grading / L)^2 ((n pi / Y)^2 + 1/4)

    with Y = ln(1 + grading), orthogonal over x with the norm L Y / (2 grading). grading must be above -1, and not 0.
    Differentiable in both parameters.
    The terms left out are below exp(-lambda_n t); the quadrature is exact to rounding for the terms that are left.

    >>> of = lambda v: torch.tensor(v, dtype=torch.float64)
    >>> u = temperature(of(100.0), of(1e-5), of([50.0]), length=100.0, time=5.0)
    >>> round(float(u), 4), round(math.exp(-(math.pi**2) * 0.05), 4)  # an even rod
    (0.6105, 0.6105)
    """
    points, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(_NODES))
    inside, weights = length * (points + 1) / 2, length * weights / 2
    n = torch.arange(1, terms + 1, dtype=torch.float64)
    whole = torch.log1p(grading)

    def modes(at: Tensor) -> Tensor:
        """`[terms, len(at)]`."""
        s = torch.log1p(grading * at / length)
        return torch.exp(-s / 2) * torch.sin(n[:, None] * math.pi * s / whole)

    start = torch.sin(math.pi * inside / length)
    shares = (modes(inside) * (weights * start)).sum(1) * 2 * grading / (length * whole)
    rates = diffusivity * (grading / length) ** 2 * ((n * math.pi / whole) ** 2 + 0.25)
    return (shares * torch.exp(-rates * time)) @ modes(x)

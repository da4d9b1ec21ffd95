"""Time integration in the growth factor D: drift, kick, drift, with the kick as a table of two numbers per step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.growth import Growth

__all__ = ["Steps", "evolve", "steps"]


@dataclass(frozen=True, eq=False)
class Steps:
    """The numbers of s steps, float64, differentiable in the cosmology.

    Attributes:
        start: growth functions at the beginning.
        drift: half a step in D, [s].
        keep: factor alpha of the old velocity in the kick, [s].
        kick: factor beta of the acceleration in the kick, [s].
    """

    start: Growth
    drift: Tensor
    keep: Tensor
    kick: Tensor


def steps(
    cosmology: Cosmology, a_start: float, a_final: float, count: int, scheme: Literal["bullfrog", "fastpm"] = "bullfrog"
) -> Steps:
    r"""Steps of equal length in D between two scale factors.

    With velocity v = dx/dD and A = -grad laplacian^-1 delta a step of length h from D_0 is

    .. math::
        x_{1/2} = x_0 + \tfrac h2 v_0, \quad v_1 = \alpha v_0 + \beta A(x_{1/2}), \quad x_1 = x_{1/2} + \tfrac h2 v_1

    Growth in the Zel'dovich approximation (v constant, A = D_{1/2} v, D_{1/2} = D_0 + h/2) demands
    beta = (1 - alpha) / D_{1/2}. The scheme is the choice of alpha:

    bullfrog: a step is exact to second order of Lagrangian perturbation theory. With D2' = dD2/dD the second-order
        velocity obeys D2'_1 = alpha D2'_0 + (1 - alpha) c, c = (D2_0 + h/2 D2'_0) / D_{1/2} - D_{1/2}.
    fastpm: momentum p = a^3 E dx/da keeps its value without force, alpha = p_0 / p_1 at constant dx/dD.

    Reference: Rampf, List & Hahn 2025, JCAP 02, 020 (arXiv 2409.19049); List & Hahn 2024, J. Comput. Phys. 513, 113201
    (arXiv 2301.09655); Feng et al. 2016, MNRAS 463, 2273.

    Args:
        cosmology: gives the growth functions and the expansion rate.
        a_start: first scale factor.
        a_final: last scale factor, at most 1.
        count: number of steps.
        scheme: "bullfrog" or "fastpm".

    Example:
        >>> planck = Cosmology.of(omega_m=0.31, omega_b=0.049, h=0.68, n_s=0.965, sigma_8=0.81)
        >>> table = steps(planck, 0.1, 1.0, 10)
        >>> len(table.drift), bool(((table.keep > 0) & (table.keep < 1)).all())
        (10, True)
    """
    ends = cosmology.growth(torch.tensor([a_start, a_final], dtype=torch.float64)).D
    fraction = torch.linspace(0.0, 1.0, count + 1, dtype=torch.float64)
    D = ends[0] + (ends[1] - ends[0]) * fraction
    g = cosmology.growth(cosmology.scale_factor(D))
    half = 0.5 * (D[1:] - D[:-1])
    middle = D[:-1] + half
    if scheme == "bullfrog":
        c = (g.D2[:-1] + half * g.dD2[:-1]) / middle - middle
        keep = (g.dD2[1:] - c) / (g.dD2[:-1] - c)
    else:
        momentum = g.a**2 * cosmology.expansion(g.a) * g.f * g.D
        keep = momentum[:-1] / momentum[1:]
    start = Growth(*(x[0] for x in (g.a, g.D, g.f, g.D2, g.dD2)))
    return Steps(start=start, drift=half, keep=keep, kick=(1.0 - keep) / middle)


def evolve(x: Tensor, v: Tensor, table: Steps, force: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Carry displacements x and velocities v = dx/dD [3, N] through all steps; `force` gives A(x) in the unit of x."""
    for half, keep, kick in zip(*(t.to(x.dtype) for t in (table.drift, table.keep, table.kick)), strict=True):
        x = x + half * v
        v = keep * v + kick * force(x)
        x = x + half * v
    return x, v

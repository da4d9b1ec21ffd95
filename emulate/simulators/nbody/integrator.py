"""Time integration in the growth factor D: kicks between drifts, every scheme a table of numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.growth import Growth

__all__ = ["SCHEMES", "Steps", "evolve", "steps"]


@dataclass(frozen=True, eq=False)
class Steps:
    """The numbers of q kicks between q + 1 drifts, float64, differentiable in the cosmology.

    Attributes:
        start: growth functions at the beginning.
        end: growth functions at the end.
        drift: intervals in D, [q + 1].
        keep: factor alpha of the old velocity in each kick, [q].
        kick: factor beta of the acceleration in each kick, [q].
    """

    start: Growth
    end: Growth
    drift: Tensor
    keep: Tensor
    kick: Tensor


def steps(cosmology: Cosmology, a_start: float, a_final: float, count: int,
          scheme: Literal["bullfrog", "fastpm"] = "bullfrog") -> Steps:  # fmt: skip
    r"""Steps of equal length in D between two scale factors.

    With velocity v = dx/dD and A = -grad laplacian^-1 delta, drifts and kicks are

    .. math:: x \leftarrow x + h v, \qquad v \leftarrow \alpha v + \beta A(x)

    Growth in the Zel'dovich approximation (v constant, A = D v) demands beta = (1 - alpha) / D, with D that of the
    positions. The scheme is the order of the two and the choice of alpha:

    bullfrog: half a drift, kick, half a drift, with alpha such that a step is exact to second order of Lagrangian
        perturbation theory. With D2' = dD2/dD the second-order velocity obeys D2'_1 = alpha D2'_0 + (1 - alpha) c,
        c = (D2_0 + h/2 D2'_0) / D_{1/2} - D_{1/2}.
    fastpm: half a kick, drift, half a kick; the momentum p = a^3 E dx/da keeps its value without force, so
        alpha = p_0 / p_1 at constant dx/dD between the two ends of the kick.

    Half steps that follow each other at the same place are taken in one.

    Reference: Rampf, List & Hahn 2025, JCAP 02, 020 (arXiv 2409.19049); List & Hahn 2024, J. Comput. Phys. 513, 113201
    (arXiv 2301.09655); Feng et al. 2016, MNRAS 463, 2273 (arXiv 1603.00476).

    Args:
        cosmology: gives the growth functions and the expansion rate.
        a_start: first scale factor.
        a_final: last scale factor, at most 1.
        count: number of steps.
        scheme: "bullfrog" or "fastpm".

    Example:
        >>> planck = Cosmology.of(omega_m=0.31, omega_b=0.049, h=0.68, n_s=0.965, sigma_8=0.81)
        >>> table = steps(planck, 0.1, 1.0, 10)
        >>> len(table.kick), len(table.drift), bool(((table.keep > 0) & (table.keep < 1)).all())
        (10, 11, True)
    """
    ends = cosmology.growth(torch.tensor([a_start, a_final], dtype=torch.float64)).D
    D = ends[0] + (ends[1] - ends[0]) * torch.linspace(0.0, 1.0, count + 1, dtype=torch.float64)
    g = cosmology.growth(cosmology.scale_factor(D))
    start, end = (Growth(*(x[i] for x in (g.a, g.D, g.f, g.D2, g.dD2))) for i in (0, -1))
    drift, keep, kick = SCHEMES[scheme](cosmology, g)
    return Steps(start=start, end=end, drift=drift, keep=keep, kick=kick)


def _bullfrog(cosmology: Cosmology, g: Growth) -> tuple[Tensor, Tensor, Tensor]:
    half = 0.5 * (g.D[1:] - g.D[:-1])
    middle = g.D[:-1] + half
    c = (g.D2[:-1] + half * g.dD2[:-1]) / middle - middle
    keep = (g.dD2[1:] - c) / (g.dD2[:-1] - c)
    return torch.cat((half[:1], half[1:] + half[:-1], half[-1:])), keep, (1.0 - keep) / middle


def _fastpm(cosmology: Cosmology, g: Growth) -> tuple[Tensor, Tensor, Tensor]:
    between = cosmology.growth(cosmology.scale_factor(0.5 * (g.D[1:] + g.D[:-1])))
    momentum = [x.a**2 * cosmology.expansion(x.a) * x.f * x.D for x in (g, between)]  # of unit dx/dD
    momentum = torch.cat((momentum[0][:1], momentum[1], momentum[0][-1:]))
    keep = momentum[:-1] / momentum[1:]
    still = torch.zeros_like(g.D[:1])
    return torch.cat((still, g.D[1:] - g.D[:-1], still)), keep, (1.0 - keep) / g.D


SCHEMES = {"bullfrog": _bullfrog, "fastpm": _fastpm}


def evolve(x: Tensor, v: Tensor, table: Steps, force: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Carry displacements x and velocities v = dx/dD [3, N] through all steps; `force` gives A(x) in the unit of x."""
    drift, keep, kick = (t.to(x) for t in (table.drift, table.keep, table.kick))
    recorded = torch.is_grad_enabled() or peek_interpreter_stack() is not None
    if recorded and table.kick.requires_grad:
        # a number for each row: a derivative that sums all at once has bits that depend on the number of threads
        drift, keep, kick = ([y.expand_as(x[..., :1]) for y in t] for t in (drift, keep, kick))
    x, v = torch.addcmul(x, drift[0], v), v if recorded else v.clone()
    for h, alpha, beta in zip(drift[1:], keep, kick, strict=True):
        A = force(x)
        if recorded:
            v = torch.addcmul(alpha * v, beta, A)
            x = torch.addcmul(x, h, v)
        else:  # in place, which spares a third of the memory's traffic
            v.mul_(alpha).addcmul_(beta, A)
            x.addcmul_(h, v)
    return x, v

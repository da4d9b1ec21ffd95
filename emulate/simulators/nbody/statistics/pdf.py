"""`pdf`: how much of the volume has which density, after smoothing."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from emulate.errors import InputError
from emulate.runs import Field
from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.fourier import angular, forward, inverse
from emulate.simulators.nbody.snapshot import Snapshot
from emulate.simulators.nbody.statistics.statistic import Statistic
from emulate.simulators.nbody.statistics.sums import mean

__all__ = ["DensityPDF", "smoothed", "soft_histogram"]


@dataclass(frozen=True, kw_only=True)
class DensityPDF(Statistic):
    """Shares of the volume in equal bins of t = ln(1 + delta), delta smoothed with a Gaussian; edges are soft.

    The shares have no unit. With the two tails outside the bins they add up to one; divided by the width of a bin they
    are the probability density of t. The smoothed field is read at one point per particle spacing, in real space.

    Settings:
        radius: standard deviation R of the Gaussian, Mpc/h; None is 1.5 particle spacings. Below, the particle
            lattice shows in the voids, and it is refused.
        low: lowest edge, in t.
        high: highest edge, in t.
        number: number of bins.
        bandwidth: standard deviation of the softening of an edge, as a fraction of the width of a bin.

    Example:
        >>> (pdf,) = DensityPDF(low=-1.5, high=1.5, number=3).fields(Mesh(16), box=100.0)
        >>> pdf.name, pdf.coordinate, pdf.at
        ('pdf', 'ln_density', (-1.0, 0.0, 1.0))
    """

    radius: Annotated[float, Gt(0)] | None = None  # Mpc/h
    low: float = -1.0
    high: float = 1.0
    number: Annotated[int, Ge(1)] = 10
    bandwidth: Annotated[float, Gt(0)] = 0.2  # of the width of a bin

    def __post_init__(self):
        if not (self.number >= 1 and -math.inf < self.low < self.high < math.inf):
            raise InputError("pdf: low must be below high, and number at least 1. Got "
                             f"low = {self.low}, high = {self.high}, number = {self.number}.")  # fmt: skip
        if not 0 < self.bandwidth < math.inf:
            raise InputError(f"pdf: bandwidth must be positive, a fraction of the width of a bin. Got {self.bandwidth};"
                             " 0.2 is a good choice.")  # fmt: skip

    def fields(self, mesh: Mesh, box: float) -> tuple[Field, ...]:
        self._radius(mesh, box)
        edge = self._edges()
        at = tuple((0.5 * (edge[1:] + edge[:-1])).tolist())
        return (Field("pdf", coordinate="ln_density", at=at, label=r"\mathcal{P}(\ln(1 + \delta))"),)

    def measure(self, snapshot: Snapshot) -> Tensor:
        mesh = snapshot.mesh
        delta = smoothed(snapshot.density(), self._radius(mesh, snapshot.box) * mesh.cells / snapshot.box)
        every = slice(None, None, mesh.refinement)
        t = torch.log1p(delta[every, every, every].double())
        edges = self._edges().to(t.device)
        return soft_histogram(t, edges, self.bandwidth * (self.high - self.low) / self.number)

    def _edges(self) -> Tensor:
        return torch.linspace(self.low, self.high, self.number + 1, dtype=torch.float64)

    def _radius(self, mesh: Mesh, box: float) -> float:
        least = 1.5 * box / mesh.particles
        if self.radius is None:
            return least
        if not least <= self.radius <= 0.25 * box:
            raise InputError(f"pdf: radius must be from {least:g} Mpc/h (1.5 particle spacings) to "
                             f"{0.25 * box:g} (a quarter of the box). Got {self.radius}.")  # fmt: skip
        return self.radius


def smoothed(delta: Tensor, radius: float) -> Tensor:
    r"""A density contrast [M, M, M] smoothed with a Gaussian; the cloud that assigned it counts as part of it.

    .. math:: \delta_R(k) = \delta(k) \, e^{-k^2 (R^2 - 1/6) / 2}

    The cloud in cell has the variance 1/6 along each axis, in cells; with it the variance of the smoothing is R^2.
    The kernel is positive up to exp(-pi^2 (R^2 - 1/6) / 2), so the density stays so.

    Args:
        delta: density contrast of any real type.
        radius: standard deviation R in mesh cells, at least 1.
    """
    if not radius >= 1:
        raise InputError(f"pdf: radius must be at least one mesh cell. Got {radius} cells; smooth more.")
    variance = radius**2 - 1.0 / 6.0
    x, y, z = (torch.exp(-0.5 * variance * k**2).to(delta) for k in angular(delta.shape[0]))
    return inverse(forward(delta) * (x * y * z))


def soft_histogram(t: Tensor, edges: Tensor, bandwidth: float) -> Tensor:
    r"""Shares [e - 1] of a field that lie between neighbouring edges, smooth in the field, float64.

    .. math::
        p_i = \langle S(t - l_i) - S(t - r_i) \rangle, \qquad
        S(t) = \left( 1 + e^{-t / s} \right)^{-1}, \quad s = \sqrt 3 \, h / \pi

    Where f is the density of t, a share is a hard one plus (h^2 / 2) [f'(r) - f'(l)] to leading order: the edges are
    blurred by a logistic distribution with the standard deviation h.

    Args:
        t: field [M, M, M].
        edges: growing, [e].
        bandwidth: h, in the unit of t.

    Example:
        >>> t = torch.tensor([0.5, 0.5, 1.5, 9.0, 9.0, 9.0, 9.0, 9.0]).view(2, 2, 2)
        >>> soft_histogram(t, torch.tensor([0.0, 1.0, 2.0]), bandwidth=0.01).tolist()
        [0.25, 0.125]
    """
    scale = math.sqrt(3.0) / math.pi * bandwidth
    above = torch.stack([mean(torch.sigmoid((t.double() - edge) / scale)) for edge in edges])
    return above[:-1] - above[1:]

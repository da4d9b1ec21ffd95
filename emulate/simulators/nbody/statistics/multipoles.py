"""`multipoles`: monopole, quadrupole and hexadecapole of the power spectrum in redshift space."""

import functools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from emulate.runs import Field
from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.fourier import angular, forward
from emulate.simulators.nbody.snapshot import Snapshot
from emulate.simulators.nbody.spectra import bin_count, bins
from emulate.simulators.nbody.statistics.statistic import Statistic

__all__ = ["Multipoles", "multipoles"]


@dataclass(frozen=True, kw_only=True)
class Multipoles(Statistic):
    """P_0, P_2 and P_4 in redshift space for a distant observer along z, in bins one fundamental mode wide.

    In linear theory they are P(k) times 1 + 2f/3 + f^2/5, 4f/3 + 4f^2/7 and 8f^2/35 (Kaiser 1987, MNRAS 227, 1;
    Hamilton 1992, ApJ 385, L5), up to the few directions that a bin of a finite box holds: the lowest bins mix the
    multipoles.

    Settings:
        k_max: highest wavenumber as a fraction of the particles' Nyquist wavenumber pi n / L.

    Example:
        >>> [field.name for field in Multipoles().fields(Mesh(16), box=100.0)]
        ['pk0', 'pk2', 'pk4']
    """

    k_max: Annotated[float, Gt(0), Le(1)] = 0.5

    def fields(self, mesh: Mesh, box: float) -> tuple[Field, ...]:
        k = tuple((2.0 * math.pi / box * bins(mesh.cells, bin_count(self.k_max, mesh)).n).tolist())
        return tuple(Field(f"pk{l}", "(Mpc/h)^3", positive=l == 0, coordinate="k", at=k, at_unit="h/Mpc",
                           label=f"P_{l}(k)") for l in (0, 2, 4))  # fmt: skip

    def measure(self, snapshot: Snapshot) -> Tensor:
        number = bin_count(self.k_max, snapshot.mesh)
        return multipoles(snapshot.redshift_density(axis=2), snapshot.box, number).view(-1)


def multipoles(delta: Tensor, box: float, number: int) -> Tensor:
    r"""Multipoles l = 0, 2, 4 of the power spectrum along the last axis, [3, number] in (Mpc/h)^3, float64.

    .. math::
        \hat P_\ell(k) = (2 \ell + 1) \frac{V}{N_k} \sum_{|k'| \in \mathrm{bin}}
        \frac{|\delta(k')|^2}{W(k')^2} L_\ell(\mu'), \qquad \mu' = k'_z / |k'|

    with the Legendre polynomials L; the window and shot noise are treated as in `spectra.power_spectrum`, and P_0 is
    its value. The sum runs over the modes themselves, nothing is binned in mu. Reference: Yamamoto et al. 2006, PASJ
    58, 93, for parallel lines of sight.

    Args:
        delta: density contrast [M, M, M].
        box: side L in Mpc/h, V = L^3.
        number: number of bins; k of a bin is 2 pi n / L with n from `spectra.bins(M, number)`.
    """
    b = bins(delta.shape[0], number, delta.device)
    modes = forward(delta, norm="forward").reshape(-1).index_select(0, b.place)
    size = torch.view_as_real(modes).double().square().sum(-1) * b.share
    weights = _legendre(delta.shape[0], number, delta.device)
    return box**3 * torch.stack([torch.zeros_like(b.n).index_add(0, b.bin, size * L) for L in weights])


@functools.lru_cache(maxsize=8)
def _legendre(cells: int, number: int, device: torch.device) -> Tensor:
    """(2 l + 1) L_l(mu) of the modes that `bins` holds, l = 0, 2, 4, [3, q]."""
    x, y, z = angular(cells)
    place = bins(cells, number).place
    mu2 = (z**2 / (x**2 + y**2 + z**2)).reshape(-1)[place]
    L2 = (3.0 * mu2 - 1.0) / 2.0
    L4 = (35.0 * mu2**2 - 30.0 * mu2 + 3.0) / 8.0
    return torch.stack((torch.ones_like(mu2), 5.0 * L2, 9.0 * L4)).to(device)

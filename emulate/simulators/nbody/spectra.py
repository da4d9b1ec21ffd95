"""Power spectrum of a density field on a mesh, in bins one fundamental mode wide."""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.fourier import forward
from emulate.simulators.nbody.mesh import window

__all__ = ["Bins", "bin_count", "bins", "power_spectrum"]


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of modes n = k L / 2 pi with round(|n|) = 1 ... b, and which modes of a half-complex transform they hold.

    Attributes:
        n: mean |n| of each bin, [b] float64; k = 2 pi n / L.
        count: number of modes in each bin, a mode and its conjugate counted separately, [b].
        place: flat index of the modes held, [q].
        bin: the bin of each, [q].
        share: 1 / count, doubled for a mode whose conjugate is not stored, over the square of the cloud window, [q].
    """

    n: Tensor
    count: Tensor
    place: Tensor
    bin: Tensor
    share: Tensor


@functools.lru_cache(maxsize=8)
def bins(cells: int, number: int, device: torch.device | str = "cpu") -> Bins:
    """The first `number` bins on a mesh with `cells` per side.

    Example:
        >>> bins(16, 3).count.tolist()
        [18.0, 62.0, 98.0]
    """
    full = torch.fft.fftfreq(cells, 1.0 / cells, dtype=torch.float64)
    z = torch.arange(cells // 2 + 1, dtype=torch.float64)
    n = torch.sqrt(full[:, None, None] ** 2 + full[None, :, None] ** 2 + z**2).reshape(-1)
    which = torch.round(n).long() - 1
    place = torch.nonzero((which >= 0) & (which < number))[:, 0]
    which, n = which[place], n[place]
    column = place % (cells // 2 + 1)
    twice = torch.where((column == 0) | (column == cells // 2), 1.0, 2.0).double()
    count = torch.zeros(number, dtype=torch.float64).index_add_(0, which, twice)
    mean = torch.zeros(number, dtype=torch.float64).index_add_(0, which, twice * n) / count
    share = twice / count[which] / window(cells).reshape(-1)[place] ** 2
    return Bins(*(x.to(device) for x in (mean, count, place, which, share)))


def bin_count(k_max: float, mesh: Mesh) -> int:
    """How many bins lie below `k_max`, a fraction of the particles' Nyquist wavenumber pi n / L.

    Raises:
        InputError: there is not one, or k_max is above the Nyquist wavenumber.
    """
    if not 2 / mesh.particles <= k_max <= 1:
        raise InputError(f"k_max must be between {2 / mesh.particles:g} (one bin) and 1, a fraction of the particles' "
                         f"Nyquist wavenumber. Got {k_max}; 0.5 is a good choice.")  # fmt: skip
    return math.floor(k_max * mesh.particles / 2 + 1e-9)


def power_spectrum(delta: Tensor, box: float, number: int) -> Tensor:
    r"""Power spectrum [number] in (Mpc/h)^3, float64, of a density contrast assigned with the cloud in cell.

    .. math:: \hat P(k) = \frac{V}{N_k} \sum_{|k'| \in \mathrm{bin}} |\delta(k')|^2 / W(k')^2

    The window W of the assignment is divided out (Hockney & Eastwood 1981); aliasing is left, below 1e-3 at a quarter
    of the mesh's Nyquist wavenumber. Shot noise is not subtracted: particles that start on a lattice begin without.
    N particles that are strewn at random have V / N, aliased into V / N prod_i (1 - 2/3 sin^2(k_i / 2)) / W^2 with k
    in radians per cell (Jing 2005, ApJ 620, 559).

    Args:
        delta: density contrast [M, M, M].
        box: side L in Mpc/h, V = L^3.
        number: number of bins; k of a bin is 2 pi n / L with n from `bins(M, number)`.
    """
    b = bins(delta.shape[0], number, delta.device)
    modes = forward(delta, norm="forward").reshape(-1).index_select(0, b.place)
    size = torch.view_as_real(modes).double().square().sum(-1) * b.share
    return box**3 * torch.zeros_like(b.n).index_add(0, b.bin, size)

"""Power spectrum of a density field on a mesh, in bins one fundamental mode wide."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.simulators.nbody.fourier import forward
from emulate.simulators.nbody.mesh import window

__all__ = ["Bins", "bins", "power_spectrum"]


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
def bins(cells: int, number: int) -> Bins:
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
    return Bins(n=mean, count=count, place=place, bin=which, share=share)


def power_spectrum(delta: Tensor, box: float, number: int) -> Tensor:
    r"""Power spectrum [number] in (Mpc/h)^3, float64, of a density contrast assigned with the cloud in cell.

    .. math:: \hat P(k) = \frac{V}{N_k} \sum_{|k'| \in \mathrm{bin}} |\delta(k')|^2 / W(k')^2

    The window W of the assignment is divided out (Hockney & Eastwood 1981); aliasing is left, below 1e-3 at a quarter
    of the mesh's Nyquist wavenumber. Shot noise is not subtracted: particles that start on a lattice begin without.

    Args:
        delta: density contrast [M, M, M].
        box: side L in Mpc/h, V = L^3.
        number: number of bins; k of a bin is 2 pi n / L with n from `bins(M, number)`.
    """
    b = bins(delta.shape[0], number)
    modes = forward(delta, norm="forward").reshape(-1).index_select(0, b.place)
    size = torch.view_as_real(modes).double().square().sum(-1) * b.share
    return box**3 * torch.zeros(number, dtype=torch.float64).index_add(0, b.bin, size)

"""`bispectrum`: triangles of nearly equal sides, counted by Fourier transforms."""

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from emulate.errors import InputError
from emulate.runs import Field
from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.fourier import forward, inverse
from emulate.simulators.nbody.mesh import window
from emulate.simulators.nbody.snapshot import Snapshot
from emulate.simulators.nbody.spectra import bin_count, bins
from emulate.simulators.nbody.statistics.statistic import Statistic
from emulate.simulators.nbody.statistics.sums import mean

__all__ = ["Bispectrum", "Shells", "bispectrum", "shells"]


@dataclass(frozen=True, kw_only=True)
class Bispectrum(Statistic):
    """Equilateral bispectrum B(k, k, k), or Q = B / 3 P^2, in shells some fundamental modes wide.

    Of either sign by nature. Second-order perturbation theory gives Q = 4/7 for equal sides at any k (Fry 1984, ApJ
    279, 499).

    Settings:
        k_max: highest wavenumber as a fraction of the particles' Nyquist wavenumber pi n / L.
        width: width of a shell in fundamental modes 2 pi / L; narrow shells hold few triangles.
        quantity: "B" in (Mpc/h)^6, the field `bk`, or "Q" without unit, the field `qk`.

    Example:
        >>> (bk,) = Bispectrum().fields(Mesh(16), box=100.0)
        >>> bk.name, bk.unit, [round(k, 3) for k in bk.at]
        ('bk', '(Mpc/h)^6', [0.119, 0.232])
    """

    k_max: Annotated[float, Gt(0), Le(1)] = 0.5
    width: Annotated[int, Ge(1)] = 2
    quantity: Literal["B", "Q"] = "B"

    def __post_init__(self):
        if self.quantity not in ("B", "Q"):
            raise InputError(f"bispectrum: quantity must be B or Q. Got {self.quantity!r}.")

    def fields(self, mesh: Mesh, box: float) -> tuple[Field, ...]:
        k = 2.0 * math.pi / box * shells(mesh.cells, self._number(mesh), self.width).n
        name, unit, label = {"B": ("bk", "(Mpc/h)^6", "B(k, k, k)"), "Q": ("qk", "", "Q(k, k, k)")}[self.quantity]
        return (Field(name, unit, coordinate="k", at=tuple(k.tolist()), at_unit="h/Mpc", label=label),)

    def measure(self, snapshot: Snapshot) -> Tensor:
        B, P = bispectrum(snapshot.density(), snapshot.box, self._number(snapshot.mesh), self.width)
        return B if self.quantity == "B" else B / (3.0 * P**2)

    def _number(self, mesh: Mesh) -> int:
        narrow = bin_count(self.k_max, mesh)
        if not 1 <= self.width <= narrow:
            raise InputError(f"bispectrum: width must be from 1 to {narrow}, the fundamental modes below k_max. "
                             f"Got {self.width}; 2 is a good choice.")  # fmt: skip
        if narrow >= mesh.cells // 2:
            raise InputError("bispectrum: k_max must lie below the mesh's own Nyquist wavenumber. Got "
                             f"{self.k_max} with one mesh cell per particle; take a smaller one.")  # fmt: skip
        return narrow // self.width


@dataclass(frozen=True, eq=False)
class Shells:
    """Shells of modes n = k L / 2 pi, s w + 1/2 < |n| < (s + 1) w + 1/2, on a mesh just fine enough for triangles.

    Attributes:
        cells: cells m per side of that mesh, above three times the largest |n_i|: no three modes of a shell add up to
            a multiple of m other than zero.
        n: mean side |n| of the triangles of a shell, [s] float64.
        triangles: ordered triples of modes in a shell that add up to zero, [s].
        modes: number of modes in a shell, a mode and its conjugate counted separately, [s].
        parts: where the modes of each shell stand in the rest.
        source: flat index in the half-complex transform of the field's own mesh, [q].
        target: flat index in the half-complex transform of the small mesh, [q].
        over_window: 1 / W of the cloud, [q].
    """

    cells: int
    n: Tensor
    triangles: Tensor
    modes: Tensor
    parts: tuple[slice, ...]
    source: Tensor
    target: Tensor
    over_window: Tensor

    def field(self, values: Tensor, shell: int) -> Tensor:
        """Real field [m, m, m] of the modes of one shell, given the values [q] of all."""
        m, part = self.cells, self.parts[shell]
        empty = torch.zeros(m * m * (m // 2 + 1), dtype=values.dtype, device=values.device)
        return inverse(empty.index_copy(0, self.target[part], values[part]).view(m, m, -1), norm="forward")


@functools.lru_cache(maxsize=8)
def shells(cells: int, number: int, width: int, device: torch.device | str = "cpu") -> Shells:
    """The first `number` shells of `width` on a mesh with `cells` per side.

    Example:
        >>> shells(16, 2, 1).triangles.tolist()
        [120.0, 912.0]
    """
    b = bins(cells, number * width)
    order = torch.argsort(b.bin // width, stable=True)
    source, shell = b.place[order], (b.bin // width)[order]
    half = cells // 2 + 1
    i, j, z = source // (cells * half), source // half % cells, source % half
    i, j = (torch.where(x > cells // 2, x - cells, x) for x in (i, j))
    m = 3 * number * width + 2 - number * width % 2  # even
    target = (i.remainder(m) * m + j.remainder(m)) * (m // 2 + 1) + z
    ends = torch.bincount(shell, minlength=number).cumsum(0).tolist()
    parts = tuple(slice(start, end) for start, end in zip([0, *ends], ends))
    found = Shells(m, b.n, b.n, b.n, parts, source, target, 1.0 / window(cells).reshape(-1)[source])
    size = torch.sqrt((i**2 + j**2 + z**2).double())
    one = [found.field(torch.ones_like(size, dtype=torch.complex128), s) for s in range(number)]
    side = [found.field(size.to(torch.complex128), s) for s in range(number)]
    triangles = torch.stack([mean(x**3) for x in one]).round()
    n = torch.stack([mean(x**2 * y) for x, y in zip(one, side)]) / triangles
    modes = torch.stack([mean(x**2) for x in one]).round()
    n, triangles, modes, source, target, over = (
        x.to(device) for x in (n, triangles, modes, source, target, found.over_window)
    )
    return Shells(m, n, triangles, modes, parts, source, target, over)


def bispectrum(delta: Tensor, box: float, number: int, width: int) -> tuple[Tensor, Tensor]:
    r"""Equilateral bispectrum [number] in (Mpc/h)^6 and power spectrum [number] in (Mpc/h)^3 of the same shells.

    .. math::
        \hat B = \frac{V^2}{N_\triangle} \sum_{k_1 + k_2 + k_3 = 0} \delta(k_1) \delta(k_2) \delta(k_3)
        = V^2 \, \frac{\sum_x \delta_s(x)^3}{\sum_x 1_s(x)^3}

    over all triangles with three sides in the shell s; delta_s is the field, and 1_s a field of ones, with the modes of
    that shell alone. The window of the cloud is divided out and shot noise left, as in `spectra.power_spectrum`.
    Reference: Scoccimarro 2015, Phys. Rev. D 92, 083532 (arXiv 1506.02729).

    Args:
        delta: density contrast [M, M, M].
        box: side L in Mpc/h, V = L^3.
        number: number of shells; k of a shell is 2 pi n / L with n from `shells(M, number, width)`.
        width: width of a shell in fundamental modes.
    """
    s = shells(delta.shape[0], number, width, delta.device)
    modes = forward(delta, norm="forward").reshape(-1).index_select(0, s.source).to(torch.complex128) * s.over_window
    filtered = [s.field(modes, i) for i in range(number)]
    B = box**6 * torch.stack([mean(x**3) for x in filtered]) / s.triangles
    P = box**3 * torch.stack([mean(x**2) for x in filtered]) / s.modes
    return B, P

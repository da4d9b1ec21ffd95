r"""The lattice of Yee with absorbing ends: both halves of a step of Maxwell's equations as two sparse matrices.

Lengths are in vacuum wavelengths, times in periods, c = 1. A step is linear in the fields, so that its adjoint is made of
the same two matrices, transposed.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import sparse

__all__ = ["Lattice", "Polarisation"]

Polarisation = Literal["Ez", "Hz"]

_GRADE = 3.0  # power at which the absorption rises
_SHIFT = 0.2  # 1/period, the frequency shift of the absorber, which swallows what hardly moves


@dataclass(frozen=True)
class Lattice:
    r"""A periodic lattice in which absorbers stand on both sides of the wrap; a wave passes both before it is back.

    "Ez": E_z at (i, j), H_x at (i, j + 1/2), H_y at (i + 1/2, j); "Hz": E_x at (i + 1/2, j), E_y at (i, j + 1/2),
    H_z at (i + 1/2, j + 1/2) (Yee 1966). Time steps of S dx with

    .. math::
        \partial_t H = -\nabla \times E, \qquad \varepsilon\, \partial_t E = \nabla \times H

    and every derivative in an absorber replaced by :math:`\partial_x + \psi`, :math:`\psi' = b \psi + a \partial_x`, the
    convolutional perfectly matched layer (Roden & Gedney 2000, MOTL 27, 334). One row (`shape[1]` = 1) is one dimension.

    Attributes:
        shape: cells along x and y.
        cells: per vacuum wavelength.
        polarisation: the component that stands on the plane.
        absorber: cells of it at each end of x and of y; 0 leaves that direction periodic.
        courant: S, below 1 in one dimension and below 0.707 in two.

    Example:
        >>> lattice = Lattice((64, 1), 20, "Ez", (10, 0), 0.9)
        >>> lattice.electric, lattice.magnetic, round(lattice.dt, 4)
        (64, 128, 0.045)
    """

    shape: tuple[int, int]
    cells: int
    polarisation: Polarisation
    absorber: tuple[int, int]
    courant: float

    @property
    def dt(self) -> float:
        """Of a step, periods."""
        return self.courant / self.cells

    @property
    def plane(self) -> int:
        """Cells of the plane: numbers of one component."""
        return self.shape[0] * self.shape[1]

    @property
    def electric(self) -> int:
        """Numbers of the electric field: E_z, or E_x and then E_y."""
        return self.plane * (1 if self.polarisation == "Ez" else 2)

    @property
    def magnetic(self) -> int:
        """Numbers of the magnetic field: H_x and then H_y, or H_z."""
        return self.plane * (2 if self.polarisation == "Ez" else 1)

    def at(self, i: int | np.ndarray, j: int | np.ndarray, component: int = 0) -> np.ndarray:
        """Where cell (i, j) of a component stands in its field."""
        return component * self.plane + np.asarray(i) * self.shape[1] + np.asarray(j)

    @property
    def upright(self) -> tuple[int, int, float]:
        """Of a wave along x: the component of its E, that of its H, and the sign of E H in the flux along x."""
        return (0, 1, -1.0) if self.polarisation == "Ez" else (1, 0, 1.0)

    @cached_property
    def magnetic_step(self) -> sparse.csr_matrix:
        """[E, psi of H] -> [what is added to H, the new psi]."""
        terms = ([(0, 0, 1, -1.0), (1, 0, 0, 1.0)] if self.polarisation == "Ez" else [(0, 0, 1, 1.0), (0, 1, 0, -1.0)])  # fmt: skip
        return self._half(terms, self.electric, self.magnetic, 0.5, self.courant)

    @cached_property
    def electric_step(self) -> sparse.csr_matrix:
        """[H, psi of E] -> [curl of H, the new psi]; S / epsilon times the first is added to E."""
        terms = ([(0, 1, 0, 1.0), (0, 0, 1, -1.0)] if self.polarisation == "Ez" else [(0, 0, 1, 1.0), (1, 0, 0, -1.0)])  # fmt: skip
        return self._half(terms, self.magnetic, self.electric, 0.0, 1.0)

    def _half(self, terms: list, inputs: int, rows: int, offset: float, factor: float) -> sparse.csr_matrix:
        """Terms (component that changes, component that is differentiated, axis, sign); offset of its place, cells."""
        main, memory, kept, decay = [], [], [], []
        for to, of, axis, sign in terms:
            d = self._difference(axis, forward=offset > 0)
            a, b = (self._spread(x, axis) for x in self._profile(axis, offset))
            at = np.flatnonzero(a)
            d_at = sparse.diags_array(a).tocsr()[at] @ d
            place = sparse.csr_matrix(([1.0], ([to], [of])), shape=(rows // self.plane, inputs // self.plane))
            main.append(sparse.kron(place, sign * factor * (sparse.diags_array(1 + a) @ d)))
            memory.append(sparse.csr_matrix((sign * factor * b[at], (to * self.plane + at, np.arange(len(at)))),
                                            shape=(rows, len(at))))  # fmt: skip
            kept.append(sparse.kron(sparse.csr_matrix(([1.0], ([0], [of])), shape=(1, inputs // self.plane)), d_at))
            decay.append(b[at])
        whole = sparse.vstack([sparse.hstack([sum(main[1:], main[0]), *memory]),
                               sparse.hstack([sparse.vstack(kept), sparse.diags_array(np.concatenate(decay))])])  # fmt: skip
        whole = sparse.csr_matrix(whole)
        whole.eliminate_zeros()
        return whole

    def _difference(self, axis: int, *, forward: bool) -> sparse.csr_matrix:
        """f_(i+1) - f_i, or f_i - f_(i-1), along an axis of the plane, around its wrap."""
        n = self.shape[axis]
        step = sparse.csr_matrix((np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n))
        one = step - sparse.eye_array(n) if forward else sparse.eye_array(n) - step.T
        return sparse.csr_matrix(
            sparse.kron(one, sparse.eye_array(self.shape[1]))
            if axis == 0
            else sparse.kron(sparse.eye_array(self.shape[0]), one)
        )

    def _profile(self, axis: int, offset: float) -> tuple[np.ndarray, np.ndarray]:
        """a and b along an axis, 0 and 1 outside the absorber; absorption rises as the third power of depth."""
        n, width = self.shape[axis], self.absorber[axis]
        a, b = np.zeros(n), np.ones(n)
        if width and n > 1:
            x = np.arange(n) + offset
            depth = np.maximum(width - x, x - (n - width)) / width
            inside = depth > 0
            sigma = 0.8 * (_GRADE + 1) * self.cells * depth[inside].clip(max=1.0) ** _GRADE
            shift = _SHIFT * (1 - depth[inside].clip(max=1.0))
            b[inside] = np.exp(-(sigma + shift) * self.dt)
            a[inside] = sigma / (sigma + shift) * (b[inside] - 1)
        return a, b

    def _spread(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.repeat(x, self.shape[1]) if axis == 0 else np.tile(x, self.shape[0])

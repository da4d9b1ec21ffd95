"""Transfer functions that are tables: interpolation between wavenumbers, and a linear spectrum read from a file."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.simulators.nbody.background import known

__all__ = ["Grid", "LinearTable"]

_REACH = (5e-3, 2.0)  # h/Mpc; outside lie 3e-5 and 2e-4 of the variance in spheres of 8 Mpc/h


@dataclass(frozen=True)
class Grid:
    """Wavenumbers in even steps of ln k.

    Attributes:
        k_min: first wavenumber, h/Mpc.
        k_max: last wavenumber, h/Mpc.
        count: number of wavenumbers n.
    """

    k_min: float
    k_max: float
    count: int

    @property
    def k(self) -> Tensor:
        """The wavenumbers [n], h/Mpc."""
        return torch.exp(torch.linspace(math.log(self.k_min), math.log(self.k_max), self.count, dtype=torch.float64))

    def at(self, y: Tensor, k: Tensor) -> Tensor:
        """Values `y` [n] on the grid, interpolated to `k` by the cubic in ln k through the four nearest points.

        Differentiable in `y` and `k`.

        Raises:
            InputError: a wavenumber is outside the grid.
        """
        ends = known(k.min(), k.max())
        if ends is not None and not self.k_min * (1 - 1e-9) <= ends[0] <= ends[1] <= self.k_max * (1 + 1e-9):
            raise InputError(f"transfer: k must be within the table, {self.k_min:.3g} to {self.k_max:.3g} h/Mpc. Got "
                             f"{ends[0]:.3g} to {ends[1]:.3g}; it is not extrapolated, so give a longer table, or "
                             "change the box or the number of particles.")  # fmt: skip
        x = (torch.log(k) - math.log(self.k_min)) * ((self.count - 1) / math.log(self.k_max / self.k_min))
        i = torch.clamp(x.detach().floor().long(), 1, self.count - 3)
        u = x - i
        first, last = u * (u - 1.0) * (u - 2.0) / 6.0, (u + 1.0) * u * (u - 1.0) / 6.0
        left, right = (u + 1.0) * (u - 1.0) * (u - 2.0) / 2.0, (u + 1.0) * u * (u - 2.0) / 2.0
        return -first * y[i - 1] + left * y[i] - right * y[i + 1] + last * y[i + 2]


@dataclass(frozen=True, eq=False)
class LinearTable:
    r"""The transfer function of one fixed cosmology, given as a table.

    With a cosmology the spectrum is :math:`P(k) = A k^{n_s} T(k)^2`: the shape T stays that of the table whatever the
    matter density, n_s tilts it, and sigma_8 sets A. Between the points ln T is a cubic spline in ln k; k outside the
    table is refused. A table has no amplitude, so `A_s` is refused too.

    Attributes:
        k: wavenumbers [n], h/Mpc, increasing, at least from 0.005 to 2.
        T: transfer function [n], positive, without unit; its scale does not matter.

    Raises:
        InputError: the columns are not such a table.

    Example:
        >>> k = torch.logspace(-3, 1, 50, dtype=torch.float64)
        >>> table = LinearTable(k, 1 / (1 + (k / 0.02) ** 2))
        >>> [round(x, 3) for x in table(torch.tensor([0.001, 0.02], dtype=torch.float64)).tolist()]
        [1.0, 0.501]
    """

    k: Tensor
    T: Tensor
    _grid: Grid = field(init=False, repr=False)
    _log_T: Tensor = field(init=False, repr=False)

    def __post_init__(self):
        k, T = (np.asarray(x, dtype=np.float64) for x in (self.k, self.T))
        if k.ndim != 1 or k.shape != T.shape or len(k) < 8:
            raise InputError("transfer: a table must have two columns of at least 8 numbers. Got shapes "
                             f"{list(k.shape)} and {list(T.shape)}; give k and T of the same length.")  # fmt: skip
        if not (
            np.isfinite(k).all() and (T > 0).all() and np.isfinite(T).all() and k[0] > 0 and (np.diff(k) > 0).all()
        ):
            raise InputError("transfer: a table must have positive numbers and k in increasing order. Got others; "
                             "sort the rows and leave k = 0 out.")  # fmt: skip
        if not (k[0] <= _REACH[0] and k[-1] >= _REACH[1]):
            raise InputError(f"transfer: a table must reach from {_REACH[0]} to {_REACH[1]} h/Mpc, or sigma_8 is not "
                             f"determined. Got {k[0]:.3g} to {k[-1]:.3g}; give more wavenumbers, in h/Mpc.")  # fmt: skip
        from scipy.interpolate import CubicSpline  # slow to import, and only tables need it

        grid = Grid(float(k[0]), float(k[-1]), 4096)
        log_T = CubicSpline(np.log(k), np.log(T / T[0]))(np.log(grid.k.numpy()))
        object.__setattr__(self, "_grid", grid)
        object.__setattr__(self, "_log_T", torch.from_numpy(log_T))

    @classmethod
    def read(cls, path: str | Path, quantity: Literal["P", "T"], n_s: float | None = None) -> "LinearTable":
        """The table in a text or CSV file with two columns, k in h/Mpc first; lines with # and a first line of names
        are skipped.

        Args:
            path: the file.
            quantity: what the second column is, "P" in (Mpc/h)^3 (any scale) or "T".
            n_s: slope of the primordial spectrum of the table, needed for "P".

        Raises:
            InputError: the file is missing or is not such a table.
        """
        if quantity not in ("P", "T") or (quantity == "P") != (n_s is not None):
            raise InputError('transfer: quantity must be "P", with the n_s of the table, or "T", without. Got '
                             f"quantity = {quantity!r}, n_s = {n_s}; say what the second column is.")  # fmt: skip
        try:
            lines = Path(path).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"transfer: the table must be a readable text file. Got {path}: {error}; "
                             "check the path.") from error  # fmt: skip
        rows = [line.replace(",", " ").split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if rows and not _is_number(rows[0][0]):
            rows = rows[1:]
        if not rows or any(len(row) != 2 or not all(map(_is_number, row)) for row in rows):
            raise InputError(f"transfer: the table must have two columns of numbers, k in h/Mpc and {quantity}. Got "
                             f"something else in {path}; see its first lines.")  # fmt: skip
        k, values = torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64).T
        return cls(k, values if n_s is None else torch.sqrt(values / k**n_s))

    @property
    def range(self) -> tuple[float, float]:
        """First and last wavenumber, h/Mpc."""
        return self._grid.k_min, self._grid.k_max

    def __call__(self, k: Tensor) -> Tensor:
        """T at `k` in h/Mpc, 1 at the first wavenumber of the table."""
        return torch.exp(self._grid.at(self._log_T, k))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

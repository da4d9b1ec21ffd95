r"""A source and screens in a lattice: the flux of power through each screen, in units of what goes through it in vacuum.

Through column i, with E at (i, j) and H averaged over its two sides,

    F_j = +- 1/2 Re E_ij conj (H_(i-1/2)j + H_(i+1/2)j) / 2 dx,

which the discrete equations conserve exactly where nothing absorbs, whatever the material, for every E and H is taken at its
own time: of a wave of amplitude a it is |a|^2 cos(k dx / 2) / 2 Z with the impedance of the lattice,
Z = (S / sin(omega dt / 2)) sin(k dx / 2) and k that of the lattice too. Dividing E^2 by the impedance of the continuum instead
leaves an error of second order in dx.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emulate.simulators.maxwell.lattice import Lattice
from emulate.simulators.maxwell.march import March

__all__ = ["Fields", "Scene"]


@dataclass(frozen=True)
class Fields:
    """Phasors on the screens, complex `[frequencies, screens, rows]`: E, and H where E is."""

    e: Tensor
    h: Tensor

    def __sub__(self, other: "Fields") -> "Fields":
        return Fields(self.e - other.e, self.h - other.h)


@dataclass(frozen=True)
class Scene:
    """A wave along x that starts from one column, and the columns at which it is watched.

    Attributes:
        lattice: where.
        source: the column of the current.
        waist: of a Gaussian beam at the source, where its amplitude is 1/e, wavelengths; 0 is an even plane wave.
        screens: columns that are watched, at least two apart.
        periods: how long the pulse is followed.
        frequencies: in units of the one of the vacuum wavelength, 1.
        background: epsilon of vacuum on this lattice, 1 unless it is matched.

    Example:
        >>> scene = Scene(Lattice((60, 1), 10, "Ez", (12, 0), 0.9), 15, 0.0, (20, 40), 15.0, (1.0,))
        >>> flux = scene.flux(scene.vacuum)
        >>> bool((flux[0, 1] / flux[0, 0] - 1).abs() < 1e-6)
        True
    """

    lattice: Lattice
    source: int
    waist: float
    screens: tuple[int, ...]
    periods: float
    frequencies: tuple[float, ...]
    background: float = 1.0

    @property
    def march(self) -> March:
        """The steps, kept for scenes that were met last."""
        return _march(self)

    @property
    def heights(self) -> np.ndarray:
        """y `[rows]` of the numbers of E on a screen, wavelengths from the middle of the lattice."""
        rows, half = self.lattice.shape[1], 0.5 if self.lattice.polarisation == "Hz" else 0.0
        return (np.arange(rows) + half - rows / 2) / self.lattice.cells

    def fields(self, epsilon: Tensor, sigma: Tensor | None = None) -> Fields:
        """What the screens see with this permittivity and conductivity (1/period) `[numbers of E]`, with gradients."""
        return self._split(*self.march.phasors(self.march.medium(epsilon, sigma)))

    def pulled(self, medium: Tensor) -> tuple[Fields, Callable[[Tensor, Tensor], Tensor]]:
        """What the screens see, as leaves of a graph, and what takes the derivatives of r answers by them,
        `[r, frequencies, screens, rows]` of E and of H, to those by the medium `[r, 2, numbers of E]`."""
        e, h, pull = self.march.pulled(medium)
        seen = self._split(e, h)
        seen = Fields(seen.e.detach().requires_grad_(), seen.h.detach().requires_grad_())

        def back(by_e: Tensor, by_h: Tensor) -> Tensor:
            both = 0.5 * by_h[:, :, :, None].expand(-1, -1, -1, 2, -1)
            return pull(by_e.flatten(2), both.flatten(2))

        return seen, back

    def _split(self, e: Tensor, h: Tensor) -> Fields:
        shape = (len(self.frequencies), len(self.screens), -1, self.lattice.shape[1])
        return Fields(e.reshape(shape)[:, :, 0], h.reshape(shape).mean(2))

    @property
    def vacuum(self) -> Fields:
        """What they see when nothing is there."""
        return _vacuum(self)

    def flux(self, seen: Fields) -> Tensor:
        """The flux along x `[frequencies, screens, rows]` through each row of cells."""
        return self.lattice.upright[2] * 0.5 * (seen.e * seen.h.conj()).real / self.lattice.cells

    def intensity(self, epsilon: Tensor, frequency: int = 0) -> Tensor:
        """|E|^2 `[nx, ny]` on the whole plane, in units of its largest in vacuum behind the source."""
        whole = _everywhere(self)
        with torch.no_grad():
            parts = [whole.phasors(whole.medium(eps))[0][frequency].abs().square()
                     for eps in (epsilon, torch.full_like(epsilon, self.background))]  # fmt: skip
        parts = [x.reshape(-1, *self.lattice.shape).sum(0) for x in parts]
        return parts[0] / parts[1][self.source + 2 :].max()


@functools.lru_cache(maxsize=8)
def _march(scene: Scene) -> March:
    lattice, rows = scene.lattice, np.arange(scene.lattice.shape[1])
    along, across, _ = lattice.upright
    profile = np.exp(-((scene.heights / scene.waist) ** 2)) if scene.waist else np.ones(len(rows))
    electric = np.concatenate([lattice.at(i, rows, along) for i in scene.screens])
    magnetic = np.concatenate([lattice.at(i - k, rows, across) for i in scene.screens for k in (1, 0)])
    return March(lattice, math.ceil(scene.periods / lattice.dt), lattice.at(scene.source, rows, along), profile, electric, magnetic,
                 scene.frequencies)  # fmt: skip


def _everywhere(scene: Scene) -> March:
    m = scene.march
    return March(m.lattice, m.steps, m.source, m.profile, np.arange(m.lattice.electric), m.magnetic[:1], m.frequencies)


@functools.lru_cache(maxsize=8)
def _vacuum(scene: Scene) -> Fields:
    with torch.no_grad():
        return scene.fields(torch.full((scene.lattice.electric,), scene.background, dtype=torch.float64))

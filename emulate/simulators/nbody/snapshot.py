"""`Snapshot`: the particles of a simulation at one scale factor, and what is read off them in Mpc/h and km/s."""

import functools
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.simulators.nbody.cloud import Mesh, density
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.growth import Growth

if TYPE_CHECKING:
    import xarray

__all__ = ["Snapshot"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Snapshot:
    """N = n^3 particles on the way of a simulation; all that is read off carries gradients to what is stored.

    Attributes:
        displacement: [3, N] in mesh cells, from the lattice of the mesh.
        velocity: v = dx/dD, [3, N] in mesh cells.
        mesh: the mesh, M cells per side, and the particle lattice on it.
        box: side L of the periodic box, Mpc/h.
        cosmology: the universe.
        growth: growth functions at the scale factor of the snapshot, scalars.

    Raises:
        InputError: displacement or velocity do not belong to the lattice of the mesh, or to each other.

    Example:
        >>> planck = Cosmology.of(omega_m=0.31, omega_b=0.049, h=0.68, n_s=0.965, sigma_8=0.81)
        >>> rest = torch.zeros(3, 4**3)
        >>> now = planck.growth(torch.tensor(1.0, dtype=torch.float64))
        >>> snapshot = Snapshot(displacement=rest, velocity=rest, mesh=Mesh(4), box=100.0, cosmology=planck, growth=now)
        >>> snapshot.positions()[0].tolist()
        [6.25, 6.25, 6.25]
        >>> bool(snapshot.density().abs().max() < 1e-6)
        True
    """

    displacement: Tensor
    velocity: Tensor
    mesh: Mesh
    box: float
    cosmology: Cosmology
    growth: Growth

    def __post_init__(self):
        shape = (3, self.mesh.particles**3)
        for name in ("displacement", "velocity"):
            if getattr(self, name).shape != shape:
                raise InputError(f"snapshot: {name} must have shape {shape}, one column per particle of the mesh. "
                                 f"Got {tuple(getattr(self, name).shape)}; give it as the integrator does.")  # fmt: skip
        kinds = [(x.dtype, x.device) for x in (self.displacement, self.velocity)]
        if kinds[0] != kinds[1] or not self.displacement.is_floating_point():
            raise InputError("snapshot: displacement and velocity must be real, of one precision and on one device. "
                             f"Got {kinds[0]} and {kinds[1]}; convert one of them.")  # fmt: skip
        if not (self.box > 0 and math.isfinite(self.box)):
            raise InputError(f"snapshot: box must be positive, in Mpc/h. Got {self.box}; give a side such as 256.")

    def lattice(self) -> Tensor:
        """Lagrangian positions [N, 3] in Mpc/h: where the particles would stand in a universe without structure."""
        return self._cell * self.mesh.position(torch.zeros_like(self.displacement)).T

    def positions(self) -> Tensor:
        """Comoving positions [N, 3] in Mpc/h, in [0, L)."""
        x = self._cell * self.mesh.position(self.displacement).T
        return x - self.box * (x >= self.box)  # a remainder may round up to its divisor

    def velocities(self) -> Tensor:
        r"""Peculiar velocities [N, 3] in km/s.

        .. math:: u = a \frac{dx}{dt} = a \frac{dD}{dt} v = 100 \, a E f D \, v \frac{L}{M}

        since dD/dt = f D H and H = 100 h E km/s/Mpc; the h goes with the unit of x. In linear theory
        u(k) = i k / k^2 a H f delta(k) (Peebles 1980, The Large-Scale Structure of the Universe, section 14).
        """
        g = self.growth
        unit = 100.0 * self._cell * g.a * self.cosmology.expansion(g.a) * g.f * g.D
        # one number for each axis: a derivative that sums all at once has bits that depend on the number of threads
        return (unit.to(self.velocity).expand(3, 1) * self.velocity).T

    def density(self) -> Tensor:
        """Density contrast delta [M, M, M] of cells of L / M, by the cloud in cell; painted once per snapshot."""
        return self._density

    def redshift_density(self, axis: int = 2) -> Tensor:
        r"""Density contrast [M, M, M] as a distant observer along `axis` sees it, in redshift space.

        .. math:: s = x + \frac{u_\parallel}{a H} = x + f D \, v_\parallel

        Reference: Kaiser 1987, MNRAS 227, 1.
        """
        along = torch.zeros(3, 1, dtype=self.velocity.dtype, device=self.velocity.device)
        along[_checked(axis)] = 1.0
        return density(self.displacement + (self.growth.f * self.growth.D) * along * self.velocity, self.mesh)

    def slices(self, *, count: int = 1, pixels: int | None = None, axis: int = 2) -> Tensor:
        """Images [count, pixels, pixels], float64: the mean of 1 + delta over slabs across `axis` and square pixels.

        Args:
            count: slabs of thickness L / count, in the order of their place.
            pixels: pixels per side of an image, or None for one per mesh cell.
            axis: the line of sight; the other two stand in their order.

        Raises:
            InputError: the mesh does not divide into as many slabs or pixels.
        """
        cells = self.mesh.cells
        pixels = cells if pixels is None else pixels
        for name, parts in (("count", count), ("pixels", pixels)):
            if parts < 1 or cells % parts:
                raise InputError(f"slices: {name} must divide the {cells} mesh cells of a side. Got {parts}; "
                                 "give a divisor.")  # fmt: skip
        field = self.density().movedim(_checked(axis), 0)
        depth, width = cells // count, cells // pixels
        columns = field.reshape(count, depth, cells, cells).mean(1, dtype=torch.float64)
        return 1.0 + columns.view(count, pixels, width, pixels, width).mean((2, 4))

    def to_xarray(self) -> "xarray.Dataset":
        """Positions, velocities and Lagrangian positions along `particle` and `axis`, units and numbers in attributes.

        `to_netcdf` of the result writes a file that any NetCDF reader opens.
        """
        import xarray

        def table(values: Tensor, unit: str, words: str):
            return ("particle", "axis"), values.detach().cpu().numpy(), {"units": unit, "long_name": words}

        attributes = {f.name: _plain(getattr(self.cosmology, f.name)) for f in fields(self.cosmology)}
        attributes |= {name: _plain(getattr(self.growth, name)) for name in ("a", "D", "f")}
        attributes |= {"redshift": 1.0 / float(self.growth.a) - 1.0, "box": float(self.box), "box_units": "Mpc/h",
                       "particles_per_side": self.mesh.particles, "mesh_cells_per_side": self.mesh.cells}  # fmt: skip
        return xarray.Dataset(
            {
                "position": table(self.positions(), "Mpc/h", "comoving position"),
                "velocity": table(self.velocities(), "km/s", "peculiar velocity"),
                "lattice": table(self.lattice(), "Mpc/h", "Lagrangian position"),
            },
            {"particle": range(self.mesh.particles**3), "axis": ["x", "y", "z"]},
            {name: value for name, value in attributes.items() if value is not None},
        )

    @property
    def _cell(self) -> float:
        return self.box / self.mesh.cells

    @functools.cached_property
    def _density(self) -> Tensor:
        return density(self.displacement, self.mesh)


def _checked(axis: int) -> int:
    if axis not in (0, 1, 2):
        raise InputError(f"snapshot: axis must be 0, 1 or 2. Got {axis}; the line of sight is usually 2.")
    return axis


def _plain(value: Tensor | str | bool | None) -> float | str | int | None:
    """What an attribute of a file can hold."""
    return float(value) if isinstance(value, Tensor) else int(value) if isinstance(value, bool) else value

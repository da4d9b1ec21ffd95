"""Cloud-in-cell: particles to mesh (`paint`), mesh to particles (`gather`), and how both change with the positions.

Lengths are in mesh cells. A particle is known by its displacement from a regular lattice that stands half a mesh cell
off the mesh nodes: the weights then sit in the middle of their linear range, and a small displacement keeps its full
relative precision in float32.

Reference: Hockney & Eastwood 1981, Computer Simulation Using Particles, chapter 5.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emulate.errors import RunFailed

__all__ = ["Cloud", "Mesh", "density"]

_CHUNK = 2**14  # particles handled at once: the eight corners of each stay in cache
_FAR = 2.0**20  # mesh cells; beyond, float32 cannot hold the place inside a cell


@dataclass(frozen=True)
class Mesh:
    """A periodic cubic mesh and the particle lattice on it.

    Attributes:
        particles: particles per side, n.
        refinement: mesh cells per particle spacing, r; the mesh has M = n r cells per side.
    """

    particles: int
    refinement: int = 2

    @property
    def cells(self) -> int:
        """Mesh cells per side, M."""
        return self.particles * self.refinement

    @functools.cached_property
    def node(self) -> Tensor:
        """The mesh node below each lattice point, [3, n^3] int64 in C order."""
        side = torch.arange(self.particles) * self.refinement
        return torch.stack(torch.meshgrid(side, side, side, indexing="ij")).reshape(3, -1)

    def position(self, displacement: Tensor) -> Tensor:
        """Positions [3, N] in mesh cells, in [0, M), of displaced particles."""
        return (self.node + 0.5 + displacement).remainder(self.cells)


class Cloud:
    """Displaced particles [3, N] spread over the eight mesh nodes around each; the weights are found once and reused.

    Not differentiable itself: `density` and `mesh.acceleration` write their derivatives with it.

    Example:
        >>> mesh = Mesh(particles=4)
        >>> field = Cloud(torch.zeros(3, 4**3), mesh).paint()
        >>> tuple(field.shape), float(field.sum())
        ((8, 8, 8), 64.0)
    """

    def __init__(self, displacement: Tensor, mesh: Mesh):
        if not bool(displacement.detach().abs().max() < _FAR):  # NaN fails too
            raise RunFailed("nonfinite", "particles must stay within a million mesh cells of their place. Got some "
                            "that do not; the fluctuations are too large for the time steps.")  # fmt: skip
        self._displacement, self._cells = displacement, mesh.cells
        starts = range(0, displacement.shape[1], _CHUNK)
        self._parts = [(part, *self._corners(part, mesh)) for part in (slice(i, i + _CHUNK) for i in starts)]

    def paint(self, weight: Tensor | None = None) -> Tensor:
        """Sum of particle weights [N] (None: one each) at the mesh nodes, [M, M, M]."""
        field = self._displacement.new_zeros(self._cells**3)
        for part, index, share, _ in self._parts:
            amount = share if weight is None else share * weight[part]
            field.index_add_(0, index, amount.view(-1))
        return field.view((self._cells,) * 3)

    def gather(self, fields: Iterable[Tensor]) -> Tensor:
        """Values [c, N] of c mesh fields [M, M, M] at the particles; the transpose of `paint`."""
        fields = [field.reshape(-1) for field in fields]
        out = self._displacement.new_empty(len(fields), self._displacement.shape[1])
        for part, index, share, _ in self._parts:
            for value, field in zip(out, fields, strict=True):
                torch.sum(field.index_select(0, index).view(8, -1) * share, 0, out=value[part])
        return out

    def gather_slope(self, fields: Iterable[Tensor], weights: Iterable[Tensor | float]) -> Tensor:
        """Derivative [3, N] of sum_c weights[c] gather(fields)[c] with respect to the displacement, weights held fixed.

        Args:
            fields: c mesh fields [M, M, M].
            weights: c numbers or tensors [N].
        """
        terms = [(field.reshape(-1), weight) for field, weight in zip(fields, weights, strict=True)]
        out = torch.empty_like(self._displacement)
        for part, index, _, t in self._parts:
            v = 0.0
            for field, weight in terms:
                v = v + field.index_select(0, index).view(2, 2, 2, -1) * (weight if _plain(weight) else weight[part])
            x = _between(v, t[0])
            out[0, part] = _between(_between(v[1] - v[0], t[1]), t[2])
            out[1, part] = _between(x[1] - x[0], t[2])
            x = _between(x, t[1])
            out[2, part] = x[1] - x[0]
        return out

    def _corners(self, part: slice, mesh: Mesh) -> tuple[Tensor, Tensor, Tensor]:
        """Flat node indices [8 N], weights [8, N], and the place [3, N] between the nodes, in [0, 1)."""
        place = self._displacement[:, part] + 0.5
        below = torch.floor(place)
        t = place - below
        near = below + mesh.node[:, part]
        # wrapped in floating point, which is exact for whole numbers of this size and several times faster
        near = (near - self._cells * torch.floor(near / self._cells)).int()
        far = torch.where(near == self._cells - 1, 0, near + 1)
        x, y, z = torch.stack((near, far), 1)
        index = ((x * self._cells**2)[:, None] + y * self._cells)[:, :, None] + z
        x, y, z = torch.stack((1.0 - t, t), 1)
        share = (x[:, None] * y)[:, :, None] * z
        return index.view(-1), share.view(8, -1), t


def density(displacement: Tensor, mesh: Mesh) -> Tensor:
    """Density contrast delta [M, M, M] of displaced particles [3, N]; differentiable once, by its adjoint.

    Example:
        >>> delta = density(torch.zeros(3, 4**3), Mesh(particles=4, refinement=1))
        >>> bool(delta.abs().max() < 1e-6)
        True
    """
    return _Density.apply(displacement, mesh)


class _Density(torch.autograd.Function):
    @staticmethod
    def forward(ctx, displacement: Tensor, mesh: Mesh) -> Tensor:
        ctx.save_for_backward(displacement)
        ctx.mesh = mesh
        return Cloud(displacement, mesh).paint() * mesh.refinement**3 - 1.0

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor):
        (displacement,) = ctx.saved_tensors
        return Cloud(displacement, ctx.mesh).gather_slope([cotangent], [float(ctx.mesh.refinement**3)]), None


def _plain(weight: Tensor | float) -> bool:
    return isinstance(weight, float)


def _between(values: Tensor, t: Tensor) -> Tensor:
    return torch.addcmul(values[0], values[1] - values[0], t)

"""Cloud-in-cell: particles to mesh (`paint`), mesh to particles (`gather`), and how both change with the positions.

Lengths are in mesh cells. A particle is known by its displacement from a regular lattice that stands half a mesh cell
off the mesh nodes: the weights then sit in the middle of their linear range, and a small displacement keeps its full
relative precision in float32.

Reference: Hockney & Eastwood 1981, Computer Simulation Using Particles, chapter 5.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Self

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd.function import once_differentiable

from emulate.errors import RunFailed
from emulate.simulators.nbody import mesh

__all__ = ["Cloud", "Mesh", "check_reach", "density"]

_CHUNK = 2**16  # particles handled at once
_FAR = 2.0**20  # mesh cells; beyond, float32 cannot hold the place inside a cell


@dataclass(frozen=True)
class Mesh:
    """A periodic cubic mesh and the particle lattice on it.

    Attributes:
        particles: particles per side, n.
        refinement: mesh cells per particle spacing, r; the mesh has M = n r cells per side.
        offset: where the lattice stands between two nodes, in cells. One half, its most symmetric place, grows every
            wave by the same small amount too little; at a quarter the errors of different directions cancel instead.
        compiled: paint and gather by compiled loops; the first run of a mesh size compiles for ten seconds or more.
    """

    particles: int
    refinement: int = 2
    offset: float = 0.5
    compiled: bool = False

    @property
    def cells(self) -> int:
        """Mesh cells per side, M."""
        return self.particles * self.refinement

    @property
    def index(self) -> torch.dtype:
        """The integers that name a cell: the narrowest that hold all M^3, for they are half of what a paint reads."""
        return torch.int32 if self.cells**3 <= 2**31 else torch.int64

    def node(self, device: torch.device | str = "cpu") -> Tensor:
        """The mesh node below each lattice point, [3, n^3] int64 in C order."""
        return _node(self.particles, self.refinement, str(device))

    def cloud(self, displacement: Tensor) -> "Cloud":
        """The particles with displacement [3, N] in mesh cells, spread over the mesh."""
        return self._loops.CompiledCloud(displacement, self) if self._loops else Cloud(displacement, self)

    def slope(self, field: Tensor) -> Tensor:
        """Gradient [3, M, M, M] of a field [M, M, M] by differences, per cell."""
        return (self._loops or mesh).slope(field)

    def divergence(self, fields: Sequence[Tensor]) -> Tensor:
        """Divergence [M, M, M] of three fields by differences: minus the transpose of `slope`."""
        return (self._loops or mesh).divergence(fields)

    @property
    def _loops(self) -> ModuleType | None:
        """The compiled loops, or None where they are not wanted or, inside a function transform, refuse to run."""
        if not self.compiled or peek_interpreter_stack() is not None:
            return None
        from emulate.simulators.nbody import compiled  # the compiler takes seconds to import

        return compiled

    def planes(self, device: torch.device) -> list[slice]:
        """Planes of the lattice that are handled at once; the order of all sums over particles follows from them."""
        n = self.particles
        count = (
            n
            if device.type == "cuda"
            else max(p for p in range(1, n + 1) if n % p == 0 and p * n * n <= max(_CHUNK, n * n))
        )
        return [slice(x, x + count) for x in range(0, n, count)]

    def position(self, displacement: Tensor) -> Tensor:
        """Positions [3, N] in mesh cells, in [0, M), of displaced particles."""
        return (self.node(displacement.device) + self.offset + displacement).remainder(self.cells)


@functools.lru_cache(maxsize=4)
def _node(particles: int, refinement: int, device: str) -> Tensor:
    side = torch.arange(particles, device=device) * refinement
    return torch.stack(torch.meshgrid(side, side, side, indexing="ij")).reshape(3, -1)


class Cloud:
    """Displaced particles [3, N] spread over the eight mesh nodes around each; the weights are found once and reused.

    Linear in the weights of the corners, and those are known functions of the place: `along(dx)` is the same cloud
    with the derivatives of its weights in a direction, so the tangent of a paint is the paint of `along(dx)`.

    Example:
        >>> mesh = Mesh(particles=4)
        >>> (field,) = Cloud(torch.zeros(3, 4**3), mesh).paint(None)
        >>> tuple(field.shape), float(field.sum())
        ((8, 8, 8), 64.0)
    """

    def __init__(self, displacement: Tensor, mesh: Mesh):
        check_reach(displacement)
        self._displacement, self._cells = displacement, mesh.cells
        plane = mesh.particles**2
        parts = (slice(p.start * plane, p.stop * plane) for p in mesh.planes(displacement.device))
        self._parts = [(part, *self._corners(part, mesh)) for part in parts]

    def paint(self, *weights: Tensor | None) -> list[Tensor]:
        """For each weight [N] (None: one each) the sum of the weights of the particles at the nodes, [M, M, M]."""
        fields = [self._displacement.new_zeros(self._cells**3) for _ in weights]
        for part, index, share, _ in self._parts:
            for field, weight in zip(fields, weights, strict=True):
                field.index_add_(0, index, (share if weight is None else share * weight[part]).view(-1))
        return [field.view((self._cells,) * 3) for field in fields]

    def gather(self, fields: Iterable[Tensor]) -> Tensor:
        """Values [c, N] of c mesh fields [M, M, M] at the particles; the transpose of `paint`."""
        fields = [field.reshape(-1) for field in fields]
        out = self._displacement.new_empty(len(fields), self._displacement.shape[1])
        for part, index, share, _ in self._parts:
            for value, field in zip(out, fields, strict=True):
                first, *others = field.index_select(0, index).view(8, -1) * share
                for other in others:  # a sum over all eight adds the last few columns in another order
                    first.add_(other)
                value[part] = first
        return out

    def gather_slope(self, fields: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Tensor:
        """Derivative [3, N] of sum_c weights[c] gather(fields)[c] with respect to the displacement, weights held fixed.

        Args:
            fields: c mesh fields [M, M, M].
            weights: c tensors [N], or None for ones.
        """
        terms = [(field.reshape(-1), weight) for field, weight in zip(fields, weights, strict=True)]
        out = torch.empty_like(self._displacement)
        for part, index, _, t in self._parts:
            values = ((field.index_select(0, index).view(2, 2, 2, -1), weight) for field, weight in terms)
            v = functools.reduce(torch.add, (x if weight is None else x * weight[part] for x, weight in values))
            x = _between(v, t[0])
            out[0, part] = _between(_between(v[1] - v[0], t[1]), t[2])
            out[1, part] = _between(x[1] - x[0], t[2])
            x = _between(x, t[1])
            out[2, part] = x[1] - x[0]
        return out

    def pull(self, fields: Sequence[Tensor], weights: Sequence[Tensor], source: Tensor) -> tuple[Tensor, Tensor]:
        """`gather(fields)` [c, N], and `gather_slope` [3, N] of the fields with their weights and of `source`."""
        return self.gather(fields), self.gather_slope((*fields, source), (*weights, None))

    def along(self, direction: Tensor) -> Self:
        """The cloud with sum_i direction_i d(share)/dx_i [3, N] in place of each share."""
        other = object.__new__(type(self))
        other._displacement, other._cells, other._parts = self._displacement, self._cells, []
        for part, index, _, t in self._parts:
            x, y, z = torch.stack((1.0 - t, t), 1)
            dx, dy, dz = torch.stack((-direction[:, part], direction[:, part]), 1)
            share = _corner_products(dx, y, z) + _corner_products(x, dy, z) + _corner_products(x, y, dz)
            other._parts.append((part, index, share, t))
        return other

    def _corners(self, part: slice, mesh: Mesh) -> tuple[Tensor, Tensor, Tensor]:
        """Flat node indices [8 N], weights [8, N], and the place [3, N] between the nodes, in [0, 1)."""
        place = self._displacement[:, part] + mesh.offset
        below = torch.floor(place)
        t = place - below
        near = below + mesh.node(place.device)[:, part]
        # wrapped in floating point, which is exact for whole numbers of this size and several times faster
        near = (near - self._cells * torch.floor(near / self._cells)).to(mesh.index)
        far = torch.where(near == self._cells - 1, 0, near + 1)
        x, y, z = torch.stack((near, far), 1)
        index = ((x * self._cells**2)[:, None] + y * self._cells)[:, :, None] + z
        x, y, z = torch.stack((1.0 - t, t), 1)
        return index.view(-1), _corner_products(x, y, z), t


def density(displacement: Tensor, mesh: Mesh) -> Tensor:
    """Density contrast delta [M, M, M] of displaced particles [3, N]; differentiable once, in both modes.

    Example:
        >>> delta = density(torch.zeros(3, 4**3), Mesh(particles=4, refinement=1))
        >>> bool(delta.abs().max() < 1e-6)
        True
    """
    return _Density.apply(displacement, mesh)


class _Density(torch.autograd.Function):
    @staticmethod
    def forward(displacement: Tensor, mesh: Mesh) -> Tensor:
        return mesh.cloud(displacement).paint(None)[0] * mesh.refinement**3 - 1.0

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        displacement, ctx.mesh = inputs
        ctx.save_for_backward(displacement)
        ctx.save_for_forward(displacement)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor):
        (displacement,) = ctx.saved_tensors
        slope = ctx.mesh.cloud(displacement).gather_slope([cotangent * ctx.mesh.refinement**3], [None])
        return slope, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _):
        (displacement,) = ctx.saved_tensors
        return ctx.mesh.cloud(displacement).along(tangent).paint(None)[0] * ctx.mesh.refinement**3


def check_reach(displacement: Tensor) -> None:
    """Complain about particles that are nowhere, or so far off that float32 cannot tell where in their cell."""
    least, most = torch.aminmax(displacement.detach())
    if not bool((least > -_FAR) & (most < _FAR)):  # NaN fails too
        raise RunFailed("nonfinite", "particles must stay within a million mesh cells of their place. Got some that "
                        "do not; the fluctuations are too large for the time steps.")  # fmt: skip


def _corner_products(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Products [8, N] of three pairs [2, N]."""
    return ((x[:, None] * y)[:, :, None] * z).view(8, -1)


def _between(values: Tensor, t: Tensor) -> Tensor:
    return values[0] + t * (values[1] - values[0])  # not addcmul, which rounds once: compiled loops round twice

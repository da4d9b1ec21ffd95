"""Loops over particles and cells, compiled: what `cloud.Cloud` and `mesh` do, in one pass for each task.

Each task is a function that torch compiles for its shape; those of particles handle some planes of the lattice at a
time. The loops run on one thread in a fixed order, so the bits do not depend on the number of threads, and are those of
the slow twins in `cloud` and `mesh`.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from emulate.simulators.nbody.cloud import Mesh, check_reach

Corner = tuple[int, int, int]

__all__ = ["CompiledCloud", "divergence", "slope"]

_OPTIONS = {"cpp.threads": 1, "assert_indirect_indexing": False}  # indices are wrapped into the mesh


class CompiledCloud:
    """Displaced particles [3, N] in the order of the lattice; methods and results are those of `cloud.Cloud`."""

    def __init__(self, displacement: Tensor, mesh: Mesh, direction: Tensor | None = None):
        check_reach(displacement)
        self._mesh, self._displacement, self._direction = mesh, displacement, direction
        self._parts = mesh.planes(displacement.device)

    def paint(self, *weights: Tensor | None) -> list[Tensor]:
        fields = [self._displacement.new_zeros(self._mesh.cells**3) for _ in weights]
        for part, place in self._places():
            self._kernel(_paint, place, fields, [None if w is None else self._grid(w)[part] for w in weights])
        return [field.view((self._mesh.cells,) * 3) for field in fields]

    def gather(self, fields: Sequence[Tensor]) -> Tensor:
        fields = [field.reshape(-1) for field in fields]
        out = self._displacement.new_empty(len(fields), *(self._mesh.particles,) * 3)
        for part, place in self._places():
            self._kernel(_gather, place, fields, list(out[:, part]))
        return out.view(len(fields), -1)

    def gather_slope(self, fields: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Tensor:
        fields = [field.reshape(-1) for field in fields]
        out = torch.empty_like(self._displacement)
        for part, place in self._places():
            given = [None if w is None else self._grid(w)[part] for w in weights]
            self._kernel(_gather_slope, place, fields, given, list(self._grid(out)[:, part]))
        return out

    def pull(self, fields: Sequence[Tensor], weights: Sequence[Tensor], source: Tensor) -> tuple[Tensor, Tensor]:
        fields, source = [field.reshape(-1) for field in fields], source.reshape(-1)
        values, slope = torch.empty_like(self._displacement), torch.empty_like(self._displacement)
        for part, place in self._places():
            given = [self._grid(w)[part] for w in weights]
            out = (list(self._grid(x)[:, part]) for x in (values, slope))
            self._kernel(_pull, place, fields, given, source, *out)
        return values, slope

    def along(self, direction: Tensor) -> Self:
        return type(self)(self._displacement, self._mesh, direction)

    def _grid(self, x: Tensor) -> Tensor:
        """[..., N] as [..., n, n, n], to be cut into planes."""
        return x.reshape(*x.shape[:-1], *(self._mesh.particles,) * 3)

    def _places(self) -> Iterator[tuple[slice, tuple]]:
        displacement = self._grid(self._displacement)
        direction = None if self._direction is None else self._grid(self._direction)
        for part in self._parts:
            first = displacement.new_tensor(part.start * self._mesh.refinement)
            yield part, (displacement[:, part], first, None if direction is None else direction[:, part])

    def _kernel(self, task: Callable, place: tuple, *rest) -> None:
        strict = torch.get_deterministic_debug_mode()
        if strict and not self._displacement.is_cuda:  # the mode would replace the sequential sums by slow sorted ones
            torch.set_deterministic_debug_mode(0)
        try:
            _compiled(task)(place, self._mesh, *rest)
        finally:
            if strict:
                torch.set_deterministic_debug_mode(strict)


@functools.cache
def _compiled(task: Callable) -> Callable:
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # one for each mesh and dtype
    return torch.compile(task, dynamic=False, fullgraph=True, options=_OPTIONS)


def slope(field: Tensor) -> Tensor:
    """Gradient [3, M, M, M] of a periodic field, per cell: the twin of `mesh.slope`."""
    return _compiled(_three_differences)(field)


def divergence(fields: Sequence[Tensor]) -> Tensor:
    """Divergence [M, M, M] of three periodic fields, per cell: the twin of `mesh.divergence`."""
    return _compiled(_sum_of_differences)(*fields)


def _three_differences(field: Tensor) -> Tensor:
    return torch.stack([_difference(field, axis) for axis in range(3)])


def _sum_of_differences(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return _difference(x, 0) + _difference(y, 1) + _difference(z, 2)


def _difference(field: Tensor, axis: int) -> Tensor:
    # along the last axis a roll would keep the loop from handling several cells at once, a padded copy does not
    padded = torch.cat((field[..., -2:], field, field[..., :2]), -1) if axis == 2 else None

    def shifted(by: int) -> Tensor:
        return torch.roll(field, -by, axis) if padded is None else padded[..., 2 + by : 2 + by + field.shape[-1]]

    return (shifted(-2) + 8.0 * (shifted(1) - shifted(-1)) - shifted(2)) * (1.0 / 12.0)


def _corners(place: tuple, mesh: Mesh) -> Iterator[tuple[Corner, Tensor, Tensor]]:
    """For each corner its name, the flat node indices and the shares, both of the shape of the planes."""
    displacement, first, direction = place
    M, (_, p, n, _) = mesh.cells, displacement.shape
    side = torch.arange(n, device=displacement.device, dtype=displacement.dtype) * mesh.refinement
    at, w, dw = [], [], []
    for x, node, stride in zip(
        displacement, ((side[:p] + first)[:, None, None], side[:, None], side), (M * M, M, 1), strict=True
    ):
        x = x + mesh.offset
        below = torch.floor(x)
        t = x - below
        near = below + node
        near = (near - M * torch.floor(near / M)).to(mesh.index)
        at.append((near * stride, torch.where(near == M - 1, 0, near + 1) * stride))
        w.append((1.0 - t, t))
    if direction is not None:
        dw = [(-d, d) for d in direction]
    for a, b, c in _EIGHT:
        (x, y, z) = (w[i][k] for i, k in enumerate((a, b, c)))
        if direction is None:
            share = x * y * z
        else:
            dx, dy, dz = (dw[i][k] for i, k in enumerate((a, b, c)))
            share = dx * y * z + x * dy * z + x * y * dz
        yield (a, b, c), at[0][a] + at[1][b] + at[2][c], share


_EIGHT = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]


def _paint(place: tuple, mesh: Mesh, fields: list[Tensor], weights: list[Tensor | None]) -> None:
    _, at, shares = zip(*_corners(place, mesh), strict=True)
    index, share = torch.stack(at).view(-1), torch.stack(shares)  # one loop over all corners instead of eight
    for field, weight in zip(fields, weights, strict=True):
        field.index_add_(0, index, (share if weight is None else share * weight).view(-1))


def _gather(place: tuple, mesh: Mesh, fields: list[Tensor], out: list[Tensor]) -> None:
    values: list[Any] = [0.0] * len(fields)  # numbers until the first corner is added
    for _, index, share in _corners(place, mesh):
        for i, field in enumerate(fields):
            values[i] = values[i] + field[index] * share
    _write(values, out)


def _gather_slope(
    place: tuple, mesh: Mesh, fields: list[Tensor], weights: list[Tensor | None], out: list[Tensor]
) -> None:
    v: dict[Corner, Tensor] = {}
    for corner, index, _ in _corners(place, mesh):
        terms = (field[index] if w is None else field[index] * w for field, w in zip(fields, weights, strict=True))
        v[corner] = functools.reduce(torch.add, terms)
    _write(_slope(v, place[0] + mesh.offset), out)


def _pull(
    place: tuple, mesh: Mesh, fields: list[Tensor], weights: list[Tensor], source: Tensor,
    values: list[Tensor], slope: list[Tensor],
) -> None:  # fmt: skip
    found: list[Any] = [0.0] * len(fields)
    v: dict[Corner, Tensor] = {}
    for corner, index, share in _corners(place, mesh):
        known = [field[index] for field in fields]
        found = [old + value * share for old, value in zip(found, known, strict=True)]
        terms = (value * weight for value, weight in zip(known, weights, strict=True))
        v[corner] = functools.reduce(torch.add, terms) + source[index]
    _write(found, values)
    _write(_slope(v, place[0] + mesh.offset), slope)


def _write(values: Sequence[Tensor], out: list[Tensor]) -> None:
    for value, place in zip(values, out, strict=True):  # each into its own: a stack would be made first and copied
        place.copy_(value)


def _slope(v: dict[Corner, Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Derivative of the interpolation of values at the corners with respect to the place."""
    tx, ty, tz = x - torch.floor(x)
    pairs = [(b, c) for b in (0, 1) for c in (0, 1)]
    rise = {(b, c): v[1, b, c] - v[0, b, c] for b, c in pairs}
    along_x = _between(_between(rise[0, 0], rise[1, 0], ty), _between(rise[0, 1], rise[1, 1], ty), tz)
    flat = {(b, c): _between(v[0, b, c], v[1, b, c], tx) for b, c in pairs}
    along_y = _between(flat[1, 0] - flat[0, 0], flat[1, 1] - flat[0, 1], tz)
    low, high = (_between(flat[0, c], flat[1, c], ty) for c in (0, 1))
    return along_x, along_y, high - low


def _between(p: Tensor, q: Tensor, t: Tensor) -> Tensor:
    return p + t * (q - p)

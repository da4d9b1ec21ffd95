"""What is known of a mesh alone: differences of fields on it, and the window of the cloud in cell."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from emulate.simulators.nbody.fourier import angular

__all__ = ["divergence", "slope", "window"]

_BLOCK = 2**18  # cells handled at once, so that the passes of a difference find them in cache


def slope(field: Tensor) -> Tensor:
    """Gradient [3, M, M, M] of a periodic field [M, M, M], per cell, by differences of fourth order.

    (8 (f_1 - f_-1) - (f_2 - f_-2)) / 12 along each axis: the spectral derivative rings at the mesh scale, this one does
    not.
    """
    out = field.new_empty((3, *field.shape))
    for planes, padded in _blocks(field):
        for axis in range(3):
            _difference(padded, axis, out[axis, planes])
    return out


def divergence(fields: Sequence[Tensor]) -> Tensor:
    """Divergence [M, M, M] of three fields by the same differences: minus the transpose of `slope`."""
    out = torch.empty_like(fields[0])
    for axis, field in enumerate(fields):
        for planes, padded in _blocks(field, axis):
            part = out[planes]
            if axis == 0:
                _difference(padded, axis, part)
            else:
                part += _difference(padded, axis, torch.empty_like(part))
    return out


def window(cells: int) -> Tensor:
    """Fourier transform of the cloud in cell, prod_i sinc(k_i / 2)^2, [M, M, M // 2 + 1]."""
    x, y, z = (torch.sinc(k / (2.0 * math.pi)) ** 2 for k in angular(cells))
    return x * y * z


def _blocks(field: Tensor, *axes: int) -> Iterator[tuple[slice, Tensor]]:
    """Some planes of a field at a time, with two more cells of the periodic field on both sides along the axes."""
    M = field.shape[0]
    size = M if field.is_cuda else max(b for b in range(1, M + 1) if M % b == 0 and (b == 1 or b * M * M <= _BLOCK))
    p = field.new_empty(size + 4, M + 4, M + 4)
    inner, axes = slice(2, M + 2), axes or (0, 1, 2)
    for first in range(0, M, size):
        p[2 : size + 2, inner, inner] = field[first : first + size]
        if 0 in axes:
            p[:2, inner, inner] = field[[first - 2, first - 1]]
            p[size + 2 :, inner, inner] = field[[(first + size) % M, (first + size + 1) % M]]
        if 1 in axes:
            p[:, :2, inner], p[:, M + 2 :, inner] = p[:, M : M + 2, inner], p[:, 2:4, inner]
        if 2 in axes:
            p[:, :, :2], p[:, :, M + 2 :] = p[:, :, M : M + 2], p[:, :, 2:4]
        yield slice(first, first + size), p


def _difference(padded: Tensor, axis: int, out: Tensor) -> Tensor:
    size = out.shape

    def shifted(by: int) -> Tensor:
        return padded[tuple(slice(2 + by * (i == axis), 2 + by * (i == axis) + n) for i, n in enumerate(size))]

    torch.sub(shifted(1), shifted(-1), out=out)
    # a product by eight is exact, so the sum has the same bits fused or not, here and in compiled loops
    return torch.add(shifted(-2), out, alpha=8.0, out=out).sub_(shifted(2)).mul_(1.0 / 12.0)

"""The gravity of particles on a mesh: Poisson's equation by Fourier transform, the force by differences, the adjoint.

The autograd function carries a hand-written adjoint. It stores the displacement and the potential of a step and finds
the rest again on the way back: less memory and time than a record of every elementwise operation.
"""

import functools
import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from emulate.simulators.nbody.cloud import Cloud, Mesh
from emulate.simulators.nbody.fourier import angular, forward, inverse

__all__ = ["acceleration", "inverse_laplacian", "slope", "window"]


def acceleration(displacement: Tensor, mesh: Mesh) -> Tensor:
    r"""Acceleration A [3, N] of particles by their own gravity, in mesh cells; differentiable once.

    .. math:: A = -\nabla \nabla^{-2} \delta

    The inverse Laplacian is spectral, the gradient a fourth-order central difference. Assignment and interpolation use
    the same cloud and the kernel is odd, so momentum is conserved. To first order in a curl-free displacement A is the
    displacement itself.

    Args:
        displacement: [3, N] in mesh cells, from the lattice of the mesh.
        mesh: the mesh.

    Example:
        >>> mesh = Mesh(particles=8)
        >>> bool(acceleration(torch.zeros(3, 8**3), mesh).abs().max() < 1e-6)
        True
    """
    return _Acceleration.apply(displacement, mesh)


class _Acceleration(torch.autograd.Function):
    @staticmethod
    def forward(ctx, displacement: Tensor, mesh: Mesh) -> Tensor:
        cloud = Cloud(displacement, mesh)
        potential = inverse_laplacian(cloud.paint()) * mesh.refinement**3
        ctx.save_for_backward(displacement, potential)
        ctx.mesh = mesh
        return cloud.gather(slope(potential)).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor):
        displacement, potential = ctx.saved_tensors
        cloud = Cloud(displacement, ctx.mesh)
        # A = -gather(slope(laplacian^-1 paint)); slope is antisymmetric, laplacian^-1 symmetric
        source = inverse_laplacian(_divergence(cloud.paint(c) for c in cotangent)) * ctx.mesh.refinement**3
        return cloud.gather_slope((*slope(potential), source), (*cotangent.neg(), 1.0)), None


def slope(field: Tensor) -> Tensor:
    """Gradient [3, M, M, M] of a periodic field [M, M, M] by fourth-order central differences, per cell.

    (8 (f_1 - f_-1) - (f_2 - f_-2)) / 12: the spectral derivative rings at the mesh scale, this one does not.
    """
    p = _wrap(field)
    out = field.new_empty((3, *field.shape))
    for axis in range(3):
        _difference(p, axis, out[axis])
    return out


def _divergence(fields: Iterable[Tensor]) -> Tensor:
    """Divergence [M, M, M] of three fields with the same differences: minus the transpose of `slope`."""
    parts = (_difference(_wrap(field), axis, torch.empty_like(field)) for axis, field in enumerate(fields))
    return functools.reduce(torch.Tensor.add_, parts)


def _wrap(field: Tensor) -> Tensor:
    return pad(field[None, None], (2,) * 6, mode="circular")[0, 0]


def _difference(padded: Tensor, axis: int, out: Tensor) -> Tensor:
    size = out.shape[axis]

    def shifted(by: int) -> Tensor:
        return padded[tuple(slice(2 + by, 2 + by + size) if i == axis else slice(2, 2 + size) for i in range(3))]

    torch.sub(shifted(1), shifted(-1), out=out).mul_(2.0 / 3.0)
    return out.add_(shifted(2), alpha=-1.0 / 12.0).add_(shifted(-2), alpha=1.0 / 12.0)


def inverse_laplacian(field: Tensor) -> Tensor:
    """Solution phi [M, M, M] of laplacian phi = field, mean zero, per cell squared, by a Fourier transform."""
    kernel = _kernel(field.shape[0], field.dtype)
    return inverse(forward(field) * kernel)


@functools.lru_cache(maxsize=8)
def _kernel(cells: int, dtype: torch.dtype) -> Tensor:
    kx, ky, kz = angular(cells)
    k2 = kx**2 + ky**2 + kz**2
    k2[0, 0, 0] = math.inf  # the mean density pulls nowhere
    return (-1.0 / k2).to(dtype)


def window(cells: int) -> Tensor:
    """Fourier transform of the cloud in cell, prod_i sinc(k_i / 2)^2, [M, M, M // 2 + 1]."""
    x, y, z = (torch.sinc(k / (2.0 * math.pi)) ** 2 for k in angular(cells))
    return x * y * z

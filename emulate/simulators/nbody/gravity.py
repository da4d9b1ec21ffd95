"""The gravity of particles on a mesh: Poisson's equation by Fourier transform, the force by differences, the adjoint."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.fourier import angular, forward, inverse
from emulate.simulators.nbody.mesh import window

__all__ = ["Gravity", "acceleration"]


@dataclass(frozen=True)
class Gravity:
    r"""How particles on a mesh pull at each other.

    .. math:: A = -\nabla \nabla^{-2} \delta, \qquad \tilde\phi = G(k) \tilde\delta, \quad G = k^{-2} W^{-p} H

    in mesh cells, with phi = -laplacian^-1 delta, W the window of the cloud, and H = 1 or the band of a correction.

    Attributes:
        mesh: the mesh, and whether its loops are compiled.
        gradient: "difference", the fourth-order central difference; or "spectral", i k, which rings at the mesh scale.
        deconvolution: p, how often the window of the cloud is divided out: 0, 1 or 2 (paint and gather).
        band: (k_l, k_s) in radians per cell, H = exp(-k_l^2 / k^2 - k^4 / k_s^4) (Dai, Feng & Seljak 2018, JCAP 11, 009).

    Example:
        >>> A = acceleration(torch.zeros(3, 8**3), Gravity(Mesh(particles=8)))
        >>> bool(A.abs().max() < 1e-6)
        True
    """

    mesh: Mesh
    gradient: Literal["difference", "spectral"] = "difference"
    deconvolution: int = 0
    band: tuple[float, float] | None = None

    def potential(self, count: Tensor) -> Tensor:
        """phi [M, M, M] of the number of particles in each cell [M, M, M]; symmetric, so its own transpose."""
        kernel = _kernel(self, str(count.device), count.dtype)
        return inverse(forward(count).mul_(kernel))

    def slope(self, field: Tensor) -> Tensor:
        """Gradient [3, M, M, M] of a field [M, M, M], per cell."""
        if self.gradient == "difference":
            return self.mesh.slope(field)
        modes = forward(field)
        return torch.stack([inverse(modes * ik) for ik in _derivative(field.shape[0], str(field.device), modes.dtype)])

    def divergence(self, fields: Sequence[Tensor]) -> Tensor:
        """Divergence [M, M, M] of three fields: minus the transpose of `slope`."""
        if self.gradient == "difference":
            return self.mesh.divergence(fields)
        modes = [forward(field) for field in fields]
        iks = _derivative(fields[0].shape[0], str(fields[0].device), modes[0].dtype)
        return inverse(functools.reduce(torch.add, (m * ik for m, ik in zip(modes, iks, strict=True))))

    def pull(self, displacement: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """A(x) [3, N], and cotangent^T dA/dx [3, N]: one cloud, one pass for both."""
        cloud = self.mesh.cloud(displacement)
        count, *painted = cloud.paint(None, *cotangent)
        source = self.potential(self.divergence(painted).neg_())
        del painted  # three fields less, before three more
        return cloud.pull(self.slope(self.potential(count)).unbind(), cotangent.unbind(), source)


def acceleration(displacement: Tensor, gravity: Gravity) -> Tensor:
    """Acceleration A [3, N] of particles by their own gravity, in mesh cells; differentiable once, in both modes.

    Assignment and interpolation use the same cloud and the kernel is odd, so momentum is conserved. To first order in
    a curl-free displacement [3, N] (in mesh cells, from the lattice of the mesh) A is the displacement itself.
    """
    return _Acceleration.apply(displacement, gravity)[0]


class _Acceleration(torch.autograd.Function):
    """Stores the displacement and the potential of a step, and finds the rest again for the derivative."""

    @staticmethod
    def forward(displacement: Tensor, gravity: Gravity) -> tuple[Tensor, Tensor]:
        cloud = gravity.mesh.cloud(displacement)
        potential = gravity.potential(cloud.paint(None)[0])
        return cloud.gather(gravity.slope(potential)), potential

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        displacement, ctx.gravity = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(displacement, output[1])
        ctx.save_for_forward(displacement, output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor, _):
        displacement, potential = ctx.saved_tensors
        cloud = ctx.gravity.mesh.cloud(displacement)
        source = ctx.gravity.potential(ctx.gravity.divergence(cloud.paint(*cotangent)).neg_())
        return cloud.gather_slope((*ctx.gravity.slope(potential), source), (*cotangent, None)), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _):
        displacement, potential = ctx.saved_tensors
        cloud = ctx.gravity.mesh.cloud(displacement)
        moved = cloud.along(tangent)
        change = ctx.gravity.potential(moved.paint(None)[0])
        slope = ctx.gravity.slope
        return cloud.gather(slope(change)) + moved.gather(slope(potential)), None


@functools.lru_cache(maxsize=8)
def _kernel(gravity: Gravity, device: str, dtype: torch.dtype) -> Tensor:
    """G(k), over the mean number of particles in a cell."""
    cells = gravity.mesh.cells
    k = angular(cells)
    k2 = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    k2[0, 0, 0] = math.inf  # the mean density pulls nowhere
    kernel = gravity.mesh.refinement**3 / k2 / window(cells) ** gravity.deconvolution
    if gravity.band:
        long, short = gravity.band
        kernel = kernel * torch.exp(-(long**2) / k2 - (k2 / short**2) ** 2)
    return kernel.to(device, dtype)


@functools.lru_cache(maxsize=4)
def _derivative(cells: int, device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """i k along each axis; zero on the Nyquist planes, which have no odd derivative of a real field."""
    half = math.pi * (1.0 - 1e-9)
    return tuple((1j * torch.where(k.abs() < half, k, 0.0)).to(device, dtype) for k in angular(cells))

"""What is known of a mesh alone: differences of a field on it, and the window of the cloud in cell."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from emulate.simulators.nbody.fourier import angular

__all__ = ["difference", "window"]


def difference(field: Tensor, axis: int, out: Tensor) -> Tensor:
    """Derivative of a periodic field [M, M, M] along an axis, per cell, into `out`; antisymmetric.

    (8 (f_1 - f_-1) - (f_2 - f_-2)) / 12, of fourth order: the spectral derivative rings at the mesh scale, this one
    does not.
    """
    p = pad(field[None], tuple(2 if i == 2 - axis else 0 for i in range(3) for _ in range(2)), mode="circular")[0]
    size = field.shape[axis]
    far, near, _, next_, last = (p.narrow(axis, by, size) for by in range(5))
    torch.sub(next_, near, out=out).mul_(2.0 / 3.0)
    return out.add_(last, alpha=-1.0 / 12.0).add_(far, alpha=1.0 / 12.0)


def window(cells: int) -> Tensor:
    """Fourier transform of the cloud in cell, prod_i sinc(k_i / 2)^2, [M, M, M // 2 + 1]."""
    x, y, z = (torch.sinc(k / (2.0 * math.pi)) ** 2 for k in angular(cells))
    return x * y * z

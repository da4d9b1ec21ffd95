r"""Permittivity on the lattice: layers averaged over a kernel, and pixels that are filtered, projected and met half way."""

import math

import torch
from torch import Tensor

__all__ = ["keys_step", "layered", "matched", "on_edges", "projected", "smoothed"]


def matched(index: Tensor, cells: int, courant: float) -> Tensor:
    r"""epsilon of the lattice in which a wave of the design has the length 1 / index, exactly; n^2 of an infinitely fine one.

    .. math::
        \varepsilon = \left( S\, \frac{\sin(\pi n / N)}{\sin(\pi S / N)} \right)^2

    for N cells to the vacuum wavelength: along an axis it takes the numerical dispersion out at the design wavelength.

    >>> matched(torch.tensor([1.0, 2.0]), 40, 0.7)
    tensor([0.9990, 3.9712])
    """
    return (courant * torch.sin(math.pi * index / cells) / math.sin(math.pi * courant / cells)).square()


def keys_step(x: Tensor) -> Tensor:
    """The share `[...]` of the kernel of Keys about 0 that lies below x, in cells.

    Cubic convolution (Keys 1981, IEEE Trans. ASSP 29, 1153) keeps the integral, the first and the second moment of a profile
    wherever its jumps lie between the nodes, so that walls add no error of second order; and a wall that moves changes the
    answer smoothly, with two derivatives.

    >>> keys_step(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).round(decimals=4)
    tensor([ 0.0000, -0.0417,  0.5000,  1.0417,  1.0000])
    """
    s = x.abs().clamp(max=2.0)
    near, far = s.clamp(max=1.0), s.clamp(min=1.0)
    inner = near * (1 + near.square() * (3 * near / 8 - 5 / 6))
    outer = far * (2 - far * (2 - far * (5 / 6 - far / 8))) - 17 / 24
    return 0.5 + x.sign() * (inner + outer)


def layered(nodes: Tensor, thickness: Tensor, epsilon: Tensor, cells: int) -> Tensor:
    """epsilon `[n]` at nodes x `[n]` of layers between x = 0 and their thickness `[l]`, in wavelengths, one after the other.

    `epsilon` `[l + 2]` holds those before, of, and behind the layers.

    >>> x = torch.tensor([-0.3, 0.0, 0.1, 0.2, 0.4])
    >>> layered(x, torch.tensor([0.1]), torch.tensor([1.0, 4.0, 1.0]), 10)
    tensor([1.0000, 2.6250, 2.6250, 0.8750, 1.0000])
    """
    walls = torch.cat((thickness.new_zeros(1), thickness.cumsum(0)))
    jumps = epsilon[1:] - epsilon[:-1]
    return epsilon[0] + (keys_step(cells * (nodes[:, None] - walls)) * jumps).sum(-1)


def smoothed(density: Tensor, radius: float) -> Tensor:
    """The density `[a, b]` averaged over a cone of that radius in pixels, as if its rim went on outside.

    Reference: Bourdin 2001, Int. J. Numer. Meth. Engng 50, 2143.

    >>> smoothed(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 1.5).round(decimals=3)
    tensor([[0.0000, 0.1750, 0.8250, 1.0000]])
    """
    reach = max(0, math.ceil(radius) - 1)
    if not reach:
        return density
    i = torch.arange(-reach, reach + 1, dtype=density.dtype)
    cone = (radius - torch.hypot(i[:, None], i)).clamp_min(0)
    padded = torch.nn.functional.pad(density[None, None], (reach,) * 4, mode="replicate")
    return torch.nn.functional.conv2d(padded, (cone / cone.sum())[None, None])[0, 0]


def projected(density: Tensor, steepness: float) -> Tensor:
    r"""The density pushed towards 0 and 1 about one half; infinitely steep, it is one or the other.

    .. math::
        \frac{\tanh(\beta / 2) + \tanh(\beta (\rho - 1/2))}{2 \tanh(\beta / 2)}

    Reference: Wang, Lazarov & Sigmund 2011, Struct. Multidisc. Optim. 43, 767.

    >>> projected(torch.tensor([0.0, 0.4, 0.5, 1.0]), 8.0).round(decimals=3)
    tensor([0.0000, 0.1680, 0.5000, 1.0000])
    """
    if math.isinf(steepness):
        return (density > 0.5 + 1e-9).to(density)  # rounding decides nothing of what is grey throughout
    half = math.tanh(steepness / 2)
    return 0.5 + torch.tanh(steepness * (density - 0.5)) / (2 * half)


def on_edges(epsilon: Tensor, polarisation: str) -> Tensor:
    """epsilon at the numbers of E from that of the cells `[nx, ny]`, cell (i, j) lying between nodes i and i + 1.

    A component of E runs along the borders of cells that it touches, where it is continuous: so the mean of those cells
    is what it meets, four of them for E_z and two for E_x and for E_y, and no normal component is averaged.

    >>> on_edges(torch.tensor([[1.0, 3.0]]), "Hz")
    tensor([2., 2., 1., 3.])
    """
    below, left = torch.roll(epsilon, 1, 1), torch.roll(epsilon, 1, 0)
    x, y = 0.5 * (epsilon + below), 0.5 * (epsilon + left)
    if polarisation == "Hz":
        return torch.cat((x.flatten(), y.flatten()))
    return (0.5 * (y + torch.roll(y, 1, 1))).flatten()

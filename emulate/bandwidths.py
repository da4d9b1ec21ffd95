"""The bandwidth of a soft histogram that makes the summed squared error of its bins least, or that of their derivatives.

Letters: f the density of the samples at an edge e, q the first moment of the kernel that is not 0 (2, or 4 where it
extrapolates), N the number of samples.

The bias of a bin between l and r is, to leading order in h and per sample,

    value      mu_q h^q / q! [f^(q-1)]_l^r
    gradient   mu_q h^q / q! [j^(q)]_l^r

with j = f E[v | e] the flux of samples with velocities v = dx/dtheta over an edge. Derivatives of densities come from a
pilot: a Gaussian kernel of the width that would suit a normal density (Wand & Jones 1995, sec. 3.2 and 4.5), less what its
noise adds to their squares. The variance is that of the samples' own shares, at each bandwidth that is tried.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from emulate.axes import Axis
from emulate.binning import Binning
from emulate.errors import InputError
from emulate.kernels import Kernel

PILOTS = 10_000  # samples that the pilot looks at
NOISE = 0.25  # share of a squared bias that is believed at least, where the pilot's own noise explains it
WIDEST = 3.0  # in sd N^(-1/5): beyond it the leading order says nothing
TRIED = 16  # bandwidths, a factor 1.26 apart: the least error is flat


def best(axes: tuple[Axis, ...], x: Tensor, w: Tensor, n: int, target: Literal["value", "gradient"],
         velocities: Any = None) -> tuple[float, ...]:  # fmt: skip
    """The bandwidth of each axis for samples x `[rows, axes]` of weights w `[rows]`, for histograms of n samples."""
    try:
        total = float(w.sum())
        broken = not bool((x.isfinite().all(-1) & w.isfinite()).any())
    except RuntimeError as e:
        raise InputError(f"an automatic bandwidth must see numbers, and not a batch under vmap. Settle it before, by "
                         f"soft.settled(samples). ({e})") from None  # fmt: skip
    if len(x) < 2 or broken or total <= 0:
        raise InputError(f"an automatic bandwidth must have at least 2 finite samples, and weights with a sum above 0. Got "
                         f"{len(x)} samples and {total:.3g}; give a number.")  # fmt: skip
    v = _velocities(velocities, x)
    keep = torch.arange(0, len(x), math.ceil(len(x) / PILOTS), device=x.device)
    x, w, v = x[keep], w[keep], v[keep]
    seen = x.isfinite().all(-1)
    x, w, v = x[seen], w[seen], v[seen]
    share = w / w.sum()
    found = []
    for k, axis in enumerate(axes):
        slabs = share[None]
        for other in (a for i, a in enumerate(axes) if i != k):  # of two axes, each slab of the other is a histogram
            into = torch.searchsorted(
                torch.tensor(other.edges, dtype=x.dtype, device=x.device), x[:, 1 - k].contiguous(), right=True
            )
            slabs = share * (into == torch.arange(other.bins, device=x.device)[:, None])
        found.append(_one(axis, x[:, k], slabs, v[:, k], n, target))
    return tuple(found)


def _one(axis: Axis, x: Tensor, slabs: Tensor, v: Tensor, n: int, target: str) -> float:
    """The bandwidth of one axis: x `[m]`, weights `[slabs, m]` that sum to 1, velocities `[m, d]`."""
    kernel = axis.kernel
    q = kernel.order
    bias = abs(kernel.moment(q)) / math.factorial(q)
    m = len(x)
    deviation = _scale(x, slabs.sum(0))
    odd = int(target == "gradient")  # a mirrored sample moves the other way
    order = q - 1 + odd
    fluxes = slabs * v.T[:, None] if odd else slabs[None]  # [d, slabs, m]
    slope, noise = _slopes(
        axis, x, fluxes, deviation * (4 / ((2 * order + 3) * m)) ** (1 / (2 * order + 5)), order, odd
    )
    squared = slope.square().sum((1, 2))
    squared = bias**2 * torch.maximum(squared - noise, NOISE * squared)
    tried = deviation * min(1.0, WIDEST * n**-0.2) * torch.logspace(0, -1.5, TRIED).double()
    scatter = torch.stack([_scatter(Axis(axis.edges, kernel, h, axis.support), x, fluxes, odd) for h in tried.tolist()])
    errors = squared * tried[:, None].to(squared) ** (2 * q) + scatter / n  # [tried, d]
    return float(tried[(errors / errors.amin(0)).sum(1).argmin()])  # parameters have units of their own


def _scatter(axis: Axis, x: Tensor, fluxes: Tensor, p: int) -> Tensor:
    """The variance `[d]` that one sample brings to the counts or, for p = 1, to their derivatives, summed over the bins."""
    b, (d, slabs, m) = Binning((axis,)), fluxes.shape
    rows = fluxes.reshape(d * slabs, m)
    one = ((1.0, b, (p,)),)
    mean = b.products(x[:, None], rows, one)
    square = m * b.products(x[:, None], rows.square(), one, one)
    return (square - mean.square())[:, 1:-1].sum(-1).reshape(d, slabs).sum(-1)


def _slopes(axis: Axis, x: Tensor, weights: Tensor, width: float, order: int, odd: int) -> tuple[Tensor, Tensor]:
    """The differences over the bins `[d, slabs, E - 1]` of a derivative of the pilot's density, and the part `[d]` of their
    summed squares that its own noise explains."""
    gaussian, m = Kernel.of("gaussian"), len(x)
    pilot = Axis(axis.edges, gaussian, width, axis.support)
    low, high = (-math.inf if axis.support[0] is None else axis.support[0],
                 math.inf if axis.support[1] is None else axis.support[1])  # fmt: skip
    e = torch.tensor(axis.edges, dtype=x.dtype, device=x.device)
    inner = (e > low) & (e < high)  # nothing passes an end of the support
    made = weights.new_zeros(*weights.shape[:2], len(e) - 1)
    squares = torch.zeros_like(made)
    for begin in range(0, m, 2000):
        part = slice(begin, begin + 2000)
        at = x.new_zeros(len(x[part]), len(e))
        for slope, offset, _ in pilot.images[0]:
            at += slope ** (order + odd) * gaussian((slope * e + offset - x[part, None]) / width, order + 1)
        at = torch.where(inner, at / width ** (order + 1), 0.0).diff(dim=1)
        made += weights[..., part] @ at
        squares += weights[..., part].square() @ at.square()
    return made, (squares - made.square() / m).clamp(min=0).sum((1, 2))


def _scale(x: Tensor, share: Tensor) -> float:
    """The standard deviation, or that of a normal density with the same quartiles where it is less: tails do not count."""
    mean = (share * x).sum()
    deviation = float((share * (x - mean).square()).sum().clamp(min=0).sqrt())
    low, high = torch.quantile(x, torch.tensor([0.25, 0.75], dtype=x.dtype, device=x.device))
    quartiles = float(high - low) / 1.349
    found = min(deviation, quartiles) if quartiles > 0 else deviation
    if not found > 0:
        raise InputError(f"an automatic bandwidth must have samples that differ. Got {len(x)} with a standard deviation of "
                         f"{deviation:.3g}; give a number.")  # fmt: skip
    return found


def _velocities(given: Any, x: Tensor) -> Tensor:
    """`[rows, axes, d]`; those of a shift where none are given."""
    if given is None:
        return x.new_ones(*x.shape, 1)
    v = torch.as_tensor(given).detach().to(x)
    v = v[:, None] if v.ndim == 2 and x.shape[1] == 1 else v
    if v.ndim != 3 or v.shape[:2] != x.shape or not v.isfinite().all():
        raise InputError(f"velocities must be finite and of shape [n, d], or [n, 2, d] of two axes, for {len(x)} samples. "
                         f"Got {list(v.shape)}.")  # fmt: skip
    return v

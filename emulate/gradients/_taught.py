"""The slopes of a fitted emulator, and how far it doubts them itself."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from emulate.contracts import Core, Estimate, rows_of
from emulate.emulator import Emulator
from emulate.errors import InputError
from emulate.meter import Meter

_STEP = 0.01  # of the scaled box, over which the difference of a process stands for its slope


def told(emulator: Emulator, theta: Tensor) -> Estimate:
    """The Jacobian at theta `[d]` with the covariance that the emulator's own members, or its process, give it; no run."""
    with Meter() as meter:
        gradient = emulator.jacobian(theta)
        with torch.no_grad():
            value = emulator.predict(theta).mean
        u, replicates = emulator.scaled(theta)[None], 0
        if (members := getattr(emulator.core, "members", None)) is not None:
            covariance, replicates = _of_members(emulator, members, theta)
        elif (between := getattr(emulator.core, "covariance", None)) is not None:
            covariance = _of_process(emulator, between, u) * _products(emulator.space.stretch(theta))
        else:
            raise InputError(f"surrogate must be given an emulator that doubts its slopes: a process (gp) or an ensemble (mlp). "
                             f"Got {emulator.recipe.entry_name()}; give the simulator, or use reverse for the slope "
                             "alone.")  # fmt: skip
        if emulator.transform.widening is not None:
            covariance = covariance * emulator.transform.widening.square()[:, None, None]
    figures = {"runs": 0, "members": replicates,
               "bias": "unknown: what the emulator does not know of itself only runs of the simulator tell"}  # fmt: skip
    return Estimate(value, gradient, covariance.diagonal(dim1=-2, dim2=-1).sqrt(), 0, meter.seconds, figures, covariance,
                    torch.full_like(gradient, math.nan), meter.peak_memory, replicates)  # fmt: skip


def _of_members(emulator: Emulator, members: Callable[[Tensor], Tensor], theta: Tensor) -> tuple[Tensor, int]:
    """The covariance `[m, d, d]` of one member's slopes, and how many there are."""

    def each(t: Tensor) -> Tensor:
        return emulator.transform.from_z(members(emulator.scaled(t))).movedim(0, -2).flatten(-2)

    m = emulator.outputs.size
    slopes = rows_of(each, theta[None])[0].reshape(-1, m, len(theta))
    off = slopes - slopes.mean(0)
    return torch.einsum("kmi,kmj->mij", off, off) / (len(off) - 1), len(off)


@torch.no_grad()
def _of_process(emulator: Emulator, between: Callable[[Tensor, Tensor], Tensor], u: Tensor) -> Tensor:
    """The covariance `[m, d, d]` of dy/du at u `[1, d]`: that of central differences of the process given its runs."""
    core, d = emulator.core, u.shape[-1]
    moves = _STEP * torch.eye(d, dtype=u.dtype)
    ends = torch.cat([u + moves, u - moves])
    c = between(ends, ends).reshape(-1, 2, d, 2, d)
    c = (c[:, 0, :, 0] - c[:, 0, :, 1] - c[:, 1, :, 0] + c[:, 1, :, 1]) / (4 * _STEP**2)  # [p, d, d]
    values, vectors = torch.linalg.eigh((c + c.mT) / 2)
    size = core(u).mean[0].square() + 1  # z has unit variance; this is what rounding leaves of a difference
    floor = torch.finfo(u.dtype).eps * size / _STEP**2
    root = vectors * values.clamp(min=floor[:, None]).sqrt()[:, None] @ vectors.mT
    weight = _rates(emulator, core, u)
    mix = getattr(core, "mix", u.new_zeros(0, 0))
    together = torch.eye(len(root), dtype=u.dtype)
    together[: len(mix), : len(mix)] = mix @ mix.mT
    # p, q components, m outputs, i, j parameters
    return torch.einsum("mp,mq,pq,pik,qkj->mij", weight, weight, together, root, root)


def _rates(emulator: Emulator, core: Core, u: Tensor) -> Tensor:
    """dy/dz `[m, p]`."""
    return rows_of(emulator.transform.from_z, core(u).mean)[0]


def _products(x: Tensor) -> Tensor:
    return x[:, None] * x

"""The Lund fragmentation function f(z): its density with normaliser, its moments and its scores.

    f(z) = z^-1 (1 - z)^a exp(-b mT^2 / z) / Z,  0 < z < 1,  Z = exp(-c) Gamma(a + 1) U(a + 1, 1, c),  c = b mT^2

(Andersson, Gustafson, Ingelman & Sjostrand 1983; U is Tricomi's function). With t = (1 - z) / z,
Gamma(a + 1) U(a + 1, 1, c) = int_0^inf t^a (1 + t)^(-a - 1) exp(-c t) dt, and E[1/z] = 1 + (a + 1) U(a + 2, 2, c) / U(a + 1, 1, c).
The integral is taken by the trapezoid rule in x, ln t = x - exp(-x - 12), which converges exponentially in the step, at
fixed nodes for all a and c at once: U, its derivative with respect to a and both moments come from the same numbers.
"""

import math
from typing import Any

import torch
from torch import Tensor

from emulate.errors import InputError

A_MOST, C_LEAST, C_MOST = 10.0, 1e-4, 2e4  # where the nodes give 1e-11
_STEP, _FROM, _TO, _BEND = 0.2, -15.4, 13.4, 12.0
_ROWS = 2048  # what fits into a cache


def _nodes() -> tuple[Tensor, Tensor]:
    """ln of a weight is [a + 1, c, 1] @ table `[3, k]`; moments are weights @ columns [1, ln(1 - z), 1/z - 1] `[k, 3]`."""
    x = torch.arange(_FROM, _TO, _STEP, dtype=torch.float64)
    fall = torch.exp(-x - _BEND)
    t = torch.exp(x - fall)
    log_rest = x - fall - torch.log1p(t)  # ln(1 - z)
    table = torch.stack((log_rest, -t, torch.log(_STEP * (1 + fall))))
    return table, torch.stack((torch.ones_like(t), log_rest, t), 1)


_TABLE, _COLUMNS = _nodes()


def _weights(given: Tensor) -> Tensor:
    """The weight `[n, k]` of every node; the clamp keeps numbers from underflow, which is slow."""
    return torch.exp((given @ _TABLE).clamp_(min=-690.0))


def moments(a: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ln(Z exp(c)) = ln Gamma(a + 1) U(a + 1, 1, c), E[ln(1 - z)] and E[1/z] - 1, each of the shape of a and c together.

    >>> a, c = torch.tensor([0.0, 0.68], dtype=torch.float64), torch.tensor([1.0, 0.1], dtype=torch.float64)
    >>> moments(a, c)[0].exp()  # exp(1) E_1(1) for a = 0
    tensor([0.5963, 1.3874], dtype=torch.float64)
    """
    a, c = torch.broadcast_tensors(a, c)
    given = torch.stack((a.reshape(-1) + 1, c.reshape(-1), torch.ones(a.numel(), dtype=torch.float64)), 1)
    sums = torch.cat([_weights(rows) @ _COLUMNS for rows in given.split(_ROWS)] or [given])
    total = sums[:, 0]
    found = torch.log(total), sums[:, 1] / total, sums[:, 2] / total
    log_z, e_log, e_inverse = (x.reshape(a.shape) for x in found)
    return log_z, e_log, e_inverse


class _LogNormaliser(torch.autograd.Function):
    """ln(Z exp(c)) with the derivatives E[ln(1 - z)] and -(E[1/z] - 1)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, c: Tensor) -> Tensor:
        value, log_rest, t = moments(a, c)
        ctx.save_for_backward(log_rest, t)
        ctx.shapes = a.shape, c.shape
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        log_rest, t = ctx.saved_tensors
        return (g * log_rest).sum_to_size(ctx.shapes[0]), (-g * t).sum_to_size(ctx.shapes[1])


def log_normaliser(a: Tensor, c: Tensor) -> Tensor:
    """ln Z, differentiable once in a and c; a from 0 to 10, c from 1e-4 to 20,000.

    >>> a, c = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    >>> log_normaliser(a, c).exp()  # E_1(1) (Abramowitz & Stegun 1964, table 5.1)
    tensor(0.2194, dtype=torch.float64)
    """
    check_range(a, c)
    return _LogNormaliser.apply(a, c) - c


def log_density(z: Tensor, a: Tensor, c: Tensor) -> Tensor:
    """ln f(z), differentiable once in a and c, and in z."""
    check_range(a, c)
    return a * torch.log1p(-z) - torch.log(z) - c * (1 - z) / z - _LogNormaliser.apply(a, c)


def scores(z: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """d ln f / da = ln(1 - z) - E[ln(1 - z)] and d ln f / dc = E[1/z] - 1/z; the score of b is mT^2 times the latter."""
    check_range(a, c)
    _, log_rest, t = moments(a, c)
    return torch.log1p(-z) - log_rest, t - (1 - z) / z


def check_range(a: Tensor, c: Tensor) -> None:
    """Complain where the normaliser would not be exact."""
    if not bool(((a >= 0) & (a <= A_MOST)).all()):
        raise InputError(f"lund: a must be from 0 to {A_MOST:g}. Got {_worst(a, 0.0, A_MOST):g}.")
    if not bool(((c >= C_LEAST) & (c <= C_MOST)).all()):
        raise InputError(f"lund: b mT^2 must be from {C_LEAST:g} to {C_MOST:g}. Got {_worst(c, C_LEAST, C_MOST):g}; change b "
                         "(GeV^-2) or the hadrons.")  # fmt: skip


def _worst(x: Tensor, low: float, high: float) -> float:
    bad = x[~((x >= low) & (x <= high))]
    return float(bad.reshape(-1)[0]) if bad.numel() else math.nan

"""What can be asked of a log density over x `[..., d]`: its gradient, its curvature, its mode.

A density may belong to many data sets at once, one for each row of x: rows are never mixed here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.contracts import LogDensity
from emulate.errors import InputError

CONVERGED = 1e-4  # in ln p: what a converged climb could still gain, by its own quadratic model


@dataclass(frozen=True)
class Mode:
    """Local maxima of ln p: x `[..., d]`, log_density and converged `[...]`, hessian of -ln p `[..., d, d]`."""

    x: Tensor
    log_density: Tensor
    hessian: Tensor
    converged: Tensor

    @property
    def covariance(self) -> Tensor:
        """The inverse Hessian `[..., d, d]`; where ln p does not curve downwards, of the curvature's absolute value."""
        rate, axes = torch.linalg.eigh(self.hessian)
        return (axes / rate.abs().clamp_min(1e-6)[..., None, :]) @ axes.mT


def value_and_gradient(log_density: LogDensity, x: Tensor) -> tuple[Tensor, Tensor]:
    """ln p `[...]` and its gradient `[..., d]` at x; where either is not finite, ln p is -inf and the gradient 0."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = log_density(x)
        if value.shape != x.shape[:-1]:
            raise InputError(f"log_density must give one number for each row of x. Got shape {tuple(value.shape)} "
                             f"for x of shape {tuple(x.shape)}.")  # fmt: skip
        (gradient,) = torch.autograd.grad(value.sum(), x)
    good = torch.isfinite(value) & torch.isfinite(gradient).all(-1)
    return torch.where(good, value.detach(), -torch.inf), torch.where(good[..., None], gradient, 0.0)


def curvature(log_density: LogDensity, x: Tensor, step: Tensor) -> Tensor:
    """The Hessian of -ln p `[..., d, d]` by central differences of the gradient, `step` `[..., d]` along each axis.

    Differences ask for one derivative only, so simulators with a hand-written backward pass can be used.
    """
    columns = []
    for j in range(x.shape[-1]):
        shift = torch.zeros_like(x)
        shift[..., j] = step[..., j]
        up, down = (value_and_gradient(log_density, x + s)[1] for s in (shift, -shift))
        columns.append((down - up) / (2 * step[..., j, None]))
    hessian = torch.stack(columns, -1)
    return 0.5 * (hessian + hessian.mT)


def climb(log_density: LogDensity, start: Tensor, *, iterations: int = 100) -> Mode:
    """The mode uphill of each row of start `[..., d]`, by Newton's method on all rows at once.

    The step is |H|^-1 g with the absolute eigenvalues of H = -d^2 ln p / dx^2 (Nocedal and Wright 2006, sec. 3.4), no
    eigenvalue taken below that of a standard normal prior / 10, no longer than 3, halved until ln p rises (Armijo).
    The Newton decrement g^T H^-1 g / 2 is what the quadratic model still promises; a row has converged when it is
    below 1e-4 in ln p and H is positive definite. InputError when the density vanishes at a start.

    >>> climb(lambda x: -0.5 * ((x - 3) ** 2).sum(-1), torch.zeros(1, 2, dtype=torch.float64)).x.round(decimals=6)
    tensor([[3., 3.]], dtype=torch.float64)
    """
    x = start.detach().clone()
    value, gradient = value_and_gradient(log_density, x)
    require_inside(value)
    width = torch.full_like(x, 0.1)
    open_rows = torch.ones_like(value, dtype=torch.bool)
    for _ in range(iterations):
        hessian = curvature(log_density, x, 0.01 * width)
        rate, axes = torch.linalg.eigh(hessian)
        along = (axes.mT @ gradient[..., None])[..., 0]
        step = (axes @ (along / rate.abs().clamp_min(0.1))[..., None])[..., 0]
        gain = 0.5 * (along**2 / rate.abs().clamp_min(0.1)).sum(-1)
        width = hessian.diagonal(dim1=-2, dim2=-1).clamp_min(1.0).rsqrt()
        open_rows = open_rows & (gain > 1e-10)
        if not open_rows.any():
            break
        step = step * (3 / step.norm(dim=-1, keepdim=True).clamp_min(3))
        x, value, gradient, moved = _rise(log_density, x, value, gradient, step, open_rows)
        open_rows = open_rows & moved  # a row that rounding keeps from rising has arrived as far as it can
    return Mode(x, value, hessian, (gain < CONVERGED) & (rate[..., 0] > 0))


def require_inside(value: Tensor) -> None:
    """InputError when a log density `[...]` is not finite at a start point."""
    bad = (~torch.isfinite(value)).flatten().nonzero().flatten().tolist()
    if bad:
        raise InputError(f"start: the log density and its gradient must be finite at every start. Got "
                         f"{len(bad)} rows of {value.numel()} where they are not, first row {bad[0]}; start where the "
                         f"density is above 0.")  # fmt: skip


def _rise(log_density: LogDensity, x: Tensor, value: Tensor, gradient: Tensor, step: Tensor, rows: Tensor):
    slope = (gradient * step).sum(-1)
    length, todo = torch.ones_like(value), rows.clone()
    for _ in range(25):
        trial = torch.where(todo[..., None], x + length[..., None] * step, x)
        v, g = value_and_gradient(log_density, trial)
        good = todo & (v > value + 1e-4 * length * slope)
        x, gradient = (torch.where(good[..., None], a, b) for a, b in ((trial, x), (g, gradient)))
        value = torch.where(good, v, value)
        todo = todo & ~good
        if not todo.any():
            break
        length = torch.where(todo, 0.5 * length, length)
    return x, value, gradient, rows & ~todo

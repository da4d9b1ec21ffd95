"""Central differences with common random numbers, for whatever can only be run."""

import math
import time
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from emulate.contracts import Estimate, Function, Gradient
from emulate.errors import InputError
from emulate.seeds import replicates


@dataclass(frozen=True, kw_only=True)
class FiniteDifference(Gradient):
    """Central differences of fourth order with common random numbers; 4 runs per parameter, and an honest error.

    With D(h) = (f(theta + h) - f(theta - h)) / 2h the estimate is (4 D(h) - D(2h)) / 3 (Richardson 1911), exact for
    polynomials up to degree 4. The runs of one replicate share a seed, so noise cancels (Glasserman 2003, sec. 7.1).

    The standard error is, in squares, |D(h) - D(2h)|^2 + eps^2 max|f|^2 / h^2 + the variance of the mean over n seeds.
    The first term is three times the error of the plain difference D(h): it sees kinks, steps and single precision, and
    is cautious where f is smooth. With n = 1 one more run, under another seed, tells whether f is random; if so the
    error is NaN, for one replicate says nothing about the scatter between seeds.

    h = step * scale. Points up to 2h away must be inside the domain of f.

    >>> theta = torch.tensor([1.0], dtype=torch.float64)
    >>> e = FiniteDifference().estimate(lambda t, seed: t**3, theta, seed=0)
    >>> round(float(e.gradient), 9), e.calls
    (3.0, 6)
    """

    step: Annotated[float, Gt(0)] = 1e-3  # h as a share of the scale
    scale: tuple[float, ...] = ()  # typical size of each parameter, in its unit; empty: |theta|, or 1 where theta is 0

    def estimate(self, f: Function, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        began = time.perf_counter()
        theta = theta.detach().double()
        h = self.step * self._scale(theta)
        seeds = replicates(seed, max(n, 2))
        with torch.no_grad():
            runs = [_stencil(lambda t, s=s: f(t, s).double(), theta, h) for s in seeds[:n]]
            value, near, far, size = (torch.stack(of) for of in zip(*runs, strict=True))
            constant = n > 1 or torch.equal(f(theta, seeds[1]).double(), value[0])
        gradient = (4 * near - far) / 3
        stencil = (near - far).mean(0).square() + (torch.finfo(h.dtype).eps * size.mean(0)[:, None] / h) ** 2
        scatter = gradient.var(0) / n if n > 1 else torch.full_like(gradient[0], 0.0 if constant else math.nan)
        calls = n * (1 + 4 * len(theta)) + (n == 1)
        figures = {"step": h.tolist(), "stencil_error": stencil.sqrt().amax(0).tolist()}
        return Estimate(value.mean(0), gradient.mean(0), (stencil + scatter).sqrt(), calls, time.perf_counter() - began,
                        figures)  # fmt: skip

    def _scale(self, theta: Tensor) -> Tensor:
        if not self.scale:
            return torch.where(theta == 0, 1.0, theta.abs())
        scale = torch.tensor(self.scale, dtype=theta.dtype)
        if scale.shape != theta.shape or not (torch.isfinite(scale) & (scale > 0)).all():
            raise InputError(f"scale must be {len(theta)} numbers above 0, one for each parameter. Got {self.scale}.")
        return scale


def _stencil(f, theta: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f `[m]`, D(h) and D(2h) `[m, d]`, and the largest |f| met `[m]`."""
    middle = f(theta)
    size, near, far = middle.abs(), [], []
    for i in range(len(theta)):
        for factor, columns in ((1, near), (2, far)):
            up, down = theta.clone(), theta.clone()
            up[i] += factor * h[i]
            down[i] -= factor * h[i]
            y_up, y_down = f(up), f(down)
            columns.append((y_up - y_down) / (up[i] - down[i]))  # the step that rounding left, not the one asked for
            size = torch.maximum(size, torch.maximum(y_up.abs(), y_down.abs()))
    return middle, torch.stack(near, -1), torch.stack(far, -1), size

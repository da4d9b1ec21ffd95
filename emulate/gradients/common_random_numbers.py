"""Central differences of the mean over many replicates that share their noise, for whatever is random and can only be run."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor

from emulate.contracts import Estimate, Gradient
from emulate.gradients._averages import averaged, lengths
from emulate.meter import Meter
from emulate.replication import each, lift


@dataclass(frozen=True, kw_only=True)
class CommonRandomNumbers(Gradient):
    """Central differences with common random numbers over n replicates; 2 d runs each, and the scatter between them.

    D_i(h) = (f(theta + h, noise_i) - f(theta - h, noise_i)) / 2h, its mean over i, and the standard error of that mean.
    Var D_i stays finite as h -> 0 where f is continuous in theta, and grows as 1/h where it jumps (Glasserman 2003,
    sec. 7.1; L'Ecuyer & Perron 1994), so the step is part of the answer: h = step * scale.

    The bias is h^2 E[f''']/6 in leading order, a third of D(2h) - D(h); the bound is half of what of that difference
    stands above twice its own error, and the rounding of f over h. The runs at 2h double the price and are left out with
    `bias: false`, which leaves the bound unknown (NaN). Where no replicate moved, f may be flat, or jump so rarely that
    none of n saw it, which has a probability of up to 3 / n at 95 %: the bound is then that share of f's range over 2h.

    >>> from torch.distributions import Normal
    >>> f = lambda theta, noise: (theta + noise.draw("z", Normal(0.0, 1.0))) ** 2
    >>> e = CommonRandomNumbers().estimate(f, torch.tensor([1.0], dtype=torch.float64), seed=0, n=4000)
    >>> bool((e.gradient - 2).abs() < 4 * e.standard_error), round(float(e.standard_error) * 4000**0.5, 1)
    (True, 2.0)
    """

    step: Annotated[float, Gt(0)] = 0.01  # h as a share of the scale
    scale: tuple[float, ...] = ()  # typical size of each parameter, in its unit; empty: |theta|, or 1 where theta is 0
    bias: bool = True  # runs at 2h as well, which bound the bias

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        d = len(theta)
        h = self.step * lengths(self.scale, theta)
        reaches = (1.0, 2.0) if self.bias else (1.0,)
        shifts = torch.stack([sign * reach * torch.diag(h) for reach in reaches for sign in (1, -1)])  # [2r, d, d]
        points = torch.cat([theta[None], (theta + shifts).reshape(-1, d)])
        with Meter() as meter, torch.no_grad():
            made = each(lambda noise: torch.stack([f(t, noise.again()) for t in points]), seed, max(n, 2))
        y, total = made.answer.double(), len(made.answer)
        random = made.random(y[:, 0])
        runs = y[:, 1:].reshape(total, len(reaches), 2, d, -1)
        slopes = (runs[:, :, 0] - runs[:, :, 1]).movedim(-1, -2)  # [n, r, m, d]
        slopes = slopes / (2 * torch.tensor(reaches, dtype=h.dtype)[:, None, None] * h)
        gap = slopes[:n, 0] - slopes[:n, -1]
        blur = gap.std(0) / n**0.5 if n > 1 else torch.zeros_like(gap[0])
        bias = (gap.mean(0).abs() - 2 * blur).clamp(min=0) / 2 if self.bias else torch.full_like(gap[0], torch.nan)
        bias = bias + torch.finfo(y.dtype).eps * y.abs().amax((0, 1))[:, None] / h
        if random:
            reach = (y.amax((0, 1)) - y.amin((0, 1)))[:, None] / (2 * h)
            bias = torch.where((slopes[:n] == 0).all(0).all(0), bias + 3 / n * reach, bias)
        return averaged(y[:n, 0], slopes[:n, 0], random=random, calls=made.calls * len(points), meter=meter,
                        bias_bound=bias, diagnostics={"step": h.tolist(), "alone": made.alone})  # fmt: skip

"""Where a Taylor test runs a function, and what the remainders say: at which order they fall, above which rounding."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from emulate.contracts import Finding

AGREE = 1e-12  # relative, between forward and reverse mode in double precision
LEAST_ORDER = 1.5  # of a remainder that should fall as h^2, and falls as h where the derivative is wrong
_ABOVE = 100.0  # a remainder counts where it is so many times the noise of f
_FIT = 4  # of the smallest steps that count
_SURE = 0.01  # an output that is linear to rounding must pin the derivative down as well as this


@dataclass(frozen=True)
class Remainders:
    """What was seen along one direction, for each output `[m]`: the order (2 where f is linear to rounding, NaN where
    rounding hides a derivative that is 1 % wrong), whether it was fitted, and how wrong the derivative may be, as a share
    of itself. At the ten far steps `[10, m]`: the remainder, and whether it stands above the rounding of f."""

    order: Tensor
    fitted: Tensor
    wrong: Tensor
    rest: Tensor
    clean: Tensor


class Ladder:
    """Steps h along v: ten that fall by 3 from 0.1, and six near 0 with one spacing, which show the noise of f.

    The noise of f is the largest of what the differences of order 4, 5 and 6 of the near values show,
    sigma^2 = (k!)^2 / (2k)! mean (Delta^k f)^2 (Hamming 1962; More & Wild 2011), and at least its rounding: that of single
    precision where all values fit into it.

    >>> ladder, cube = Ladder(), lambda h: torch.stack([(1 + h) ** 3, 2 * h])
    >>> y = torch.stack([cube(h) for h in ladder.steps])
    >>> ladder.judge(cube(torch.tensor(0.0)), y, torch.tensor([3.0, 2.0]).double()).fitted
    tensor([ True, False])
    """

    far: ClassVar[Tensor] = 0.1 * 3.0 ** -torch.arange(10, dtype=torch.float64)
    near: ClassVar[Tensor] = 2e-5 * torch.arange(1, 7, dtype=torch.float64)

    @property
    def steps(self) -> Tensor:
        """h `[16]`."""
        return torch.cat([self.far, self.near])

    def judge(self, y: Tensor, met: Tensor, slope: Tensor, error: Tensor | float = 0.0) -> Remainders:
        """y `[m]` = f(theta), met `[16, m]` = f(theta + h v), slope `[m]` = J v that claims the standard error `[m]`."""
        single = torch.equal(met.float().to(met), met)
        noise = _noise(torch.cat([y[None], met[len(self.far) :]]), torch.float32 if single else y.dtype)
        rest = (met[: len(self.far)] - y - self.far[:, None] * slope).abs()
        floor = _ABOVE * noise + 3 * self.far[:, None] * error
        clean = rest > floor
        counted = clean & (clean.flip(0).cumsum(0).flip(0) <= _FIT)  # the smallest steps of those
        fitted = counted.sum(0) >= 3
        order = _slope(self.far.log(), rest.clamp_min(1e-300).log(), counted)
        size = self.far[:, None] * slope.abs().clamp_min(torch.finfo(y.dtype).tiny)
        pinned = torch.where(clean, math.inf, (rest + 5 * noise + 3 * self.far[:, None] * error) / size).sort(0).values
        bound = torch.where(
            pinned[1].isfinite(), pinned[1], pinned[0]
        )  # the second least: one step may cancel by chance
        still = (slope == 0) & ~clean.any(0)
        bound = torch.where(still, 0.0, bound)
        wrong = torch.where(fitted, (rest / size).where(counted, math.inf).amin(0), bound)
        order = torch.where(fitted, order, torch.where(bound <= _SURE, 2.0, math.nan))
        return Remainders(order, fitted, wrong, rest, clean)


def worst(found: Sequence[Remainders], labels: Sequence[str] = (), name: str = "taylor") -> Finding:
    """The finding on remainders along several directions: that of the output and direction with the least order."""
    order, fitted, wrong = (torch.stack([getattr(r, of) for r in found]) for of in ("order", "fitted", "wrong"))
    i = int(order.nan_to_num(-math.inf).flatten().argmin())
    value, error = float(order.flatten()[i]), float(wrong.flatten()[i])
    output = f"output {i % order.shape[1]}" if not labels else labels[i % order.shape[1]]
    if math.isnan(value):
        said = (f"The remainder of the linear model must stand above the rounding of f. Of {output} it does not, nor is that "
                "rounding so small that an error of 1 % would show; give a larger scale, or compute in float64.")  # fmt: skip
    elif value < LEAST_ORDER:
        said = (f"The remainder of the linear model must fall as h^2. Of {output} it falls as h^{value:.2f}: the derivative is "
                f"off by about {error:.2g} of itself, or f is not smooth along v.")  # fmt: skip
    elif bool(fitted.flatten()[i]):
        said = f"The remainder of the linear model falls as h^{value:.2f} in the worst output, {output}."
    else:
        said = f"f is linear to rounding, and the derivative is right to {float(wrong.max()):.2g} of itself."
    return Finding(name, value, LEAST_ORDER, None, said)


def _noise(y: Tensor, precision: torch.dtype) -> Tensor:
    """The noise `[m]` in values `[7, m]` at equal spacing; never below their rounding."""
    noise, differences = 0.5 * torch.finfo(precision).eps * y.abs().amax(0), y
    for k in range(1, 7):
        differences = differences.diff(dim=0)
        if k >= 4:
            gamma = math.factorial(k) ** 2 / math.factorial(2 * k)
            noise = torch.maximum(noise, (gamma * differences.square().mean(0)).sqrt())
    return noise


def _slope(x: Tensor, y: Tensor, used: Tensor) -> Tensor:
    """Least-squares slope `[m]` of y `[k, m]` over x `[k]`, where used `[k, m]`."""
    weight = used.double()
    total = weight.sum(0).clamp_min(1.0)
    x = x[:, None].expand_as(y)
    dx = x - (weight * x).sum(0) / total
    dy = y - (weight * y).sum(0) / total
    return (weight * dx * dy).sum(0) / (weight * dx.square()).sum(0).clamp_min(1e-300)

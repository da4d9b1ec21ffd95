"""The derivative of each draw at fixed noise, averaged: for programs whose draws and decisions are continuous in theta."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.families import carries, discrete, inverse, moves
from emulate.gradients._averages import averaged
from emulate.gradients._sites import Reads, Watch, unknown
from emulate.meter import Meter
from emulate.noise import Noise, Place, Treatment
from emulate.replication import each, lift


class Continuous(Treatment):
    """The plain program; it refuses what a path cannot pass, where theta would be lost without a word."""

    def __init__(self, method: str = "pathwise") -> None:
        self.method = method

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        if discrete(distribution) and moves(distribution):
            raise InputError(f"{self.method} must have draws that are continuous in theta. Got {type(distribution).__name__} "
                             f"at the site {place}, whose parameters depend on theta; use enumerate, score, measure_valued or "
                             "mixed.")  # fmt: skip
        return inverse(distribution, u)

    def above(self, place: Place, margin: Tensor) -> Tensor:
        if carries(margin):
            raise InputError(f"{self.method} must have no hard decision on theta. Got one at the site {place}, whose derivative "
                             "is zero almost everywhere; use conditional, score, smooth or common_random_numbers.")  # fmt: skip
        return super().above(place, margin)


@dataclass(frozen=True, kw_only=True)
class Pathwise(Gradient):
    """Pathwise derivatives: dE[f]/dtheta = E[d f(theta, x(u, theta)) / dtheta], x = F^-1(u | theta) at fixed u.

    Reparameterised where the inverse is in closed form, implicit where it is not (Gamma):
    dx/dtheta = -(dF/dtheta) / p(x) (Figurnov, Mohamed & Mnih 2018; infinitesimal perturbation analysis: Glasserman 1991).
    Unbiased if f is continuous in theta at fixed u and its slope is integrable. A draw from a list or a `noise.above`
    that depends on theta is refused, for a path would lose it silently; a plain `if`, `>` or `round` on what depends on
    theta may be a kink or a jump, so that the bias is unknown (NaN, and told in `diagnostics["reads"]`). Write kinks as
    `relu`, `clamp`, `minimum` or `abs`, jumps as `noise.above`.

    >>> from torch.distributions import Normal
    >>> f = lambda theta, noise: noise.draw("x", Normal(theta[0], 1.0)) ** 2
    >>> e = Pathwise().estimate(f, torch.tensor([1.0], dtype=torch.float64), seed=0, n=4000)
    >>> bool((e.gradient - 2).abs() < 4 * e.standard_error), round(float(e.standard_error) * 4000**0.5)
    (True, 2)
    """

    needs: ClassVar[tuple[str, ...]] = ("graph",)
    exact: ClassVar[bool] = True

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        seen = Reads()

        def run(t: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
            with Watch(seen):
                y = f(t, noise.again(Continuous()))
            return y, y

        with Meter() as meter:
            made = each(lambda noise: torch.func.jacrev(lambda t: run(t, noise), has_aux=True)(theta), seed, max(n, 2))
        slopes, values = made.answer
        return averaged(values[:n], slopes[:n], random=made.random(values), calls=made.calls, meter=meter,
                        bias_bound=unknown(seen, slopes[0]),
                        diagnostics={"alone": made.alone, "reads": sorted(seen.names)})  # fmt: skip

"""The score function: any program whose draws have a density, however rough f is; baselines take most of its noise."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.families import carries, inverse, support_moves
from emulate.gradients._averages import averaged
from emulate.meter import Meter
from emulate.noise import Noise, Place, Treatment
from emulate.replication import each, lift


class Counted(Treatment):
    """Draws that carry no derivative; their log density does. What a density cannot count is refused."""

    def __init__(self) -> None:
        self.log_prob = torch.zeros((), dtype=torch.float64)

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        if support_moves(distribution):
            raise InputError(f"score must have draws whose support stays where it is. Got {type(distribution).__name__} at "
                             f"the site {place}, an end of which depends on theta; use pathwise, or draw a fixed one and "
                             "scale it.")  # fmt: skip
        x = inverse(distribution, u).detach()
        self.log_prob = self.log_prob + distribution.log_prob(x).sum()
        return x

    def above(self, place: Place, margin: Tensor) -> Tensor:
        if carries(margin):
            raise InputError(f"score must have hard decisions on draws alone. Got one at the site {place} that reads theta "
                             "itself, past all draws; draw what is decided on, or use conditional, smooth or "
                             "common_random_numbers.")  # fmt: skip
        return super().above(place, margin)


@dataclass(frozen=True, kw_only=True)
class Score(Gradient):
    """Score function: dE[f]/dtheta = E[(f - b) s + df/dtheta], s = d ln p(x | theta) / dtheta of all draws.

    Also known as likelihood ratio (Glynn 1990) and REINFORCE (Williams 1992). f may jump in x and x may be discrete; the
    densities must not move their support with theta. `df/dtheta` is what f reads of theta past its draws, which must be
    continuous: a `noise.above` on theta itself is refused, a plain `if` that runs replicates one by one makes the bias
    unknown (NaN).
    The baseline b takes noise away and, being independent of the replicate it is used for, adds no bias:

    - none: b = 0;
    - mean: the mean of f over the n replicates: biased by 1/n, undone by the factor n / (n - 1), which makes it
    - leave_one_out: the mean of f over the other replicates (Kool et al. 2019), unbiased;
    - optimal: E[f s^2] / E[s^2] for each output and parameter, from the other half of the replicates (Greensmith,
      Bartlett & Baxter 2004), unbiased.

    >>> from torch.distributions import Bernoulli
    >>> f = lambda theta, noise: 3 * noise.draw("coin", Bernoulli(theta[0]))
    >>> e = Score().estimate(f, torch.tensor([0.4], dtype=torch.float64), seed=0, n=4000)
    >>> bool((e.gradient - 3).abs() < 4 * e.standard_error)
    True
    """

    needs: ClassVar[tuple[str, ...]] = ("sites",)
    baseline: Literal["none", "mean", "leave_one_out", "optimal"] = "leave_one_out"  # taken from f first

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()

        def run(t: Tensor, noise: Noise) -> tuple[tuple[Tensor, Tensor], Tensor]:
            counted = Counted()
            y = f(t, noise.again(counted))
            return (y, counted.log_prob), y

        with Meter() as meter:
            made = each(lambda noise: torch.func.jacrev(lambda t: run(t, noise), has_aux=True)(theta), seed, max(n, 2))
        (direct, score), y = made.answer
        if not made.record.sites and made.random(y):
            raise InputError("score must see the draws of f. Got a random f without a site: draw by `noise.draw(...)`, or "
                             "use common_random_numbers.")  # fmt: skip
        direct, score, y = direct[:n], score[:n], y[:n]
        slopes = (y[:, :, None] - self._baseline(y, score)) * score[:, None, :] + direct
        hidden = bool(made.alone) and bool((direct != 0).any())  # a plain branch may have read theta past the draws
        return averaged(y, slopes, random=bool(made.record.sites), calls=made.calls, meter=meter,
                        bias_bound=torch.full_like(slopes[0], torch.nan) if hidden else None,
                        diagnostics={"baseline": self.baseline, "alone": made.alone})  # fmt: skip

    def _baseline(self, y: Tensor, score: Tensor) -> Tensor:
        """b `[n, m, d]` or what broadcasts to it."""
        n = len(y)
        if self.baseline == "none" or n == 1:
            return y.new_zeros(1)
        if self.baseline in ("mean", "leave_one_out"):
            others = (y.sum(0) - y) / (n - 1)
            return others[:, :, None]
        halves = torch.arange(n) % 2
        square = score.square()
        best = [
            (y[halves == k, :, None] * square[halves == k, None]).mean(0) / square[halves == k].mean(0) for k in (0, 1)
        ]
        return torch.stack(best)[1 - halves].nan_to_num(0.0)

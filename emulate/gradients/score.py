"""The score function: any program whose draws have a density, however rough f is; baselines take most of its noise."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.families import inverse
from emulate.gradients._averages import averaged
from emulate.meter import Meter
from emulate.noise import Noise, Place, Treatment
from emulate.replication import each, lift


class Counted(Treatment):
    """Draws that carry no derivative; their log density does."""

    def __init__(self) -> None:
        self.log_prob = torch.zeros((), dtype=torch.float64)

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        x = inverse(distribution, u).detach()
        self.log_prob = self.log_prob + distribution.log_prob(x).sum()
        return x


@dataclass(frozen=True, kw_only=True)
class Score(Gradient):
    """Score function: dE[f]/dtheta = E[(f - b) s + df/dtheta], s = d ln p(x | theta) / dtheta of all draws.

    Also known as likelihood ratio (Glynn 1990) and REINFORCE (Williams 1992). f may jump in x and x may be discrete; the
    densities must not move their support with theta. `df/dtheta` is what f reads of theta past its draws.
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
            ((direct, score), y), noises = each(
                lambda noise: torch.func.jacrev(lambda t: run(t, noise), has_aux=True)(theta), seed, max(n, 2)
            )
        if not noises[0].record.shapes and not torch.equal(y[0], y[1]):
            raise InputError("score must see the draws of f. Got a random f without a site: draw by `noise.draw(...)`, or "
                             "use common_random_numbers.")  # fmt: skip
        random = bool(noises[0].record.shapes)
        direct, score, y, total = direct[:n], score[:n], y[:n], len(y)
        slopes = (y[:, :, None] - self._baseline(y, score)) * score[:, None, :] + direct
        return averaged(y, slopes, random=random, calls=total, meter=meter,
                        diagnostics={"baseline": self.baseline, "batched": len(noises) < total})  # fmt: skip

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

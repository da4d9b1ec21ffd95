"""The score function: any program whose draws have a density, however rough f is; baselines take most of its noise."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.families import support_moves
from emulate.gradients._averages import averaged
from emulate.gradients._sites import Counted, Reads, Terms, folds, terms, unknown
from emulate.meter import Meter
from emulate.noise import Place
from emulate.replication import each, lift


class _Scored(Counted):
    """No draw follows a path; what a density cannot count is refused."""

    def __init__(self) -> None:
        super().__init__("score", lambda distribution: False)

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        if support_moves(distribution):
            raise InputError(f"score must have draws whose support stays where it is. Got {type(distribution).__name__} at "
                             f"the site {place}, an end of which depends on theta; use pathwise, or draw a fixed one and "
                             "scale it.")  # fmt: skip
        return super().draw(place, distribution, u)


@dataclass(frozen=True, kw_only=True)
class Score(Gradient):
    """Score function: dE[f]/dtheta = E[(f - b) s + df/dtheta], s = d ln p(x | theta) / dtheta of all draws.

    Also known as likelihood ratio (Glynn 1990) and REINFORCE (Williams 1992). f may jump in x and x may be discrete; the
    densities must not move their support with theta. `df/dtheta` is what f reads of theta past its draws, which must be
    continuous: a `noise.above` on theta itself is refused, and a plain `if`, `>` or `round` on it makes the bias unknown
    (NaN, told in `diagnostics["reads"]`).
    The baseline b takes noise away and, being independent of the replicate it is used for, adds no bias. What is learnt
    for a third of the replicates is learnt from the next third:

    - none: b = 0;
    - mean: the mean of f;
    - leave_one_out: the mean of f over all other replicates (Kool, van Hoof & Welling 2019). The terms then depend on
      each other: their mean is the sample covariance of f and s, and its error is that of the jackknife (Efron & Stein
      1981), whose pseudo-values are averaged here;
    - optimal: E[f s^2] / E[s^2] for each output and parameter (Greensmith, Bartlett & Baxter 2004);
    - regression: the scores of all parameters are control variates of each: b s_j becomes sum_k B_jk s_k, with B of
      least squares (Glasserman 2003, sec. 4.1).

    >>> from torch.distributions import Bernoulli
    >>> f = lambda theta, noise: 3 * noise.draw("coin", Bernoulli(theta[0]))
    >>> e = Score().estimate(f, torch.tensor([0.4], dtype=torch.float64), seed=0, n=4000)
    >>> bool((e.gradient - 3).abs() < 4 * e.standard_error)
    True
    """

    needs: ClassVar[tuple[str, ...]] = ("sites",)
    baseline: Literal["none", "mean", "leave_one_out", "optimal", "regression"] = "leave_one_out"  # taken from f first

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        seen = Reads()
        with Meter() as meter:
            made = each(lambda noise: terms(f, theta, noise, _Scored(), seen), seed, max(n, 2))
        random = bool(made.record.sites)
        if not random and made.random(made.answer.y):
            raise InputError("score must see the draws of f. Got a random f without a site: draw by `noise.draw(...)`, or "
                             "use common_random_numbers.")  # fmt: skip
        t = Terms(*(part[:n] for part in made.answer))
        return averaged(t.y, t.direct + self.slopes(t), random=random, calls=made.calls, meter=meter,
                        bias_bound=unknown(seen, t.direct[0]),
                        diagnostics={"baseline": self.baseline, "alone": made.alone, "reads": sorted(seen.names)})  # fmt: skip

    def slopes(self, t: Terms) -> Tensor:
        """(f - b) s `[n, m, d]` of each replicate: independent terms, or pseudo-values that may be taken for them."""
        n = len(t.y)
        if self.baseline == "none" or n == 1:
            return t.y[:, :, None] * t.score[:, None]
        if self.baseline == "leave_one_out":
            product = (t.y - t.y.mean(0))[:, :, None] * (t.score - t.score.mean(0))[:, None]
            if n == 2:  # one difference, which knows nothing of its own scatter: its two terms do
                return 2 * (t.y - t.y.mean(0))[:, :, None] * t.score[:, None]
            return (n * product - product.sum(0) / (n - 1)) / (n - 2)
        out = t.y[:, :, None] * t.score[:, None]
        for mine, other in folds(n):
            out[mine] -= torch.einsum("nk,mjk->nmj", t.score[mine], self._combination(t.of(other)))
        return out

    def _combination(self, t: Terms) -> Tensor:
        """B `[m, d, d]`: of the score s, B s is taken away."""
        square = t.score.square()
        if self.baseline == "mean":
            best = t.y.mean(0)[:, None].expand(-1, t.score.shape[1])
        elif self.baseline == "optimal" or len(t.y) < 2 * t.score.shape[1]:
            best = (t.y[:, :, None] * square[:, None]).mean(0) / square.mean(0)
        else:
            inverse = torch.linalg.pinv(t.score.T @ t.score, hermitian=True)
            return torch.einsum("nm,nj,nk,kl->mjl", t.y, t.score, t.score, inverse)
        return torch.diag_embed(best.nan_to_num(0.0))

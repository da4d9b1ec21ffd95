"""The least noisy mixture of path and score, for each output and parameter; for programs that both could serve."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.families import discrete, support_moves
from emulate.gradients._averages import averaged
from emulate.gradients._sites import Counted, Reads, Terms, folds, terms, unknown
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import each, lift

_FEWEST = 8  # replicates in a third, from which weights are taken


@dataclass(frozen=True, kw_only=True)
class Mixed(Gradient):
    """Mixture: w p + (1 - w) a - b s, for each output and parameter the one of least variance.

    p: path where draws are continuous, score where they are discrete; a: score of all draws but those whose support
    moves; s: the scores of both. p - a and s have mean 0 whatever their weights, so that the inverse-variance weight w
    of two estimators that share their replicates (Bates & Granger 1969; Parmas et al. 2018) and the baselines b are the
    coefficients of one least-squares fit (Glasserman 2003, sec. 4.1). Each third of the replicates gets those of the
    next third and stays unbiased. Fewer than 24 replicates are p as it is. Two runs a replicate.

    f must be as continuous as `pathwise` asks for; where it secretly is not, p and a disagree:
    `diagnostics["disagreement"]` is the largest of their differences over its standard error. Above 5 the bias bound is
    unknown (NaN).

    >>> from torch.distributions import Normal
    >>> f = lambda theta, noise: noise.draw("x", Normal(theta[0], 1.0)) ** 2
    >>> e = Mixed().estimate(f, torch.tensor([1.0], dtype=torch.float64), seed=0, n=4000)
    >>> bool((e.gradient - 2).abs() < 4 * e.standard_error), bool(e.standard_error < 2 / 4000**0.5)  # path alone has 2
    (True, True)
    """

    needs: ClassVar[tuple[str, ...]] = ("graph", "sites")
    exact: ClassVar[bool] = True

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        seen = Reads()

        def one(noise: Noise) -> tuple[Terms, Terms]:
            path = Counted("mixed", lambda distribution: not discrete(distribution), "path")
            return terms(f, theta, noise, path, seen), terms(
                f, theta, noise, Counted("mixed", support_moves, "score"), seen
            )

        with Meter() as meter:
            made = each(one, seed, max(n, 2))
        path, score = made.answer
        random = bool(made.record.sites)
        if not random and made.random(path.y):
            raise InputError("mixed must see the draws of f. Got a random f without a site: draw by `noise.draw(...)`, or use "
                             "pathwise or common_random_numbers.")  # fmt: skip
        p, controls = (part[:n] for part in _controlled(path, score))
        slopes = _fitted(p, controls) if random else p
        gap = controls[..., 0]
        error = gap.std(0) / n**0.5 if n > 1 else torch.zeros_like(gap[0])
        apart = float(torch.where(error > 0, gap.mean(0).abs() / error, 0.0).max())
        if apart > 5:
            seen.names.add("a jump")
        return averaged(path.y[:n], slopes, random=random, calls=2 * made.calls, meter=meter,
                        bias_bound=unknown(seen, slopes[0]),
                        diagnostics={"disagreement": apart, "alone": made.alone, "reads": sorted(seen.names)})  # fmt: skip


def _controlled(path: Terms, score: Terms) -> tuple[Tensor, Tensor]:
    """p `[n, m, d]` and what has mean 0 `[n, m, d, 3]`: p - a, the scores of all draws and of those that have no path."""
    p = path.direct + path.y[:, :, None] * path.score[:, None]
    a = score.direct + score.y[:, :, None] * score.score[:, None]
    return p, torch.stack([p - a, score.score[:, None].expand_as(p), path.score[:, None].expand_as(p)], -1)


def _fitted(p: Tensor, controls: Tensor) -> Tensor:
    """p less the controls, with the coefficients of least squares from the next third."""
    out = p.clone()
    if len(p) < 3 * _FEWEST:
        return out
    scale = controls.square().mean(0).sqrt()
    scaled = controls / torch.where(scale > 0, scale, 1.0)
    for mine, other in folds(len(p)):
        x, y = (v - v.mean(0) for v in (scaled[other], p[other]))
        square, product = torch.einsum("nmdk,nmdl->mdkl", x, x), torch.einsum("nmdk,nmd->mdk", x, y)
        best = (torch.linalg.pinv(square, hermitian=True, rtol=1e-10) @ product[..., None])[..., 0]
        out[mine] -= torch.einsum("nmdk,mdk->nmd", scaled[mine], best)
    return out

"""How far is the surrogate's posterior from the one the true simulator would give?"""

from dataclasses import dataclass
from math import log10
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le

from emulate.checks._words import at, count, lost, number, percent, unresolved
from emulate.contracts import Check, Evidence, Finding, Weighted
from emulate.space import Space

_SPREAD = 1e-9  # log weights closer than this are one weight: the surrogate is exact


@dataclass(frozen=True, kw_only=True)
class Posterior(Check):
    """Shift and width of the surrogate posterior in units of the true one, by importance weights from true runs.

    At s draws of the surrogate posterior the true simulator gives w = p_true / p_surrogate. The true mean and variance
    are those of the draws under w; the surrogate's are those of *the same draws* without w, so that most Monte Carlo
    noise cancels. The s draws are first calibrated to all draws of the surrogate: weights g, linear in (1, theta_i,
    theta_i^2), make their means equal (regression estimator; Deville and Sarndal 1992), which can halve the noise.
    shift = (mean_surrogate - mean_true) / sd_true, width = sd_surrogate / sd_true; standard errors by the delta
    method, draws taken as independent. An estimate whose two standard errors exceed the bound's margin says nothing
    and does not pass. Effective share = (sum w)^2 / (s sum w^2). Pareto k: Vehtari et al. (2024); below
    min(1 - 1 / log10 s, 0.7) the weights can be trusted. The draws of a surrogate much narrower than the truth miss
    part of it: then the width is found too close to 1, and k is large.

    A true run that failed says nothing of the surrogate's likelihood. It is counted in the sentences, has no part in
    the effective share, and its draw is left out on both sides; whether the posterior lies where the simulator runs is
    what the check `feasible` judges. Where the prior excludes failures (`infer.feasible`) such a draw has the weight 0.

    >>> Posterior(shift=0.1).width
    1.1
    """

    shift: Annotated[float, Gt(0)] = 0.2  # bound on |shift| of the worst parameter, in sd of the true posterior
    width: Annotated[float, Gt(1)] = 1.1  # bound on the ratio of the standard deviations; the low bound is 2 - width
    share: Annotated[float, Gt(0), Le(1)] = 0.30  # bound on the effective share of the weighted draws
    minimum: Annotated[int, Ge(5)] = 20  # least number of draws at which the true simulator was run

    stage: ClassVar = "check"
    needs: ClassVar = ("weighted",)
    weighs: ClassVar = True

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        self.require(evidence)
        weighted, space = evidence.weighted, evidence.emulator.space
        s, log_weight = len(weighted.log_weight), weighted.log_weight.numpy()
        best, ran = log_weight.max(initial=-np.inf), s - int(np.isneginf(log_weight).sum())
        if not (best < np.inf and weighted.theta.isfinite().all() and weighted.draws.isfinite().all()):
            return self._unsaid("Cannot say: the draws or their log weights are not all finite numbers.")
        if ran < self.minimum:
            return self._unsaid(f"Cannot say: {count(ran, 'true run')} finished, and the check needs {self.minimum}.")
        w = np.exp(log_weight - best)
        share = float(w.sum() ** 2 / (ran * (w**2).sum()))  # a failed run says nothing of the surrogate's likelihood
        theta = weighted.theta.numpy()
        some = (
            weighted.failed is not None and len(weighted.failed) > 0
        )  # all draws are then no match for those that ran
        shift, width = _compare(theta, w, theta if some else weighted.draws.numpy())
        failed = _failed(weighted, space)
        return (
            self._worst("shift", *shift, space, "by {} standard deviations of the true posterior", failed),
            self._worst("width", *width, space, "{} times the true standard deviation", failed),
            self._finding("ess", share, f"The {ran} true runs are worth {number(ran * share)} independent draws of the "
                          f"true posterior, {percent(share)} of their number.{failed}"),
            self._pareto(log_weight),
            *(self._finding(f"shift.{n}", abs(v), f"The surrogate posterior's mean of {n} is off by {number(v)} +- "
                            f"{number(e)} standard deviations of the true posterior.")
              for n, v, e in zip(space.names, *shift)),
            *(self._finding(f"width.{n}", v, f"The surrogate posterior's standard deviation of {n} is {number(v)} +- "
                            f"{number(e)} times that of the true posterior.")
              for n, v, e in zip(space.names, *width)),
        )  # fmt: skip

    def _worst(self, what: str, value: np.ndarray, error: np.ndarray, space: Space, words: str, tail: str) -> Finding:
        """The verdict on all parameters: the worst value, or NaN where it keeps the bound but is not resolved."""
        off, margin = (np.abs(value), self.shift) if what == "shift" else (np.abs(value - 1), self.width - 1)
        i = int(off.argmax())
        noun = "mean" if what == "shift" else "width"
        text = (f"The surrogate posterior's {noun} is off most in {space.names[i]}: "
                f"{words.format(f'{number(value[i])} +- {number(error[i])}')}.{tail}")  # fmt: skip
        said = self._finding(what, off[i] if what == "shift" else value[i], text)
        more = unresolved(space.names, error, margin) if said.passed else ""
        return self._finding(what, np.nan, f"{text}{more}") if more else said

    def _pareto(self, log_weight: np.ndarray) -> Finding:
        s = len(log_weight)
        bound = min(1 - 1 / log10(s), 0.7)
        k = _pareto_k(log_weight)
        advice = "the weights can be trusted" if k <= bound else "a few draws carry the estimate; do not trust it"
        said = (f"The largest of {s} weights fall off with Pareto shape k = {number(k)}: {advice}." if k == k else
                f"Cannot say: {s} weights are too few to tell how the largest fall off.")  # fmt: skip
        return Finding("posterior.pareto_k", k, None, bound, said, "corner", blocking=False)

    def _unsaid(self, sentence: str) -> tuple[Finding, ...]:
        return tuple(self._finding(name, np.nan, sentence) for name in ("shift", "width", "ess"))

    def _finding(self, name: str, value: float, sentence: str) -> Finding:
        """`name` is shift, width or ess, or one of the first two for one parameter, which does not block."""
        low, high = {"shift": (None, self.shift), "width": (2 - self.width, self.width), "ess": (self.share, None)}[
            name.split(".")[0]]  # fmt: skip
        return Finding(f"posterior.{name}", float(value), low, high, sentence, "corner", blocking="." not in name)


def _compare(theta: np.ndarray, w: np.ndarray, draws: np.ndarray) -> tuple[tuple, tuple]:
    """(shift, standard error) and (width, standard error), each `[d]`; theta `[s, d]`, w `[s]`, draws `[t, d]`."""
    s, d = theta.shape
    if s < 5 * (2 * d + 1):  # too few for the regression: theta stands for all draws, and every g is 1 / s
        draws = theta
    t, center, scale = len(draws), draws.mean(0), draws.std(0)

    def controls(x: np.ndarray) -> np.ndarray:
        z = (x - center) / scale
        return np.concatenate([np.ones((len(z), 1)), z, z**2], 1)

    x, all_x = controls(theta), controls(draws)
    solve = np.linalg.pinv(x)  # [2d + 1, s]; the pseudo-inverse survives a parameter that does not move
    g = all_x.mean(0) @ solve  # [s], sums to 1
    p = g * w / (g * w).sum()
    mean, true = center, p @ theta
    with np.errstate(invalid="ignore", divide="ignore"):
        sd = np.sqrt(p @ (theta - true) ** 2)
        shift, width = (mean - true) / sd, scale / sd
        # influence of one draw: v on the weighted mean, q on the logarithm of the weighted variance, both in sd_true
        weight = (w / (g @ w))[:, None]
        v, q = weight * (theta - true) / sd, weight * (((theta - true) / sd) ** 2 - 1)
        z = (theta - mean) / scale
        on_shift = width * z - v - 0.5 * shift * q
        on_width = 0.5 * width * (z**2 - 1 - q)
        # the regression follows draws far out: their residuals are too small by `free` (HC3, MacKinnon, White 1985)
        free, errors = 1 - np.einsum("sp,ps->s", x, solve)[:, None], []
        for influence in (on_shift, on_width):
            fit = solve @ influence  # [2d + 1, d]
            rest = g[:, None] * (influence - x @ fit) / free
            errors.append(np.sqrt((rest**2).sum(0) + (all_x @ fit).var(0) / t))
    return (shift, errors[0]), (width, errors[1])


def _failed(weighted: Weighted, space: Space) -> str:
    """The tail of a sentence that counts and names the draws at which the true simulator failed."""
    excluded = weighted.theta[weighted.log_weight.isneginf()]
    where = excluded if weighted.failed is None else torch.cat([weighted.failed, excluded])
    if not len(where):
        return ""
    shown = "; ".join(at(space, theta) for theta in where[:3]) + ("; ..." if len(where) > 3 else "")
    fate = "carry no weight" if len(excluded) else "are left out on both sides"
    return f" {lost(len(where), weighted.expected)} and {fate} ({shown})."


def _pareto_k(log_weight: np.ndarray) -> float:
    """Shape of the generalised Pareto tail of the weights: 0 where they are all one, NaN where too few to tell."""
    from arviz_stats.base import array_stats  # slow to import

    finite = log_weight[np.isfinite(log_weight)]
    if np.ptp(finite) < _SPREAD:
        return 0.0
    filled = np.where(np.isfinite(log_weight), log_weight, finite.min() - 100)  # weight 0; the tail is at the other end
    try:
        return float(array_stats.psislw(-filled)[1])  # takes ln p of leave-one-out, the negative of our ln w
    except ValueError:  # too few draws for a tail, or a tail of equal weights
        return float("nan")

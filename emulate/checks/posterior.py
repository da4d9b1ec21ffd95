"""How far is the surrogate's posterior from the one the true simulator would give?"""

from dataclasses import dataclass
from math import log10
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le

from emulate.checks._words import at, count, lost, number, percent, unresolved
from emulate.contracts import Check, Evidence, Finding, Weighted
from emulate.importance import EVEN, Reweighted, reweigh
from emulate.space import Space


@dataclass(frozen=True, kw_only=True)
class Posterior(Check):
    """How far the surrogate posterior is from the true one, by importance weights of true runs at draws of it.

    At s draws of the surrogate posterior the true simulator gives w = p_true / p_surrogate; `emulate.importance.reweigh`
    finds from them, with standard errors:

    - shift = (mean_surrogate - mean_true) / sd_true and width = sd_surrogate / sd_true of the worst parameter;
    - distance = sqrt(2 KL(true || surrogate)), in standard deviations: all shifts and widths together, along every
      direction; for a pure shift it is that shift. `kl` itself and `c2st`, the accuracy that the best classifier between the
      two posteriors reaches, 1/2 + E|w - 1| / 4, are said beside it and do not block;
    - the effective share (sum w)^2 / (s sum w^2) and the Pareto shape k of the largest weights (Vehtari et al. 2024), below
      min(1 - 1 / log10 s, 0.7) of which each weight can be trusted by itself.

    An estimate whose two standard errors exceed the bound's margin says nothing and does not pass. An exact surrogate has
    equal weights, no noise, and never fails. One whose ln w scatters by 0.2 about the truth, which is a distance of 0.2, fails
    any of the blocking ones in fewer than 1 of 200 studies of 128 runs. The draws of a surrogate much narrower than the truth
    miss part of it: then the width is found too close to 1, and k is large.

    A true run that failed says nothing of the surrogate's likelihood. It is counted in the sentences, has no part in
    the effective share, and its draw is left out on both sides; whether the posterior lies where the simulator runs is
    what the check `feasible` judges. Where the prior excludes failures (`infer.feasible`) such a draw has the weight 0.

    >>> Posterior(shift=0.1).width
    1.1
    """

    shift: Annotated[float, Gt(0)] = 0.2  # bound on |shift| of the worst parameter, in sd of the true posterior
    width: Annotated[float, Gt(1)] = 1.1  # bound on the ratio of the standard deviations; the low bound is 2 - width
    distance: Annotated[float, Gt(0)] = 0.3  # bound on sqrt(2 KL), all parameters together, in sd
    share: Annotated[float, Gt(0), Le(1)] = 0.30  # bound on the effective share of the weighted draws
    minimum: Annotated[int, Ge(5)] = 20  # least number of draws at which the true simulator was run

    stage: ClassVar = "check"
    needs: ClassVar = ("weighted",)
    weighs: ClassVar = True

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        weighted, space = evidence.weighted, evidence.emulator.space
        s, log_weight = len(weighted.log_weight), weighted.log_weight.numpy()
        best, ran = log_weight.max(initial=-np.inf), s - int(np.isneginf(log_weight).sum())
        if not (best < np.inf and weighted.theta.isfinite().all() and weighted.draws.isfinite().all()):
            return self._unsaid("Cannot say: the draws or their log weights are not all finite numbers.")
        if ran < self.minimum:
            return self._unsaid(f"Cannot say: {count(ran, 'true run')} finished, and the check needs {self.minimum}.")
        if not (weighted.draws != weighted.draws[0]).any():
            return self._unsaid("Cannot say: all draws of the surrogate posterior are the same.")
        w = np.exp(log_weight - best)
        share = float(w.sum() ** 2 / (ran * (w**2).sum()))  # a failed run says nothing of the surrogate's likelihood
        made, failed = reweigh(weighted, space), _failed(weighted, space)
        shift, width = (
            (x.numpy(), e.numpy()) for x, e in ((made.shift, made.shift_error), (made.width, made.width_error))
        )
        return (
            self._worst("shift", *shift, space, "by {} standard deviations of the true posterior", failed),
            self._worst("width", *width, space, "{} times the true standard deviation", failed),
            self._distance(made, failed),
            self._finding("ess", share, f"The {ran} true runs are worth {number(ran * share)} independent draws of the "
                          f"true posterior, {percent(share)} of their number.{failed}"),
            *_beside(made),
            self._pareto(made, s),
            *(self._finding(f"shift.{n}", abs(v), f"The surrogate posterior's mean of {n} is off by {number(v)} +- "
                            f"{number(e)} standard deviations of the true posterior.")
              for n, v, e in zip(space.names, *shift)),
            *(self._finding(f"width.{n}", v, f"The surrogate posterior's standard deviation of {n} is {number(v)} +- "
                            f"{number(e)} times that of the true posterior.")
              for n, v, e in zip(space.names, *width)),
        )  # fmt: skip

    def _distance(self, made: Reweighted, failed: str) -> Finding:
        value, error = made.distance
        text = (f"All shifts and widths together, the surrogate posterior is {number(value)} +- {number(error)} standard "
                f"deviations from the true one, the root of 2 KL.{failed}")  # fmt: skip
        said = self._finding("distance", value, text)
        more = unresolved(["all parameters together"], np.array([error]), self.distance) if said.passed else ""
        return self._finding("distance", np.nan, f"{text}{more}") if more else said

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

    def _pareto(self, made: Reweighted, s: int) -> Finding:
        k, bound = made.pareto_k, min(1 - 1 / log10(s), 0.7)
        if k > bound and made.largest <= EVEN:
            said = (f"The largest of {s} weights fall off with Pareto shape k = {number(k)}, but none is more than "
                    f"{number(made.largest)} times their mean: no few draws carry the estimate.")  # fmt: skip
            return Finding("posterior.pareto_k", k, None, None, said, "corner", blocking=False)
        advice = "the weights can be trusted" if k <= bound else "a few draws carry the estimate; do not trust it"
        said = (f"The largest of {s} weights fall off with Pareto shape k = {number(k)}: {advice}." if k == k else
                f"Cannot say: {s} weights are too few to tell how the largest fall off.")  # fmt: skip
        return Finding("posterior.pareto_k", k, None, bound, said, "corner", blocking=False)

    def _unsaid(self, sentence: str) -> tuple[Finding, ...]:
        return tuple(self._finding(name, np.nan, sentence) for name in ("shift", "width", "distance", "ess"))

    def _finding(self, name: str, value: float, sentence: str) -> Finding:
        """`name` is shift, width, distance or ess, or one of the first two for one parameter, which does not block."""
        low, high = {"shift": (None, self.shift), "width": (2 - self.width, self.width), "ess": (self.share, None),
                     "distance": (None, self.distance)}[name.split(".")[0]]  # fmt: skip
        return Finding(f"posterior.{name}", float(value), low, high, sentence, "corner", blocking="." not in name)


def _failed(weighted: Weighted, space: Space) -> str:
    """The tail of a sentence that counts and names the draws at which the true simulator failed."""
    excluded = weighted.theta[weighted.log_weight.isneginf()]
    where = excluded if weighted.failed is None else torch.cat([weighted.failed, excluded])
    if not len(where):
        return ""
    shown = "; ".join(at(space, theta) for theta in where[:3]) + ("; ..." if len(where) > 3 else "")
    fate = "carry no weight" if len(excluded) else "are left out on both sides"
    return f" {lost(len(where), weighted.expected)} and {fate} ({shown})."


def _beside(made: Reweighted) -> tuple[Finding, Finding]:
    """KL and C2ST, which say what the distance says in other words."""
    kl, c2st = made.kl, made.c2st
    return (
        Finding("posterior.kl", kl.value, None, None, f"KL of the true posterior from the surrogate's is {number(kl.value)} +- "
                f"{number(kl.error)} nats.", "corner", blocking=False),
        Finding("posterior.c2st", c2st.value, None, None, "The best classifier between draws of the two posteriors is right in "
                f"{percent(c2st.value)} +- {percent(c2st.error)} of the cases, and by chance in 50 %.", "corner",
                blocking=False),
    )  # fmt: skip

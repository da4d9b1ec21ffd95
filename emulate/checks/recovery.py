"""Are the parameters of known observations found again?"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Lt
from scipy.stats import binom, kstest

from emulate.checks._words import lost, number, percent
from emulate.contracts import Check, Evidence, Finding
from emulate.contracts import Recovery as Known


@dataclass(frozen=True, kw_only=True)
class Recovery(Check):
    """Count of held-out observations whose true parameters lie inside the 95 % posterior region.

    For q observations of a calibrated chain the count is Binomial(q, level). It must lie in the smallest range of most
    likely counts that holds at least `confidence` of that: 17 to 20 of 20. Beside it stand the uniformity of the ranks
    (simulation-based calibration, Talts et al. 2018; density ranks as in Hermans et al. 2022) and, for each parameter,
    the mean over observations of z = (posterior mean - truth) / sd, with standard error q^-1/2.

    >>> Recovery().range(20)
    (17, 20)
    """

    level: Annotated[float, Gt(0), Lt(1)] = 0.95  # mass of the posterior region that should hold the truth
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95  # least probability that a calibrated chain passes
    z: Annotated[float, Gt(0)] = 3.0  # bound on a parameter's mean z, in standard errors
    uniformity: Annotated[float, Gt(0), Lt(1)] = 0.01  # least p-value of the ranks' Kolmogorov-Smirnov test
    minimum: Annotated[int, Ge(1)] = 5  # least number of observations

    stage: ClassVar = "check"
    needs: ClassVar = ("recovery",)

    def range(self, q: int) -> tuple[int, int]:
        """The counts of q that a calibrated chain gives with probability `confidence` or more."""
        mass = binom.pmf(np.arange(q + 1), q, self.level)
        order = np.argsort(-mass, kind="stable")
        chosen = order[: 1 + int(np.searchsorted(np.cumsum(mass[order]), self.confidence))]
        return int(chosen.min()), int(chosen.max())

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        self.require(evidence)
        known, names = evidence.recovery, evidence.emulator.space.names
        rank, q = known.rank.numpy(), len(known.rank)
        low, high = self.range(q)
        nan = float("nan")
        if q < self.minimum:
            said = f"Cannot say: {q} observations were recovered, and the check needs at least {self.minimum}."
            return (Finding("recovery.inside", nan, low, high, said + _lost(known), "recovery"),)
        sane = all(bool(x.isfinite().all()) for x in (known.rank, known.truth, known.mean, known.sd))
        inside = float((rank < self.level).sum()) if sane else nan
        p = float(kstest(rank, "uniform").pvalue) if sane else nan
        sick = "" if sane else " Some ranks, means or standard deviations are not finite."
        sick += _lost(known)
        return (
            Finding("recovery.inside", inside, low, high, f"The truth lies inside the {percent(self.level)} region of "
                    f"{number(inside)} of {q} held-out observations; a calibrated chain gives {low} to {high} with "
                    f"probability {percent(self._mass(low, high, q))}.{sick}", "recovery"),
            Finding("recovery.ranks", p, self.uniformity, None, f"The ranks of {q} truths are even with p-value "
                    f"{number(p)} (Kolmogorov-Smirnov). Their mean is {number(rank.mean())}: 0.5 when calibrated, more "
                    f"when the posteriors are too narrow or shifted, less when they are too wide.{sick}",
                    "recovery", blocking=False),
            *(self._tilt(known, i, name) for i, name in enumerate(names)),
        )  # fmt: skip

    def _mass(self, low: int, high: int, q: int) -> float:
        return float(binom.cdf(high, q, self.level) - binom.cdf(low - 1, q, self.level))

    def _tilt(self, known: Known, i: int, name: str) -> Finding:
        z = ((known.mean - known.truth) / known.sd)[:, i]
        mean, error = float(z.mean()), len(z) ** -0.5
        return Finding(f"recovery.z.{name}", abs(mean), None, self.z * error, f"Over {len(z)} observations the "
                       f"posterior mean of {name} lies {number(mean)} +- {number(error)} posterior standard deviations "
                       f"from the truth on average; the scatter is {number(z.std())} (1 when calibrated).",
                       "recovery", blocking=False)  # fmt: skip


def _lost(known: Known) -> str:
    """The tail of a sentence that counts the held-out runs of which no observation could be made."""
    said = lost(0 if known.failed is None else len(known.failed), known.expected)
    return f" {said} and made no observation." if said else ""

"""Are the parameters of known observations found again?"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Lt
from scipy.stats import binom, chi2, norm

from emulate import uniformity
from emulate.checks._words import lost, number, percent
from emulate.contracts import Check, Evidence, Finding
from emulate.contracts import Recovery as Known
from emulate.ranks import Ranks

_TESTS = 4  # that share the chance of the verdict


@dataclass(frozen=True, kw_only=True)
class Recovery(Check):
    r"""Truths of q held-out observations among the draws of their posteriors: one verdict of four tests, and its parts.

    In a calibrated chain the rank of a truth among L independent draws is uniform in every parameter (simulation-based
    calibration; Talts et al. 2018), and so is that of its density, the level of the highest-density region that just
    holds it (expected coverage; Hermans et al. 2022). z, the normal quantile of a rank, is then the posterior mean less
    the truth in standard deviations, standard normal whatever the posterior's shape. The tests, each at `chance` / 4:

    - `shift`: q zbar^T R^-1 zbar, R the correlation of the draws, is chi^2 with d degrees of freedom. The value is
      (zbar^T R^-1 zbar)^1/2, the shift of the posterior as a whole in standard deviations.
    - `chi2`: the errors' chi^2, -2 ln of what lies outside the truth's region where d = 2, in general the chi^2_d quantile
      of the density's rank, summed over the observations: chi^2 with q d degrees of freedom, both ways. The value is that
      per number: 1/4 where posteriors are twice as wide as they should be, towards 4, as far as draws reach, where half.
    - `coverage`: the p-value of the density ranks' evenness, expected coverage at all levels at once, by the exact test
      of `emulate.uniformity`; the sentence tells the level that is off most.
    - `ranks`: the same of each parameter's ranks, times the number of parameters.

    `joint`, the verdict, is four times the least p-value of these (Bonferroni): a calibrated chain fails with a probability
    of at most `chance`. The parts are advice, and so are `pull`, `width` and `ranks` of each parameter, and `inside`, the
    number of truths in the 95 % region: it should lie in the smallest range that has a probability of at least
    `confidence`, 17 to 20 of 20. Few observations see coarse faults alone; `check.recovery` asks for more.

    >>> Recovery().range(20)
    (17, 20)
    """

    chance: Annotated[float, Gt(0), Lt(1)] = 0.01  # largest probability with which the verdict fails a calibrated chain
    level: Annotated[float, Gt(0), Lt(1)] = 0.95  # mass of the posterior region of `inside`
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95  # least probability of the range of `inside`
    minimum: Annotated[int, Ge(1)] = 5  # least number of observations

    stage: ClassVar = "check"
    needs: ClassVar = ("recovery",)
    alarms: ClassVar = 1

    def range(self, q: int) -> tuple[int, int]:
        """The counts of q that a calibrated chain gives with probability `confidence` or more."""
        mass = binom.pmf(np.arange(q + 1), q, self.level)
        order = np.argsort(-mass, kind="stable")
        chosen = order[: 1 + int(np.searchsorted(np.cumsum(mass[order]), self.confidence))]
        return int(chosen.min()), int(chosen.max())

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        known, names = evidence.recovery, evidence.emulator.space.names
        ranks, q = Ranks(known), len(known.rank)
        if q < self.minimum:
            return (self._joint(float("nan"), f"Cannot say: {q} observations were recovered, and the check needs at least "
                                f"{self.minimum}.{_lost(known)}"),)  # fmt: skip
        if not ranks.sane:
            return (self._joint(float("nan"), f"Cannot say: some draws, ranks, means or standard deviations of {q} recovered "
                                f"observations are not finite.{_lost(known)}"),)  # fmt: skip
        even = [uniformity.p_value(u) for u in ranks.parameters.T]
        shift, size, coverage = self._shift(ranks), self._chi2(ranks), self._coverage(ranks)
        worst = int(np.argmin(even))
        least = min(1.0, len(even) * even[worst])
        uneven = self._ranks("", least, f"The ranks of {q} truths are least even in {names[worst]}, with p-value "
                             f"{number(least)} for {len(even)} parameters together.")  # fmt: skip
        parts = ((shift[1], "the posteriors lie off the truths"), (size[1], "the errors' chi2 is off"),
                 (coverage.value, "expected coverage is off"), (least, f"the ranks of {names[worst]} are uneven"))  # fmt: skip
        return (
            self._verdict(parts, q, _lost(known)),
            shift[0],
            size[0],
            coverage,
            uneven,
            self._inside(ranks),
            *(f for i, name in enumerate(names) for f in self._each(ranks, i, name, even[i])),
        )

    def _verdict(self, parts: tuple[tuple[float, str], ...], q: int, more: str) -> Finding:
        p, fault = min(parts)
        p = min(1.0, _TESTS * p)
        said = (f"The truths of {q} held-out observations lie among the draws of their posteriors as they should, with p-value "
                f"{number(p)}")  # fmt: skip
        if p >= self.chance:
            return self._joint(p, f"{said} by the worst of {_TESTS} tests.{more}")
        return self._joint(p, f"{said}, and a calibrated chain gives less than {number(self.chance)} in {percent(self.chance)} of "
                           f"such sets: {fault}.{more}")  # fmt: skip

    def _shift(self, ranks: Ranks) -> tuple[Finding, float]:
        z, (value, axes) = ranks.pulls.mean(0), np.linalg.eigh(ranks.correlation)
        kept = value > 1e-6 * value.max()  # parameters that move as one are one
        square, q, r = float((((z @ axes) ** 2)[kept] / value[kept]).sum()), len(ranks.pulls), int(kept.sum())
        most = float(chi2.isf(self.chance / _TESTS, r) / q) ** 0.5
        said = (f"Over {q} observations the posteriors lie {number(square**0.5)} posterior standard deviations from the truths, "
                f"all parameters together; chance gives {number((r / q) ** 0.5)}.")  # fmt: skip
        return self._advice("shift", square**0.5, None, most, said), float(chi2.sf(q * square, r))

    def _chi2(self, ranks: Ranks) -> tuple[Finding, float]:
        q, d = ranks.parameters.shape
        total, n = float(chi2.ppf(ranks.density, d).sum()), q * d
        low, high = (float(x) / n for x in chi2.ppf((self.chance / _TESTS / 2, 1 - self.chance / _TESTS / 2), n))
        value = total / n
        fault = (" The posteriors are too wide." if value < low else
                 " The posteriors are too narrow, or off." if value > high else "")  # fmt: skip
        said = f"The errors' chi2 is {number(value)} for each of {n} numbers, and 1 when calibrated.{fault}"
        p = 2 * min(float(chi2.cdf(total, n)), float(chi2.sf(total, n)))
        return self._advice("chi2", value, low, high, said), min(p, 1.0)

    def _coverage(self, ranks: Ranks) -> Finding:
        level, share = uniformity.worst(ranks.density)
        p, q = uniformity.p_value(ranks.density), len(ranks.density)
        return self._advice("coverage", p, self.chance / _TESTS, None, f"Regions of all levels hold as many of {q} truths as "
                            f"they promise, with p-value {number(p)}; that of {percent(level)} is off most and holds "
                            f"{percent(share)}.")  # fmt: skip

    def _inside(self, ranks: Ranks) -> Finding:
        q = len(ranks.density)
        low, high = self.range(q)
        inside = int((ranks.density < self.level).sum())
        held = float(binom.cdf(high, q, self.level) - binom.cdf(low - 1, q, self.level))
        return self._advice("inside", float(inside), low, high, f"The truth lies inside the {percent(self.level)} region of "
                            f"{inside} of {q} held-out observations; a calibrated chain gives {low} to {high} with "
                            f"probability {percent(held)}.")  # fmt: skip

    def _each(self, ranks: Ranks, i: int, name: str, p: float) -> tuple[Finding, ...]:
        """Pull mean, pull width and ranks of one parameter, each at `chance`."""
        z = ranks.pulls[:, i]
        q, mean, width = len(z), float(z.mean()), float((z**2).mean()) ** 0.5
        most, side = float(norm.isf(self.chance / 2)) * q**-0.5, "above" if mean > 0 else "below"
        low, high = (float(x / q) ** 0.5 for x in chi2.ppf((self.chance / 2, 1 - self.chance / 2), q))
        return (
            self._advice(f"pull.{name}", abs(mean), None, most, f"Over {q} observations the posterior of {name} lies "
                         f"{number(abs(mean))} +- {number(q**-0.5)} posterior standard deviations {side} the truth on average."),
            self._advice(f"width.{name}", width, low, high, f"The errors of {name} at {q} observations are {number(width)} +- "
                         f"{number((2 * q) ** -0.5)} posterior standard deviations (root mean square): 1 when calibrated, more "
                         "when the posteriors are too narrow or off."),
            self._ranks(f".{name}", p, f"The ranks of {q} truths of {name} are even with p-value {number(p)}."),
        )  # fmt: skip

    def _ranks(self, name: str, p: float, said: str) -> Finding:
        return self._advice(f"ranks{name}", p, self.chance if name else self.chance / _TESTS, None, said)

    def _joint(self, p: float, said: str) -> Finding:
        return Finding("recovery.joint", p, self.chance, None, said, "ranks")

    def _advice(self, name: str, value: float, low: float | None, high: float | None, said: str) -> Finding:
        figure = "recovery" if name.split(".")[0] in ("inside", "pull", "width") else "ranks"
        return Finding(f"recovery.{name}", value, low, high, said, figure, blocking=False)


def _lost(known: Known) -> str:
    """The tail of a sentence that counts the held-out runs of which no observation could be made."""
    said = lost(0 if known.failed is None else len(known.failed), known.expected)
    return f" {said} and made no observation." if said else ""

"""Does the whole predicted distribution hold, everywhere in the box, and what is it worth?"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from scipy.stats import ksone
from torch import Tensor

from emulate.checks._negligible import matters
from emulate.checks._words import count, number, percent
from emulate.contracts import Check, Evidence, Finding
from emulate.regions import Region, allowance, chance, corners, regions, share_and_error
from emulate.runs import Runs
from emulate.scoring import climatology, crps, pit, sharpness

_WIDTH = 2 * 1.959963984540054  # the central 95 % of a normal distribution in standard deviations


@dataclass(frozen=True, kw_only=True)
class Calibration(Check):
    r"""Distribution of the PIT, coverage by region of the box, CRPS skill and sharpness, on held-out runs.

    `narrow`, `wide`: with v the PIT of an output, |2 v - 1| <= p where the central interval of level p holds it, so that
    |2 v - 1| of a calibrated prediction is uniform (Dawid 1984; Gneiting, Balabdaoui and Raftery 2007). The values are
    the largest p - (share of outputs inside) and (share) - p over all p, Kolmogorov's one-sided distances. Runs are
    independent, the outputs of one are not: the distance of their pool is at most the mean over outputs of each one's,
    so that the law for n independent values (Smirnov 1944), n runs, bounds what chance gives; exactly when a run's
    outputs err as one. The bound is the quadratic sum of that law's 1 - `chance` quantile and `tolerance`. Intervals that
    are too narrow block; too wide, as where errors have long tails and 95 % is right but 50 % holds 70, is advice.

    `region`: the coverage of central 95 % intervals where it falls furthest below what chance allows: in the box, its
    inner and outer half, the halves of each parameter, and the quarters of each pair. A region fails when a share of at
    least `region` and binomial scatter over its runs give that few with a probability below `chance`, divided by the
    number of regions (Bonferroni; one half for the quarters). Regions with fewer than `minimum` runs are not judged.

    `crps`: 1 - CRPS / CRPS of predicting each run by the others, averaged over outputs; `sharpness`: mean width of the 95 %
    intervals over that of the outputs (3.92 standard deviations over the runs). Both are advice.

    Of a stochastic simulator all of them judge the distribution of a single run, the noise and what is not known of the
    mean together. Runs at one place share the error of the mean and are not independent: a study holds out each point once,
    and so should a table of one's own.

    >>> Calibration().region
    0.9
    """

    tolerance: Annotated[float, Ge(0), Lt(1)] = 0.1  # distance from uniform that passes with any number of runs
    region: Annotated[float, Gt(0), Lt(1)] = 0.9  # least coverage of 95 % intervals that any region must have
    chance: Annotated[float, Gt(0), Lt(1)] = 0.005  # largest probability with which either fails an honest emulator
    minimum: Annotated[int, Gt(1)] = 5  # least number of held-out runs, in the box and in a region that is judged
    negligible: Annotated[float, Ge(0)] = 1e-6  # error that needs no calibration, in standard deviations of its field

    stage: ClassVar = "validate"
    needs: ClassVar = ("held_out",)
    alarms: ClassVar = 2

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        runs = evidence.held_out.finished()
        n = len(runs)
        if n < self.minimum:
            return self._unsaid(n, f"{count(n, 'held-out run')} finished, and the check needs at least {self.minimum}.")
        theta, y = torch.as_tensor(runs.theta), torch.as_tensor(runs.y)
        with torch.no_grad():
            prediction = evidence.emulator.predict(theta)
            mean, sd, v = prediction.mean, prediction.variance.sqrt(), pit(prediction, y)
        lost = int((~(mean.isfinite() & sd.isfinite() & v.isfinite()).all(1)).sum())
        if lost:
            return self._unsaid(n, f"the emulator's prediction is not finite at {lost} of {n} held-out runs.")
        judged = matters(runs, y - mean, sd, self.negligible)
        if not judged.any():
            said = (f"Nothing to calibrate: errors and error bars at {n} held-out runs are all below "
                    f"{number(self.negligible)} standard deviations of their field.")  # fmt: skip
            ideal = {"narrow": 0.0, "wide": 0.0, "region": 1.0, "crps": 1.0, "sharpness": 0.0}
            return tuple(self._finding(name, x, (None, None), said) for name, x in ideal.items())
        v = v[:, judged]
        failed = len(evidence.held_out) - n
        more = f" {count(failed, 'held-out run')} failed and had nothing to judge." if failed else ""
        return (*self._pit(v, more), self._region(runs, ((v >= 0.025) & (v <= 0.975)).double().mean(1)),
                self._crps(evidence, prediction, runs, judged), self._sharpness(prediction, y, judged))  # fmt: skip

    def largest(self, n: int) -> float:
        """The largest one-sided distance of the PIT of n runs from uniform that passes.

        >>> round(Calibration().largest(40), 3)
        0.271
        """
        return math.hypot(self.tolerance, float(ksone.ppf(1 - self.chance, n)))

    def _pit(self, v: Tensor, more: str) -> tuple[Finding, Finding]:
        n, bound = len(v), self.largest(len(v))
        r = (2 * v.flatten() - 1).abs().sort().values
        rank = torch.arange(len(r), dtype=r.dtype) / len(r)  # the share below each r; with r itself one more
        lack, excess = (r - rank).max(0), (rank + 1 / len(r) - r).max(0)
        tilt, error = float(v.mean()), float(v.mean(1).std() / n**0.5)
        unbiased = f"The mean PIT is {number(tilt)} +- {number(error)} (0.5 when unbiased)."
        return (
            self._distance("narrow", float(lack.values), r[lack.indices], rank[lack.indices], n, bound,
                           " The error bars are too narrow, or the mean is off.", f" {unbiased}{more}"),
            self._distance("wide", float(excess.values), r[excess.indices], rank[excess.indices] + 1 / len(r), n, bound,
                           " The error bars are too wide for most outputs.", ""),
        )  # fmt: skip

    def _distance(self, name: str, value: float, level: Tensor, held: Tensor, n: int, bound: float, fault: str,
                  more: str) -> Finding:  # fmt: skip
        what, other = {"narrow": ("falls shortest of", "fewer"), "wide": ("exceeds", "more")}[name]
        said = (f"The central {percent(level)} interval {what} its promise{' most' if name == 'wide' else ''}: it holds "
                f"{percent(held)} of the outputs of {n} held-out runs.") if value >= 0.005 else (
                f"No central interval holds {other} of the outputs of {n} held-out runs than it promises.")  # fmt: skip
        return self._finding(name, value, (None, bound), f"{said}{fault if value > bound else ''}{more}")

    def _region(self, runs: Runs, inside: Tensor) -> Finding:
        theta = torch.as_tensor(runs.theta)
        parts, quarters = regions(runs.space, theta), corners(runs.space, theta)
        split = 2 if quarters else 1
        tried = [(r, self.chance / split / len(some)) for some in (parts, quarters) for r in some]
        tried = [(r, p) for r, p in tried if int(r.rows.sum()) >= self.minimum]
        worst, p = min(tried, key=lambda one: self._odds(one[0], inside) / one[1])
        n = int(worst.rows.sum())
        low = 1 - allowance(n, 1 - self.region, p) / n
        share, error = share_and_error(inside[worst.rows].numpy())
        fault = "" if share >= low else " The error bars are too narrow there, or the mean is off."
        everywhere = "" if len(worst.rows) == n else f", against {percent(inside.mean())} in the whole box"
        return self._finding("region", share, (low, None), f"Of {count(len(tried), 'region')}, {worst.name} keeps "
                             f"its promise least: {percent(share)} +- {percent(error)} of the outputs of {n} held-out runs "
                             f"lie inside the central 95 % interval{everywhere}.{fault}")  # fmt: skip

    def _odds(self, region: Region, inside: Tensor) -> float:
        """The probability of so many misses in a region whose coverage just passes."""
        missed = 1 - inside[region.rows]
        return chance(len(missed), float(missed.sum()), 1 - self.region)

    def _crps(self, evidence: Evidence, prediction: Any, runs: Runs, judged: Tensor) -> Finding:
        theta, y = torch.as_tensor(runs.theta), torch.as_tensor(runs.y)
        known = climatology(y)
        judged = judged & (known > 0)  # what never changes has no scatter to beat
        if not judged.any():
            return self._finding("crps", math.nan, (0.0, None), f"Cannot say: the outputs of {len(y)} held-out runs are "
                                 "all the same, and there is no scatter to beat.")  # fmt: skip
        ratio = _relative(prediction, y, known, judged)
        share, error = float(ratio.mean()), float(ratio.std() / len(y) ** 0.5)
        beside = ""
        if evidence.baseline is not None:
            with torch.no_grad():
                other = _relative(evidence.baseline.predict(theta), y, known, judged).mean()
            beside = f" That of the baseline emulator is {percent(other)}."
        return self._finding("crps", 1 - share, (0.0, None), f"The CRPS is {percent(share)} +- {percent(error)} of that of "
                             f"predicting each of {len(y)} held-out runs by all the others.{beside}")  # fmt: skip

    def _sharpness(self, prediction: Any, y: Tensor, judged: Tensor) -> Finding:
        spread = y.std(0)
        judged = judged & (spread > 0)
        if not judged.any():
            return self._finding("sharpness", math.nan, (None, 1.0), "Cannot say: the outputs of the held-out runs are all "
                                 "the same.")  # fmt: skip
        value = float((sharpness(prediction).mean(0) / (_WIDTH * spread))[judged].mean())
        return self._finding("sharpness", value, (None, 1.0), f"The central 95 % intervals are {percent(value)} as wide as "
                             f"the outputs' own over {len(y)} held-out runs. Of two calibrated emulators the sharper one "
                             "is better.")  # fmt: skip

    def _unsaid(self, n: int, reason: str) -> tuple[Finding, ...]:
        off = (None, self.largest(max(n, 1)))
        bounds = {
            "narrow": off,
            "wide": off,
            "region": (self.region, None),
            "crps": (0.0, None),
            "sharpness": (None, 1.0),
        }
        return tuple(self._finding(name, math.nan, b, f"Cannot say: {reason}") for name, b in bounds.items())

    def _finding(self, name: str, value: float, bound: tuple[float | None, float | None], sentence: str) -> Finding:
        figure = {"region": "regions", "crps": "crps", "sharpness": "crps"}.get(name, "pit")
        return Finding(f"calibration.{name}", value, *bound, sentence, figure, blocking=name in ("narrow", "region"))


def _relative(prediction: Any, y: Tensor, known: Tensor, judged: Tensor) -> Tensor:
    """The CRPS of every run `[n]`, of each output in units of what climatology gives."""
    return (crps(prediction, y) / known)[:, judged].mean(1)

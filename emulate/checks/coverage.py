"""Do the emulator's own error bars tell the truth?"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from scipy.optimize import root_scalar
from scipy.special import betainc
from scipy.stats import chi2, norm
from torch import Tensor

from emulate.checks._negligible import matters
from emulate.checks._words import count, number, percent
from emulate.contracts import Check, Evidence, Finding
from emulate.distributions import gaussian_of
from emulate.regions import allowance

_LEVEL, _Z = 0.95, 1.959963984540054  # the central 95 % of a Gaussian lies within this many standard deviations
_LARGE = 1e300  # infinite errors are too narrow bars, which the interval tells


@dataclass(frozen=True, kw_only=True)
class Coverage(Check):
    """Share of held-out outputs inside the emulator's central 95 % interval, one by one and jointly.

    One by one: |y - mean| <= 1.96 sd. Jointly: the run lies inside the ellipsoid (y - mean)^T C^-1 (y - mean) <=
    chi2_r(0.95), r the rank of C; directions that C leaves without variance are not judged. Outputs of one run err
    together, so the standard error is that of the mean of the runs' shares (the bootstrap over runs, in closed form).
    Outputs whose errors and stated errors are negligible in every run, as where the simulator is a polynomial and the
    emulator is one too, need no calibration and are left out.

    Few runs scatter: a share fails below `low` only where a share of 95 % gives that few with a probability of at most
    `chance` by the binomial law of n runs, and above `high` likewise. Where all n runs may lie inside by chance the share
    says nothing of bars that are too wide, and the root mean square of the errors does, by the chi^2 law.

    >>> round(Coverage().narrowest(20), 3), Coverage().narrowest(400)
    (0.767, 0.9)
    >>> Coverage().widest(20), Coverage().widest(400), round(Coverage().least(20), 3)
    (1.0, 0.99, 0.61)
    """

    low: Annotated[float, Ge(0), Le(1)] = 0.90  # smallest share that passes with many runs: below, they are too narrow
    high: Annotated[float, Ge(0), Le(1)] = 0.99  # largest share that passes with many runs: above, they are too wide
    chance: Annotated[float, Gt(0), Lt(1)] = 0.005  # largest probability that chance breaks the bounds on one side
    minimum: Annotated[int, Gt(1)] = 5  # least number of held-out runs
    negligible: Annotated[float, Ge(0)] = 1e-6  # error that needs no calibration, in standard deviations of its field

    stage: ClassVar = "validate"
    needs: ClassVar = ("held_out",)
    alarms: ClassVar = 2

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        runs = evidence.held_out.finished()
        n = len(runs)
        if n < self.minimum:
            return self._unsaid(f"{n} held-out runs finished, and the check needs at least {self.minimum}.", n)
        theta, y = torch.as_tensor(runs.theta), torch.as_tensor(runs.y)
        with torch.no_grad():
            prediction = evidence.emulator.predict(theta)
        residual, sd = y - prediction.mean, prediction.variance.sqrt()
        lost = int((~(torch.isfinite(residual) & torch.isfinite(sd)).all(1)).sum())
        if lost:
            return self._unsaid(f"the emulator's mean or variance is not finite at {lost} of {n} held-out runs.", n)
        judged = matters(runs, residual, sd, self.negligible)
        if not judged.any():
            said = (f"Nothing to calibrate: errors and error bars at {n} held-out runs are all below "
                    f"{number(self.negligible)} standard deviations of their field.")  # fmt: skip
            return tuple(
                Finding(f"coverage.{x}", 1.0, None, None, said, "calibration") for x in ("interval", "size", "joint")
            )
        inside = (residual.abs() <= _Z * sd)[:, judged].double().mean(1)  # [n], share of the outputs
        squared, rank = _mahalanobis(evidence.emulator, theta, y, judged)
        joint = torch.as_tensor(chi2.cdf(squared.numpy(), rank.numpy()))
        joint = (joint <= 0.95).double()  # [n], 0 or 1
        ratio = torch.where(residual == 0, 0.0, residual / sd)  # an exact prediction that is right
        size = float(ratio[:, judged].square().mean().sqrt())
        wide = " The error bars are too wide." if size < self.least(n) and self.widest(n) == 1 else ""
        failed = len(evidence.held_out) - n
        more = f" {count(failed, 'held-out run')} failed and had nothing to judge." if failed else ""
        return (
            self._finding("interval", n, float(inside.mean()), f"{_share(inside)} of the outputs of {n} held-out runs lie "
                          f"inside the emulator's central 95 % interval; the errors are {number(size)} times the "
                          f"stated standard deviations (root mean square).{self._verdict(inside, size)}{more}"),
            self._finding("size", n, min(size, _LARGE), f"Errors at {n} held-out runs are {number(size)} times the stated "
                          f"standard deviations (root mean square); an honest emulator gives less than "
                          f"{number(self.least(n))} in at most {percent(self.chance)} of such sets.{wide}"),
            self._finding("joint", n, float(joint.mean()), f"{_share(joint)} of {n} held-out runs lie inside the "
                          f"emulator's joint 95 % region of all outputs; the squared Mahalanobis distance per degree "
                          f"of freedom is {number((squared / rank).mean())} (1 when calibrated).{more}"),
        )  # fmt: skip

    def narrowest(self, n: int) -> float:
        """The smallest share of the outputs of n runs that passes."""
        return min(self.low, 1 - allowance(n, 1 - _LEVEL, self.chance) / n)

    def widest(self, n: int) -> float:
        """The largest share of the outputs of n runs that passes."""

        def fewer(missed: float) -> float:  # P(at most so many runs miss), as in `regions.chance` for a fraction
            return 1 - float(betainc(missed + 1, n - missed, 1 - _LEVEL))

        if fewer(0.0) > self.chance:
            return 1.0
        missed = root_scalar(lambda k: fewer(k) - self.chance, bracket=(0.0, n * (1 - _LEVEL)), method="brentq").root
        return max(self.high, 1 - missed / n)

    def least(self, n: int) -> float:
        """The smallest root mean square of the errors at n runs, over stated standard deviations, that passes."""
        shy = _Z / float(norm.ppf(0.5 + 0.5 * self.high))
        return min(shy, float(chi2.ppf(self.chance, n) / n) ** 0.5)

    def _verdict(self, inside: Tensor, size: float) -> str:
        share, n = float(inside.mean()), len(inside)
        if share > self.high and (share > self.widest(n) or size < self.least(n)):
            return " The error bars are too wide."
        if share > self.high:
            return f" That is more than {percent(self.high)}, but no more than chance may give of {n} runs."
        if share < self.narrowest(n):
            return " The error bars are too narrow, or the mean is off."
        if share < self.low:
            return f" That is less than {percent(self.low)}, but no less than chance may give of {n} runs."
        return ""

    def _unsaid(self, reason: str, n: int) -> tuple[Finding, ...]:
        return tuple(self._finding(x, n, math.nan, f"Cannot say: {reason}") for x in ("interval", "size", "joint"))

    def _finding(self, name: str, n: int, value: float, sentence: str) -> Finding:
        n = max(n, 1)
        few = self.widest(n) == 1  # where all runs may lie inside by chance their size judges, else the share alone
        low, high = (self.least(n) if few else None, None) if name == "size" else (self.narrowest(n), self.widest(n))
        return Finding(f"coverage.{name}", value, low, high, sentence, "calibration", blocking=name != "joint")


def _share(inside: Tensor) -> str:
    return f"{percent(inside.mean())} +- {percent(inside.std(correction=0) / len(inside) ** 0.5)}"


def _mahalanobis(emulator: Any, theta: Tensor, y: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
    """The squared distance and the rank of the covariance, both `[n]`, on the scale of the correlations."""
    parts = []
    for some, truth in zip(theta.split(8), y.split(8), strict=True):  # few at a time: a covariance is m x m
        with torch.no_grad():
            mean, covariance = gaussian_of(emulator.predict(some))
        mean, covariance, truth = mean[:, judged], covariance[:, judged][:, :, judged], truth[:, judged]
        sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        sd = sd.where(sd > 0, 1.0)
        values, vectors = torch.linalg.eigh(covariance / (sd[:, :, None] * sd[:, None, :]))
        kept = values > 1e-9 * values[:, -1:]  # below lies rounding, which would make any residual look infinitely far
        along = torch.einsum("nmp,nm->np", vectors, (truth - mean) / sd)
        squared = torch.where(kept, along.square() / values.where(kept, 1.0), 0.0).sum(-1)
        parts.append((squared, kept.sum(-1)))
    squared, rank = (torch.cat(x) for x in zip(*parts, strict=True))
    return squared, rank

"""Do the emulator's own error bars tell the truth?"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from scipy.stats import chi2
from torch import Tensor

from emulate.checks._negligible import matters
from emulate.checks._words import count, number, percent
from emulate.contracts import Check, Evidence, Finding

_Z = 1.959963984540054  # the central 95 % of a Gaussian lies within this many standard deviations


@dataclass(frozen=True, kw_only=True)
class Coverage(Check):
    """Share of held-out outputs inside the emulator's central 95 % interval, one by one and jointly.

    One by one: |y - mean| <= 1.96 sd. Jointly: the run lies inside the ellipsoid (y - mean)^T C^-1 (y - mean) <=
    chi2_r(0.95), r the rank of C; directions that C leaves without variance are not judged. Outputs of one run err
    together, so the standard error is that of the mean of the runs' shares (the bootstrap over runs, in closed form).
    Outputs whose errors and stated errors are negligible in every run, as where the simulator is a polynomial and the
    emulator is one too, need no calibration and are left out.

    >>> Coverage().low, Coverage(low=0.93).low
    (0.9, 0.93)
    """

    low: Annotated[float, Ge(0), Le(1)] = 0.90  # smallest share that passes: below, the error bars are too narrow
    high: Annotated[float, Ge(0), Le(1)] = 0.99  # largest share that passes: above, they are too wide
    minimum: Annotated[int, Gt(1)] = 5  # least number of held-out runs
    negligible: Annotated[float, Ge(0)] = 1e-6  # error that needs no calibration, in standard deviations of its field

    stage: ClassVar = "validate"
    needs: ClassVar = ("held_out",)

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        self.require(evidence)
        runs = evidence.held_out.finished()
        n = len(runs)
        if n < self.minimum:
            return self._unsaid(f"{n} held-out runs finished, and the check needs at least {self.minimum}.")
        theta, y = torch.as_tensor(runs.theta), torch.as_tensor(runs.y)
        with torch.no_grad():
            prediction = evidence.emulator.predict(theta)
        residual, sd = y - prediction.mean, prediction.variance.sqrt()
        lost = int((~(torch.isfinite(residual) & torch.isfinite(sd)).all(1)).sum())
        if lost:
            return self._unsaid(f"the emulator's mean or variance is not finite at {lost} of {n} held-out runs.")
        judged = matters(runs, residual, sd, self.negligible)
        if not judged.any():
            said = (f"Nothing to calibrate: errors and error bars at {n} held-out runs are all below "
                    f"{number(self.negligible)} standard deviations of their field.")  # fmt: skip
            return tuple(Finding(f"coverage.{x}", 1.0, None, None, said, "calibration") for x in ("interval", "joint"))
        inside = (residual.abs() <= _Z * sd)[:, judged].double().mean(1)  # [n], share of the outputs
        squared, rank = _mahalanobis(evidence.emulator, theta, y, judged)
        joint = torch.as_tensor(chi2.cdf(squared.numpy(), rank.numpy()))
        joint = (joint <= 0.95).double()  # [n], 0 or 1
        size = (residual / sd)[:, judged].square().mean().sqrt()
        failed = len(evidence.held_out) - n
        more = f" {count(failed, 'held-out run')} failed and had nothing to judge." if failed else ""
        return (
            self._finding("interval", float(inside.mean()), f"{_share(inside)} of the outputs of {n} held-out runs lie "
                          f"inside the emulator's central 95 % interval; the errors are {number(size)} times the "
                          f"stated standard deviations (root mean square).{self._verdict(inside, size)}{more}"),
            self._finding("joint", float(joint.mean()), f"{_share(joint)} of {n} held-out runs lie inside the "
                          f"emulator's joint 95 % region of all outputs; the squared Mahalanobis distance per degree "
                          f"of freedom is {number((squared / rank).mean())} (1 when calibrated).{more}"),
        )  # fmt: skip

    def _verdict(self, inside: Tensor, size: Tensor) -> str:
        share, n = float(inside.mean()), len(inside)
        if share > self.high:
            chance = self.high**n  # where the outputs of a run miss together
            plain = chance < 0.05 or float(size) ** 2 < 1 - 3 * (2 / n) ** 0.5  # errors too small for a chi-square of n
            few = (f" But {n} runs are few: where {percent(self.high)} of all runs lie inside, {percent(chance)} of such "
                   "sets show none outside. Hold out more runs to know.")  # fmt: skip
            return " The error bars are too wide." + ("" if plain else few)
        return " The error bars are too narrow, or the mean is off." if share < self.low else ""

    def _unsaid(self, reason: str) -> tuple[Finding, ...]:
        return tuple(self._finding(name, float("nan"), f"Cannot say: {reason}") for name in ("interval", "joint"))

    def _finding(self, name: str, value: float, sentence: str) -> Finding:
        blocking = name == "interval"
        return Finding(f"coverage.{name}", value, self.low, self.high, sentence, "calibration", blocking)


def _share(inside: Tensor) -> str:
    return f"{percent(inside.mean())} +- {percent(inside.std(correction=0) / len(inside) ** 0.5)}"


def _mahalanobis(emulator: Any, theta: Tensor, y: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
    """The squared distance and the rank of the covariance, both `[n]`, on the scale of the correlations."""
    parts = []
    for some, truth in zip(theta.split(8), y.split(8), strict=True):  # few at a time: a covariance is m x m
        with torch.no_grad():
            mean, covariance = emulator.predict(some).gaussian()
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

"""Would the emulator's derivatives promise another precision than the simulator's?"""

from dataclasses import dataclass
from math import exp, log, nan
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from emulate.checks._words import at, count, number
from emulate.contracts import Check, Evidence, Finding, Whole
from emulate.errors import InputError
from emulate.forecasts import Forecasts, compare, prior_slope


@dataclass(frozen=True, kw_only=True)
class Fisher(Check):
    """Standard deviations that a Fisher forecast gives by the emulator's derivatives, over those by the simulator's.

    At each point where the simulator was differentiated, F = J^T C^-1 J plus the prior's information, C the covariance of the
    study's observation as its likelihood has it, or as the emulator predicts it where that adds no noise; see
    `emulate.forecasts`. Of every point the direction counts in which the two differ most, which may be a combination of
    parameters that no single derivative shows: an error of the derivative adds information where there is little. The
    value is the factor of the median point, 1 where they agree, whichever is larger. Noise of the simulator's
    derivatives is taken off, and where its two standard errors exceed the bound's margin nothing was measured and nothing
    passes. Derivatives that are exact have no noise, and an emulator that is right never fails.

    >>> Fisher(width=1.2).minimum
    3
    """

    width: Annotated[float, Gt(1)] = 1.1  # bound on the factor between the standard deviations, of the median point
    minimum: Annotated[int, Ge(1)] = 3  # least number of points

    stage: ClassVar = "validate"
    needs: ClassVar = ("jacobians", "likelihood")

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        emulator, known = evidence.emulator, evidence.jacobians
        g = len(known.theta)
        covariance = [_covariance(evidence, i) for i in range(g)]
        able = torch.tensor([c is not None for c in covariance], dtype=torch.bool)
        if int(able.sum()) < self.minimum:
            less = f", and the likelihood has a covariance at {int(able.sum())} of them" if g >= self.minimum else ""
            return (self._factor(nan, f"Cannot say: derivatives at {count(g, 'point')} were given{less}, and the check needs at "
                                 f"least {self.minimum}."),)  # fmt: skip
        c, theta = torch.stack([x for x in covariance if x is not None]), known.theta[able]
        slope = prior_slope(emulator.space, theta)[:, None]
        ours, true, noise = (j * slope for j in (emulator.jacobian(theta).detach(), known.value[able],
                                                 known.standard_error[able]))  # fmt: skip
        good = torch.stack([x.flatten(1).isfinite().all(1) for x in (ours, true, noise, c)]).all(0)
        one = torch.eye(c.shape[-1]).to(c)
        good &= torch.linalg.cholesky_ex(c.where(good[:, None, None], one))[1] == 0
        if not good.all():
            return (self._factor(nan, f"Cannot say: at {int((~good).sum())} of {len(good)} points the derivatives, their errors or "
                                 "the covariance of the data are not all finite numbers."),)  # fmt: skip
        made = compare(ours, true, noise, c)
        return self._median(made), self._worst(made, evidence, theta)

    def _median(self, made: Forecasts) -> Finding:
        log_value, log_error = made.typical
        value, error, g = exp(log_value), log_error * exp(log_value), len(made.ratio)
        blur = f" +- {number(error)}" if error else ""
        text = (f"Where they differ most, forecasts by the emulator's derivatives and by the simulator's differ by a factor of "
                f"{number(value)}{blur} in their standard deviation (median over {count(g, 'point')}).")  # fmt: skip
        more = "more runs for each derivative are needed"
        if 2 * made.blind > g:
            return self._factor(nan, f"Cannot say: at {made.blind} of {g} points the simulator's derivatives are noisier than what "
                                f"they tell; {more}.")  # fmt: skip
        reach, margin = 2 * log_error, log(self.width)
        if reach > margin and log_value - reach <= margin:
            return self._factor(nan, f"{text} Cannot say more: two standard errors of the simulator's derivatives reach a factor "
                                f"of {number(exp(reach))}, above the bound of {number(self.width)}; {more}.")  # fmt: skip
        return self._factor(value, text)

    def _worst(self, made: Forecasts, evidence: Evidence, theta: Tensor) -> Finding:
        i = int(made.ratio.log().abs().argmax())
        ratio, names = float(made.ratio[i]), evidence.emulator.space.names
        parts = [(float(w), n) for w, n in zip(made.direction[i], names, strict=True) if abs(w) >= 0.3]
        along = " and ".join(n if w > 0 else f"less {n}" for w, n in sorted(parts, key=lambda p: -p[0]))
        kind = "wider" if ratio > 1 else "narrower"
        text = (f"The forecast that differs most is {kind}, by {number(ratio)}, along {along}, and lies at "
                f"{at(evidence.emulator.space, theta[i])}.")  # fmt: skip
        return Finding("fisher.worst", ratio, 2 - self.width, self.width, text, "gradient", blocking=False)

    def _factor(self, value: float, sentence: str) -> Finding:
        return Finding("fisher.width", value, None, self.width, sentence, "gradient")


def _covariance(evidence: Whole, i: int) -> Tensor | None:
    """Of data `[m, m]` about the simulator's answer at the i-th point; None where the likelihood has none, as where an error
    that is relative meets a zero."""
    likelihood, known = evidence.likelihood, evidence.jacobians
    with torch.no_grad():
        own = None if likelihood.adds_noise else evidence.emulator.predict(known.theta[i])
        try:
            return likelihood.covariance(known.y[i], own)
        except InputError:
            return None

"""Where is the answer of a stochastic simulator, by true runs made at it?"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Lt
from scipy.stats import chi2
from scipy.stats import t as student

from emulate.checks._words import count, number, unresolved
from emulate.contracts import Check, Evidence, Finding
from emulate.contracts import Confirmation as Known
from emulate.corrections import Correction, correct
from emulate.space import Space


@dataclass(frozen=True, kw_only=True)
class Confirmation(Check):
    r"""Shift of the posterior mean in posterior standard deviations, by k true runs at that mean; and their chi2.

    For stochastic simulators, whose single runs cannot weigh draws of the posterior as `posterior` does. With theta the
    posterior mean, r and J the emulator's prediction and its derivative there, C the covariance of the data about it (of one
    run, where the observation is a run):

        delta = (J^T C^-1 J + prior)^-1 J^T C^-1 (mean of the true runs - r(theta)),    corrected = theta - delta,

    with the covariance of the posterior's draws as the inverse, which holds for every prior; see `emulate.corrections`. Its
    standard error is by the scatter of the runs: where the observation is one run, about k^-1/2 posterior standard
    deviations, so that 8 runs cannot settle a bound of 0.5, and 32 do. An estimate whose two standard errors exceed the bound
    says nothing and does not pass. One above it fails where chance adds that much to no shift with a probability of at most
    `chance` in any of the parameters (Student's law of k runs): above 0.63 with 32 runs in two parameters, 0.5 with 50.

    The corrected values stand in the sentences. They are linear in the shift: right to a few per cent of a shift below half
    a standard deviation, and a hint where to run and train next when it is above one. Widths are not corrected; what they
    rest on is judged by `chi2`, (y - r)^T C^-1 (y - r) summed over the runs and per number, C that of one run as predicted:
    1 when the prediction is right, above it when it is too narrow or off, in any direction, below when too wide. It must lie
    within a factor `spread` of 1 and what chance gives to Gaussian scatter.

    >>> Confirmation(shift=0.3).spread
    1.5
    """

    shift: Annotated[float, Gt(0)] = 0.5  # bound on |shift| of the worst parameter, in sd of the posterior
    spread: Annotated[float, Gt(1)] = 1.5  # factor by which chi2 per number may differ from 1 with any number of runs
    chance: Annotated[float, Gt(0), Lt(1)] = 0.0025  # probability with which either, shift or chi2, fails what is right
    minimum: Annotated[int, Ge(2)] = 5  # least number of true runs

    stage: ClassVar = "check"
    needs: ClassVar = ("confirmation",)
    alarms: ClassVar = 2

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        known, space = evidence.confirmation, evidence.emulator.space
        k, lost = len(known.y), _lost(known)
        if k < self.minimum:
            return self._unsaid(f"Cannot say: {count(k, 'true run')} finished at the posterior mean, and the check needs "
                                f"{self.minimum}.{lost}")  # fmt: skip
        made = None
        if all(x.isfinite().all() for x in (known.theta, known.covariance, known.y, known.spread)):
            made = correct(evidence.emulator, known)
        if made is None or not made.finite:
            return self._unsaid("Cannot say: the true runs, their prediction or the posterior are not all finite numbers, or "
                                f"a covariance is none.{lost}")  # fmt: skip
        shift, error = ((x / made.sd).numpy() for x in (made.delta, made.error))
        return (
            self._worst(made, shift, error, space, lost),
            self._chi2(made, k),
            *(self._shift(f".{name}", abs(float(shift[i])), f"The surrogate posterior's mean of {name} is off by "
                          f"{number(shift[i])} +- {number(error[i])} posterior standard deviations. {_becomes(made, space, i)}.")
              for i, name in enumerate(space.names)),
        )  # fmt: skip

    def _worst(self, made: Correction, shift: np.ndarray, error: np.ndarray, space: Space, lost: str) -> Finding:
        """The verdict on all parameters: the worst value, or NaN where it keeps the bound but is not resolved."""
        k, reach = len(made.each), self.chance / 2 / len(shift)
        most = np.maximum(self.shift, float(student.isf(reach, k - 1)) * error)
        i = int((np.abs(shift) / most).argmax())
        text = (f"By {count(len(made.each), 'true run')} at it the surrogate posterior's mean is off most in {space.names[i]}: "
                f"by {number(shift[i])} +- {number(error[i])} posterior standard deviations. "
                f"{_becomes(made, space, i)}.{lost}")  # fmt: skip
        said = self._shift("", abs(float(shift[i])), text, float(most[i]))
        if not said.passed:
            return replace(said, sentence=f"{text} The correction is linear in the shift: add true runs there to the training runs "
                           "and infer again.")  # fmt: skip
        more = unresolved(space.names, error, self.shift)
        return replace(said, value=np.nan, sentence=f"{text}{more}") if more else said

    def _chi2(self, made: Correction, k: int) -> Finding:
        n = made.numbers
        value = made.chi2 / n
        low, high = (float(x) / n for x in chi2.ppf((self.chance / 2, 1 - self.chance / 2), n))
        low, high = low / self.spread, high * self.spread
        fault = (
            " The prediction is too wide."
            if value < low
            else " The prediction is too narrow, or off."
            if value > high
            else ""
        )
        said = (f"The chi2 of {k} true runs at the posterior mean against the prediction of a run is {number(value)} for each of "
                f"{n} numbers, and 1 when that is right.{fault}")  # fmt: skip
        return Finding("confirmation.chi2", value, low, high, said, "confirmation")

    def _unsaid(self, sentence: str) -> tuple[Finding, ...]:
        nan = float("nan")
        whole = Finding("confirmation.chi2", nan, 1 / self.spread, self.spread, sentence, "confirmation")
        return self._shift("", nan, sentence), whole

    def _shift(self, name: str, value: float, sentence: str, most: float | None = None) -> Finding:
        return Finding(f"confirmation.shift{name}", value, None, most or self.shift, sentence, "confirmation",
                       blocking=not name)  # fmt: skip


def _becomes(made: Correction, space: Space, i: int) -> str:
    """`Corrected, 0.512 becomes 0.4981 +- 0.0042 km`, to the digits that the error leaves."""
    before, after, error = (float(x[i]) for x in (made.theta, made.corrected, made.error))
    size = max(abs(before), abs(after))
    digits = min(6, max(2, 2 + int(np.log10(size / error)))) if size > error > 0 else 2
    return (
        f"Corrected, {before:.{digits}g} becomes {after:.{digits}g} +- {error:.2g} {space.parameters[i].unit}".rstrip()
    )


def _lost(known: Known) -> str:
    return (
        f" {count(known.failed, 'true run')} failed there and {'is' if known.failed == 1 else 'are'} not counted."
        if known.failed
        else ""
    )

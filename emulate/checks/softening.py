"""Would the answer move if the observation were not smoothed as the simulator's histograms are?"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from emulate.checks._words import number
from emulate.contracts import Check, Evidence, Finding


@dataclass(frozen=True, kw_only=True)
class Softening(Check):
    r"""By how many posterior standard deviations hard counts, read as smoothed ones, would move the answer.

    Smoothing with the bandwidth h adds about h^2 / 2 (f'(r) - f'(l)) to a bin [l, r) of the density f. An observation that
    lacks it moves the posterior mean by V J^T C^-1 of it, V the covariance of the draws, J that of the prediction, C that of
    the data; the worst parameter is reported. A run of the simulator that made the observation is smoothed alike, and so may
    be a file; where it is, the finding is advice. A study is told so by `alike`, without which only runs are.

    >>> Softening(alike=True).shift
    0.2
    """

    shift: Annotated[float, Gt(0)] = 0.2  # bound on the move of the worst parameter, in sd of the posterior
    alike: bool | None = None  # the observation is smoothed as the simulator's histograms are; empty: if a run made it

    stage: ClassVar = "check"
    needs: ClassVar = ("softening",)

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        moved, names = evidence.softening.moved, evidence.emulator.space.names
        alike = evidence.softening.alike if self.alike is None else self.alike
        if not moved.isfinite().all():
            return (
                self._finding(
                    float("nan"), "Cannot say: the shifts that smoothing makes are not all finite numbers.", alike
                ),
            )
        i = int(moved.abs().argmax())
        text = (f"The histograms are smoothed. Hard counts read as smoothed ones would move {names[i]} most, by "
                f"{number(moved[i])} posterior standard deviations")  # fmt: skip
        end = ("; the observation is smoothed alike." if alike else
               ". Smooth the observation alike and say so by alike: true, or set the simulator's bandwidth to 0.")  # fmt: skip
        return (self._finding(float(moved.abs().max()), f"{text}{end}", alike),)

    def _finding(self, value: float, sentence: str, alike: bool) -> Finding:
        return Finding("softening.shift", value, None, self.shift, sentence, "corner", blocking=not alike)

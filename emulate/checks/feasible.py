"""Does the posterior lie where the simulator runs?"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt

from emulate.checks._words import number, percent
from emulate.contracts import Check, Evidence, Finding


@dataclass(frozen=True, kw_only=True)
class Feasible(Check):
    """Share of the posterior's draws at which the simulator would sooner fail than finish.

    The emulator answers there as everywhere, but no run has taught it, and no true run can contradict it. The share is
    that of draws with P(a run finishes) below `least`, by the classifier of all runs of the study. Where no run failed
    the classifier knows of no boundary, and the share is 0. Where a failure speaks against the parameters, `infer.feasible:
    true` multiplies the prior by that probability, and little of the share is left.

    >>> Feasible().share
    0.01
    """

    share: Annotated[float, Ge(0), Lt(1)] = 0.01  # largest share of the draws that passes
    least: Annotated[float, Gt(0), Lt(1)] = 0.5  # probability of finishing below which a draw counts

    stage: ClassVar = "check"
    needs: ClassVar = ("weighted", "feasibility")

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        where, weighted = evidence.feasibility, evidence.weighted
        draws, p = weighted.draws, where.probability(weighted.draws)
        sane = p.isfinite().all() and weighted.theta.isfinite().all() and not weighted.log_weight.isnan().any()
        if not sane:
            said = "Cannot say: the draws of the posterior or the probabilities that a run finishes are not all finite."
            return (self._finding(float("nan"), said),)
        if not where.failed:
            said = f"All {where.finished} runs finished, so that nothing is known against any of {len(draws)} draws."
            return (self._finding(0.0, said),)
        share = float((p < self.least).double().mean())
        said = (f"At {percent(share)} of {len(draws)} draws of the posterior a run finishes with a probability below "
                f"{number(self.least)}; over all draws it is {number(p.mean())} on average. {where.sentence()}")  # fmt: skip
        if share > self.share:
            said += (" The posterior leans on places that no run has reached: mend the simulator there, narrow the "
                     "prior, or let the prior know of the failures if they speak against the parameters.")  # fmt: skip
        return (self._finding(share, said),)

    def _finding(self, value: float, sentence: str) -> Finding:
        return Finding("feasible.share", value, None, self.share, sentence, "corner")

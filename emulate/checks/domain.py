"""Does the posterior lie where runs have taught the emulator?"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt

from emulate.checks._words import number, percent
from emulate.contracts import Check, Evidence, Finding
from emulate.domain import THIN

_MOST = 2000  # draws that are looked at, spread over all


@dataclass(frozen=True, kw_only=True)
class Domain(Check):
    """Share of the posterior's draws where the design is thin: outside the box, or far from every run.

    A draw counts when its nearest runs, the nearest 5 % of them, are more than twice as far as those of the runs
    themselves, in one parameter, in a pair or in all (`emulate.domain`). A posterior that leans on a hole of the design,
    or on the tail of a normal prior, rests on what the emulator made up. `infer.outside: inflate` widens its variance
    there; more runs there are better.

    >>> Domain().share
    0.05
    """

    share: Annotated[float, Ge(0), Lt(1)] = 0.05  # largest share of the draws that passes

    stage: ClassVar = "check"
    needs: ClassVar = ("weighted",)

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        weighted, guard = evidence.weighted, evidence.emulator.guard
        given = (weighted.draws, weighted.theta, weighted.failed, weighted.expected)
        if weighted.log_weight.isnan().any() or not all(t.isfinite().all() for t in given if t is not None):
            return (
                self._finding(
                    float("nan"), "Cannot say: the draws of the posterior or their weights are not all finite."
                ),
            )
        draws = weighted.draws
        some = draws[torch.linspace(0, len(draws) - 1, min(len(draws), _MOST)).round().long()]
        share = float(guard.thin(some).double().mean())
        where = guard.place(some)
        said = (f"At {percent(share)} of {len(some)} draws of the posterior the design is thin: the nearest runs are more "
                f"than {number(THIN)} times as far as runs are from each other. The farthest draw has them at "
                f"{number(where.remoteness)} times that distance, {where.words}.")  # fmt: skip
        if share > self.share:
            said += " Run the simulator there, or let the variance grow with the distance (outside: inflate, in the infer section)."
        return (self._finding(share, said),)

    def _finding(self, value: float, sentence: str) -> Finding:
        return Finding("domain.thin", value, None, self.share, sentence, "corner")

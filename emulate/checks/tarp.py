"""Do posteriors hold truths as often as they promise, whatever region is asked?"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt

from emulate import uniformity
from emulate.checks._words import number, percent
from emulate.contracts import Check, Evidence, Finding
from emulate.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Tarp(Check):
    """Expected coverage by random points (TARP; Lemos et al. 2023), for posteriors of which only draws are known.

    For each of q held-out observations a point is drawn at random, and the share of the draws that lie nearer to it than
    the truth is noted: uniform when the chain is calibrated, and for all points and data together only then. No density is
    evaluated, so that it sees a sampler that misses a mode, which `recovery` may not. The points depend on the data: see
    `emulate.ranks.Ranks.distances`.

    The value is the p-value of evenness by the exact test of `emulate.uniformity`, right for any number of observations. A
    shift of the same direction in all of them is seen better by `recovery`: here it comes from either side of the points.

    >>> Tarp().chance
    0.005
    """

    chance: Annotated[float, Gt(0), Lt(1)] = 0.005  # probability with which it fails a calibrated chain
    seed: Annotated[int, Ge(0)] = 0  # of the points
    minimum: Annotated[int, Ge(1)] = 5  # least number of observations

    stage: ClassVar = "check"
    needs: ClassVar = ("recovery",)
    alarms: ClassVar = 1

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        ranks, q = Ranks(evidence.recovery), len(evidence.recovery.rank)
        if q < self.minimum:
            said = f"Cannot say: {q} observations were recovered, and the check needs at least {self.minimum}."
            return (self._finding(float("nan"), said),)
        if not ranks.sane:
            said = f"Cannot say: some draws, ranks, means or standard deviations of {q} recovered observations are not finite."
            return (self._finding(float("nan"), said),)
        u = ranks.distances(self.seed)
        p, (level, share) = uniformity.p_value(u), uniformity.worst(u)
        fault = (" The posteriors are too narrow, too wide or off, or miss a part of themselves."
                 if p < self.chance else "")  # fmt: skip
        said = (f"Regions around random points hold as many of {q} truths as they promise, with p-value {number(p)}; that of "
                f"{percent(level)} is off most and holds {percent(share)}.{fault}")  # fmt: skip
        return (self._finding(p, said),)

    def _finding(self, value: float, sentence: str) -> Finding:
        return Finding("tarp.coverage", value, self.chance, None, sentence, "ranks")

"""Does the prior's edge set the answer, and not the data?"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Le

from emulate.checks._words import percent
from emulate.contracts import Check, Evidence, Finding
from emulate.space import Parameter


@dataclass(frozen=True, kw_only=True)
class Edge(Check):
    """How the posterior piles up at the edges of its prior: density in the outermost 2 % over the prior's own.

    In the prior's own coordinate u each end holds `within` of the prior; a posterior that knows no more than the prior has
    the ratio 1 there, one that is well inside 0, one that is cut off where it is highest 0.8 over its standard deviation in
    u. Above `most` the draws lean on the edge: the interval ends where the prior does, and the mean moves with it. Priors
    without an edge, as the normal one, are not judged. Advice unless `blocks`: an edge may be physics, a mass above 0.

    >>> Edge().most
    2.0
    """

    within: Annotated[float, Gt(0), Le(0.25)] = 0.02  # share of the prior that counts as an edge, at either end
    most: Annotated[float, Gt(1)] = 2.0  # largest ratio of posterior to prior there that passes
    blocks: bool = False  # fail the study, where no prior should be felt

    stage: ClassVar = "check"
    needs: ClassVar = ("weighted",)
    example: ClassVar[dict] = {"blocks": True}

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        weighted, space = evidence.weighted, evidence.emulator.space
        draws = weighted.draws
        given = (draws, weighted.theta, weighted.failed, weighted.expected)
        if weighted.log_weight.isnan().any() or not all(t.isfinite().all() for t in given if t is not None):
            said = "Cannot say: the draws of the posterior or their weights are not all finite."
            return (self._finding(float("nan"), said),)
        u = space.to_unit(draws).numpy()
        found = [(float((side < self.within).mean()) / self.within, end, p)
                 for i, p in enumerate(space.parameters) if bounded(p)
                 for end, side in (("lower", u[:, i]), ("upper", 1 - u[:, i]))]  # fmt: skip
        if not found:
            return (self._finding(0.0, "No prior has an edge."),)
        ratio, end, p = max(found, key=lambda one: one[0])
        at = f"{float(p.prior.low if end == 'lower' else p.prior.high):.4g} {p.unit}".rstrip()
        said = (f"The {percent(self.within)} of the prior next to the {end} edge of {p.name}, at {at}, hold "
                f"{percent(ratio * self.within)} of {len(draws)} draws of the posterior.")  # fmt: skip
        if ratio > self.most:
            said += (f" The prior cuts the posterior off there: widen it, run the simulator in what is added, and infer again, "
                     f"unless {p.name} cannot lie beyond.")  # fmt: skip
        return (self._finding(ratio, said),)

    def _finding(self, value: float, sentence: str) -> Finding:
        return Finding("edge.ratio", value, None, self.most, sentence, "corner", blocking=self.blocks)


def bounded(p: Parameter) -> bool:
    """Whether the prior ends at finite values on both sides."""
    return all(np.isfinite(getattr(p.prior, end, np.inf)) for end in ("low", "high"))

"""Does the model explain the observation?"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Lt

from emulate.checks._words import number, output, percent
from emulate.contracts import Check, Evidence, Finding, Replicas, Whole
from emulate.replicas import p_values


@dataclass(frozen=True, kw_only=True)
class Predictive(Check):
    """Posterior predictive p-values of the observation: of all outputs and of each field (Gelman, Meng and Stern 1996).

    p = P(chi^2 of data made again >= chi^2 of the observation), both under the same draw of the posterior, over draws and
    replicas; see `emulate.replicas`. Two-sided: data that lie too far from every prediction, which no parameters explain,
    and data that lie too near, whose errors were taken too large. The value is twice the least tail over all outputs and
    every field, times their number (Bonferroni). A posterior that has seen the data predicts them better than new ones, so
    that an honest model fails with less than `chance`, and a misfit that parameters can take up is not seen here: they
    are then wrong. Where the observation holds no noise on purpose it cannot lie too near.

    >>> Predictive().chance
    0.005
    """

    chance: Annotated[float, Gt(0), Lt(1)] = 0.005  # largest probability with which it fails a model that is right

    stage: ClassVar = "check"
    needs: ClassVar = ("replicas",)
    alarms: ClassVar = 1

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        known = evidence.replicas
        if not all(bool(t.isfinite().all()) for t in (known.data, known.replica, known.pull)):
            return (self._finding("", float("nan"), "Cannot say: the observation, its prediction or data made again are not "
                                  "all finite numbers."),)  # fmt: skip
        above, below = p_values(known)
        p = np.minimum(1.0, 2 * np.minimum(above, below) if known.noisy else above)
        n = len(p)
        fields = (
            np.arange(n) if n == 1 or p[1:].min() >= self.chance / n else np.arange(1, n)
        )  # a field says more than all
        size = known.data.mean(0).numpy() / np.array(known.sizes)
        k = int(min(fields, key=lambda i: (p[i], -size[i])))
        value = min(1.0, n * float(p.min()))
        parts = () if n == 1 else tuple(
            self._finding(f".{name or 'all'}", float(p[i]), self._said(evidence, i, float(p[i]), above[i], self.chance))
            for i, name in enumerate(known.parts))  # fmt: skip
        many = f" It is the worst of {n}, all outputs and every field, and counts {n} times." if n > 1 else ""
        return (
            self._finding("", value, f"{self._said(evidence, k, float(p[k]), above[k], self.chance / n)}{many}"),
            *parts,
        )

    def _said(self, evidence: Whole, i: int, p: float, above: float, least: float) -> str:
        known = evidence.replicas
        name, size = known.parts[i], known.sizes[i]
        what = f"of the field {name}" if name else "of the observation"
        said = (f"The chi2 {what} is {number(known.data[:, i].mean())} for {size} {'number' if size == 1 else 'numbers'}, and data "
                f"made again under the same draws reach that in {percent(above)}: p-value {number(p)}.")  # fmt: skip
        if p >= least:
            return said
        if above > 0.5:
            return f"{said} The data lie nearer to the model than their errors allow: the errors are too large."
        unexplained = f"the field {name}" if name else "the observation"
        return f"{said} The model cannot explain {unexplained}: {_worst(evidence, known, i)}."

    def _finding(self, name: str, value: float, sentence: str) -> Finding:
        return Finding(f"predictive.p{name}", value, self.chance, None, sentence, "replicas", blocking=not name)


def _worst(evidence: Evidence, known: Replicas, i: int) -> str:
    """`pk at k = 0.1 lies 4.2 standard deviations above the prediction`."""
    outputs = evidence.emulator.outputs
    part = outputs.slices[known.parts[i]] if known.parts[i] else slice(0, outputs.size)
    j = range(*part.indices(outputs.size))[int(known.pull[part].abs().argmax())]
    side = "above" if known.pull[j] > 0 else "below"
    return f"{output(outputs, j)} lies {number(known.pull[j].abs())} standard deviations {side} the prediction"

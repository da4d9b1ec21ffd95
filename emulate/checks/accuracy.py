"""How far is the emulator's mean from runs it has never seen?"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from emulate.checks._words import at, count, number, output, percent
from emulate.contracts import Check, Evidence, Finding
from emulate.runs import Runs


@dataclass(frozen=True, kw_only=True)
class Accuracy(Check):
    """Largest error of each held-out run: its median and its 99th percentile over the runs.

    Of positive fields the error is |prediction / truth - 1|, of the others |prediction - truth| / s, with s the field's
    standard deviation over the held-out runs (root mean square over its outputs). A run's error is the largest over its
    outputs, so the curve as a whole is that good, not its average point. Of a stochastic simulator a held-out run is one
    draw: its scatter about the mean is in the error, however often the training points were run.

    >>> Accuracy(fields=("pk",)).p99
    0.004
    """

    median: Annotated[float, Gt(0)] = 0.0005  # bound on the median over runs, a fraction (0.0005 is 0.05 %)
    p99: Annotated[float, Gt(0)] = 0.004  # bound on the 99th percentile over runs, a fraction
    fields: tuple[str, ...] = ()  # names of the fields that count; none named means all
    minimum: Annotated[int, Gt(1)] = 5  # least number of held-out runs

    stage: ClassVar = "validate"
    needs: ClassVar = ("held_out",)

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        runs = evidence.held_out.finished()
        columns = self._columns(runs)
        if len(runs) < self.minimum:
            said = f"Cannot say: {len(runs)} held-out runs finished, and the check needs at least {self.minimum}."
            return self._finding("median", float("nan"), said), self._finding("p99", float("nan"), said)
        error = _errors(evidence.emulator, runs)[:, columns]  # [n, outputs that count]
        worst, place = error.max(1)  # NaN wins a maximum, so it is never lost
        middle, tail = (float(torch.quantile(worst, q)) for q in (0.5, 0.99))
        beside = ["", ""]
        if evidence.baseline is not None:
            other = _errors(evidence.baseline, runs)[:, columns].amax(1)
            beside = [f" The baseline emulator reaches {self._size(x, runs)}."
                      for x in (torch.quantile(other, 0.5), torch.quantile(other, 0.99))]  # fmt: skip
        i = int(worst.argmax())
        j = int(columns[place[i]])
        noise = (" The simulator is stochastic: its own scatter is part of these errors. Give this check bounds above it, or name "
                 "checks without it; coverage and calibration judge the noise.") if runs.stochastic else ""  # fmt: skip
        lost = len(evidence.held_out) - len(runs)
        left = f" {count(lost, 'held-out run')} failed and {'is' if lost == 1 else 'are'} not counted." if lost else ""
        broken = int((~torch.isfinite(worst)).sum())
        sick = f" The error of {count(broken, 'run')} is not finite." if broken else ""
        positive = bool(runs.outputs.positive[j])
        return (
            self._finding("median", middle, f"Half of the {len(runs)} held-out runs are matched to "
                          f"{self._size(middle, runs)} or better at their worst output.{beside[0]}{sick}{left}{noise}"),
            self._finding("p99", tail, f"99 % of the {len(runs)} held-out runs are matched to "
                          f"{self._size(tail, runs)} or better at their worst output.{beside[1]}{sick} The worst error "
                          f"of all is {_size(worst[i], positive)}: {output(runs.outputs, j)}, in the run at "
                          f"{at(runs.space, runs.theta[i])}."),
        )  # fmt: skip

    def _columns(self, runs: Runs) -> Tensor:
        """The indices of the outputs that count."""
        chosen = [runs.outputs.field(name).name for name in self.fields] or [f.name for f in runs.outputs.fields]
        return torch.cat([torch.arange(runs.outputs.size)[runs.outputs.slices[name]] for name in chosen])

    def _size(self, error: float | Tensor, runs: Runs) -> str:
        kinds = {bool(p) for p in runs.outputs.positive[self._columns(runs).numpy()]}
        if len(kinds) == 1:
            return _size(error, kinds.pop())
        return f"{percent(error)} (of the value for positive fields, of a standard deviation for the others)"

    def _finding(self, name: str, value: float, sentence: str) -> Finding:
        parts = [p for p in ("accuracy", "-".join(self.fields), name) if p]
        return Finding(".".join(parts), value, None, getattr(self, name), sentence, "accuracy")


def _size(error: float | Tensor, positive: bool) -> str:
    return percent(error) if positive else f"{number(error)} standard deviations of its field"


def _errors(emulator: Any, runs: Runs) -> Tensor:
    """The error of every output `[n, m]`; an exact answer has error 0 whatever the scale."""
    with torch.no_grad():
        predicted = emulator.predict(torch.as_tensor(runs.theta)).mean
    truth = torch.as_tensor(runs.y)
    spread = truth.var(0)
    for part in runs.outputs.slices.values():
        spread[part] = spread[part].mean()
    scale = torch.where(torch.as_tensor(runs.outputs.positive), truth.abs(), spread.sqrt())
    miss = (predicted - truth).abs()
    return torch.where(miss == 0, miss, miss / scale)

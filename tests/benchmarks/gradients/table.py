"""Rows of the table: how one is judged, and how it is printed."""

import math
from dataclasses import dataclass

from scipy import special

LEVEL = 0.9999  # of the interval that must hold the truth; the table has some hundred of them
COLUMNS = {"truth": 17, "estimate": 18, "standard error": 16, "bias bound": 12, "z": 7, "calls": 10, "seconds": 9}
NAMES = 60  # the width of the first column


@dataclass(frozen=True)
class Row:
    """truth, estimate: numbers, or words. error: of the estimate, on `replicates`; NaN: none. bias: its bound, NaN: unknown.
    bar: the truth is only a bar from above. note: what else there is to say."""

    method: str
    truth: float | str
    estimate: float | str
    error: float = 0.0
    bias: float = 0.0
    calls: int | None = None
    seconds: float = math.nan
    replicates: int = 0
    bar: bool = False
    note: str = ""

    @property
    def off(self) -> float:
        return float(self.estimate) - float(self.truth)

    @property
    def z(self) -> float:
        """NaN where there is no error to speak of."""
        numbers = not isinstance(self.truth, str) and not self.bar
        return self.off / self.error if numbers and self.error > 1e-12 * abs(self.estimate) else math.nan

    @property
    def verdict(self) -> str:
        """What the row says of its method; WRONG and OVER fail the table."""
        if isinstance(self.truth, str):
            return "right" if self.truth == self.estimate else "WRONG"
        if self.bar:
            return "within" if self.estimate <= self.truth else "OVER"
        if abs(self.off) <= 1e-9 * max(1.0, abs(self.truth)):
            return "exact"
        if math.isnan(self.bias):
            return "bias unknown"
        dof, tail = self.replicates - 1, 0.5 + LEVEL / 2
        reach = float(special.stdtrit(dof, tail) if dof > 0 else special.ndtri(tail))
        return "holds" if abs(self.off) <= reach * self.error + self.bias else "WRONG"

    @property
    def line(self) -> str:
        cells = {
            "truth": "<= " * self.bar + _number(self.truth),
            "estimate": _number(self.estimate),
            "standard error": _short(self.error),
            "bias bound": "unknown" if math.isnan(self.bias) else _short(self.bias),
            "z": _short(self.z, ".1f"),
            "calls": "" if self.calls is None else str(self.calls),
            "seconds": _short(self.seconds, ".2f"),
        }
        said = f"  {self.verdict}" + (f"; {self.note}" if self.note else "")
        return f"  {self.method:{NAMES - 2}s}" + "".join(f"{cells[k]:>{w}s}" for k, w in COLUMNS.items()) + said


HEAD = f"{'method':{NAMES}s}" + "".join(f"{name:>{width}s}" for name, width in COLUMNS.items())


def _number(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:.10g}"


def _short(x: float, how: str = ".2g") -> str:
    return "" if math.isnan(x) else f"{x:{how}}"

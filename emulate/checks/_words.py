"""How findings speak: numbers, parameters and outputs as a scientist would write them."""

import math
from collections.abc import Iterable, Sequence
from typing import SupportsFloat

import numpy as np
from torch import Tensor

from emulate.runs import Outputs
from emulate.space import Space


def number(x: SupportsFloat) -> str:
    """Three significant digits, without an exponent where a plain number is as short.

    >>> number(0.0312), number(41234.0), number(float("nan"))
    ('0.0312', '41234', 'not a number')
    """
    x = float(x)
    if not math.isfinite(x):
        return "not a number" if math.isnan(x) else "infinite"
    return f"{x:.0f}" if 1e3 <= abs(x) < 1e7 else f"{x:.3g}"


def percent(x: SupportsFloat) -> str:
    """A share in percent: 0.0312 -> `3.12 %`."""
    return f"{number(100 * float(x))} %" if math.isfinite(x) else number(x)


def count(n: int, thing: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def listing(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def at(space: Space, theta: Tensor) -> str:
    """A point in words: `omega_m = 0.31, h = 0.7`, with units."""
    values = (f"{float(t):.4g}" if math.isfinite(t) else number(t) for t in theta)
    texts = (f"{p.name} = {v} {p.unit}".rstrip() for p, v in zip(space.parameters, values, strict=True))
    return ", ".join(texts)


def output(outputs: Outputs, j: int) -> str:
    """The j-th output in words: `pk at k = 0.1 h/Mpc`, or the field's name when it is a number."""
    for f in outputs.fields:
        if j < f.size:
            return f"{f.name} at {f.coordinate} = {f.at[j]:.4g} {f.at_unit}".rstrip() if f.at else f.name
        j -= f.size
    raise IndexError(j)


def unresolved(names: Sequence[str], error: np.ndarray, margin: float) -> str:
    """What a shift or a width within its bound does not say where two standard errors `[d]` exceed the margin; or nothing."""
    blurred, reach = ~(2 * error <= margin), 2 * error.max()
    if not blurred.any():
        return ""
    which = listing(n for n, b in zip(names, blurred, strict=True) if b)
    more = f"about {math.ceil(10 * (reach / margin) ** 2) / 10:g} times as many" if np.isfinite(reach) else "more"
    return (f" Cannot say more: for {which} two standard errors reach {number(reach)}, above the margin of {number(margin)} that "
            f"the bound leaves; {more} true runs would settle it.")  # fmt: skip


def lost(failed: int, expected: Tensor | None) -> str:
    """How many true runs failed, and how many were expected to: `5 true runs failed (4.2 expected)`; or nothing."""
    if not failed:
        return ""
    few = "" if expected is None else f" ({number((1 - expected).sum())} expected from where earlier runs failed)"
    return f"{count(failed, 'true run')} failed{few}"

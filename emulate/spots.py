"""Where f is least smooth along a line: suspicious triples of values, and the halving of an interval around one of them.

Where the second difference |f(t-w) - 2 f(t) + f(t+w)| is largest, the interval is halved over and over: it falls as w^2
where f is smooth, as w at a kink, and not at all at a jump, whatever the size, the scale and the noise of f.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from emulate.roughness import Lines

LEVELS = 28  # halvings of an interval: to 4e-9 of it


@dataclass(frozen=True)
class Spot:
    """Where a descent ended: the line, the interval [left, right] in t, the output, the size and sign of the second
    difference there, and how it fell: about 0 a jump, 1 a kink, 2 smooth."""

    line: int
    left: float
    right: float
    output: int
    size: float
    exponent: float

    @property
    def t(self) -> float:
        return (self.left + self.right) / 2


def candidates(y: Tensor, rounding: Tensor, *, every: bool = False) -> list[tuple[int, int, int]]:
    """(line, middle of the triple, output) of values `[lines, points, m]`, the most suspicious first: each output in turn,
    by the largest second difference of a line and, in turn with it, by what a line's second differences change from triple
    to triple, for a smooth bend may be large but is alike on both sides. One of each line; both suspicions with `every`."""
    second = (y[:, 2:] - 2 * y[:, 1:-1] + y[:, :-2]).nan_to_num(0.0)  # [lines, triples, m]
    uneven = (second[:, 1:] - second[:, :-1]).abs()
    uneven = torch.cat([uneven[:, :1], torch.minimum(uneven[:, 1:], uneven[:, :-1]), uneven[:, -1:]], 1)
    turns: list[tuple[int, int, int, int]] = []
    for output in range(y.shape[-1]):
        met: set[tuple[int, int]] = set()
        orders = []
        for suspicion in (second.abs(), uneven):
            best, at = suspicion[..., output].max(1)
            lines = best.argsort(descending=True, stable=True).tolist()
            orders.append([(x, int(at[x]) + 1) for x in lines if best[x] > rounding[output]])
        for both in zip_longest(*orders):
            for line, middle in (x for x in both if x is not None):
                if (spot := (line, middle if every else 0)) not in met:
                    met.add(spot)
                    turns.append((len(met), line, middle, output))
    return [(line, middle, output) for _, line, middle, output in sorted(turns, key=lambda x: x[0])]


def outliers(change: Tensor, rounding: Tensor, most: int = 4) -> list[tuple[int, int]]:
    """(line, output) of the changes `[lines, m]` over a small step that stand far out from what is typical."""
    size = change.abs().nan_to_num(0.0)
    ratio = size / (6 * size.median(0).values + rounding)
    found = []
    for output in range(change.shape[-1]):
        order = ratio[:, output].argsort(descending=True, stable=True).tolist()
        found += [(line, output) for line in order[:most] if ratio[line, output] > 1]
    return found


def descend(lines: Lines, line: int, t: tuple[float, float, float], y: tuple[Tensor, Tensor, Tensor], output: int,
            floor: float, enough: Callable[[float, int], bool] = lambda exponent, level: False) -> Spot:  # fmt: skip
    """Halves the interval towards the largest second difference of one output, down to rounding (`floor`)."""

    def bend(three: Sequence[Tensor]) -> float:
        return float(three[0][output] - 2 * three[1][output] + three[2][output])

    sizes = [x for x in [bend(y)] if x != 0]  # three values on a straight line, which the finer ones may leave
    for level in range(1, LEVELS + 1):
        middle = ((t[0] + t[1]) / 2, (t[1] + t[2]) / 2)
        a, b = (lines.at(line, s) for s in middle)
        places = (t[0], middle[0], t[1], middle[1], t[2])
        values = (y[0], a, y[1], b, y[2])
        bends = [abs(bend(values[k : k + 3])) for k in range(3)]
        k = max(range(3), key=lambda i: bends[i] if math.isfinite(bends[i]) else -1.0)
        size = bend(values[k : k + 3])
        if not math.isfinite(size) or abs(size) < floor:
            break
        t, y = (places[k], places[k + 1], places[k + 2]), (values[k], values[k + 1], values[k + 2])
        sizes.append(size)
        if enough(_falls(sizes), level):
            break
    return Spot(line, t[0], t[2], output, sizes[-1] if sizes else 0.0, _falls(sizes))


def _falls(sizes: list[float]) -> float:
    """The exponent of the last halvings; 2 where rounding left too few to tell."""
    if len(sizes) < 4:
        return 2.0
    back = min(5, len(sizes) - 1)
    return math.log2(abs(sizes[-1 - back]) / abs(sizes[-1])) / back

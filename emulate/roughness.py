"""How rough f is along lines through theta at fixed noise: typical differences at many widths, and the worst spot of a line.

A line is one replicate's noise and one direction. Where the second difference |f(t-w) - 2 f(t) + f(t+w)| is largest, the
interval is halved over and over: it falls as w^2 where f is smooth, as w at a kink, and not at all at a jump, whatever
the size, the scale and the noise of f. What is rough at every place, not at one, is chaotic or unsynchronised.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor

from emulate.noise import OWN, Noise, Place, Treatment, uniforms
from emulate.replication import Program, each

LEVELS = 28  # halvings of an interval: to 4e-9 of it
FAILED = (ValueError, ArithmeticError, RuntimeError)  # what a program may raise where theta is not allowed


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


class Spent(Exception):
    """All calls that were allowed are made."""


@dataclass
class Lines:
    """f along lines theta + t v_i: v_i a random direction in units of the scale (the axes first, if `axes`), and the noise
    of replicate i, or of replicate 0 for all where f is not random. `calls` counts evaluations of f, at most `most`."""

    f: Program
    theta: Tensor
    scale: Tensor
    seed: int
    most: int
    random: bool = True
    reach: float = 0.4
    calls: int = 0
    highest: Tensor | None = field(default=None, repr=False)  # [m] of |y| seen
    coarse: bool = True  # every value seen is one of single precision

    def _direction(self, u: Tensor) -> Tensor:
        if len(self.theta) == 1:
            return self.scale
        return self.scale * torch.where(u < 0.5, -1.0, 1.0) * (0.3 + 0.7 * (2 * u % 1))

    def direction(self, line: int) -> Tensor:
        """v `[d]` of a line."""
        d = len(self.theta)
        if not self.random and line < min(d, 8):
            return self.scale * torch.eye(d, dtype=self.theta.dtype)[line]
        return self._direction(uniforms(self.seed, Place(OWN + "direction"), (d,), range(line, line + 1))[0])

    def noise(self, line: int, treatment: Treatment | None = None) -> Noise:
        return Noise(self.seed, line if self.random else 0).again(treatment)

    def point(self, line: int, t: float) -> Tensor:
        return self.theta + t * self.direction(line)

    def spend(self, calls: int = 1) -> None:
        """Raises `Spent` where that many calls are not left."""
        if self.calls + calls > self.most:
            raise Spent
        self.calls += calls

    def at(self, line: int, t: float, treatment: Treatment | None = None) -> Tensor:
        """y `[m]`; NaN where f refuses to run there."""
        self.spend()
        with torch.no_grad():
            try:
                y = self.f(self.point(line, t), self.noise(line, treatment))
            except FAILED:
                if t == 0 or self.highest is None:
                    raise
                return torch.full_like(self.highest, torch.nan)
        return self._seen(y)

    def grid(self, lines: int, t: Sequence[float]) -> Tensor:
        """y `[lines, len(t), m]`, batched where f is random and allows it; NaN where f refuses to run."""
        if self.random:
            self.spend(lines * len(t) + len(t))

            def run(noise: Noise) -> Tensor:
                v = self._direction(noise.own("direction", (len(self.theta),)))
                return torch.stack([self.f(self.theta + s * v, noise.again()) for s in t])

            try:
                with torch.no_grad():
                    return self._seen(each(run, self.seed, lines).answer)
            except FAILED:
                self.calls -= lines * len(t)
        return torch.stack([torch.stack([self.at(line, s) for s in t]) for line in range(lines)])

    def _seen(self, y: Tensor) -> Tensor:
        y = (y.real if y.is_complex() else y).detach()
        self.coarse = self.coarse and (y.dtype != torch.float64 or torch.equal(y.float().double(), y))
        y = y.double()
        top = torch.where(y.isfinite(), y.abs(), 0.0).reshape(-1, y.shape[-1]).amax(0)
        self.highest = top if self.highest is None else torch.maximum(self.highest, top)
        return y

    @property
    def rounding(self) -> Tensor:
        """`[m]`: what rounding may make of a second difference."""
        eps = torch.finfo(torch.float32 if self.coarse else torch.float64).eps
        return 64 * eps * self.highest + 1e-300

    def shrink(self) -> None:
        """A reach within which f runs and is finite, on the first lines."""
        for _ in range(12):
            y = torch.stack([self.at(line, sign * self.reach) for line in range(3) for sign in (-1, 1)])
            if y.isfinite().all():
                return
            self.reach /= 4


@dataclass(frozen=True)
class Profile:
    """Typical |differences| at places of no choice: widths `[k]` as shares of the reach; first `[k, lines, m]`;
    second `[lines, m]` at 1e-5 of the reach, which is rounding unless f is rough everywhere."""

    widths: tuple[float, ...]
    first: Tensor
    second: Tensor

    def rough(self, rounding: Tensor) -> Tensor:
        """`[m]`: whether differences do not fall with the width at a typical place, down to 1e-6 of the reach."""
        typical = self.first.nanmedian(1).values
        fine = torch.stack([typical[i] for i, w in enumerate(self.widths) if 1e-7 < w < 1e-4]).amin(0)
        return (fine > 0.02 * typical.amax(0)) & (fine > rounding)

    def linear(self) -> bool:
        """Whether differences fall with the width at last: a derivative is there, however large."""
        typical = self.first.nanmedian(1).values.amax(-1)
        return bool(typical[-1] < 0.2 * typical[-2])


def profile(lines: Lines, count: int = 10) -> Profile:
    """Differences at one place of each of `count` lines, chosen by the seed."""
    widths = (1e-1, 1e-3, 1e-5, 1e-6, 1e-8, 1e-10)
    places = uniforms(lines.seed, Place(OWN + "place"), (), range(count)).tolist()
    first, second = [], []
    for line, u in enumerate(places):
        t, h = (2 * u - 1) * 0.9 * lines.reach, lines.reach
        middle = lines.at(line, t)
        right = [lines.at(line, t + w * h) for w in widths]
        first.append(torch.stack([(y - middle).abs() for y in right]))
        second.append((right[2] - 2 * middle + lines.at(line, t - widths[2] * h)).abs())
    return Profile(widths, torch.stack(first, 1), torch.stack(second).nan_to_num(0.0))


def exponent(change: Tensor, steps: Tensor, rounding: Tensor) -> list[float | None]:
    """The slope of ln Var[D(h)] in ln h, D(h) = (f(theta + h v) - f(theta)) / h under common random numbers, for each output;
    change `[lines, k, m]` = h D(h) at steps `[k]`. 0: smooth or kinked; -1: jumps; -2: another noise at every theta, or
    chaos. None where fewer than two steps moved f beyond rounding `[m]`."""
    variance = torch.stack([c[c.isfinite().all(-1)].var(0) for c in change.unbind(1)])  # [k, m]
    out: list[float | None] = []
    for j in range(change.shape[-1]):
        told = variance[:, j] > rounding[j].square()
        if told.sum() < 2:
            out.append(None)
            continue
        x, y = steps[told].log(), (variance[told, j] / steps[told].square()).log()
        out.append(float(((x - x.mean()) * y).sum() / (x - x.mean()).square().sum()))
    return out


def candidates(y: Tensor, rounding: Tensor) -> list[tuple[int, int, int]]:
    """(line, middle of the triple, output) of values `[lines, points, m]`, the most suspicious first: each output in turn,
    by the largest second difference of a line and, in turn with it, by what a line's second differences change from triple
    to triple, for a smooth bend may be large but is alike on both sides."""
    second = (y[:, 2:] - 2 * y[:, 1:-1] + y[:, :-2]).nan_to_num(0.0)  # [lines, triples, m]
    uneven = (second[:, 1:] - second[:, :-1]).abs()
    uneven = torch.cat([uneven[:, :1], torch.minimum(uneven[:, 1:], uneven[:, :-1]), uneven[:, -1:]], 1)
    turns: list[tuple[int, int, int, int]] = []
    for output in range(y.shape[-1]):
        met: set[int] = set()
        orders = []
        for suspicion in (second.abs(), uneven):
            best, at = suspicion[..., output].max(1)
            lines = best.argsort(descending=True, stable=True).tolist()
            orders.append([(x, int(at[x]) + 1) for x in lines if best[x] > rounding[output]])
        for both in zip_longest(*orders):
            for line, middle in (x for x in both if x is not None and x[0] not in met):
                met.add(line)
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

    sizes = [bend(y)]
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
        t, y = places[k : k + 3], values[k : k + 3]
        sizes.append(size)
        if enough(_falls(sizes), level):
            break
    return Spot(line, t[0], t[2], output, sizes[-1], _falls(sizes))


def _falls(sizes: list[float]) -> float:
    """The exponent of the last halvings; 2 where rounding left too few to tell."""
    if len(sizes) < 4:
        return 2.0
    back = min(5, len(sizes) - 1)
    return math.log2(abs(sizes[-1 - back]) / abs(sizes[-1])) / back

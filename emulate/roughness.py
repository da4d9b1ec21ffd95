"""How rough f is along lines through theta at fixed noise: typical differences at many widths.

A line is one replicate's noise and one direction. What is rough at every place is chaotic or unsynchronised; what is rough
at one place is looked for by `emulate.spots`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emulate.noise import OWN, Noise, Place, uniforms
from emulate.replication import Program, each

AXES = 8  # parameters up to which f is looked at along their axes
FAILED = (ValueError, ArithmeticError, RuntimeError)  # what a program may raise where theta is not allowed


class Spent(Exception):
    """All calls that were allowed are made."""


@dataclass
class Lines:
    """f along lines theta + t v_i: v_i a random direction in units of the scale (first the axes, where f is not random and
    they are few), and the noise of replicate i, or of replicate 0 for all where f is not random, which then runs once at a
    point. `calls` counts evaluations of f, at most `most`."""

    f: Program
    theta: Tensor
    scale: Tensor
    seed: int
    most: int
    random: bool = True
    reach: float = 0.4
    calls: int = 0
    highest: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)  # [m] of |y| seen
    coarse: bool = True  # every value seen is one of single precision
    known: dict[tuple[float, ...], Tensor] = field(
        default_factory=dict, repr=False
    )  # y by theta, where f is not random

    def _direction(self, u: Tensor) -> Tensor:
        if len(self.theta) == 1:
            return self.scale
        return self.scale * torch.where(u < 0.5, -1.0, 1.0) * (0.3 + 0.7 * (2 * u % 1))

    def direction(self, line: int) -> Tensor:
        """v `[d]` of a line."""
        d = len(self.theta)
        if not self.random and line < d <= AXES:
            return self.scale * torch.eye(d, dtype=self.theta.dtype)[line]
        return self._direction(uniforms(self.seed, Place(OWN + "direction"), (d,), range(line, line + 1))[0])

    def noise(self, line: int) -> Noise:
        return Noise(self.seed, line if self.random else 0).again()

    def point(self, line: int, t: float) -> Tensor:
        return self.theta + t * self.direction(line)

    @property
    def several(self) -> int:
        """How many lines there are to look along where f is not random: the axes and two askew, or askew ones alone."""
        return 1 if len(self.theta) == 1 else min(len(self.theta), AXES) + 2

    def spend(self, calls: int = 1) -> None:
        """Raises `Spent` where that many calls are not left."""
        if self.calls + calls > self.most:
            raise Spent
        self.calls += calls

    def at(self, line: int, t: float) -> Tensor:
        """y `[m]`; NaN where f refuses to run there."""
        point = self.point(line, t)
        if not self.random and (at := tuple(point.tolist())) in self.known:
            return self.known[at]
        self.spend()
        with torch.no_grad():
            try:
                y = self._seen(self.f(point, self.noise(line)))
            except FAILED:
                if t == 0 or not len(self.highest):
                    raise
                y = torch.full_like(self.highest, torch.nan)
        if not self.random:
            self.known[at] = y
        return y

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
        return torch.stack([self.along(line, t) for line in range(lines)])

    def along(self, line: int, t: Sequence[float]) -> Tensor:
        """y `[len(t), m]` of one line, one by one."""
        return torch.stack([self.at(line, s) for s in t])

    def _seen(self, y: Tensor) -> Tensor:
        y = (y.real if y.is_complex() else y).detach()
        self.coarse = self.coarse and (y.dtype != torch.float64 or torch.equal(y.float().double(), y))
        y = y.double()
        top = torch.where(y.isfinite(), y.abs(), 0.0).reshape(-1, y.shape[-1]).amax(0)
        self.highest = torch.maximum(self.highest, top) if len(self.highest) else top
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
        return self._level(self.first.nanmedian(1).values, rounding)

    def rough_somewhere(self, rounding: Tensor) -> Tensor:
        """`[m]`: whether they do not at one of the places at least."""
        return self._level(self.first, rounding).any(0)

    def _level(self, size: Tensor, rounding: Tensor) -> Tensor:
        fine = torch.stack([size[i] for i, w in enumerate(self.widths) if 1e-7 < w < 1e-4]).amin(0)
        return (fine > 0.02 * size.amax(0)) & (fine > rounding)

    def linear(self) -> bool:
        """Whether differences fall with the width at last: a derivative is there, however large."""
        typical = self.first.nanmedian(1).values.amax(-1)
        return bool(typical[-1] < 0.2 * typical[-2])


def profile(lines: Lines, count: int) -> Profile:
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

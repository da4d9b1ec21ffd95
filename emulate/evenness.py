"""A few runs that settle what is smooth: where f is not random, and a polynomial foretells its values along a line.

Values at 9, 17 or 33 places of a line are compared with the polynomial through every second of them, and at two more places
that the seed chooses with the polynomial through all. A smooth f is foretold to rounding, for the error falls
geometrically with the places (Trefethen 2013, ch. 8); a kink or a jump anywhere between them spoils it.
"""

import torch
from torch import Tensor

from emulate.contradictions import compare, slopes
from emulate.noise import OWN, Place, uniforms
from emulate.symptoms import Symptoms

STAGES = (9, 17, 33)  # places of a line
NEIGHBOURS = 9  # places that a polynomial goes through, the nearest
EVEN = 1e-6  # of what f varies over a line: what a polynomial may miss


def uneven(s: Symptoms) -> list[int]:
    """The lines along which f is not foretold. Where there are none, reverse mode is compared with the polynomials, and
    nothing is left to be read."""
    lines = s.lines
    told = [_told(s, line) for line in range(lines.several)]
    if odd := [line for line, (_, even) in enumerate(told) if not even]:
        return odd
    spread = torch.stack([y.amax(0) - y.amin(0) for y, _ in told])
    s.moving = spread.amax(0) > 0
    s.evidence.update(varies=(spread.median(0).values / 2).tolist(), places=sum(len(y) for y, _ in told))
    if (exact := slopes(s, lines.several)) is not None:
        best, error = zip(*(_slope(y, lines.reach, lines.rounding) for y, _ in told))
        compare(s, exact, torch.stack(best), torch.stack(error))
    return []


def _told(s: Symptoms, line: int) -> tuple[Tensor, bool]:
    """Values `[places, m]` along a line, as many as it took, and whether they were foretold."""
    lines = s.lines
    for places in STAGES:
        x = torch.linspace(-1.0, 1.0, places, dtype=torch.float64)
        y = lines.along(line, (x * lines.reach).tolist())
        if not y.isfinite().all():
            return y, False
        if _misses(lines.rounding, x[::2], y[::2], x[1::2], y[1::2]):
            continue
        at = 1.8 * uniforms(lines.seed, Place(OWN + "foretold"), (2,), range(line, line + 1))[0] - 0.9
        more = lines.along(line, (at * lines.reach).tolist())
        if not _misses(lines.rounding, x, y, at, more):
            return y, True
    return y, False


def _misses(rounding: Tensor, x: Tensor, y: Tensor, at: Tensor, met: Tensor) -> bool:
    """Whether the polynomials through y `[k, m]` at x `[k]` miss what was met `[l, m]` at other places."""
    allowed = torch.maximum(rounding, EVEN * (y.amax(0) - y.amin(0)))
    foretold = torch.stack([_interpolated(x, y, float(t)) for t in at])
    return not bool(((foretold - met).abs() <= allowed).all())


def _interpolated(x: Tensor, y: Tensor, t: float) -> Tensor:
    """The polynomial through the nearest places, at t: Lagrange."""
    near = (x - t).abs().argsort(stable=True)[:NEIGHBOURS]
    x, y = x[near], y[near]
    apart = x[:, None] - x + torch.eye(len(x), dtype=x.dtype)
    gaps = (t - x).expand(len(x), -1) + torch.diag(1 - (t - x))
    return (gaps / apart).prod(1) @ y


def _slope(y: Tensor, reach: float, rounding: Tensor) -> tuple[Tensor, Tensor]:
    """The slope `[m]` in the middle of a line, by central differences of order 8, and what it may be wrong by: how far
    those of order 6 are off."""
    middle, h = len(y) // 2, 2 * reach / (len(y) - 1)
    pairs = torch.stack([(y[middle + k] - y[middle - k]) / h for k in (1, 2, 3, 4)])
    eight, six = (
        torch.tensor(c, dtype=y.dtype) @ pairs
        for c in ((4 / 5, -1 / 5, 4 / 105, -1 / 280), (3 / 4, -3 / 20, 1 / 60, 0))
    )
    return eight, (eight - six).abs() + 2 * rounding / h

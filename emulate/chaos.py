r"""How fast errors grow in a simulation that goes step by step, and how long the derivative of a run is of use.

A small error grows as exp(lambda_1 t), lambda_1 the largest Lyapunov exponent, and so does the derivative of a run, while the
average over many runs responds by a finite amount. The mean over n runs of the derivative has an error that grows alike: past
a horizon of about

    t* = t_0 + ln(n^1/2 |slope of the average| / scatter of the derivative at t_0) / lambda_1

it says nothing (Lea, Allen and Haine 2000), and n must grow as exp(2 lambda_1 t). What is left are windows shorter than that
(`emulate.gradients.window`, `ensemble`), whose bias is what they miss, and inference that asks for no derivative
(`emulate.amortised`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from emulate.dynamics import Trajectory, trajectory
from emulate.errors import InputError
from emulate.noise import Noise
from emulate.replication import each, lift


@dataclass(frozen=True)
class Exponents:
    """Lyapunov exponents `[n]`, the largest first, for each unit of time; their standard error `[n]` over members."""

    values: Tensor
    standard_error: Tensor

    @property
    def largest(self) -> float:
        return float(self.values[0])

    @property
    def sum(self) -> float:
        """The rate at which volumes grow: the mean divergence of the flow."""
        return float(self.values.sum())

    @property
    def dimension(self) -> float:
        """Of the attractor, after Kaplan and Yorke (1979): how many exponents have a sum above 0, with the share of the next."""
        total = self.values.cumsum(0)
        k = int((total >= 0).long().cumprod(0).sum())
        if k in (0, len(total)):
            return float(k)
        return k + float(total[k - 1] / self.values[k].abs())


def exponents(f: Any, theta: Tensor, *, interval: float = 1.0, members: int = 8, spread: float = 0.0, spinup: int = 0,
              every: int = 5, count: int | None = None, seed: int = 0) -> Exponents:  # fmt: skip
    """All exponents, or the `count` largest, of the steps of a `Trajectory` at theta `[d]`, by a frame of tangents that is made
    orthogonal every few steps (Benettin et al. 1980).

    interval: the time of one step. members: runs, whose starts differ by `spread` of their size and by the noise of f, and
    which are run `spinup` steps first. The first third of the steps turns the frames to their directions and is not counted.

    >>> henon = lambda theta, s, k, noise: torch.stack([1 - theta[0] * s[0] ** 2 + s[1], 0.3 * s[0]])
    >>> f = Trajectory(lambda theta: torch.tensor([0.1, 0.1]).double(), henon, 1500, lambda theta, s: s)
    >>> found = exponents(f, torch.tensor([1.4], dtype=torch.float64), spread=0.1, spinup=50)
    >>> bool(abs(found.largest - 0.42) < 0.02), round(found.sum, 6) == round(math.log(0.3), 6)
    (True, True)
    """
    f, theta = trajectory(lift(f), "exponents"), theta.detach().double()
    if every < 1 or members < 1 or f.steps < 3:
        raise InputError(f"exponents must be given at least 3 steps, one member, and a frame that is made orthogonal every 1 or "
                         f"more steps. Got {f.steps}, {members} and {every}.")  # fmt: skip
    settled = f.steps // 3 // every * every
    frames = _orthogonal(f.start(theta).numel())[:count]

    def run(noise: Noise) -> Tensor:
        state = _begun(f, theta, noise, spread, spinup)
        frame, grown = frames, state.new_zeros(len(frames))
        for k in range(f.steps):
            state, moved = _pushed(
                lambda s, k=k: f.step(theta, s, k, noise), (state,), (frame.reshape(-1, *state.shape),)
            )
            frame = moved.flatten(1)
            if (k + 1) % every == 0 or k + 1 == f.steps:
                q, r = torch.linalg.qr(frame.mT)
                frame = q.mT
                grown = grown + (k >= settled) * r.diagonal(dim1=-2, dim2=-1).abs().clamp(min=1e-300).log()
        return grown / ((f.steps - settled) * interval)

    found = _members(run, seed, members, scattered=spread > 0)
    error = found.std(0) / math.sqrt(len(found)) if len(found) > 1 else torch.full_like(found[0], torch.nan)
    values, order = found.mean(0).sort(descending=True)
    return Exponents(values, error[order])


@dataclass(frozen=True)
class Growth:
    """The derivatives of members' runs against their length: time `[k]` after each step, slopes `[members, k, m, d]` of the
    outputs by theta there."""

    time: Tensor
    slopes: Tensor

    @property
    def mean(self) -> Tensor:
        """`[k, m, d]`: the derivative of the mean over starts, as far as so many members tell it."""
        return self.slopes.mean(0)

    @property
    def scatter(self) -> Tensor:
        """`[k, m, d]`: the standard deviation of one member."""
        return self.slopes.std(0)

    @property
    def norm(self) -> Tensor:
        """`[k]`: the norm of a member's derivative, its median over members."""
        return torch.linalg.vector_norm(self.slopes, dim=(-2, -1)).median(0).values

    def averaged(self) -> "Growth":
        """Of the outputs averaged over all steps so far."""
        count = torch.arange(1, len(self.time) + 1, dtype=self.slopes.dtype)
        return replace(self, slopes=self.slopes.cumsum(1) / count[:, None, None])

    def measured(self, response: Tensor, n: int = 1) -> Tensor:
        """`[m, d]`: the length at which the standard error of the mean of n members passes the size of what is to be found,
        response `[m, d]`; infinite where that is past the last step."""
        noise, signal = self.scatter / math.sqrt(n), response.abs()
        above = (noise > signal).long().flip(0).cumprod(0).flip(0).bool()  # and stays there
        first = above.long().argmax(0)
        before = (first - 1).clamp(min=0)
        low, high = (noise.gather(0, i[None])[0].clamp(min=1e-300).log() for i in (before, first))
        share = torch.where(first > 0, (signal.log() - low) / (high - low), 1.0).clamp(0, 1)
        return torch.where(above.any(0), self.time[before] + share * (self.time[first] - self.time[before]), torch.inf)

    def predicted(self, response: Tensor, exponent: float, n: int = 1, *, start: float | None = None) -> Tensor:
        """`[m, d]`: the same, foretold from the scatter after one Lyapunov time, or at `start`, and the largest exponent."""
        if not exponent > 0:
            return torch.full_like(response, torch.inf)
        k = int((self.time - (1 / exponent if start is None else start)).abs().argmin())
        return self.time[k] + (math.sqrt(n) * response.abs() / self.scatter[k]).log() / exponent


def growth(f: Any, theta: Tensor, *, interval: float = 1.0, members: int = 100, spread: float = 0.0, spinup: int = 0,
           seed: int = 0) -> Growth:  # fmt: skip
    """The derivatives by theta `[d]` of the readout after each step of a `Trajectory`, carried along with the runs of many
    members, each spun up without derivative as in `emulate.gradients.ensemble`. The readout is of one state: f has no `at`.

    >>> f = Trajectory(lambda theta: torch.tensor([0.3]).double(), lambda theta, x, k, noise: theta * x * (1 - x), 30,
    ...                lambda theta, x: x)
    >>> found = growth(f, torch.tensor([4.0], dtype=torch.float64), spread=0.1, spinup=20)
    >>> bool(abs(found.norm[5:].log().diff().mean() - math.log(2)) < 0.1)  # its exponent is ln 2
    True
    """
    f, theta = trajectory(lift(f), "growth"), theta.detach().double()
    if f.at:
        raise InputError("growth must be given a Trajectory whose readout is of one state. Got one with `at`; leave it out, and "
                         "take `averaged` of what is found.")  # fmt: skip
    axes = torch.eye(len(theta), dtype=theta.dtype)

    def run(noise: Noise) -> Tensor:
        state = _begun(f, theta, noise, spread, spinup)
        tangents = state.new_zeros(len(theta), *state.shape)
        if not spinup:
            tangents = _pushed(f.start, (theta,), (axes,))[1]
        found = []
        for k in range(f.steps):
            state, tangents = _pushed(lambda t, s, k=k: f.step(t, s, k, noise), (theta, state), (axes, tangents))
            found.append(
                _pushed(lambda t, s: torch.atleast_1d(f.readout(t, s)), (theta, state), (axes, tangents))[1].mT
            )
        return torch.stack(found)

    slopes = _members(run, seed, members, scattered=spread > 0)
    return Growth(interval * torch.arange(1, f.steps + 1, dtype=slopes.dtype), slopes)


def _members(run: Callable[[Noise], Tensor], seed: int, n: int, *, scattered: bool) -> Tensor:
    """`[n, ...]`: the runs of n members; one where nothing is drawn, for all were the same."""
    if not scattered:
        one = each(run, seed, 1)
        if not one.record.shapes and not one.record.opaque:
            return one.answer
    return each(run, seed, n).answer


def _begun(f: Trajectory, theta: Tensor, noise: Noise, spread: float, spinup: int) -> Tensor:
    """The start of a member after its spin-up, whose steps are numbered below 0."""
    state = f.start(theta).detach()
    if spread:
        size = torch.where(state == 0, 1.0, state.abs())
        state = state + spread * size * torch.special.ndtri(noise.own("start", tuple(state.shape)))
    for k in range(-spinup, 0):
        state = f.step(theta, state, k, noise)
    return state


def _orthogonal(n: int) -> Tensor:
    """A frame `[n, n]` along no axis, which a flow may keep apart from the others."""
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]


def _pushed(step: Callable[..., Tensor], at: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """step(*at), and its derivative along each row of the tangents.

    By two reverse passes, as J^T u is linear in u (Townsend 2017): torch's forward mode costs ten times as much here.
    """
    y, pull, *_ = torch.func.vjp(step, *at)
    _, push, *_ = torch.func.vjp(pull, torch.zeros_like(y))
    return y, torch.func.vmap(lambda *v: push(v)[0])(*tangents)

"""What adjoints of step-by-step simulations share: the sweep back through the stored states."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from emulate.dynamics import Trajectory
from emulate.gradients._sites import Reads, Watch
from emulate.noise import Noise
from emulate.replication import Replicates, each


class Swept(NamedTuple):
    """y `[m]`; slope `[m, d]`: dy/dtheta; windows `[w, m, d]` that it is the sum of, the last steps first; growth `[w]`: the
    norm that an adjoint of norm 1 at the end of a window has at its begin, NaN where none was sent along."""

    y: Tensor
    slope: Tensor
    windows: Tensor
    growth: Tensor


def sweep(f: Trajectory, theta: Tensor, noise: Noise, *, length: int = 0, spinup: int = 0, probe: bool = False,
          moved: Callable[[Tensor], Tensor] | None = None) -> Swept:  # fmt: skip
    """Forward, keeping states; then backward by the vector-Jacobian product of one step at a time.

    With lambda_k = dy/dstate_k: lambda_(k-1) = lambda_k dstep/dstate + what the readout sees of state_(k-1), and
    dy/dtheta = sum_k lambda_k dstep_k/dtheta + dreadout/dtheta + lambda_0 dstart/dtheta.

    length: steps after which, counted from the end, lambda is set to zero; 0: never. spinup: steps before the first,
    numbered below 0, that carry no derivative, nor does then the start. moved: changes the start. probe: send an adjoint
    of norm 1 along, to see it grow.
    """
    begin = f.start(theta).detach()
    begin = begin if moved is None else moved(begin)
    for k in range(-spinup, 0):
        begin = f.step(theta, begin, k, noise).detach()
    states, marks = [begin], []
    for k in range(f.steps):
        marks.append(noise.resumed())
        states.append(f.step(theta, states[-1], k, noise))
    seen = f.at or (f.steps,)

    def read(t: Tensor, *of: Tensor) -> Tensor:
        return torch.atleast_1d(f.readout(t, torch.stack(of) if f.at else of[0]))

    y, pull, *_ = torch.func.vjp(read, theta, *(states[k] for k in seen))
    direct, *outputs = rows(pull, torch.eye(len(y), dtype=y.dtype))
    m, given = len(y), dict(zip(seen, outputs))
    blank = torch.zeros_like(outputs[0])
    if probe:
        unit = torch.full_like(blank[:1], blank[0].numel() ** -0.5)
        blank, given = torch.cat([blank, unit]), {k: torch.cat([of, 0 * unit]) for k, of in given.items()}
    windows, growth, adjoint, slope = [], [], blank, torch.zeros_like(direct)
    for k in range(f.steps, 0, -1):
        adjoint = adjoint + given[k] if k in given else adjoint
        _, pull, *_ = torch.func.vjp(
            lambda t, s, k=k: f.step(t, s, k - 1, marks[k - 1].resumed()), theta, states[k - 1]
        )
        of_theta, adjoint = rows(pull, adjoint)
        slope = slope + of_theta[:m]
        if length and k > 1 and (f.steps - k + 1) % length == 0:
            windows.append(slope)
            growth.append(adjoint[m:].norm())
            adjoint, slope = blank, torch.zeros_like(slope)
    growth.append(adjoint[m:].norm() if probe else y.new_full((), torch.nan))
    adjoint = adjoint[:m] + (given[0][:m] if 0 in given else 0)
    if not spinup:
        _, pull, *_ = torch.func.vjp(f.start, theta)
        slope = slope + rows(pull, adjoint)[0]
    parts = torch.stack([*windows, slope])
    parts = parts + direct / len(parts)
    return Swept(y, parts.sum(0), parts, torch.stack(growth))


def replicated(run: Callable[[Noise], Swept], seed: int, n: int) -> Replicates:
    """The sweeps of n replicates, at least 2; of one where nothing is drawn, for all were the same."""
    one = each(run, seed, 1)
    if not one.record.opaque and not one.record.shapes:
        return one
    made = each(run, seed, max(n, 2))
    return Replicates(made.answer, made.record, made.calls + one.calls, made.alone)


def watched(f: Trajectory, seen: Reads, *, along: bool) -> Trajectory:
    """f, with what its parts ask of states in `seen`. Each step is held against the same of other replicates, or `along` the
    run against the first one too, which counts where steps are averaged over."""

    def step(theta: Tensor, state: Tensor, k: int, noise: Noise) -> Tensor:
        with Watch(seen, "step" if along else k):
            return f.step(theta, state, k, noise)

    def readout(theta: Tensor, states: Tensor) -> Tensor:
        with Watch(seen, "readout"):
            return f.readout(theta, states)

    return replace(f, step=step, readout=readout)


def told(growth: Tensor, steps: int) -> dict[str, float]:
    """`growth`, the geometric mean over windows and replicates, and `exponent`, its logarithm for each step, as diagnostics."""
    exponent = float(growth.clamp(min=1e-300).log().mean()) / steps
    return {"growth": math.exp(exponent * steps), "exponent": exponent}


def rows(pull: Callable[[Tensor], Any], adjoint: Tensor) -> tuple[Tensor, ...]:
    """pull of each row `[m, ...]`; one output needs no batch, which doubles the cost of a small step."""
    if len(adjoint) == 1:
        return tuple(one[None] for one in pull(adjoint[0]))
    return torch.func.vmap(pull)(adjoint)

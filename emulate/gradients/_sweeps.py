"""What adjoints of step-by-step simulations share: the sweep back through the stored states."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emulate.dynamics import Trajectory
from emulate.noise import Noise


@dataclass(frozen=True)
class Swept:
    """y `[m]`; dy/dtheta `[m, d]`; windows `[w, m, d]` that it is the sum of, the last steps first; growth `[w]`: the
    adjoint's norm at the begin of each window over its largest one from the outputs there, 0 where no output is."""

    y: Tensor
    slope: Tensor
    windows: Tensor
    growth: Tensor


def sweep(f: Trajectory, theta: Tensor, noise: Noise, *, length: int = 0, spinup: int = 0,
          moved: Callable[[Tensor], Tensor] | None = None) -> Swept:  # fmt: skip
    """Forward, keeping states; then backward by the vector-Jacobian product of one step at a time.

    With lambda_k = dy/dstate_k: lambda_(k-1) = lambda_k dstep/dstate + what the readout sees of state_(k-1), and
    dy/dtheta = sum_k lambda_k dstep_k/dtheta + dreadout/dtheta + lambda_0 dstart/dtheta.

    length: steps after which, counted from the end, lambda is set to zero; 0: never. spinup: steps before the first,
    keyed as steps of their own, that carry no derivative, nor does then the start. moved: changes the start.
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

    y, pull = torch.func.vjp(read, theta, *(states[k] for k in seen))
    direct, *outputs = rows(pull, torch.eye(len(y), dtype=y.dtype))
    given = dict(zip(seen, outputs))
    windows, growth = [], []
    adjoint, slope, top = torch.zeros_like(outputs[0]), torch.zeros_like(direct), y.new_zeros(())
    for k in range(f.steps, 0, -1):
        if k in given:
            adjoint = adjoint + given[k]
            top = torch.maximum(top, adjoint.norm())
        _, pull = torch.func.vjp(lambda t, s, k=k: f.step(t, s, k - 1, marks[k - 1].resumed()), theta, states[k - 1])
        of_theta, adjoint = rows(pull, adjoint)
        slope = slope + of_theta
        if length and k > 1 and (f.steps - k + 1) % length == 0:
            windows.append(slope)
            growth.append(_ratio(adjoint, top))
            adjoint, slope, top = torch.zeros_like(adjoint), torch.zeros_like(slope), torch.zeros_like(top)
    growth.append(_ratio(adjoint, top))
    if 0 in given:
        adjoint = adjoint + given[0]
    if not spinup:
        _, pull = torch.func.vjp(f.start, theta)
        slope = slope + rows(pull, adjoint)[0]
    parts = torch.stack([*windows, slope])
    parts = parts + direct / len(parts)
    return Swept(y, parts.sum(0), parts, torch.stack(growth))


def _ratio(adjoint: Tensor, top: Tensor) -> Tensor:
    return torch.where(top > 0, adjoint.norm() / torch.where(top > 0, top, 1.0), 0.0)


def rows(pull: Callable[[Tensor], Any], adjoint: Tensor) -> tuple[Tensor, ...]:
    """pull of each row `[m, ...]`; one output needs no batch, which doubles the cost of a small step."""
    if len(adjoint) == 1:
        return tuple(one[None] for one in pull(adjoint[0]))
    return torch.func.vmap(pull)(adjoint)

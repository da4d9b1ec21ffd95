"""Reverse mode of a trajectory in the memory of its square root: each segment is run again when its turn comes."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from emulate.contracts import Estimate, Gradient
from emulate.dynamics import Trajectory, trajectory
from emulate.errors import InputError
from emulate.gradients._averages import averaged
from emulate.gradients._lost import Noted
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import lift


@dataclass(frozen=True, kw_only=True)
class Checkpointed(Gradient):
    """Reverse mode with checkpoints: the graph of one segment at a time, O(sqrt(steps)) memory for twice the forward work.

    The forward run keeps the state at the start of every segment; backwards, each segment is run again from there with
    its graph, under the same noise (Griewank & Walther 2000; Chen et al. 2016 for the square root). f must be an
    `emulate.dynamics.Trajectory`. The gradient is that of reverse to rounding. Use it where reverse runs out of memory.
    A hard decision on a state, and a draw from a list that depends on one, make the bias unknown (NaN).

    >>> from emulate.dynamics import Trajectory
    >>> decay = Trajectory(lambda theta: torch.ones_like(theta), lambda theta, y, k, noise: y - 0.1 * theta * y**2, 10,
    ...                    lambda theta, y: y)
    >>> Checkpointed().estimate(decay, torch.tensor([1.0], dtype=torch.float64), seed=0).gradient
    tensor([[-0.2634]], dtype=torch.float64)
    """

    needs: ClassVar[tuple[str, ...]] = ("dynamics",)
    exact: ClassVar[bool] = True
    segment: Annotated[int, Ge(0)] = 0  # steps whose graph is held at once; 0: the root of all

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        path, theta = trajectory(lift(f), "checkpointed"), theta.detach().double()
        ends = _ends(path, self.segment or math.ceil(math.sqrt(path.steps)))
        lost = Noted()
        with Meter() as meter:
            runs = [_differentiate(path, theta, Noise(seed, i).again(lost), ends) for i in range(n)]
            values, slopes = (torch.stack(of) for of in zip(*runs, strict=True))
            if n > 1:
                random = not bool((values == values[0]).all()) or not bool((slopes == slopes[0]).all())
            else:
                with torch.no_grad():
                    random = not torch.equal(lift(path)(theta, Noise(seed, 1)).to(values), values[0])
        figures = {"segments": len(ends), "lost": sorted(lost.places)}
        return averaged(values, slopes, random=random, calls=2 * n + (n == 1), meter=meter,
                        bias_bound=lost.bias_bound(slopes), diagnostics=figures)  # fmt: skip


def _ends(path: Trajectory, length: int) -> list[int]:
    """The steps after which a segment ends: as long as asked for, and cut where the readout looks."""
    return sorted({*range(length, path.steps, length), *(k for k in path.at if k), path.steps})


def _differentiate(path: Trajectory, theta: Tensor, noise: Noise, ends: list[int]) -> tuple[Tensor, Tensor]:
    """y `[m]` and dy/dtheta `[m, d]`."""
    starts = [0, *ends[:-1]]
    checkpoints, seen = [], []
    with torch.no_grad():
        state = path.start(theta)
        seen += [state] if 0 in path.at else []
        for first, last in zip(starts, ends):
            checkpoints.append((state, noise.resumed()))
            state = path.segment(theta, state, range(first, last), noise)
            seen += [state] if last in path.at else []
    looked = torch.stack(seen) if path.at else state
    del seen, state
    y, slopes, pull, read = _pull(lambda t, s: torch.atleast_1d(path.readout(t, s)), theta, looked)
    m, reached = len(y), read
    adjoint = torch.zeros(m, *looked.shape[1:], dtype=looked.dtype) if path.at else pull

    def told(k: int) -> Tensor:
        """What the readout says of the state after k steps."""
        return pull[:, path.at.index(k)] if k in path.at else torch.zeros((), dtype=pull.dtype)

    for first, last in zip(reversed(starts), reversed(ends)):
        adjoint = adjoint + told(last)
        state, again = checkpoints.pop()
        of = range(first, last)
        _, more, adjoint, read = _pull(
            lambda t, s, of=of, again=again: path.segment(t, s, of, again), theta, state, adjoint
        )
        slopes, reached = slopes + more, reached or read
    adjoint = adjoint + told(0)
    _, more, _, read = _pull(lambda t, s: path.start(t), theta, adjoint[0], adjoint)
    if not (reached or read):
        raise InputError("f must carry a torch graph from theta to its output. Got an output without one; use "
                         "finite_difference, or write the steps in torch without detach, item or numpy.")  # fmt: skip
    return y.double(), slopes + more


def _pull(
    part: Any, theta: Tensor, state: Tensor, adjoint: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """y = part(theta, state); the pullbacks `[m, d]` and `[m, *state.shape]` of the adjoint `[m, *y.shape]` (of every
    entry of y where there is none); and whether y reads theta at all."""
    theta, state = theta.detach().requires_grad_(), state.detach().requires_grad_()
    with torch.enable_grad():
        y = part(theta, state)
    rows = torch.eye(len(y), dtype=y.dtype) if adjoint is None else adjoint
    if not y.requires_grad:
        return (
            y.detach(),
            torch.zeros(len(rows), len(theta), dtype=theta.dtype),
            rows.new_zeros(len(rows), *state.shape),
            False,
        )
    pulled = [torch.autograd.grad(y, (theta, state), row, retain_graph=True, allow_unused=True) for row in rows[:-1]]
    pulled.append(torch.autograd.grad(y, (theta, state), rows[-1], allow_unused=True))
    by_theta, by_state = (
        torch.stack([torch.zeros_like(x) if g is None else g for g in of])
        for x, of in zip((theta, state), zip(*pulled, strict=True))
    )
    return y.detach(), by_theta, by_state, any(g is not None for g, _ in pulled)

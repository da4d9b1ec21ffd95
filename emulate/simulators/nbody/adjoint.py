"""The derivative of a simulation by reverse mode: through time run backwards, through checkpoints, or through a record.

All three give the same forward bits. "reversed" keeps the last positions and velocities only: on the way back a step
is undone and its force found again, so memory does not depend on the number of steps.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from emulate.simulators.nbody.gravity import Gravity, acceleration
from emulate.simulators.nbody.integrator import Steps, evolve

__all__ = ["ADJOINTS", "Evolution"]

Evolution = Callable[[Tensor, Tensor, Steps, Gravity], tuple[Tensor, Tensor]]  # x, v [3, N] at the start -> at the end


def _stored(x: Tensor, v: Tensor, table: Steps, gravity: Gravity) -> tuple[Tensor, Tensor]:
    """A record of every step: its positions and potential, about 100 bytes per particle and step in float32."""
    return evolve(x, v, table, functools.partial(acceleration, gravity=gravity))


def _checkpointed(x: Tensor, v: Tensor, table: Steps, gravity: Gravity) -> tuple[Tensor, Tensor]:
    """A record of one segment of sqrt(q) kicks at a time, begun from the positions and velocities kept before it."""
    count = len(table.kick)
    length = math.ceil(math.sqrt(count))
    still = torch.zeros_like(table.drift[:1])
    for i in range(0, count, length):
        j = min(i + length, count)
        first = table.drift[:1] if i == 0 else still
        part = (torch.cat((first, table.drift[i + 1 : j + 1])), table.keep[i:j], table.kick[i:j])

        def segment(x: Tensor, v: Tensor, drift: Tensor, keep: Tensor, kick: Tensor) -> tuple[Tensor, Tensor]:
            return _stored(x, v, replace(table, drift=drift, keep=keep, kick=kick), gravity)

        x, v = checkpoint(segment, x, v, *part, use_reentrant=False, preserve_rng_state=False)
    return x, v


def _reversed(x: Tensor, v: Tensor, table: Steps, gravity: Gravity) -> tuple[Tensor, Tensor]:
    """Nothing but the end, and time run backwards from there."""
    return _Reversed.apply(x, v, table.drift, table.keep, table.kick, table, gravity)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, v: Tensor, drift: Tensor, keep: Tensor, kick: Tensor, table: Steps, gravity: Gravity):
        return _stored(x, v, replace(table, drift=drift, keep=keep, kick=kick), gravity)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, _, drift, keep, kick, _, ctx.gravity = inputs
        ctx.save_for_backward(*output, drift, keep, kick)

    @staticmethod
    @once_differentiable
    def backward(ctx, gx: Tensor, gv: Tensor):
        r"""Undo a step and carry the cotangents over it, last step first.

        With x_1 = x + h v_1, v_1 = alpha v + beta A(x), and (g, w) the cotangents of (x_1, v_1):

            w += h g,   g += beta w^T dA/dx,   w <- alpha w,   dh = g . v_1,   dbeta = w . A,   dalpha = w . v
        """
        end_x, end_v, *numbers = ctx.saved_tensors
        drift, keep, kick = (t.to(end_x) for t in numbers)
        grads = [torch.zeros_like(t) for t in numbers]
        n = ctx.gravity.mesh.particles
        # these four live through all steps: changed in place, they leave the memory between them as it was
        x, v, gx, gv = end_x.clone(), end_v.clone(), gx.clone(), gv.clone()
        for i in reversed(range(len(kick))):
            x.addcmul_(-drift[i + 1], v)
            grads[0][i + 1] = _dot(gx, v, n)
            gv.addcmul_(drift[i + 1], gx)
            A, pulled = ctx.gravity.pull(x, gv)
            v.addcmul_(-kick[i], A).div_(keep[i])
            grads[1][i], grads[2][i] = _dot(gv, v, n), _dot(gv, A, n)
            gx.addcmul_(kick[i], pulled)
            gv.mul_(keep[i])
            del A, pulled
        grads[0][0] = _dot(gx, v, n)
        gv.addcmul_(drift[0], gx)
        return gx, gv, *grads, None, None


def _dot(a: Tensor, b: Tensor, n: int) -> Tensor:
    """Inner product, rows of n^2 summed in float64, so that the order of no sum depends on the number of threads."""
    return (a * b).view(3 * n, -1).sum(1).sum(dtype=torch.float64)


ADJOINTS: dict[str, Evolution] = {"reversed": _reversed, "checkpointed": _checkpointed, "stored": _stored}

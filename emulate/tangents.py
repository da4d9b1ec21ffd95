"""J v and J^T w of a program at a point: forward mode, reverse mode, and forward mode made of two reverse passes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from emulate import backward
from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import lift

Map = Callable[[Tensor], Tensor]  # theta [d] -> y [m]
_NO_GRAPH = ("f must carry a torch graph from theta to its output. Got an output without one; give its derivative by hand, or "
             "write f in torch without detach, item or numpy.")  # fmt: skip
ONE_WAY = (
    "f must have a forward mode, or a backward pass that can be differentiated"  # what an adjoint of one's own lacks
)


def forward(f: Map, theta: Tensor, v: Tensor) -> tuple[Tensor, bool]:
    """J v `[m]`, and whether by dual numbers: an operation that has no forward mode takes `twice` instead.

    >>> forward(lambda t: t**2, torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0]))
    (tensor([6., 0.]), True)
    """
    try:
        with forward_ad.dual_level():
            y, change = forward_ad.unpack_dual(f(forward_ad.make_dual(theta.detach(), v)))
    except (RuntimeError, NotImplementedError) as e:
        try:
            return twice(f, theta, v), False
        except RuntimeError:
            raise InputError(f"{ONE_WAY}. Got neither: {str(e).rstrip('.')}. Give J v by hand as `jvp`.") from e
    return torch.zeros_like(y) if change is None else change.detach(), True


def reverse(f: Map, theta: Tensor, w: Tensor) -> Tensor:
    """J^T w `[d]`, by one backward pass."""
    y, leaf = _traced(f, theta)
    return torch.autograd.grad(y, leaf, w.to(y), allow_unused=True, materialize_grads=True)[0]


def rows(f: Map, theta: Tensor) -> Tensor:
    """J `[m, d]`, by backward passes of up to 16 outputs at once."""
    y, leaf = _traced(f, theta)
    return backward.rows(y, leaf)


def twice(f: Map, theta: Tensor, v: Tensor) -> Tensor:
    """J v `[m]` by two backward passes: J^T u is linear in u, so its derivative along v is J v (Townsend 2017)."""
    y, leaf = _traced(f, theta)
    u = torch.zeros_like(y, requires_grad=True)
    (pulled,) = torch.autograd.grad(y, leaf, u, create_graph=True, allow_unused=True, materialize_grads=True)
    if not pulled.requires_grad:  # theta is not in it
        return torch.zeros_like(y)
    return torch.autograd.grad(pulled, u, v.to(pulled))[0].detach()


def _traced(f: Map, theta: Tensor) -> tuple[Tensor, Tensor]:
    leaf = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        y = f(leaf)
    if not y.requires_grad:
        raise InputError(_NO_GRAPH)
    return y, leaf


@dataclass(frozen=True, kw_only=True)
class Tangents(Gradient):
    """Forward mode of torch, one pass for each parameter: what reverse mode is held against; exact for every seed.

    An operation without a forward mode is passed by two reverse passes. Averages over n replicates, as `reverse` does.

    >>> theta = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> Tangents().estimate(lambda t, seed: t**2, theta, seed=0).gradient
    tensor([[2., 0.],
            [0., 4.]], dtype=torch.float64)
    """

    needs: ClassVar[tuple[str, ...]] = ("graph",)
    exact: ClassVar[bool] = True

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        with Meter() as meter:
            with torch.no_grad():
                values = torch.stack([f(theta, Noise(seed, i)).double() for i in range(max(n, 2))])
            slopes = torch.stack([torch.stack([forward(lambda t, i=i: f(t, Noise(seed, i)), theta, e)[0].double()
                                               for e in torch.eye(len(theta), dtype=theta.dtype)], -1)
                                  for i in range(n)])  # fmt: skip
        constant = n == 1 and torch.equal(values[0], values[1])
        error = slopes.std(0) / math.sqrt(n) if n > 1 else torch.full_like(slopes[0], 0.0 if constant else math.nan)
        return Estimate(values[:n].mean(0), slopes.mean(0), error, n * len(theta) + len(values), meter.seconds,
                        peak_memory=meter.peak_memory, replicates=n if n > 1 else 0)  # fmt: skip

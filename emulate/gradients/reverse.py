"""Reverse mode: the exact derivative of whatever carries a torch graph."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from emulate.backward import rows
from emulate.contracts import FOLLOWS, Estimate, Gradient
from emulate.errors import InputError
from emulate.gradients._lost import Noted
from emulate.gradients._sites import Reads, Watch, unknown
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import Program, lift


@dataclass(frozen=True, kw_only=True)
class Reverse(Gradient):
    """Reverse-mode differentiation by torch, up to 16 outputs in one backward pass; exact for every seed.

    Averages over n seeds keyed from `seed`, the first being `seed` itself; the standard error is that of the mean over
    the seeds. With n = 1 one more call, under another seed, tells whether f depends on the seed at all: if not the
    error is 0, else it is NaN, for one noisy derivative says nothing about its own scatter.
    A hard decision and a draw from a list have derivative zero: where theta moves one, the bias is unknown (NaN), and
    conditional, score and others repair that; so it is where seeds differ in what a plain `if`, `>`, `sign` ... reads.
    `InputError` when the output carries no graph back to theta.

    >>> theta = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> Reverse().estimate(lambda t, seed: t**2, theta, seed=0).gradient
    tensor([[2., 0.],
            [0., 4.]], dtype=torch.float64)
    """

    needs: ClassVar[tuple[str, ...]] = ("graph",)
    exact: ClassVar[bool] = True

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, lost, noise, seen = lift(f), Noted(), Noise(seed), Reads()
        with Meter() as meter:
            noises = [noise, *(Noise(seed, i) for i in range(1, n))]
            values, gradients = zip(*(_differentiate(f, theta, one.again(lost), seen) for one in noises), strict=True)
            value, gradient = torch.stack(values), torch.stack(gradients)
            bias = lost.bias_bound(gradient)
            if n == 1:
                with torch.no_grad():
                    same = torch.equal(f(theta.detach(), Noise(seed, 1)).to(value), value[0])
                constant = same and not noise.record.sites
                error = torch.full_like(gradient[0], 0.0 if constant else math.nan)
            else:
                error = gradient.std(0) / math.sqrt(n)
                if bool(noise.record.sites) or bool(
                    (value != value[0]).any()
                ):  # else f is not random: its own derivative
                    bias = unknown(seen, gradient[0]) if bias is None else bias
        return Estimate(value.mean(0), gradient.mean(0), error, max(n, 2), meter.seconds,
                        {"backward_passes": n * value.shape[1], "lost": sorted(lost.places), "reads": sorted(seen.names)},
                        bias_bound=FOLLOWS if bias is None else bias, peak_memory=meter.peak_memory,
                        replicates=n if n > 1 else 0)  # fmt: skip


def _differentiate(f: Program, theta: Tensor, noise: Noise, seen: Reads) -> tuple[Tensor, Tensor]:
    theta = theta.detach().clone().requires_grad_()
    with torch.enable_grad(), Watch(seen):
        y = f(theta, noise)
    if not y.requires_grad:
        raise InputError("f must carry a torch graph from theta to its output. Got an output without one; use "
                         "finite_difference, or write f in torch without detach, item or numpy.")  # fmt: skip
    return y.detach(), rows(y, theta)

"""Gaussian smoothing of theta, for whatever can only be run and is rough; the bias of the smoothing is estimated and reported."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.gradients._averages import averaged, lengths
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import Program, each, lift

MOST = 3  # parameters up to which a grid of nodes is cheaper than random directions
ORDERS = (4, 6)  # nodes a side: the answer's are the latter; even, so that none lies at theta


@dataclass(frozen=True, kw_only=True)
class Smooth(Gradient):
    """The gradient of f smoothed by a Gaussian: dJ_s/dtheta, J_s(theta) = E[f(theta + s e)], e ~ N(0, diag(scale)^2).

    It needs no derivative and no density, only runs: dJ_s/dtheta_i = E[e_i f(theta + s e)] / (s scale_i^2), the score of
    the smoothing (Nesterov & Spokoiny 2017). Runs are mirrored, f(theta + s e) - f(theta - s e), under common random numbers.

    - directions: each replicate takes d orthogonal directions q_k at distances r_k from the chi distribution of d + 2
      degrees of freedom, and sums (f(theta + s r_k q_k) - f(theta - s r_k q_k)) q_k / (2 s r_k): the same expectation, for
      r p_d(r) is r^-1 p_(d+2)(r) but for a factor, and no scatter at all where f is linear; 2 d runs a width;
    - quadrature: Gauss and Hermite over theta, for up to 3 parameters; no scatter, but only for f that is smooth over s;
    - auto: quadrature where f is deterministic with up to 3 parameters, else directions.

    The smoothed gradient is that of J up to a bias of order s^2. With width 2^(1/2) s as well, the bias is the difference of
    the two in leading order (Richardson 1911); the bound is twice it, its noise included, which
    makes intervals cover too often where the noise is the larger part: lower the width until it is, or raise n.

    >>> f = lambda theta: theta**3  # J_s' = 3 theta^2 + 3 s^2
    >>> e = Smooth(width=0.1).estimate(f, torch.tensor([1.0], dtype=torch.float64), seed=0)
    >>> round(float(e.gradient), 10), round(float(e.bias_bound), 10)
    (3.03, 0.06)
    """

    draws: ClassVar[bool] = True

    width: Annotated[float, Gt(0)] = 0.02  # a share of the scale, s: bias grows as s^2, the scatter of jumps falls
    scale: tuple[float, ...] = ()  # typical size of each parameter, in its unit; empty: |theta|, or 1 where theta is 0
    rule: Literal["auto", "directions", "quadrature"] = "auto"  # how theta is moved

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        sizes = self.width * lengths(self.scale, theta)
        with Meter() as meter, torch.no_grad():
            probe = each(lambda noise: f(theta, noise), seed, max(n, 2))
            values = probe.answer.double()
            random = probe.random(values)
            quadrature = self.rule == "quadrature" or (self.rule == "auto" and not random and len(theta) <= MOST)
            if quadrature and len(theta) > MOST:
                raise InputError(
                    f"quadrature must have at most {MOST} parameters. Got {len(theta)}; use rule directions."
                )
            run = _quadrature if quadrature else _directions
            count = 1 if quadrature and not random else max(n, 2)
            made = each(lambda noise: run(f, theta, sizes, noise), seed, count)
        slopes, runs = made.answer[0].double(), int(made.answer[1][0])
        gap = slopes[:n, 1] - slopes[:n, 0]
        bias = 2 * gap.mean(0).abs()
        bias = bias + torch.finfo(values.dtype).eps * values.abs().amax(0)[:, None] / sizes
        if quadrature:
            bias = bias + (slopes[:, 0] - slopes[:, 2]).abs().amax(0)
        return averaged(values[:n], slopes[:n, 0] if count > 1 else slopes[:1, 0].expand(n, -1, -1),
                        random=random or not quadrature, calls=probe.calls + made.calls * runs, meter=meter, bias_bound=bias,
                        diagnostics={"width": sizes.tolist(), "rule": "quadrature" if quadrature else "directions",
                                     "alone": made.alone})  # fmt: skip


def _directions(f: Program, theta: Tensor, sizes: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """The gradients `[2, m, d]` at both widths, and the runs they took."""
    d = len(theta)
    u = noise.own("smooth", (d, 2 * d + 2))
    z = torch.special.ndtri(u)
    q, _ = torch.linalg.qr(z[:, :d])
    steps = (z[:, d:].norm(dim=1) * q).T * sizes  # [d directions, d]
    made = []
    for widening in (1.0, math.sqrt(2.0)):
        moves = [f(theta + sign * widening * step, noise.again()) for step in steps for sign in (1, -1)]
        y = torch.stack(moves).reshape(d, 2, -1)
        made.append(
            torch.einsum("km,kd->md", y[:, 0] - y[:, 1], q.T / sizes / z[:, d:].norm(dim=1)[:, None]) / 2 / widening
        )
    return torch.stack(made), torch.tensor(4 * d)


def _quadrature(f: Program, theta: Tensor, sizes: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """The gradients `[3, m, d]` at both widths, and at the first with fewer nodes; and the runs they took."""
    d, runs, made = len(theta), 0, []
    for widening, order in ((1.0, ORDERS[1]), (math.sqrt(2.0), ORDERS[1]), (1.0, ORDERS[0])):
        x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(order))
        e = torch.cartesian_prod(*[x] * d).reshape(-1, d)
        weight = torch.cartesian_prod(*[w / w.sum()] * d).reshape(-1, d).prod(1)
        y = torch.stack([f(theta + widening * sizes * step, noise.again()) for step in e])
        runs += len(e)
        made.append(torch.einsum("q,qm,qd->md", weight, y.double(), e) / (widening * sizes))
    return torch.stack(made), torch.tensor(runs)

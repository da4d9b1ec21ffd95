"""Differentiate, then discretise: the adjoint equation of an ODE, solved backward by the same scheme."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from emulate.contracts import Estimate, Gradient
from emulate.dynamics import ODE, SCHEMES, dynamics
from emulate.errors import InputError
from emulate.gradients._averages import averaged
from emulate.gradients._sweeps import rows, sweep
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import lift


@dataclass(frozen=True, kw_only=True)
class ContinuousAdjoint(Gradient):
    """The adjoint equation, solved by the ODE's own scheme from the end to the start.

    d lambda/dt = -lambda dg/dy, lambda(T) = dreadout/dy,
    dy/dtheta = dreadout/dtheta + int_0^T lambda dg/dtheta dt + lambda(0) dstart/dtheta,   g the right-hand side

    (Pontryagin et al. 1962; Cao, Li, Petzold & Serban 2003). Between the steps states and adjoints are cubic Hermite
    polynomials; the integral is taken by the trapezoidal rule with `euler`, by Simpson's with `rk4`. The answer is the
    derivative of neither the equation nor the discrete solution: it tends to both at the order of the scheme, and a
    comparison with differences shows the gap. The bound of its bias is the distance to `adjoint`, which is exact for what
    was run; against the equation both are wrong by as much, at first order on either side.

    >>> decay = ODE(lambda theta, y, t: -theta * y**2, torch.ones_like, 1.0, 10, lambda theta, y: y, scheme="euler")
    >>> round(float(ContinuousAdjoint().estimate(decay, torch.tensor([1.0], dtype=torch.float64), seed=0).gradient), 12)
    -0.237324317416
    """

    needs: ClassVar[tuple[str, ...]] = ("graph", "dynamics", "rhs")

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        source, theta = dynamics(lift(f)), theta.detach().double()
        if not isinstance(source, ODE):
            raise InputError("continuous_adjoint must be given an emulate.dynamics.ODE, which tells its right-hand side. Got "
                             f"{type(source).__name__}; write f as one, or use adjoint or reverse.")  # fmt: skip
        with Meter() as meter:
            slope = _solve(source, theta)
            discrete = sweep(source.discretised, theta, Noise(seed))
        return averaged(discrete.y[None], slope[None], random=False, calls=2, meter=meter,
                        bias_bound=(slope - discrete.slope).abs(),
                        diagnostics={"steps": source.steps, "discrete": discrete.slope.tolist()})  # fmt: skip


def _solve(f: ODE, theta: Tensor) -> Tensor:
    """dy/dtheta `[m, d]`."""
    h, scheme = f.horizon / f.steps, SCHEMES[f.scheme]
    states = list(f.discretised.states(theta, Noise(0)))
    y, pull, *_ = torch.func.vjp(lambda t, s: torch.atleast_1d(f.readout(t, s)), theta, states[-1])
    slope, adjoint = rows(pull, torch.eye(len(y), dtype=y.dtype))
    for k in range(f.steps, 0, -1):
        begin, end = (k - 1) * h, k * h
        path = _hermite(begin, h, *((s, f.rhs(theta, s, t)) for s, t in ((states[k - 1], begin), (states[k], end))))

        def pulled(at: float, of: Tensor, path: Callable = path) -> tuple[Tensor, ...]:
            return rows(torch.func.vjp(lambda p, y: f.rhs(p, y, at), theta, path(at))[1], of)

        before = scheme.step(lambda t, of, pulled=pulled: -pulled(t, of)[1], end, adjoint, -h)
        across = _hermite(begin, h, (before, -pulled(begin, before)[1]), (adjoint, -pulled(end, adjoint)[1]))
        for c, weight in zip(scheme.at, scheme.weights):
            slope = slope + h * weight * pulled(begin + c * h, across(begin + c * h))[0]
        adjoint = before
    return slope + rows(torch.func.vjp(f.start, theta)[1], adjoint)[0]


def _hermite(
    begin: float, h: float, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]
) -> Callable[[float], Tensor]:
    """The cubic through values and slopes at both ends of a step."""

    def at(t: float) -> Tensor:
        c = (t - begin) / h
        value = (1 + 2 * c) * (1 - c) ** 2 * left[0] + c**2 * (3 - 2 * c) * right[0]
        return value + h * (c * (1 - c) ** 2 * left[1] - c**2 * (1 - c) * right[1])

    return at

"""Discretise, then differentiate: a reverse sweep through the steps of a simulation, exact for what the computer ran."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from emulate.contracts import Estimate, Gradient
from emulate.dynamics import trajectory
from emulate.gradients._averages import averaged
from emulate.gradients._sites import Watch, unknown
from emulate.gradients._sweeps import Swept, replicated, sweep
from emulate.gradients.pathwise import Continuous
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import lift


@dataclass(frozen=True, kw_only=True)
class Adjoint(Gradient):
    """The adjoint of the discrete steps: states kept, then one vector-Jacobian product a step, from the last to the first.

    lambda_(k-1) = lambda_k dstep/dstate,  dy/dtheta = dreadout/dtheta + sum_k lambda_k dstep_k/dtheta + lambda_0 dstart/dtheta.

    Exact to rounding for the simulation as it is discretised (Giles & Pierce 2000; Griewank & Walther 2008), so it passes a
    comparison with differences at any step length; of the equation behind it, it is as wrong as the scheme. It keeps
    one state a step, where `reverse` keeps all that happens inside a step, and `checkpointed` O(sqrt n) states. Noise is
    met again; steps that decide hard or draw from a list by theta are refused, and a plain `if` or `>` on what depends on
    theta leaves the bias unknown (NaN).

    >>> from emulate.dynamics import ODE
    >>> decay = ODE(lambda theta, y, t: -theta * y**2, torch.ones_like, 1.0, 10, lambda theta, y: y, scheme="euler")
    >>> round(float(Adjoint().estimate(decay, torch.tensor([1.0], dtype=torch.float64), seed=0).gradient), 12)
    -0.263429777375
    """

    needs: ClassVar[tuple[str, ...]] = ("graph", "dynamics")
    exact: ClassVar[bool] = True

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = trajectory(lift(f), "adjoint"), theta.detach().double()
        seen: set[str] = set()

        def run(noise: Noise) -> Swept:
            with Watch(seen):
                return sweep(f, theta, noise.again(Continuous("adjoint")))

        with Meter() as meter:
            made = replicated(run, seed, n)
        values, slopes = made.answer.y, made.answer.slope
        return averaged(values[:n], slopes[:n], random=made.random(values), calls=made.calls, meter=meter,
                        bias_bound=unknown(seen, slopes[0]),
                        diagnostics={"steps": f.steps, "alone": made.alone, "reads": sorted(seen)})  # fmt: skip

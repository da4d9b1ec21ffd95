"""Many short chaotic runs from scattered starts: the mean of their adjoints, with the scatter between them."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from emulate.contracts import Estimate, Gradient
from emulate.dynamics import trajectory
from emulate.gradients._averages import averaged
from emulate.gradients._sites import Reads
from emulate.gradients._sweeps import Swept, replicated, sweep, told, watched
from emulate.gradients.pathwise import Continuous
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import lift


@dataclass(frozen=True, kw_only=True)
class Ensemble(Gradient):
    """The ensemble adjoint: n runs from scattered starts, each spun up without derivative, then differentiated whole.

    dE[y]/dtheta over the scattered starts is the mean of the adjoints of the members; the steps of the Trajectory are the
    window of Lea, Allen & Haine (2000). Its length decides: the response of the climate takes a few Lyapunov times to come,
    and the adjoint grows meanwhile, so that the scatter between members gets heavy tails and the mean converges slower than
    n^-1/2 (Eyink, Haine & Lea 2004). `growth`: the norm that an adjoint of norm 1 at the end has at the start, geometric
    mean over members; `exponent`: its logarithm for each step; `largest`: the share of the greatest member in the sum of
    |slopes|, which says whether the error can be believed.

    Without spread and spin-up it is unbiased for dE[f]/dtheta, the starts being those that f's own noise makes. With them
    the derivative is that of a window on the attractor, whose distance to dE[f]/dtheta is not known: the bias bound is NaN,
    with the reason in `diagnostics`. So is what a plain `if` or `>` on the state may hide, whose names `reads` holds; a
    `noise.above` on it is refused. Spin-up steps are numbered below 0.

    >>> from emulate.dynamics import Trajectory
    >>> logistic = Trajectory(lambda theta: theta * 0 + 0.3, lambda theta, x, k, noise: theta * x * (1 - x), 4,
    ...                       lambda theta, x: x)
    >>> e = Ensemble(spread=0.1, spinup=50).estimate(logistic, torch.tensor([3.9], dtype=torch.float64), seed=0, n=200)
    >>> e.replicates, bool(e.standard_error > 0), bool(e.bias_bound.isnan())
    (200, True, True)
    """

    needs: ClassVar[tuple[str, ...]] = ("graph", "dynamics")
    draws: ClassVar[bool] = True

    spread: Annotated[float, Ge(0)] = 0.0  # sd of the starts, as a share of their size (or 1 where it is 0)
    spinup: Annotated[int, Ge(0)] = 0  # steps before the first that carry no derivative, nor does then the start

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = trajectory(lift(f), "ensemble"), theta.detach().double()
        other = bool(self.spread or self.spinup)
        seen = Reads()
        path = watched(f, seen, along=other)

        def run(noise: Noise) -> Swept:
            def moved(start: Tensor) -> Tensor:
                size = torch.where(start == 0, 1.0, start.abs())
                return start + self.spread * size * torch.special.ndtri(noise.own("start", tuple(start.shape)))

            return sweep(path, theta, noise.again(Continuous("ensemble")), spinup=self.spinup, probe=True,
                         moved=moved if self.spread else None)  # fmt: skip

        with Meter() as meter:
            made = replicated(run, seed, n)
        values, slopes, _, growth = made.answer
        random, values, slopes = made.random(values), values[:n], slopes[:n]
        share = slopes.abs().amax(0) / slopes.abs().sum(0).clamp(min=1e-300)
        figures = {**told(growth, f.steps), "largest": float(share.max()), "alone": made.alone,
                   "reads": sorted(seen.names)}  # fmt: skip
        if other:
            figures["bias"] = (f"unknown: the response of the climate that takes longer than {f.steps} steps is left out; "
                               "compare several")  # fmt: skip
        unknown = torch.full_like(slopes[0], torch.nan) if other or seen else None
        return averaged(values, slopes, random=random or bool(self.spread), calls=made.calls, meter=meter,
                        bias_bound=unknown, diagnostics=figures)  # fmt: skip

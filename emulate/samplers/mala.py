"""Langevin steps of many chains in one batched gradient."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt
from torch import Tensor

from emulate.contracts import Checkpoint, Draws, LogDensity, Progress, Sampler
from emulate.samplers.hmc import HMC


@dataclass(frozen=True, kw_only=True)
class MALA(Sampler):
    """Metropolis-adjusted Langevin: one gradient for every draw, in the coordinates and with the step that `hmc` learns.

    q' = q + h^2 / 2 d ln p / dq + h e, e ~ N(0, 1), accepted by Metropolis and Hastings: a trajectory of one leapfrog step,
    best where 57 % are accepted (Roberts and Rosenthal 1998). Draws cost a known number of gradients, and follow each other
    more closely than those of `hmc`.

    >>> import torch
    >>> normal = lambda x: -0.5 * (x**2).sum(-1)
    >>> draws = MALA(warmup=100).draw(normal, torch.zeros(8, 2, dtype=torch.float64), 200, seed=1)
    >>> draws.diagnostics["gradients"]
    200.0
    """

    resumable: ClassVar[bool] = True
    warmup: Annotated[int, Ge(50)] = 500  # draws of each chain that adapt and are thrown away
    target_accept: Annotated[float, Gt(0), Lt(1)] = 0.574  # pooled acceptance that sets the step size
    mass: Literal["bent", "dense", "diagonal"] = "bent"  # coordinates; dense learns correlations, bent also curves

    def draw(self, log_density: LogDensity, start: Tensor, n: int, *, seed: int, progress: Progress | None = None,
             checkpoint: Checkpoint | None = None) -> Draws:  # fmt: skip
        one_step = HMC(warmup=self.warmup, target_accept=self.target_accept, mass=self.mass, trajectory=1e3, max_steps=1,
                       groups=self.groups)  # fmt: skip
        return one_step.draw(log_density, start, n, seed=seed, progress=progress, checkpoint=checkpoint)

"""Hamiltonian Monte Carlo with many chains in one batched gradient."""

import math
import time
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from emulate.contracts import Checkpoint, Draws, LogDensity, Progress, Sampler
from emulate.diagnostics import diagnose, require_chains
from emulate.samplers._leapfrog import Density, trajectory
from emulate.samplers._resuming import Record, Told, restore, save, stored, written
from emulate.samplers._tuning import Kernel, Plan, Tuning

_STATE = {"x", "value", "divergent", "chance", "calls", "warmup_calls", "rng", *Kernel.NAMES}  # of a checkpoint
_SHORT = 16  # most leapfrog steps while the first eighth of the warm-up still learns the scales


@dataclass(frozen=True, kw_only=True)
class HMC(Sampler):
    """Hamiltonian Monte Carlo, many chains at once, step size, coordinates and length learnt from all chains together.

    Leapfrog steps of H(q, p) = -ln p(x(q)) + |p|^2 / 2 in coordinates q in which the warm-up's draws are white (Neal
    2011). With `mass: bent` they are x = centre + F (q + A(q, q)), A_i a quadratic form of the q_j before q_i: where the
    draws of some chains show that this describes the other chains better, its parameters are those of the highest
    likelihood. It straightens bananas, whose tails no matrix reaches, and its Jacobian is constant, so the draws are exact
    whatever was learnt (Parno and Marzouk 2018).

    The step size follows the acceptance by dual averaging (Hoffman and Gelman 2014), pooled over the chains by the
    harmonic mean, so that a few chains in a narrow place count. Trajectories last 0.7 to 1.3 times their mean length,
    along a golden-ratio sequence; the mean starts at pi / 2, after which a normal density has forgotten its start, and
    climbs the expected change of |q|^2 (ChEES; Hoffman, Radul and Sountsov 2021). A density that has shown narrow places
    at the end of the warm-up is rough: every fourth trajectory then takes steps of a third. A trajectory whose energy
    error exceeds 1000 or is not finite is rejected and flagged divergent.

    Each of the `groups` has its own coordinates, without bends, and its own step and length: for a log density in which
    every group of chains belongs to a data set of its own. A density with walls inside its range makes for short steps;
    `Posterior` has none.

    >>> import torch
    >>> normal = lambda x: -0.5 * (x**2).sum(-1)
    >>> draws = HMC(warmup=100).draw(normal, torch.zeros(8, 2, dtype=torch.float64), 200, seed=1)
    >>> tuple(draws.x.shape), bool(draws.rhat.max() < 1.02)
    ((8, 200, 2), True)
    """

    resumable: ClassVar[bool] = True
    warmup: Annotated[int, Ge(50)] = 300  # draws of each chain that adapt and are thrown away
    target_accept: Annotated[float, Gt(0), Lt(1)] = 0.8  # pooled acceptance that sets the step size
    mass: Literal["bent", "dense", "diagonal"] = "bent"  # coordinates; dense learns correlations, bent also curves
    trajectory: Literal["auto"] | Annotated[float, Gt(0)] = "auto"  # mean length in units of q; auto: learnt
    max_steps: Annotated[int, Ge(1)] = 64  # most leapfrog steps in one trajectory

    def draw(self, log_density: LogDensity, start: Tensor, n: int, *, seed: int, progress: Progress | None = None,
             checkpoint: Checkpoint | None = None) -> Draws:  # fmt: skip
        require_chains(start, n, self.groups)
        began = time.perf_counter()
        rng = np.random.default_rng(seed)
        density = Density(log_density, start, self.groups)
        shape, total = density.shape, self.warmup + n
        made = Record(n, {"x": np.zeros(shape), "value": np.zeros(shape[:2]), "divergent": np.zeros(shape[:2], bool),
                          "chance": 0.0, "calls": 0})  # fmt: skip
        told, warmup_calls, auto = Told(progress, total), 0, self.trajectory == "auto"
        t: Tuning | Kernel
        if (state := stored(checkpoint, shape, _STATE)) is not None:
            made.fill(state)
            t, warmup_calls = Kernel.restored(state), int(state["warmup_calls"])
            restore(rng, state["rng"])
            density.calls = int(state["calls"][-1])
        else:
            length = math.pi / 2 if self.trajectory == "auto" else self.trajectory
            t = Tuning(Plan(self.warmup, self.target_accept, self.mass, length, auto), density, rng)
        first = 0 if state is None else self.warmup + made.done
        for i in range(first, total):
            if i == self.warmup and isinstance(t, Tuning):
                t, warmup_calls = t.settled(), density.calls
            before = t.state
            end, p, error, size, steps = self._trajectory(t, i, density, rng)
            chance = np.exp(-error.clip(0))
            t.state = before.replaced(end, rng.random(shape[:2]) < chance)
            if isinstance(t, Tuning):
                t.learn(i, before, end, p, chance, size, size * steps)
            else:
                made.add({"x": t.state.x, "value": t.state.value, "divergent": np.isinf(error), "chance": chance.mean(),
                          "calls": density.calls})  # fmt: skip
            if i % 10 == 9 or i + 1 == total:
                if isinstance(t, Kernel):
                    save(checkpoint, made.filled() | t.stored() | {"rng": written(rng), "warmup_calls": warmup_calls})
                told(i + 1, made)
        if first == total:
            told(total, made)
        x, value, divergent = (made.chains(name, start.device) for name in ("x", "value", "divergent"))
        figures = {
            "acceptance": float(made.parts["chance"].mean()),
            "step_size": float(t.step.mean()),
            "trajectory": float(t.length.mean()),
            "bent": float(t.coordinates.bend is not None),
            "rough": float(t.rough),
            "divergences": float(divergent.sum()),
            "warmup_gradients": float(warmup_calls),  # batched calls, each one gradient for every chain
            "gradients": float(made.parts["calls"][-1] - warmup_calls),
            "seconds": time.perf_counter() - began,
        }
        return Draws(x, value, divergent, *diagnose(x, self.groups), figures)

    def _trajectory(self, t: Tuning | Kernel, i: int, density: Density, rng: np.random.Generator):
        """The trajectory of draw i: its end, momentum and error, the size of its steps and how many there were."""
        length = t.length * (0.7 + 0.6 * ((i + 1) * 0.6180339887498949 % 1.0))
        most = min(_SHORT, self.max_steps) if i < self.warmup / 8 else self.max_steps
        steps = int(np.ceil(length / t.step - 0.25).clip(1, most).max())
        if t.rough and i % 4 == 3:
            steps = min(3 * steps, most)  # reaches narrow places, and leads out of them
        size = (length / steps / t.step).clip(None, 1.25 if steps < most else 1.0) * t.step  # all groups end together
        p = rng.standard_normal(density.shape)
        return *trajectory(t.state, p, density, t.coordinates, size, steps), size, steps

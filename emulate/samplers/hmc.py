"""Hamiltonian Monte Carlo with many chains in one batched gradient."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from emulate.contracts import Draws, LogDensity, Sampler
from emulate.densities import require_inside, value_and_gradient
from emulate.diagnostics import diagnose, require_chains

_DIVERGENT = 1000.0  # energy error beyond which a trajectory has left the energy surface for good (Stan's limit)
_HOPELESS = 1e-4  # acceptance that a smooth density never shows near the target, and a narrow place soon does
_SHORT = 16  # most leapfrog steps while the first eighth of the warm-up still learns the scales
_WINDOWS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.85)  # shares of the warm-up after which the mass matrix is renewed


@dataclass(frozen=True, kw_only=True)
class HMC(Sampler):
    """Hamiltonian Monte Carlo, many chains at once, step size and mass matrix learnt from all chains together.

    Leapfrog steps of H(x, r) = -ln p(x) + |r|^2 / 2 in coordinates whitened by the covariance of the pooled warm-up
    draws (Neal 2011). The step size follows the acceptance by dual averaging (Hoffman and Gelman 2014). Trajectories
    last pi / 2 times 0.7 to 1.3, along a golden-ratio sequence: a whitened Gaussian forgets its start after pi / 2.
    The acceptances of the chains are pooled by their harmonic mean (Hoffman, Radul and Sountsov 2021), so that a few
    chains in a narrow place count. A density that has shown narrow places at the end of the warm-up is rough: every
    fourth trajectory then takes steps of a third. A trajectory whose energy error exceeds 1000 or is not finite is
    rejected and flagged divergent.

    Each of the `groups` has its own mass matrix and step size: for a log density in which every group of chains
    belongs to a data set of its own. A density with walls inside its range makes for short steps; `Posterior` has none.

    >>> normal = lambda x: -0.5 * (x**2).sum(-1)
    >>> draws = HMC(warmup=100).draw(normal, torch.zeros(8, 2, dtype=torch.float64), 200, seed=1)
    >>> tuple(draws.x.shape), bool(draws.rhat.max() < 1.02)
    ((8, 200, 2), True)
    """

    warmup: Annotated[int, Ge(50)] = 300  # draws of each chain that adapt and are thrown away
    target_accept: Annotated[float, Gt(0), Lt(1)] = 0.8  # pooled acceptance that sets the step size
    mass: Literal["dense", "diagonal"] = "dense"  # shape of the mass matrix; dense learns correlations
    trajectory: Annotated[float, Gt(0)] = math.pi / 2  # mean length, in time units of the whitened density
    max_steps: Annotated[int, Ge(1)] = 64  # most leapfrog steps in one trajectory

    def draw(self, log_density: LogDensity, start: Tensor, n: int, *, seed: int,
             progress: Callable[[int, int], None] | None = None) -> Draws:  # fmt: skip
        require_chains(start, n, self.groups)
        (chains, d), began = start.shape, time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        density = _Counted(log_density, (self.groups, chains // self.groups, d))
        state = _State(start.detach().double().clone().reshape(density.shape), density)
        require_inside(state.value)
        tuning = _Tuning(self, state, generator)
        kept, warmup_calls, accepted, total = [], 0, 0.0, self.warmup + n
        for i in range(total):
            if i == self.warmup:
                tuning.settle()
                warmup_calls = density.calls
            length = self.trajectory * (0.7 + 0.6 * ((i + 1) * 0.6180339887498949 % 1.0))
            most = min(_SHORT, self.max_steps) if i < self.warmup / 8 else self.max_steps
            steps = int((length / tuning.step - 0.25).ceil().clamp(1, most).max())
            if tuning.rough and i % 4 == 3:
                steps = min(3 * steps, most)  # reaches narrow places, and leads out of them
            size = (length / steps / tuning.step).clamp_max(1.25) * tuning.step  # every group ends at the same time
            end = _trajectory(state, _normal(state.x, generator), tuning.factor, size, steps)
            chance = torch.exp(-end.error.clamp_min(0.0))
            uniform = torch.rand(chance.shape, generator=generator, dtype=torch.float64).to(chance)
            state = state.replaced(end, uniform < chance)
            if i < self.warmup:
                tuning.learn(i, state, chance, size)
            else:
                accepted += float(chance.mean()) / n
                kept.append((state.x.reshape(chains, d), state.value.reshape(-1), end.error.reshape(-1).isinf()))
            if progress and (i % 10 == 9 or i + 1 == total):
                progress(i + 1, total)
        x, value, divergent = (torch.stack(column, 1) for column in zip(*kept, strict=True))
        figures = {
            "acceptance": accepted,
            "step_size": float(tuning.step.mean()),
            "rough": float(tuning.rough),
            "divergences": float(divergent.sum()),
            "warmup_gradients": float(warmup_calls),  # batched calls, each one gradient for every chain
            "gradients": float(density.calls - warmup_calls),
            "seconds": time.perf_counter() - began,
        }
        return Draws(x, value, divergent, *diagnose(x, self.groups), figures)


class _Counted:
    """ln p and its gradient for x `[groups, chains of a group, d]`, and how often they were asked for."""

    def __init__(self, log_density: LogDensity, shape: tuple[int, int, int]):
        self.log_density, self.shape, self.calls = log_density, shape, 0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        value, gradient = value_and_gradient(self.log_density, x.reshape(-1, self.shape[-1]))
        return value.reshape(self.shape[:2]), gradient.reshape(self.shape)


class _State:
    """Where the chains are: x and gradient `[g, c, d]`, value and error (of the energy, inf: divergent) `[g, c]`."""

    def __init__(self, x: Tensor, density: _Counted, error: Tensor | None = None, known: tuple | None = None):
        self.x, self.density, self.error = x, density, error
        self.value, self.gradient = known or density(x)

    def replaced(self, end: "_State", where: Tensor) -> "_State":
        known = (torch.where(where, end.value, self.value), torch.where(where[..., None], end.gradient, self.gradient))
        return _State(torch.where(where[..., None], end.x, self.x), self.density, None, known)


def _trajectory(state: _State, momentum: Tensor, factor: Tensor, size: Tensor, steps: int) -> _State:
    """Leapfrog in whitened coordinates, x = factor q; a chain that diverges waits at its start for the others."""
    energy = 0.5 * (momentum**2).sum(-1) - state.value
    x, value, gradient, size = state.x, state.value, state.gradient, size[:, None, None]
    alive = torch.ones_like(value, dtype=torch.bool)
    for _ in range(steps):
        momentum = momentum + 0.5 * size * (gradient @ factor)
        x = torch.where(alive[..., None], x + size * (momentum @ factor.mT), state.x)
        value, gradient = state.density(x)
        momentum = momentum + 0.5 * size * (gradient @ factor)
        error = 0.5 * (momentum**2).sum(-1) - value - energy
        alive = alive & (error < _DIVERGENT)  # False for NaN, too
        momentum = torch.where(alive[..., None], momentum, 0.0)
    return _State(x, state.density, torch.where(alive, error, torch.inf), (value, gradient))


class _Tuning:
    """Step size `[groups]` and factor L `[groups, d, d]` of the inverse mass matrix L L^T, learnt in the warm-up."""

    def __init__(self, sampler: HMC, state: _State, generator: torch.Generator):
        self.sampler, self.seen, self.rough = sampler, [], False
        self.ends = {round(share * sampler.warmup) for share in _WINDOWS}
        self.factor = self._factor(state.x)
        step, momentum = torch.ones_like(state.x[:, 0, 0]), _normal(state.x, generator)
        rising = None
        for _ in range(60):  # doubles or halves each group's step until the acceptance of one step crosses the target
            end = _trajectory(state, momentum, self.factor, step, 1)
            good = _pooled(torch.exp(-end.error.clamp_min(0.0))) > sampler.target_accept
            rising = good if rising is None else rising
            going = (good == rising) & (step < 8)
            if not going.any():
                break
            step = torch.where(going, torch.where(rising, 2 * step, 0.5 * step), step)
        self._restart(step)

    def learn(self, i: int, state: _State, chance: Tensor, size: Tensor) -> None:
        # The trajectory took steps of `size` where `step` was allowed; losses grow with the square of the step.
        accepted = (1 - (1 - _pooled(chance)) * (self.step / size) ** 2).clamp_min(0.0)
        self.t += 1  # gain 0.1 and offset 20 are calmer than Stan's 0.05 and 10: many chains make little noise
        self.shortfall += (self.sampler.target_accept - accepted - self.shortfall) / (self.t + 20)
        log_step = self.anchor - math.sqrt(self.t) / 0.1 * self.shortfall
        self.average += self.t**-0.75 * (log_step - self.average)
        self.step = log_step.exp()
        self.rough |= i >= 0.9 * self.sampler.warmup and bool((chance < _HOPELESS).any())
        self.seen.append(state.x)
        if i + 1 in self.ends:
            self.factor, self.seen = self._factor(torch.cat(self.seen, 1)), []
            self._restart(torch.ones_like(self.step))

    def settle(self) -> None:
        """From here on nothing adapts: the step is the average of what dual averaging tried."""
        self.step = self.average.exp()

    def _restart(self, step: Tensor) -> None:
        self.step, self.anchor, self.average = step, (3 * step).log(), step.log()
        self.shortfall, self.t = torch.zeros_like(step), 0

    def _factor(self, pool: Tensor) -> Tensor:
        """Cholesky factor of the covariance of pool `[groups, k, d]`; correlations shrunk by d + 2 draws of none."""
        k, d = pool.shape[1:]
        centred = pool - pool.mean(1, keepdim=True)
        covariance = centred.mT @ centred / max(k - 1, 1)
        variance = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
        if k < 2 or (variance.diagonal(dim1=-2, dim2=-1) <= 0).any():  # chains that all start at one point
            return torch.eye(d).to(pool).expand(len(pool), d, d)
        none = 1.0 if self.sampler.mass == "diagonal" else (d + 2) / (k + d + 2)
        return torch.linalg.cholesky((1 - none) * covariance + none * variance)


def _normal(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def _pooled(chance: Tensor) -> Tensor:
    """Harmonic mean over the chains of each group; one chain that never moves counts as if it moved 1 time in 20."""
    return 1 / (1 / chance.clamp_min(0.05)).mean(1)

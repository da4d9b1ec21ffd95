"""An ensemble of chains that learn their moves from each other, and ask no gradient."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from emulate.contracts import Checkpoint, Draws, LogDensity, Progress, Sampler
from emulate.diagnostics import diagnose, require_chains
from emulate.samplers._mixture import Mixture, fitted
from emulate.samplers._moves import Axes, differences, leaps, stretches
from emulate.samplers._resuming import Record, Told, save, stored
from emulate.samplers._values import Values

_WINDOWS = (
    1 / 64,
    1 / 32,
    1 / 16,
    1 / 8,
    1 / 4,
    1 / 2,
    3 / 4,
)  # shares of the warm-up after which pool and mixture are new
_POOL = 4000  # points of all groups together
_WORTH = 0.5  # independent draws that a draw should be worth, in every coordinate and its square
_STATE = {
    "x",
    "value",
    "accepted",
    "points",
    "warmup_points",
    "generator",
    "pool",
    "weight",
    "centre",
    "root",
    "cycles",
}


@dataclass(frozen=True, kw_only=True)
class Ensemble(Sampler):
    """Ensemble sampling without gradients: all chains at once, by moves that they have learnt from each other.

    Two moves of Metropolis and Hastings make a cycle, each one batched call for all chains: to a draw of a mixture of
    Student's t that was fitted to earlier points, which leads between modes and forgets at once where it fits; and,
    each half of the time, along the difference of two earlier points (ter Braak and Vrugt 2008) or towards or away
    from one (the stretch of Goodman and Weare 2010), which no linear change of coordinates can slow down. Earlier
    points are those of the third quarter of the warm-up, of all chains of a group. They stay what they are
    afterwards, so that the draws are exact and the chains independent of each other, as R-hat takes them to be. A
    draw is as many cycles as make it worth half an independent one, by the last quarter of the warm-up, or `cycles`.

    >>> draws = Ensemble().draw(lambda x: -0.5 * (x**2).sum(-1), torch.zeros(8, 2, dtype=torch.float64), 200, seed=1)
    >>> tuple(draws.x.shape), bool(draws.rhat.max() < 1.02)
    ((8, 200, 2), True)
    """

    resumable: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False
    warmup: Literal["auto"] | Annotated[int, Ge(64)] = "auto"  # cycles of each chain that adapt; auto: 400 + 100 d
    cycles: Annotated[int, Ge(1)] = 50  # most cycles in one draw

    def draw(self, log_density: LogDensity, start: Tensor, n: int, *, seed: int, progress: Progress | None = None,
             checkpoint: Checkpoint | None = None) -> Draws:  # fmt: skip
        require_chains(start, n, self.groups)
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        values = Values(log_density, start, self.groups)
        g, c, d = self.groups, values.chains, values.d
        made = Record(n, {"x": np.zeros((g, c, d)), "value": np.zeros((g, c)), "accepted": np.zeros(2), "points": 0})
        warmup = 400 + 100 * d if self.warmup == "auto" else self.warmup
        told, warmup_points = Told(progress, warmup + n), 0
        if (state := stored(checkpoint, (g, c, d), _STATE)) is not None:
            made.fill(state)
            chains = _Chains.restored(values, generator, state)
            values.points, warmup_points = int(state["points"][-1]), int(state["warmup_points"])
        else:
            chains = _Chains(values, generator)
            chains.warm(warmup, self.cycles, told, made)
            warmup_points = values.points
        first = made.done
        for i in range(first, n):
            accepted = np.mean([chains.cycle() for _ in range(chains.cycles)], 0)
            made.add(
                {"x": chains.x.numpy(), "value": chains.value.numpy(), "accepted": accepted, "points": values.points}
            )
            if i % 10 == 9 or i + 1 == n:
                save(checkpoint, made.filled() | chains.stored() | {"warmup_points": warmup_points})
                told(warmup + i + 1, made)
        if first == n:
            told(warmup + n, made)
        x, value = (made.chains(name, start.device) for name in ("x", "value"))
        figures = {
            "acceptance": float(made.parts["accepted"][:, 1].mean()),
            "acceptance_mixture": float(made.parts["accepted"][:, 0].mean()),
            "cycles": float(chains.cycles),
            "warmup_evaluations": float(warmup_points),  # points, of all chains together
            "evaluations": float(made.parts["points"][-1] - warmup_points),
            "seconds": time.perf_counter() - began,
        }
        return Draws(x, value, torch.zeros_like(value, dtype=torch.bool), *diagnose(x, g), figures)


class _Chains:
    """Where the chains are, x `[g, c, d]` and ln p `[g, c]`, and what they have learnt."""

    def __init__(self, values: Values, generator: torch.Generator):
        self.values, self.generator, self.cycles = values, generator, 1
        self.x, self.value = values.start[:, :, 0], values.first[:, :, 0]
        self._learn(self.x)

    def warm(self, cycles: int, most: int, told: Told, made: Record) -> None:
        """The warm-up: pool and mixture are renewed at the end of every window, the length of a draw is measured."""
        ends, seen = {round(share * cycles) for share in _WINDOWS}, []
        for i in range(cycles):
            self.cycle()
            if i < cycles / 4:
                self._walk()
            seen.append(self.x)
            if i + 1 in ends:
                self._learn(torch.stack(seen, 1).flatten(1, 2))
                seen = []
            if i % 10 == 9 or i + 1 == cycles:
                told(i + 1, made)
        late = torch.stack(seen, 2)  # [g, c, cycles, d]
        features = Axes.of(late.flatten(1, 2)).features(late.flatten(1, 2)).unflatten(1, late.shape[1:3])
        worth = min(float(diagnose(part)[1].min()) for part in features) / (late.shape[1] * late.shape[2])
        self.cycles = max(1, min(most, math.ceil(_WORTH / max(worth, 1e-9))))

    def cycle(self) -> tuple[float, float]:
        """A leap, and a difference or a stretch; shares accepted."""
        leapt = self._chosen(*leaps(self.x, self.mixture, self.generator))
        move = differences if float(torch.rand((), generator=self.generator)) < 0.5 else stretches
        return leapt, self._chosen(*move(self.x, self.pool, self.generator))

    def stored(self) -> dict[str, np.ndarray | int]:
        """All of it but what the last draw says."""
        m = self.mixture
        arrays = {"pool": self.pool, "weight": m.weight, "centre": m.centre, "root": m.root}
        arrays["generator"] = self.generator.get_state()
        return {name: part.numpy() for name, part in arrays.items()} | {"cycles": self.cycles}

    @classmethod
    def restored(cls, values: Values, generator: torch.Generator, state: Mapping[str, np.ndarray]) -> "_Chains":
        """From what was stored, with the draws `x` and `value`."""
        chains = cls.__new__(cls)
        chains.values, chains.generator, chains.cycles = values, generator, int(state["cycles"])
        chains.x, chains.value, chains.pool, *mixture = (
            torch.from_numpy(part)
            for part in (state["x"][-1], state["value"][-1], *(state[k] for k in ("pool", "weight", "centre", "root")))
        )
        chains.mixture = Mixture(*mixture)
        generator.set_state(torch.from_numpy(state["generator"]))
        return chains

    def _learn(self, points: Tensor) -> None:
        """Pool and mixture from points `[g, N, d]`, evenly thinned."""
        self.pool = points[:, :: 1 + points.shape[1] * points.shape[0] // _POOL].contiguous()
        self.mixture = fitted(self.pool, self.generator)

    def _walk(self) -> None:
        """A step of any size from 10^-4 to 1 of the prior's, so that chains that start at one place spread."""
        g, c, d = self.x.shape
        size = 10 ** (-4 * torch.rand(g, c, 1, generator=self.generator, dtype=torch.float64))
        new = self.x + size * torch.randn(g, c, d, generator=self.generator, dtype=torch.float64)
        self._chosen(new, torch.zeros_like(self.value))

    def _chosen(self, new: Tensor, back: Tensor) -> float:
        other = self.values(new[:, :, None])[:, :, 0]
        accept = torch.rand(back.shape, generator=self.generator, dtype=torch.float64).log() < other - self.value + back
        self.x = torch.where(accept[..., None], new, self.x)
        self.value = torch.where(accept, other, self.value)
        return float(accept.double().mean())

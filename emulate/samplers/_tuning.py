"""What the warm-up learns: coordinates, step size and length of the trajectories, of each group from all its chains."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulate.samplers._coordinates import Coordinates, learnt
from emulate.samplers._leapfrog import Density, State, state_at, trajectory

_WINDOWS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.85)  # shares of the warm-up after which the coordinates are renewed
_HOPELESS = 1e-4  # acceptance that a smooth density never shows near the target, and a narrow place soon does
_RATE = 0.025  # of the length's logarithm in one draw; it is learnt after a quarter of the warm-up
_LONGEST = 16.0  # times the length for a normal density that a trajectory may come to last


@dataclass(frozen=True)
class Plan:
    """What is learnt in `warmup` draws: the acceptance aimed at, the shape of the coordinates, the first mean length."""

    warmup: int
    target: float
    mass: str
    length: float
    adapt: bool


@dataclass
class Kernel:
    """What the warm-up learnt, step and mean length `[groups]`, and where the chains are."""

    NAMES: ClassVar[tuple[str, ...]] = ("centre", "factor", "bend", "step", "length", "rough", "q", "slope")

    coordinates: Coordinates
    step: np.ndarray
    length: np.ndarray
    rough: bool
    state: State

    def stored(self) -> dict[str, np.ndarray | bool]:
        """All of it but what the last draw says."""
        c, s = self.coordinates, self.state
        bend = np.zeros(0) if c.bend is None else c.bend
        parts = (c.centre, c.factor, bend, self.step, self.length, self.rough, s.q, s.slope)
        return dict(zip(self.NAMES, parts, strict=True))

    @classmethod
    def restored(cls, a: Mapping[str, np.ndarray]) -> "Kernel":
        """From what was stored, with the draws `x` and `value`."""
        coordinates = Coordinates(a["centre"], a["factor"], a["bend"] if a["bend"].size else None)
        state = State(a["q"], a["x"][-1], a["value"][-1], a["slope"])
        return cls(coordinates, a["step"], a["length"], bool(a["rough"]), state)


class Tuning:
    """The state of all chains, its coordinates, and step and mean length `[groups]` of the trajectories in their units."""

    def __init__(self, plan: Plan, density: Density, rng: np.random.Generator):
        self.plan, self.density, self.rng = plan, density, rng
        self.ends = {round(share * plan.warmup) for share in _WINDOWS}
        self.seen: list[np.ndarray] = []
        self.rough, self.length = False, np.full(density.shape[0], plan.length)
        x = density.shaped(density.start)
        self.coordinates = learnt(x[None], "diagonal" if plan.mass == "diagonal" else "dense")
        value, gradient = density.first
        self.state = State(self.coordinates.q(x), x, value, self.coordinates.pull(gradient, None))
        self._restart(self._first_step())

    def learn(self, i: int, start: State, end: State, p: np.ndarray, chance: np.ndarray, size: np.ndarray,
              duration: np.ndarray) -> None:  # fmt: skip
        """From draw i: a trajectory from start to end with momentum p, accepted with `chance`, in steps of `size`."""
        # The trajectory took steps of `size` where `step` was allowed; losses grow with the square of the step.
        accepted = (1 - (1 - _pooled(chance)) * (self.step / size) ** 2).clip(0)
        self._t += 1  # gain 0.1 and offset 20 are calmer than Stan's 0.05 and 10: many chains make little noise
        self._shortfall += (self.plan.target - accepted - self._shortfall) / (self._t + 20)
        log_step = self._anchor - math.sqrt(self._t) / 0.1 * self._shortfall
        self._average += self._t**-0.75 * (log_step - self._average)
        self.step = np.exp(log_step)
        self.rough |= i >= 0.9 * self.plan.warmup and bool((chance < _HOPELESS).any())
        self.seen.append(self.state.x)
        if self.plan.adapt and i >= self.plan.warmup / 4:
            self._lengthen(start, end, p, chance, duration)
        if i + 1 in self.ends:
            self.coordinates, self.seen = learnt(np.stack(self.seen), self.plan.mass), []
            self.state = state_at(self.coordinates.q(self.state.x), self.density, self.coordinates)
            self._restart(np.ones_like(self.step))

    def settled(self) -> "Kernel":
        """From here on nothing adapts: the step is the average of what dual averaging tried."""
        return Kernel(self.coordinates, np.exp(self._average), self.length, self.rough, self.state)

    def _first_step(self) -> np.ndarray:
        """Doubles or halves each group's step until the acceptance of one step crosses the target."""
        step, rising = np.ones(self.density.shape[0]), None
        p = self.rng.standard_normal(self.density.shape)
        for _ in range(60):
            *_, error = trajectory(self.state, p, self.density, self.coordinates, step, 1)
            good = _pooled(np.exp(-error.clip(0))) > self.plan.target
            rising = good if rising is None else rising
            going = (good == rising) & (step < 8)
            if not going.any():
                break
            step = np.where(going, np.where(rising, 2 * step, 0.5 * step), step)
        return step

    def _lengthen(self, start: State, end: State, p: np.ndarray, chance: np.ndarray, duration: np.ndarray) -> None:
        """One step of Adam uphill of E[(|q'|^2 - |q|^2)^2] in ln length (Hoffman, Radul and Sountsov 2021, eq. 9)."""
        gain = _squares(end.q) - _squares(start.q)
        rate = np.where(chance > 0, chance * gain * np.einsum("gcd,gcd->gc", end.q, p), 0.0)
        slope = duration * rate.sum(1) / chance.sum(1).clip(1e-9)
        self._looks += 1
        self._scale += 0.05 * (slope**2 - self._scale)
        move = slope / np.sqrt(self._scale / (1 - 0.95**self._looks) + 1e-30)
        longest = _LONGEST * self.plan.length
        self.length = (self.length * np.exp(_RATE * move.clip(-3, 3))).clip(self.plan.length / 2, longest)

    def _restart(self, step: np.ndarray) -> None:
        self.step, self._anchor, self._average = step, np.log(3 * step), np.log(step)
        self._shortfall, self._t = np.zeros_like(step), 0
        self._scale, self._looks = (
            np.zeros_like(step),
            0,
        )  # the length stays: after the last window it could not be learnt anew


def _pooled(chance: np.ndarray) -> np.ndarray:
    """Harmonic mean over the chains of each group; one chain that never moves counts as if it moved 1 time in 20."""
    return 1 / (1 / chance.clip(0.05)).mean(1)


def _squares(q: np.ndarray) -> np.ndarray:
    return np.einsum("gcd,gcd->gc", q, q)

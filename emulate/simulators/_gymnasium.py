"""Environments of gymnasium (Towers et al. 2024) as systems: a state, an action, the next state; and whole episodes."""

import importlib
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.noise import Noise

Step = tuple[np.ndarray, np.ndarray, np.ndarray, float]  # state, action, next state, reward

STARTS = 1000  # states at which episodes begin: those of so many seeds of the environment's own
_NAMES = {
    "CartPoleEnv": ("position", "velocity", "angle", "angular_velocity"),
    "PendulumEnv": ("angle", "angular_velocity"),
    "MountainCarEnv": ("position", "velocity"),
    "Continuous_MountainCarEnv": ("position", "velocity"),
    "AcrobotEnv": ("angle_1", "angle_2", "velocity_1", "velocity_2"),
}
_PROBES = 4  # steps from one state by which a random environment is known


class Gym:
    """One environment. Its state is what it calls `state`, which can be set, as those of classic control can; else it is the
    observation, and the environment runs whole episodes alone.

    Actions of a list are numbers from 0, and what lies between two is the mean over choosing either at random: a step
    from fractional actions is the mean of the steps, linear in between.
    """

    smooth = False
    scattered = True

    def __init__(self, name: str, options: dict[str, Any]):
        try:
            gymnasium = importlib.import_module("gymnasium")
        except ImportError:
            raise InputError(f"the environment {name} needs the package gymnasium, which is not installed. Install the extra: "
                             "pip install emulate[rl]; or take the environment lqr, which is built in.") from None  # fmt: skip
        try:
            self.env = gymnasium.make(name, **{"disable_env_checker": True, **options})
        except (gymnasium.error.Error, TypeError, ImportError, ValueError) as e:
            raise InputError(f"environment must be lqr or one of gymnasium, such as CartPole-v1. Got {name!r} with the options "
                             f"{options}: {e}") from None  # fmt: skip
        self.name, self.inner, self._spaces = name, self.env.unwrapped, gymnasium.spaces
        self.env.reset(seed=0)
        state = getattr(self.inner, "state", None)
        self.settable = state is not None and np.ndim(state) == 1 and np.issubdtype(np.asarray(state).dtype, np.number)
        self._choose()

    def _choose(self) -> None:
        actions, spaces = self.env.action_space, self._spaces
        self.choices = int(actions.n) if isinstance(actions, spaces.Discrete) else 0
        if not self.choices and not (isinstance(actions, spaces.Box) and len(actions.shape) == 1):
            raise InputError(
                f"an environment must have actions of a list, or a vector of numbers. Got {actions} of {self.name}."
            )
        if not self.settable and not isinstance(self.env.observation_space, spaces.Box):
            raise InputError(f"an environment must have a state of numbers. Got observations {self.env.observation_space} of "
                             f"{self.name}.")  # fmt: skip

    @cached_property
    def states(self) -> tuple[str, ...]:
        n = len(self.start(0))
        known = _NAMES.get(type(self.inner).__name__, ())
        return known if len(known) == n and self.settable else tuple(f"x{i + 1}" for i in range(n))

    @cached_property
    def actions(self) -> tuple[str, ...]:
        n = 1 if self.choices else self.env.action_space.shape[0]
        return ("action",) if n == 1 else tuple(f"action_{i + 1}" for i in range(n))

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest action, `[a]`."""
        if self.choices:
            return torch.zeros(1, dtype=torch.float64), torch.full((1,), self.choices - 1.0, dtype=torch.float64)
        space = self.env.action_space
        low, high = (torch.from_numpy(np.asarray(b, np.float64)) for b in (space.low, space.high))
        return low, high

    @cached_property
    def random(self) -> bool:
        """Whether a step from one state ends elsewhere with another seed; seen on a few steps."""
        if not self.settable:
            return True
        x, middle = self.start(0), (self.bounds[0] + self.bounds[1]).numpy() / 2
        a = np.round(middle) if self.choices else np.nan_to_num(middle)
        return any(not np.array_equal(self.step(x, a, 0), self.step(x, a, i)) for i in range(1, _PROBES))

    @lru_cache(maxsize=STARTS)  # noqa: B019  environments are few and kept
    def start(self, i: int) -> np.ndarray:
        """The state `[s]` at which the episode of seed i begins."""
        observed, _ = self.env.reset(seed=i)
        return self._state(observed)

    def initial(self, noise: Noise, n: int) -> Tensor:
        """The states `[n, s]` at which n episodes begin."""
        return self._bank[(noise.uniform("start", (n,), step=0) * STARTS).long()]

    @cached_property
    def _bank(self) -> Tensor:
        return torch.from_numpy(np.stack([self.start(i) for i in range(STARTS)]))

    def step(self, x: np.ndarray, a: np.ndarray, seed: int | None = None) -> np.ndarray:
        """The next state `[s]` of a state and an action `[a]`, of a list a whole number; `seed` is that of its noise."""
        if seed is not None:
            self.env.reset(seed=seed)
        self.inner.state = np.array(x, np.float64)
        if hasattr(self.inner, "steps_beyond_terminated"):  # a pole that fell may fall on
            self.inner.steps_beyond_terminated = None
        self.inner.step(int(a[0]) if self.choices else np.asarray(a, np.float32))
        return np.array(self.inner.state, np.float64)

    def next(self, x: Tensor, a: Tensor, noise: Noise, step: int) -> Tensor:
        """x' of states `[..., s]` and actions `[..., a]`; no derivative passes."""
        if not self.settable:
            raise InputError(f"a step from any state needs an environment whose `state` can be set. Got {self.name}; take "
                             "transitions of whole episodes, `Transition.episodes`, or leave `cost` empty.")  # fmt: skip
        rows = [np.array(v.detach().reshape(-1, v.shape[-1]).tolist(), np.float64) for v in (x, a)]
        seeds = [None] * len(rows[0])
        if self.random:
            u = noise.uniform("transition", (len(seeds),), step=step)
            seeds = [int(v * 2**31) for v in u.tolist()]
        made = np.stack([self._mixed(*row) for row in zip(*rows, seeds, strict=True)])
        return torch.from_numpy(made).reshape(x.shape)

    def _mixed(self, x: np.ndarray, a: np.ndarray, seed: int | None) -> np.ndarray:
        if not self.choices or float(a[0]).is_integer():
            return self.step(x, a, seed)
        low = np.floor(a)
        share = float(a[0] - low[0])
        return (1 - share) * self.step(x, low, seed) + share * self.step(x, low + 1, seed)

    def steps(self, act: Callable[[np.ndarray, int], np.ndarray], seed: int) -> Iterator[Step]:
        """One episode from the start of a seed until it ends: state, action, next state and reward of every step."""
        observed, _ = self.env.reset(seed=seed)
        x, over, k = self._state(observed), False, 0
        while not over:
            a = act(x, k)
            observed, reward, ended, cut, _ = self.env.step(int(a[0]) if self.choices else np.asarray(a, np.float32))
            after, over, k = self._state(observed), ended or cut, k + 1
            yield x, a, after, float(reward)
            x = after

    def _state(self, observed: Any) -> np.ndarray:
        return np.array(self.inner.state if self.settable else observed, np.float64).reshape(-1)

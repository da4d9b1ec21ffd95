"""One step of an environment: what a stand-in for it learns from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from emulate.contracts import Simulator, Truth
from emulate.errors import InputError
from emulate.noise import Noise
from emulate.runs import Field, Outputs, Runs
from emulate.simulators._environments import LQR, NEXT, environment
from emulate.space import Parameter, Space, Uniform

_SPACE = Space((Parameter("position", Uniform(-1.5, 1.5)), Parameter("velocity", Uniform(-1.5, 1.5)),
                Parameter("force", Uniform(-5.0, 5.0))))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Transition(Simulator):
    """One step of an environment: state and action to the next state, for emulators that stand in for it.

    A parameter is named as a state or an action of the environment, an output `next_STATE`. Built in is `lqr`, a mass that is
    pushed, x' = A x + B a + w with w ~ N(0, W); any environment of gymnasium serves whose state can be set (all of classic
    control: CartPole-v1, Pendulum-v1, MountainCarContinuous-v0 ...), with the extra `rl`. Actions of a list are numbers from
    0, and what lies between two is the mean over choosing either at random.

    Runs at points of a design cover the states evenly. `episodes` are the transitions that a policy meets, a random one by
    default, of any environment; they make a table to train on without a campaign.

    >>> y = Transition().run(torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64), seed=1)
    >>> y.round(decimals=2)
    tensor([ 1.1100, -0.1900], dtype=torch.float64)
    """

    space: Space = _SPACE
    environment: str = "lqr"  # or an environment of gymnasium
    options: dict[str, Any] = field(default_factory=dict)  # of lqr: A, B, Q, R, W, start; else those of gymnasium.make

    differentiable: ClassVar[bool] = True  # of lqr
    replicates: ClassVar[int] = 1

    def __post_init__(self) -> None:
        system, names = self._system, self.space.names
        wanted = (*system.states, *system.actions)
        if sorted(names) != sorted(wanted):
            raise InputError(f"transition: the parameters must be the states and actions of {self.environment}, "
                             f"{', '.join(wanted)}, in any order. Got {', '.join(names)}.")  # fmt: skip
        object.__setattr__(self, "differentiable", system.smooth)

    @property
    def outputs(self) -> Outputs:
        return Outputs(tuple(Field(NEXT + name) for name in self._system.states))

    @property
    def stochastic(self) -> bool:
        return self._system.random

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        """The next state `[s]` at theta `[d]`, and `[..., s]` at many theta `[..., d]` at once."""
        return self.program(theta, Noise(seed))

    def program(self, theta: Tensor, noise: Noise) -> Tensor:
        """The same, drawn at the site `transition`."""
        system, names = self._system, self.space.names
        x, a = (theta[..., [names.index(n) for n in of]] for of in (system.states, system.actions))
        low, high = system.bounds
        if not system.smooth and bool(((a < low) | (a > high)).any()):
            raise InputError(f"transition: actions of {self.environment} must be from {low.tolist()} to {high.tolist()}. Got "
                             f"{a.tolist()}; narrow their priors.")  # fmt: skip
        return system.next(x, a, noise, 0)

    def truths(self) -> tuple[Truth, ...]:
        still = Transition(options={"W": [[0.0, 0.0], [0.0, 0.0]]})
        at = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64)
        after = (("position", 1.04), ("velocity", 0.3))
        return tuple(
            Truth(
                f"{name} after a step without noise",
                lambda i=i: float(still.run(at, seed=0)[i]),
                value,
                1e-12,
                "A x + B a",
            )
            for i, (name, value) in enumerate(after)
        )

    def episodes(self, n: int, *, seed: int, policy: Callable[[np.ndarray], Any] | None = None) -> Runs:
        """n transitions of whole episodes as a table to train on.

        policy: state `[s]` -> action; without one, actions are drawn evenly from those there are (from the prior, where they
        have no bounds). An episode begins anew where the environment ends it; one of `lqr` never ends.
        """
        system, rng = self._system, np.random.default_rng(seed)
        rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

        def act(x: np.ndarray, k: int) -> np.ndarray:
            if policy is not None:
                return np.atleast_1d(np.asarray(policy(x), np.float64))
            if system.choices:
                return rng.integers(0, system.choices, 1).astype(np.float64)
            return self._drawn(rng)

        if isinstance(system, LQR):
            noise, x = Noise(seed), system.initial(Noise(seed), 1)[0]
            for k in range(n):
                a = torch.from_numpy(act(x.numpy(), k))
                after = system.next(x, a, noise, k)
                rows.append((x.numpy(), a.numpy(), after.numpy()))
                x = after
        else:
            while len(rows) < n:
                rows += [(x, a, after) for x, a, after, _ in system.steps(act, int(rng.integers(2**31)))]
        x, a, after = (np.stack(part) for part in zip(*rows[:n], strict=True))
        order = [(*system.states, *system.actions).index(name) for name in self.space.names]
        return Runs.of(self.space, self.outputs, np.concatenate((x, a), 1)[:, order], after, stochastic=self.stochastic)

    def _drawn(self, rng: np.random.Generator) -> np.ndarray:
        """An action of the prior, within the bounds."""
        theta = self.space.from_unit(torch.from_numpy(rng.uniform(size=self.space.d)))
        a = torch.stack([self.space.unpack(theta)[name] for name in self._system.actions])
        return torch.clamp(a, *self._system.bounds).numpy()

    @property
    def _system(self) -> Any:
        return environment(self.environment, self.options)

"""A policy in an environment, or in an emulator of it: the gains are the parameters, and what it costs is the output."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Categorical, Normal

from emulate import chained
from emulate.contracts import Simulator, Truth
from emulate.dynamics import Trajectory
from emulate.errors import InputError
from emulate.expressions import Expression
from emulate.noise import Noise
from emulate.runs import Field, Outputs
from emulate.simulators._environments import LQR, System, environment, loaded
from emulate.space import Parameter, Space, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPACE = Space((Parameter("k_position", Uniform(0.5, 6.0), label="K_1"),
                Parameter("k_velocity", Uniform(0.5, 6.0), label="K_2")))  # fmt: skip
_BEST, _LEAST = (2.585701, 3.443436), 0.17920738  # of lqr as it stands, by its Riccati equation


@dataclass(frozen=True, kw_only=True)
class Policy(Simulator):
    r"""A policy in an environment, or in an emulator of its transitions: what its actions cost on average.

    The action is a = -K phi(x) with features phi of the state, the states themselves by default, squashed into the bounds of
    the actions where there are some: m + h tanh(a / h) around their middle m. The parameters are K, row by row: the gains of
    the first action for each feature, then of the next. The output is the mean `cost` of a step over `episodes` rollouts of
    `steps` steps, the first `warmup` left out; or, in an environment of gymnasium and with `cost` empty, its own `return`,
    the sum of the rewards of an episode.

    With `emulator`, the folder of one that was trained on runs of `transition`, rollouts go through that: they carry a
    derivative whatever the environment is (pathwise policy gradient: Deisenroth and Rasmussen 2011; Parmas et al. 2018).
    Actions of a list are then taken with their odds, as `transition` has them in between; in the environment the
    nearest is taken, or one is drawn by these odds where there is `exploration`, which is what the score function needs
    (Williams 1992). Draws stand at the sites `start`, `action` and `transition`. A policy that is best in an emulator has been
    chosen for the emulator's errors too: what it is worth is seen in the environment.

    The built-in `lqr` has the truth: least cost 0.17920738 at K = (2.585701, 3.443436), gradient (-0.0171249453,
    -0.1768975069) at (1, 1).

    >>> y = Policy(episodes=200).run(torch.tensor([2.585701, 3.443436], dtype=torch.float64), seed=1)
    >>> bool((y - 0.1792).abs() < 0.01)
    True
    """

    space: Space = _SPACE
    environment: str = "lqr"  # or an environment of gymnasium, such as CartPole-v1, with the extra rl
    options: dict[str, Any] = field(default_factory=dict)  # of lqr: A, B, Q, R, W, start; else those of gymnasium.make
    emulator: str = ""  # folder of an emulator of the transitions; its content enters the keys
    features: tuple[str, ...] = ()  # phi: expressions of the states, such as "sin(angle)"; empty: the states
    exploration: Annotated[float, Ge(0)] = 0.0  # standard deviation of an action; above 0 one of a list is drawn
    cost: str = ""  # of a step, an expression of states and actions; empty: the environment's own
    steps: Annotated[int, Ge(1)] = 200  # of a rollout
    warmup: Annotated[int, Ge(0)] = 100  # steps before those that count
    episodes: Annotated[int, Ge(1)] = 1  # rollouts that a run averages over

    differentiable: ClassVar[bool] = True  # of lqr and of emulators
    replicates: ClassVar[int] = 1  # of the program, which averages over episodes itself
    incidental: ClassVar[tuple[str, ...]] = ("emulator",)  # `version` knows its content
    example: ClassVar[dict] = {"steps": 20, "warmup": 10}

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        n = len(self.real.actions) * len(self._phi)
        if self.space.d != n:
            raise InputError(f"policy: the parameters must be {n} gains, of {', '.join(self.real.actions)} for each of "
                             f"{', '.join(self.features or self.real.states)}, in that order. Got {self.space.d}: "
                             f"{', '.join(self.space.names)}.")  # fmt: skip
        if self.returns and self.emulator:
            raise InputError(f"policy: cost must be an expression of {', '.join(self._names)} where an emulator is asked, which "
                             f"knows no rewards of {self.environment}. Got none.")  # fmt: skip
        if not self.returns and self.warmup >= self.steps:
            raise InputError(f"policy: warmup must leave steps that count. Got {self.warmup} of {self.steps}.")
        if not self.returns and not self.emulator and not self.real.settable:
            raise InputError(f"policy: cost must be empty where the state of {self.environment} cannot be set, so that its own "
                             f"rewards count. Got {self.cost!r}.")  # fmt: skip
        smooth = bool(self.emulator) or self.real.smooth  # the folder is read when it is needed: it may be made later
        object.__setattr__(self, "differentiable", smooth and not self.returns)

    @property
    def version(self) -> str:
        """The version of the code, and the first digits of the sha256 of the emulator where there is one; `1.absent` where its
        folder is still to be made, in which case no run finishes."""
        if not self.emulator:
            return "1"
        return (
            f"1.{chained.digest(loaded(self.environment, self.options, self.emulator).emulator)[:16]}"
            if Path(self.emulator).expanduser().exists()
            else "1.absent"
        )

    @property
    def outputs(self) -> Outputs:
        return Outputs((Field("return" if self.returns else "cost"),))

    @property
    def stochastic(self) -> bool:
        return self.real.random or self.real.scattered or self.exploration > 0

    @property
    def returns(self) -> bool:
        """Whether the output is the sum of the environment's own rewards."""
        return not self.cost and not isinstance(self.real, LQR)

    @cached_property
    def real(self) -> Any:
        """The environment itself."""
        return environment(self.environment, self.options)

    @cached_property
    def system(self) -> System:
        """What rollouts go through: the environment, or the emulator in its place."""
        return loaded(self.environment, self.options, self.emulator) if self.emulator else self.real

    def made(self) -> "Policy":
        """The same policy in the environment itself."""
        return replace(self, emulator="")

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        return self.program(theta, Noise(seed))

    def program(self, theta: Tensor, noise: Noise) -> Tensor:
        """The output `[1]` of one run, which draws by name."""
        rollouts = self.dynamics
        return self._returned(theta, noise) if rollouts is None else rollouts(theta, noise)

    @cached_property
    def dynamics(self) -> Trajectory | None:
        """The rollouts step by step, state `[episodes, s + 1]` with the cost so far last; None where rewards are returned."""
        if self.returns:
            return None
        n, s = self.episodes, len(self.real.states)

        def step(theta: Tensor, state: Tensor, k: int, noise: Noise) -> Tensor:
            x, paid = state[..., :s], state[..., s:]
            x = self.system.initial(noise, n) if k == 0 else x
            after, _, cost = self._step(theta, x, k, noise)
            return torch.cat((after, paid if cost is None or k < self.warmup else paid + cost[..., None]), -1)

        return Trajectory(lambda theta: torch.zeros(n, s + 1, dtype=torch.float64), step, self.steps,
                          lambda theta, state: state[..., s].mean()[None] / (self.steps - self.warmup))  # fmt: skip

    def truths(self) -> tuple[Truth, ...]:
        lqr, source = (
            LQR(),
            "linear quadratic regulator: its Riccati and Lyapunov equations (Kalman 1960; Fazel et al. 2018)",
        )
        best, ones = torch.tensor(_BEST, dtype=torch.float64), [1.0, 1.0]
        many = Policy(episodes=4000)
        return (
            Truth("best gain of the position", lambda: lqr.best[0, 0], _BEST[0], 1e-6, source),
            Truth("best gain of the velocity", lambda: lqr.best[0, 1], _BEST[1], 1e-6, source),
            Truth("cost of a step at the best gains, by 4000 rollouts", lambda: float(many.run(best, seed=1)), _LEAST, 1e-3, source,
                  slow=True),
            Truth("slope of the cost with the gain of the position at (1, 1)", lambda: lqr.gradient_of(ones)[0, 0],
                  -0.0171249453, 1e-10, source),
            Truth("slope of the cost with the gain of the velocity at (1, 1)", lambda: lqr.gradient_of(ones)[0, 1],
                  -0.1768975069, 1e-10, source),
        )  # fmt: skip

    def picture(self, points: Mapping[str, Tensor]) -> "Figure | None":
        """Trajectories in phase space under the policies; the mean cost of their steps; and, where rollouts go through an
        emulator, what it says they cost against what they cost in the environment: above the dotted line it flatters.
        """
        from emulate.simulators import _policy_pictures

        return _policy_pictures.picture(self, points)

    def rollout(
        self, theta: Tensor, *, seed: int, steps: int | None = None, start: Tensor | None = None
    ) -> dict[str, Tensor]:
        """States `[steps + 1, n, s]`, actions `[steps, n, a]` and costs `[steps, n]` of n episodes, or of those from `start`
        `[n, s]`; costs are left out where the environment returns its own."""
        noise = Noise(seed)
        x = self.system.initial(noise, self.episodes) if start is None else start
        met: dict[str, list[Tensor]] = {"states": [x], "actions": [], "costs": []}
        with torch.no_grad():
            for k in range(self.steps if steps is None else steps):
                x, a, cost = self._step(theta, x, k, noise)
                for name, value in (("states", x), ("actions", a), ("costs", cost)):
                    met[name] += [] if value is None else [value]
        return {name: torch.stack(values) for name, values in met.items() if values}

    def _step(self, theta: Tensor, x: Tensor, k: int, noise: Noise) -> tuple[Tensor, Tensor, Tensor | None]:
        a = self._act(theta, x, k, noise)
        return self.system.next(x, a, noise, k), a, None if self.returns else self._cost(x, a)

    def _act(self, theta: Tensor, x: Tensor, k: int, noise: Noise) -> Tensor:
        """The action `[..., a]` in states `[..., s]`."""
        gains = theta.reshape(len(self.real.actions), len(self._phi))
        a = -(self._features(x) @ gains.mT)
        if self._bounded is not None:
            middle, half = self._bounded
            a = middle + half * torch.tanh(a / half)
        if not self.real.choices:
            return noise.draw("action", Normal(a, self.exploration), step=k) if self.exploration else a
        levels = torch.arange(self.real.choices, dtype=torch.float64)
        if self.exploration:
            odds = torch.relu(1 - (a - levels).abs())  # [..., choices]: of the two neighbours
            return noise.draw("action", Categorical(probs=odds), step=k)[..., None].double()
        return a if self.emulator else noise.above("action", a - levels[:-1] - 0.5, step=k).sum(-1, keepdim=True)

    def _features(self, x: Tensor) -> Tensor:
        if not self.features:
            return x
        values = dict(zip(self.real.states, x.unbind(-1), strict=True))
        return torch.stack([f(values).expand(x.shape[:-1]) for f in self._phi], -1)

    @cached_property
    def _bounded(self) -> tuple[Tensor, Tensor] | None:
        """The middle of the actions and half their range, `[a]`; None where they have no bounds."""
        low, high = self.real.bounds
        return ((low + high) / 2, (high - low) / 2) if bool((high - low).isfinite().all()) else None

    def _cost(self, x: Tensor, a: Tensor) -> Tensor:
        """What a step costs, `[...]`."""
        if not self.cost:
            return self.real.cost(x, a)
        values = dict(zip(self._names, (*x.unbind(-1), *a.unbind(-1)), strict=True))
        return self._priced(values).expand(x.shape[:-1])

    def _returned(self, theta: Tensor, noise: Noise) -> Tensor:
        """The mean sum of the environment's rewards `[1]` over whole episodes."""
        total, met = 0.0, 0
        for seed in (noise.uniform("start", (self.episodes,)) * 2**31).tolist():

            def act(x: np.ndarray, k: int) -> np.ndarray:
                nonlocal met
                a = self._act(theta, torch.from_numpy(x), met, noise)
                met += 1
                return np.array(a.detach().tolist())

            total += sum(reward for *_, reward in self.real.steps(act, int(seed)))
        return torch.tensor([total / self.episodes], dtype=torch.float64)

    @property
    def _names(self) -> tuple[str, ...]:
        return (*self.real.states, *self.real.actions)

    @cached_property
    def _phi(self) -> tuple[Any, ...]:
        known = dict.fromkeys(self.real.states)
        return tuple(Expression.read(f, known) for f in self.features) or self.real.states

    @cached_property
    def _priced(self) -> Expression:
        return Expression.read(self.cost, dict.fromkeys(self._names))

"""Polynomials of a simulator's own events, by their values and their scores."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.distributions import MultivariateNormal

from emulate import emissions, responses
from emulate.contracts import Core, Made, Recipe, Simulator
from emulate.emulator import Emulator
from emulate.errors import DoubtWarning, InputError
from emulate.responses import Response as Fit
from emulate.runs import Outputs, Runs
from emulate.space import Space
from emulate.transforms import OutputTransform

_MISFIT = 1.5  # of the cells, per degree of freedom; noise alone is within a few per cent of 1
_AT_ONCE = 20_000  # events that are made together
_STATE = ("terms", "coefficients", "inverse", "root_terms", "roots")


class _Fitted(Core):
    average: Tensor
    bias: Tensor

    def __init__(self, state: Mapping[str, Tensor], flow: Emulator | None):
        super().__init__()
        for name in (*_STATE, "average", "bias"):
            self.register_buffer(name, state[name])
        self.flow = flow  # what the simulator learnt first; None where nothing was

    def forward(self, u: Tensor) -> MultivariateNormal:
        fit = Fit(*(getattr(self, name) for name in _STATE))
        mean, root = fit.of(u, self.average, self.bias)
        return MultivariateNormal(mean, scale_tril=root, validate_args=False)


@dataclass(frozen=True, kw_only=True)
class Response(Recipe):
    r"""Polynomials of a simulator's own events, each at parameters of its own, by their values and their scores.

    For a simulator whose run is the average of `events` rows, one per event, and which knows or learns the density of its
    events: it gives rows h `[n, m]` and scores s = d ln p / dtheta `[n, d]` by `scored(theta [n, d], seed=...)`, as `lund`
    does. The mean r(u) = E[h | u] is a polynomial of total degree `degree`, fitted to E[h] = r and E[(h - r) s] = dr/du; see
    `emulate.responses`. p(y | theta) is a normal around it: the covariance of an event, which changes with theta, over the
    events of a run, and the error of the polynomial's coefficients. So the noise of a run is inside, and an observation that
    is one run itself needs the likelihood `predictive`.

    What counts is how many events are made, and those need no run of the simulator where a flow makes them. The runs of the
    study scale the outputs, and with `calibrate` they tell how far off the flow and the polynomial are: a plane through
    what they leave is added, drawn towards nothing by how likely that makes the runs, and as much variance, in
    proportion to an event's, as brings chi2 of the rest to its mean.

    `flow` is the recipe of what the simulator learns first, `lund` the density of one emission, from `draws` of it; the
    emulator's core.flow is what it learnt.

    >>> Response(degree=2).minimum_runs(3)
    2
    """

    takes: ClassVar[tuple[str, ...]] = ("made",)
    example: ClassVar[dict] = {"events": 20_000}

    log: bool = False  # rows of events have no logarithms
    events: Annotated[int, Ge(100)] = 400_000  # made to learn from; a few per cent of them say how well
    degree: Annotated[int, Ge(1), Le(6)] = 4  # highest total power of the parameters
    simulator: Simulator | None = None  # {use: lund, ...}: whose events to learn from, in place of the study's own
    flow: Recipe | None = None  # {use: flow, ...}: what the simulator learns first, in place of the density it knows
    draws: Annotated[int, Ge(100)] = 65_536  # that the flow learns from

    def __post_init__(self) -> None:
        if self.log:
            raise InputError("response.log: must be false, for rows of single events have no logarithms. Got true.")

    def minimum_runs(self, d: int) -> int:
        return 2

    def make(self, space: Space, outputs: Outputs, simulator: Simulator | None, *, seed: int) -> Made:
        own: Any = self.simulator or simulator  # one that knows its events, as what follows asks
        if own is None or not callable(getattr(own, "scored", None)):
            name = "no simulator" if own is None else own.entry_name()
            raise InputError("response must have a simulator that gives single events with their scores, `scored`, as lund "
                             f"does. Got {name}; name one, simulator: {{use: lund, ...}}, or give it to emulate.fit.")  # fmt: skip
        own = replace(own, space=space)
        if own.outputs != outputs:
            raise InputError(f"response.simulator must have the outputs of the runs, {outputs.labels[0]} to {outputs.labels[-1]}. "
                             f"Got {own.outputs.labels[0]} to {own.outputs.labels[-1]}; give it the same observables and "
                             "edges.")  # fmt: skip
        average = getattr(simulator or own, "events", 1)
        if self.flow is not None:
            own = own.taught(self.flow, draws=self.draws, seed=seed)
        engine = torch.quasirandom.SobolEngine(space.d, scramble=True, seed=seed % 2**31)
        theta = space.from_unit(engine.draw(self.events, dtype=torch.float64))
        parts = [own.scored(part, seed=seed + i) for i, part in enumerate(theta.split(_AT_ONCE))]
        rows, scores = (torch.cat(p) for p in zip(*parts, strict=True))
        runs = Runs.of(space, outputs, theta.numpy(), rows.numpy(), stochastic=True)
        return Made(runs, scores / space.stretch(theta), {"average": average, "flow": self.flow and own.learnt})

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int, made: tuple[Tensor, Tensor, Made]) -> Core:
        at, rows, more = made
        fit = responses.fit(at, rows, more.scores, degree=self.degree)
        if not fit.misfit <= _MISFIT:
            warnings.warn(f"response: a polynomial of degree {self.degree} misses the mean of cells of the events, chi2 is "
                          f"{fit.misfit:.2f} per degree of freedom; raise `degree`, or narrow the box.", DoubtWarning,
                          stacklevel=2)  # fmt: skip
        average = float(more.extras["average"])
        bias = torch.zeros((), dtype=torch.float64)
        if self.calibrate:
            fit, bias = responses.corrected(fit, u, z, average)
        state = {name: getattr(fit, name) for name in _STATE}
        return _Fitted(
            {**state, "average": torch.tensor(average, dtype=torch.float64), "bias": bias}, more.extras["flow"]
        )

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Fitted(state, self._flow({k[5:]: v for k, v in state.items() if k.startswith("flow.")}))

    def _flow(self, state: dict[str, Tensor]) -> Emulator | None:
        if not state or self.flow is None:
            return None
        part: dict[str, Any] = {name: {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
                                for name in ("core", "transform")}  # fmt: skip
        core, transform = self.flow.rebuild(part["core"]), OutputTransform(part["transform"])
        return Emulator(emissions.SPACE, emissions.OUTPUTS, self.flow, core, transform, {})

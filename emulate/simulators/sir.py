"""An epidemic: who is susceptible, infected, recovered, by the equations of Kermack and McKendrick."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from emulate.contracts import Simulator, Truth
from emulate.errors import InputError
from emulate.runs import Field, Outputs
from emulate.simulators._mass_action import Rates, need_names, need_times, slopes, solve
from emulate.space import LogNormal, Parameter, Space

_SPACE = Space((Parameter("beta", LogNormal(math.log(0.4), 0.5), unit="1/d", label=r"\beta"),
                Parameter("gamma", LogNormal(math.log(0.125), 0.2), unit="1/d", label=r"\gamma")))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SIR(Simulator):
    r"""Susceptible S, infected I, recovered R = N - S - I: dS/dt = -beta S I / N, dI/dt = beta S I / N - gamma I.

    The output is how many of `tested` people drawn at random are expected to be infected, tested I / N: with the likelihood
    `binomial` and as many trials, the model of Kermack and McKendrick (1927) in numbers, priors and times of the task of
    that name by Lueckmann et al. (2021). At t = 0 it is the start. Over draws of the prior the error of ln I is 1e-13 in
    the median, 1e-9 in the worst of a thousand, where counts of a thousand tell it to 0.05 at best. One run takes one
    millisecond. Of a long epidemic R / N = r remains, the root of r = 1 - s exp(-beta / gamma (r - r_0)), s = S_0 / N.

    >>> simulator = SIR(times=(0.0, 34.0, 68.0))
    >>> simulator.run(torch.tensor([0.5, 0.125], dtype=torch.float64), seed=0).round(decimals=2)
    tensor([  0.0000, 210.8700,  29.0900], dtype=torch.float64)
    """

    space: Space = _SPACE
    fixed: dict[str, float] = field(default_factory=dict)  # beta or gamma, if it is not in the space, 1/d
    population: Annotated[float, Gt(0)] = 1e6  # people, N
    infected: Annotated[float, Gt(0)] = 1.0  # I at t = 0
    recovered: Annotated[float, Ge(0)] = 0.0  # R at t = 0
    tested: Annotated[float, Gt(0)] = 1000.0  # people, of whom the output expects tested I / N to be infected
    times: tuple[float, ...] = tuple(17.0 * i for i in range(10))  # of the outputs, d
    step: Annotated[float, Gt(0)] = 0.5  # at most so long, d; halved, the error falls by 2^8

    differentiable: ClassVar[bool] = True
    batched: ClassVar[bool] = True
    example: ClassVar[dict] = {"times": (0.0, 17.0, 34.0), "step": 2.0}

    def __post_init__(self):
        need_names("sir", ("beta", "gamma"), self.space.names, self.fixed)
        need_times("sir", self.times)
        if not self.infected + self.recovered < self.population:
            raise InputError(f"sir: infected and recovered must be fewer than the population. Got {self.infected:g} and "
                             f"{self.recovered:g} of {self.population:g}.")  # fmt: skip

    @property
    def outputs(self) -> Outputs:
        return Outputs((Field("infected", positive=True, coordinate="t", at=self.times, at_unit="d"),))

    @property
    def stochastic(self) -> bool:
        return False

    def run(self, theta: Tensor, *, seed: int = 0) -> Tensor:
        """y `[m]` at theta `[d]`, and `[..., m]` at many theta `[..., d]` at once."""
        return self.tested * solve(self._start, self._rates, theta, self.times, self.step)[1].exp()

    def jacobian(self, theta: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """The outputs `[m]` and their derivatives `[m, d]`, by complex steps."""
        y = self.run(theta.detach(), seed=seed)
        return y, y[:, None] * slopes(self._start, self._rates, theta.detach(), self.times, self.step)[1]

    def truths(self) -> tuple[Truth, ...]:
        """Whom an epidemic spares, by the equation of its final size."""

        def spared() -> float:
            theta, sir = torch.tensor([0.5, 0.125], dtype=torch.float64), SIR()
            return float(solve(sir._start, sir._rates, theta, (600.0,), sir.step)[0].exp())

        return (Truth("the share of people that an epidemic with beta = 4 gamma never reaches", spared, 0.01982738, 1e-8,
                      "s = (1 - 1e-6) exp(-4 (1 - s)): Kermack and McKendrick 1927"),)  # fmt: skip

    @property
    def _start(self) -> tuple[float, float]:
        """ln S / N and ln I / N."""
        n = self.population
        return math.log1p(-(self.infected + self.recovered) / n), math.log(self.infected / n)

    def _rates(self, theta: Sequence[Any]) -> Rates:
        of = {**self.fixed, **dict(zip(self.space.names, theta, strict=True))}
        return Rates(0.0, of["beta"], of["gamma"], of["beta"])

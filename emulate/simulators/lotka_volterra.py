"""Predators and their prey, by the equations of Lotka and Volterra."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from emulate.contracts import Simulator
from emulate.runs import Field, Outputs
from emulate.simulators._mass_action import Rates, need_names, need_times, slopes, solve
from emulate.space import LogNormal, Parameter, Space

_RATE, _MEETING = LogNormal(-0.125, 0.5), LogNormal(-3.0, 0.5)
_SPACE = Space((Parameter("alpha", _RATE, label=r"\alpha"), Parameter("beta", _MEETING, label=r"\beta"),
                Parameter("gamma", _RATE, label=r"\gamma"), Parameter("delta", _MEETING, label=r"\delta")))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LotkaVolterra(Simulator):
    r"""Prey x and predators y: dx/dt = alpha x - beta x y, dy/dt = delta x y - gamma y (Lotka 1925; Volterra 1926).

    Numbers, priors and times are those of the task of that name by Lueckmann et al. (2021), whose data are
    LogNormal(ln x, 0.1) about the populations: the likelihood `log_normal` with `error: 0.1`. At t = 0 they are the start.
    Over draws of the prior the error of ln x and ln y is 1e-11 in the median and 1e-6 in the worst of a thousand, a
    hundred-thousandth of that noise. One run takes one millisecond. V = delta x - gamma ln x + beta y - alpha ln y is conserved.

    Any of alpha, beta, gamma, delta may be in the space, in any order; `fixed` holds the others.

    >>> simulator = LotkaVolterra(times=(0.0, 5.0))
    >>> simulator.run(torch.tensor([1.0, 0.05, 1.0, 0.05], dtype=torch.float64), seed=0).round(decimals=2)
    tensor([30.0000,  1.2300,  1.0000,  8.3900], dtype=torch.float64)
    """

    space: Space = _SPACE
    fixed: dict[str, float] = field(default_factory=dict)  # values of the parameters that are not in the space
    prey: Annotated[float, Gt(0)] = 30.0  # x at t = 0
    predators: Annotated[float, Gt(0)] = 1.0  # y at t = 0
    times: tuple[float, ...] = tuple(round(2.1 * i, 10) for i in range(10))  # of the outputs, in the unit of 1 / alpha
    step: Annotated[float, Gt(0)] = 0.05  # at most so long; halved, the error falls by 2^8

    differentiable: ClassVar[bool] = True
    batched: ClassVar[bool] = True
    example: ClassVar[dict] = {"times": (0.0, 2.0, 4.0), "step": 0.2}

    def __post_init__(self):
        need_names("lotka_volterra", Rates._fields, self.space.names, self.fixed)
        need_times("lotka_volterra", self.times)

    @property
    def outputs(self) -> Outputs:
        return Outputs(
            tuple(Field(name, positive=True, coordinate="t", at=self.times) for name in ("prey", "predators"))
        )

    @property
    def stochastic(self) -> bool:
        return False

    def run(self, theta: Tensor, *, seed: int = 0) -> Tensor:
        """y `[m]` at theta `[d]`, and `[..., m]` at many theta `[..., d]` at once."""
        return torch.cat(solve(self._start, self._rates, theta, self.times, self.step), -1).exp()

    def jacobian(self, theta: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """The outputs `[m]` and their derivatives `[m, d]`, by complex steps."""
        y = self.run(theta.detach(), seed=seed)
        return y, y[:, None] * torch.cat(slopes(self._start, self._rates, theta.detach(), self.times, self.step))

    @property
    def _start(self) -> tuple[float, float]:
        return math.log(self.prey), math.log(self.predators)

    def _rates(self, theta: Sequence[Any]) -> Rates:
        return Rates(**{**self.fixed, **dict(zip(self.space.names, theta, strict=True))})

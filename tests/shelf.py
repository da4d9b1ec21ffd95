"""A simulator whose optimum cannot be made as it is."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from emulate.contracts import Simulator
from emulate.runs import Field, Outputs
from emulate.space import Parameter, Space, Uniform

_SPACE = Space((Parameter("x", Uniform(0.0, 1.0)),))


@dataclass(frozen=True, kw_only=True)
class Shelf(Simulator):
    """A height that is best at 0.63, and that is cut to a multiple of a pitch when it is made."""

    space: Space = _SPACE
    pitch: float = 0.1
    cut: bool = False

    differentiable: ClassVar[bool] = True

    @property
    def outputs(self) -> Outputs:
        return Outputs((Field("y"),))

    @property
    def stochastic(self) -> bool:
        return False

    def made(self) -> "Shelf":
        return replace(self, cut=True)

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        x = torch.round(theta / self.pitch) * self.pitch if self.cut else theta
        return 1 - 4 * (x - 0.63) ** 2

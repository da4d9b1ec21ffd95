"""The smallest simulator: a linear map with Gaussian noise, whose posterior is known in closed form."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from emulate.contracts import Simulator
from emulate.runs import Field, Outputs
from emulate.space import Normal, Parameter, Space

_SPACE = Space((Parameter("a", Normal(0.0, 1.0)), Parameter("b", Normal(0.0, 1.0))))


@dataclass(frozen=True, kw_only=True)
class LinearGaussian(Simulator):
    """Linear map with Gaussian noise, y = A theta + noise e: the exact posterior is known.

    A `[m, d]` has entries cos((i + 1)(j + 1)) and e ~ N(0, 1). With prior N(mu, diag(s^2)) and an observation of
    variance v per output the posterior is N(V (A^T y / v + mu / s^2), V), V = (A^T A / v + diag(1 / s^2))^-1
    (Bishop 2006, eq. 3.50).

    >>> LinearGaussian(outputs_count=3).run(torch.zeros(2, dtype=torch.float64), seed=0)
    tensor([0., 0., 0.], dtype=torch.float64)
    """

    space: Space = _SPACE
    outputs_count: Annotated[int, Ge(1)] = 5  # how many numbers a run gives, m
    noise: Annotated[float, Ge(0)] = 0.0  # standard deviation of every output

    differentiable: ClassVar[bool] = True

    @property
    def outputs(self) -> Outputs:
        return Outputs(tuple(Field(f"y{i}") for i in range(self.outputs_count)))

    @property
    def stochastic(self) -> bool:
        return self.noise > 0

    @property
    def matrix(self) -> Tensor:
        """A `[m, d]`."""
        i, j = torch.arange(1.0, self.outputs_count + 1), torch.arange(1.0, self.space.d + 1)
        return torch.cos(torch.outer(i, j).double())

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        e = torch.randn(self.outputs_count, generator=generator, dtype=torch.float64)
        return self.matrix @ theta + self.noise * e

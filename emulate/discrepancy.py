"""What the simulator itself is wrong by, as a Gaussian process over the coordinate of a field."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from emulate.errors import InputError
from emulate.runs import Outputs


@dataclass(frozen=True, kw_only=True)
class Discrepancy:
    """data = y(theta) + delta + noise, delta a Gaussian process of mean 0 whose amplitude and length are fixed.

    cov(delta_i, delta_j) = (amplitude^2 + share^2 y_i y_j) exp(-(x_i - x_j)^2 / (2 length^2)) between outputs of one
    field, x its coordinate, or ln x with `log`; 0 between fields. A field without a coordinate is one number. (Kennedy and
    O'Hagan 2001, eq. 4; amplitude and length are chosen and not learned, for data of one observation cannot tell them from
    theta: Brynjarsdottir and O'Hagan 2014.)

    `InputError` when amplitude and share are both 0, or a logarithm is asked of a coordinate that is not above 0.

    >>> from emulate.runs import Field
    >>> pk = Outputs((Field("pk", coordinate="k", at=(1.0, 2.0)),))
    >>> Discrepancy(amplitude=2.0, length=1.0).covariance(pk, torch.zeros(2, dtype=torch.float64))
    tensor([[4.0000, 2.4261],
            [2.4261, 4.0000]], dtype=torch.float64)
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "allow_inf_nan": False}

    amplitude: Annotated[float, Ge(0)] = 0.0  # standard deviation in the field's unit
    share: Annotated[float, Ge(0)] = 0.0  # standard deviation as a share of the prediction, added in square
    length: Annotated[float, Gt(0)] = 1.0  # over which it changes, in the unit of the coordinate, or of its logarithm
    log: bool = False  # the length is one of ln x: 0.7 is a factor of 2

    def __post_init__(self):
        if not (self.amplitude > 0 or self.share > 0):
            raise InputError("a discrepancy must have an amplitude or a share above 0. Got 0 for both; give one, or "
                             "take the discrepancy out.")  # fmt: skip

    def covariance(self, outputs: Outputs, mean: Tensor) -> Tensor:
        """`[..., m, m]` where the simulator gives y = mean `[..., m]`."""
        blocks = [self._correlation(f.at, f.name).to(mean) for f in outputs.fields]
        height = self.amplitude**2 + self.share**2 * mean[..., :, None] * mean[..., None, :]
        return height * torch.block_diag(*blocks)

    def _correlation(self, at: tuple[float, ...], name: str) -> Tensor:
        x = torch.tensor(at or (1.0,), dtype=torch.float64)
        if self.log:
            if not (x > 0).all():
                raise InputError(f"discrepancy.log must be false where a coordinate is not above 0. Got {float(x.min()):g} "
                                 f"in field {name!r}; give the length in the coordinate itself.")  # fmt: skip
            x = x.log()
        return (-0.5 * ((x[:, None] - x) / self.length) ** 2).exp()

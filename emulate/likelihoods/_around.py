"""What likelihoods of noise around a prediction share: all that makes the prediction itself unsure, in one covariance."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple, Self

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from emulate.contracts import Likelihood
from emulate.discrepancy import Discrepancy
from emulate.errors import InputError
from emulate.runs import Outputs


class Local(NamedTuple):
    """ln p(data | w) around a point w `[..., m]`: value `[...]`, slope `[..., m]`, weight = -Hessian `[..., m, m]`.

    steady `[..., m, m]` is positive semidefinite and at least the weight: that of a quadratic which touches ln p at w and
    lies below it (De Leeuw and Heiser 1980), so that a step to its top never goes down; the weight itself where ln p is
    concave.
    """

    value: Tensor
    slope: Tensor
    weight: Tensor
    steady: Tensor


@dataclass(frozen=True, kw_only=True)
class Around(Likelihood, ABC):
    """Noise around y, where y itself is unsure: by the emulator, a scale, an offset, a discrepancy, marginalised.

    y = (1 + s) f + o + delta, with f the emulator's prediction, s ~ N(0, scale_error^2) and o ~ N(0, offset_error^2) common
    to all outputs, and delta a `Discrepancy`. All are linear in y, so what they add is a covariance:
    (1 + scale_error^2) C_emulator + scale_error^2 mean mean^T + offset_error^2 1 1^T + C_delta. The scale's is taken at the
    prediction and not at the data, which would pull the fit down (D'Agostini 1994).
    """

    emulator_covariance: bool = True  # add the predictive covariance of the emulator
    scale_error: Annotated[float, Ge(0)] = 0.0  # sd of an unknown factor near 1, common to all outputs; marginalised
    offset_error: Annotated[float, Ge(0)] = 0.0  # sd of an unknown shift, in the outputs' unit; marginalised
    discrepancy: Discrepancy | None = None  # what the simulator is wrong by over its coordinate; marginalised

    outputs: ClassVar[Outputs | None] = None  # what `on` was told, an attribute of the instance alone
    logarithmic: ClassVar[bool] = False  # w of `local` is ln y

    def on(self, outputs: Outputs) -> Self:
        made = copy.copy(self)
        object.__setattr__(made, "outputs", outputs)
        return made

    @abstractmethod
    def local(self, data: Tensor) -> Callable[[Tensor], Local]:
        """ln p(data | w) of the noise alone with two derivatives, as a function of w, which is y or its logarithm."""

    @property
    def sure(self) -> bool:
        """Whether nothing is added to what the simulator says."""
        return not (self.scale_error or self.offset_error or self.discrepancy)

    def unsure(self, mean: Tensor) -> Tensor | None:
        """The covariance `[..., m, m]` of scale, offset and discrepancy where the simulator gives y = mean `[..., m]`."""
        if self.sure:
            return None
        added = self.scale_error**2 * mean[..., :, None] * mean[..., None, :] + self.offset_error**2
        if self.discrepancy is None:
            return added
        outputs = demand_told("a discrepancy", self.outputs, mean.shape[-1])
        return added + self.discrepancy.covariance(outputs, mean)

    def widened(self, noise: Tensor, mean: Tensor, own: Tensor | None) -> Tensor:
        """`noise` with all that makes y unsure: at its mean, with the emulator's own covariance where there is one."""
        if own is not None and self.emulator_covariance:
            noise = noise + (1 + self.scale_error**2) * own
        added = self.unsure(mean)
        return noise if added is None else noise + added

    def moved(self, truth: Tensor, noise: Tensor) -> Tensor:
        """One y around the simulator's truth `[m]`, by standard normal noise `[m]`."""
        added = self.unsure(truth)
        return truth if added is None else truth + root(added) @ noise


def root(covariance: Tensor) -> Tensor:
    """A square root of a covariance that may be singular."""
    value, axes = torch.linalg.eigh(covariance)
    return axes * value.clamp_min(0).sqrt()[..., None, :]


def each(name: str, given: float | tuple[float, ...], data: Tensor) -> Tensor:
    """A setting that is one number or one per output, checked against the data `[..., m]`."""
    made = torch.as_tensor(given, dtype=data.dtype, device=data.device)
    if made.ndim and len(made) != data.shape[-1]:
        raise InputError(f"{name} must be one number, or a list of {data.shape[-1]}, one per output. "
                         f"Got {len(made)} numbers.")  # fmt: skip
    return made


def demand_told(who: str, outputs: Outputs | None, m: int) -> Outputs:
    """The outputs; complains where a likelihood reads them and was not told of them, or of others."""
    if outputs is None:
        raise InputError(f"{who} must know the fields and coordinates of the outputs. Got a likelihood that has not been told; "
                         "use likelihood.on(simulator.outputs).")  # fmt: skip
    if outputs.size != m:
        raise InputError(f"the outputs must be those that the likelihood was told of, {outputs.size} numbers. Got {m}.")
    return outputs


def demand_errors(**given: float | tuple[float, ...]) -> None:
    """Complain about errors, by name, that are no finite numbers of at least 0, one or one per output."""
    for name, value in given.items():
        errors = np.asarray(value, np.float64)
        if errors.ndim > 1 or not (np.isfinite(errors).all() and (errors >= 0).all()):
            raise InputError(
                f"{name} must be a finite number of at least 0, or a list of them, one per output. Got {value}."
            )

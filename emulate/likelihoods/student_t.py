"""Heavy-tailed noise around the prediction: an output that is far off costs its logarithm, not its square."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor
from torch.distributions import Distribution

from emulate.distributions import gaussian_of
from emulate.errors import InputError
from emulate.likelihoods._around import Around, Local, demand_errors, each
from emulate.likelihoods._laplace import evidence


@dataclass(frozen=True, kw_only=True)
class StudentT(Around):
    """Student-t noise, each output by itself: for data with outliers.

    ln p = sum_j ln t_dof((data_j - y_j) / s_j) - ln s_j with s_j^2 = (relative_error data_j)^2 + absolute_error^2, a scale:
    the standard deviation is s sqrt(dof / (dof - 2)). All that makes y unsure, the emulator among it, is marginalised with
    its correlations by Laplace's method (for this noise: Vanhatalo, Jylanki and Vehtari 2009): within 0.003 of ln p for an
    output whose y is unsure by 0.3 s, 0.013 by 0.5 s, 0.07 by s. An emulator that is unsure by more than 2 s makes two modes
    of one outlier, of which one is counted: ln p may then be 1 off.

    data `[..., m]` broadcasts against the prediction's batch. `InputError` when an error is negative, has the wrong length,
    or leaves an output without noise.

    >>> StudentT(absolute_error=3.0, dof=4.0).covariance(torch.zeros(1, dtype=torch.float64))
    tensor([[18.]], dtype=torch.float64)
    """

    relative_error: float | tuple[float, ...] = 0.0  # share of the observation; one number, or one per output
    absolute_error: float | tuple[float, ...] = 0.0  # in the outputs' units; one number, or one per output
    dof: Annotated[float, Gt(2)] = 5.0  # degrees of freedom: few make heavy tails, many are Gaussian

    example: ClassVar[dict] = {"relative_error": 0.05, "absolute_error": 0.1, "dof": 10.0}

    def __post_init__(self):
        demand_errors(relative_error=self.relative_error, absolute_error=self.absolute_error)

    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        return evidence(self, prediction, data)

    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        mean, own = (data, None) if prediction is None else gaussian_of(prediction)
        return self.widened(torch.diag_embed(self._scale(data) ** 2 * self.dof / (self.dof - 2)), mean, own)

    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        rng = np.random.default_rng(seed)
        y = self.moved(truth, torch.from_numpy(rng.standard_normal(truth.shape)).to(truth))
        return y + self._scale(truth) * torch.from_numpy(rng.standard_t(self.dof, truth.shape)).to(truth)

    def local(self, data: Tensor) -> Callable[[Tensor], Local]:
        scale, nu = self._scale(data), self.dof
        constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi) - scale.log()

        def at(w: Tensor) -> Local:
            r = (data - w) / scale
            value = (constant - 0.5 * (nu + 1) * torch.log1p(r**2 / nu)).sum(-1)
            steady = (nu + 1) / (nu + r**2) / scale**2
            weight = steady * (nu - r**2) / (nu + r**2)
            return Local(value, steady * scale * r, torch.diag_embed(weight), torch.diag_embed(steady))

        return at

    def _scale(self, data: Tensor) -> Tensor:
        relative, absolute = (each(n, getattr(self, n), data) for n in ("relative_error", "absolute_error"))
        scale = ((relative * data) ** 2 + absolute**2).sqrt()
        silent = (scale.reshape(-1, data.shape[-1]) <= 0).any(0).nonzero().flatten().tolist()
        if silent:
            raise InputError(f"the observation must have an error in every output. Got none in output {silent[0]} of "
                             f"{data.shape[-1]}, where the data may be 0; give an absolute_error.")  # fmt: skip
        return scale

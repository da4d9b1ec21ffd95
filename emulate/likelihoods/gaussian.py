"""Gaussian noise around the prediction, the emulator's own covariance added."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.contracts import Likelihood
from emulate.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Gaussian(Likelihood):
    """Gaussian noise: a share of the data, an absolute error, a covariance file, and the emulator's covariance.

    ln p = -r^T C^-1 r / 2 - ln |C| / 2 - m ln(2 pi) / 2 with r = data - mean and C = noise + emulator, where
    noise = diag((relative_error * data)^2 + absolute_error^2) + the matrix in `covariance_file`.

    The relative error refers to what is at hand: to the observed data in `log_prob`, to the noise-free truth in
    `sample`. For small errors the difference is of second order; `absolute_error` knows no such difference.

    data `[..., m]` broadcasts against the prediction's batch, so that every chain may have data of its own.
    `InputError` when an error is negative, has the wrong length, or leaves an output without any noise.

    >>> noise = Gaussian(relative_error=0.1, absolute_error=(0.0, 3.0))
    >>> noise.covariance(torch.tensor([10.0, 40.0], dtype=torch.float64))
    tensor([[ 1.,  0.],
            [ 0., 25.]], dtype=torch.float64)
    """

    relative_error: float | tuple[float, ...] = 0.0  # share of the observation; one number, or one per output
    absolute_error: float | tuple[float, ...] = 0.0  # in the outputs' units; one number, or one per output
    covariance_file: str = ""  # CSV of an m x m matrix in the outputs' units, without a header; added to the above
    emulator_covariance: bool = True  # add the predictive covariance of the emulator

    example: ClassVar[dict] = {"relative_error": 0.05, "absolute_error": 0.1}  # what the contract tests build

    def __post_init__(self):
        for name in ("relative_error", "absolute_error"):
            errors = np.asarray(getattr(self, name), np.float64)
            if errors.ndim > 1 or not (np.isfinite(errors).all() and (errors >= 0).all()):
                raise InputError(f"{name} must be a finite number of at least 0, or a list of them, one per output. "
                                 f"Got {getattr(self, name)}.")  # fmt: skip
        if not (self.covariance_file or np.any(self.relative_error) or np.any(self.absolute_error)):
            raise InputError("the observation must have an error. Got relative_error = 0, absolute_error = 0 and no "
                             "covariance_file; give at least one of them.")  # fmt: skip

    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        mean, own = prediction.gaussian()
        noise = self.covariance(data)
        factor, failed = torch.linalg.cholesky_ex(noise + own if self.emulator_covariance else noise)
        residual = (data - mean)[..., None]
        scaled = torch.linalg.solve_triangular(factor, residual, upper=False)[..., 0]
        spread = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        value = -0.5 * (scaled**2).sum(-1) - spread - 0.5 * data.shape[-1] * math.log(2 * math.pi)
        return torch.where((failed != 0) | torch.isnan(value), -torch.inf, value)

    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        m = data.shape[-1]
        variance = (self._spread("relative_error", data) * data) ** 2 + self._spread("absolute_error", data) ** 2
        noise = torch.diag_embed(variance)
        if self.covariance_file:
            if len(self._given) != m:
                raise InputError(f"covariance_file {self.covariance_file} must be {m} x {m}, a row for each output. "
                                 f"Got {len(self._given)} x {len(self._given)}.")  # fmt: skip
            noise = noise + self._given.to(data)
        silent = (noise.diagonal(dim1=-2, dim2=-1) <= 0).reshape(-1, m).any(0).nonzero().flatten().tolist()
        if silent:
            raise InputError(f"the observation must have an error in every output. Got none in output {silent[0]} of "
                             f"{m}, where the data may be 0; give an absolute_error.")  # fmt: skip
        if prediction is not None and self.emulator_covariance:
            noise = noise + prediction.gaussian()[1]
        return noise

    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(truth.shape, generator=generator, dtype=torch.float64).to(truth)
        return truth + (torch.linalg.cholesky(self.covariance(truth)) @ noise[..., None])[..., 0]

    def _spread(self, name: str, data: Tensor) -> Tensor:
        errors = torch.as_tensor(getattr(self, name), dtype=data.dtype, device=data.device)
        if errors.ndim and len(errors) != data.shape[-1]:
            raise InputError(f"{name} must be one number, or a list of {data.shape[-1]}, one per output. "
                             f"Got {len(errors)} numbers.")  # fmt: skip
        return errors

    @cached_property
    def _given(self) -> Tensor:
        """The matrix in the file, symmetric and positive definite."""
        where = f"covariance_file {self.covariance_file}"
        try:
            matrix = np.loadtxt(self.covariance_file, delimiter=",", ndmin=2, dtype=np.float64)
        except (OSError, ValueError) as e:
            raise InputError(f"{where} must be a CSV of numbers without a header. It could not be read: {e}") from None
        if matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"{where} must be square. Got {matrix.shape[0]} rows and {matrix.shape[1]} columns.")
        scale = np.sqrt(np.abs(np.outer(matrix.diagonal(), matrix.diagonal())))
        if not np.isfinite(matrix).all() or (np.abs(matrix - matrix.T) > 1e-8 * scale).any():
            raise InputError(f"{where} must be finite and symmetric. Got a matrix that is not; average it with its "
                             f"transpose if the difference is rounding.")  # fmt: skip
        smallest = np.linalg.eigvalsh(matrix / np.where(scale > 0, scale, 1))[0]
        if smallest <= 0:
            raise InputError(f"{where} must be positive definite. Got {smallest:.3g} as the smallest eigenvalue of "
                             f"its correlation matrix; an estimate from few runs needs more runs than outputs.")  # fmt: skip
        return torch.as_tensor(0.5 * (matrix + matrix.T))

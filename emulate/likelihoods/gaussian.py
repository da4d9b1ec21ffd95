"""Gaussian noise around the prediction, the emulator's own covariance added."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.distributions import Distribution

from emulate.columns import column
from emulate.distributions import gaussian_of
from emulate.errors import InputError
from emulate.likelihoods._around import Around, Local, demand_errors, each


@dataclass(frozen=True, kw_only=True)
class Gaussian(Around):
    """Gaussian noise: a share of the data, absolute errors, also from a file, a covariance file, and the emulator's covariance.

    ln p = -r^T C^-1 r / 2 - ln |C| / 2 - m ln(2 pi) / 2 with r = data - mean and C = noise + all that makes y unsure,
    where noise = diag((relative_error * data)^2 + absolute_error^2 + e^2) + S, e the errors in `error_file` and S the matrix in
    `covariance_file`.

    The relative error refers to what is at hand: to the observed data in `log_prob`, to the noise-free truth in
    `sample`. For small errors the difference is of second order; `absolute_error` knows no such difference.

    An S that was estimated from n simulations (sample covariance over n - 1) is itself unsure. `hartlap` makes its inverse
    unbiased, S (n - 1) / (n - m - 2) (Hartlap, Simon and Schneider 2007); `sellentin_heavens` marginalises the true
    covariance: ln p is that of a multivariate t with nu = n - m degrees of freedom (Sellentin and Heavens 2016, eq. 12).
    Neither makes up for few simulations in repeated studies (Percival et al. 2022): with n = 20 and m = 8 an interval of
    95 % holds the truth in 88 %, uncorrected in 76 %; n should be many times m.
    `error_dof` nu does the same for the size of all errors together: its square is nu / chi^2_nu times what is given. The t
    has covariance C and shape C (nu - 2) / nu, where the noise in C is what was given times nu / (nu - 2), or S times
    (n - 1) / (n - m - 2); where more than the noise is in C, the t is an approximation with the right covariance.

    data `[..., m]` broadcasts against the prediction's batch, so that every chain may have data of its own.
    `InputError` when an error is negative, has the wrong length, leaves an output without any noise, or n <= m + 2.

    >>> noise = Gaussian(relative_error=0.1, absolute_error=(0.0, 3.0))
    >>> noise.covariance(torch.tensor([10.0, 40.0], dtype=torch.float64))
    tensor([[ 1.,  0.],
            [ 0., 25.]], dtype=torch.float64)
    """

    relative_error: float | tuple[float, ...] = 0.0  # share of the observation; one number, or one per output
    absolute_error: float | tuple[float, ...] = 0.0  # in the outputs' units; one number, or one per output
    error_file: str = ""  # CSV with a column `error`, or one number a line, in the outputs' units; added to the above
    covariance_file: str = (
        ""  # m x m numbers in the outputs' units, parted by commas or blanks, no header; added to the above
    )
    simulations: Annotated[int, Ge(0)] = 0  # from which the covariance in the file was estimated; 0: it is exact
    correction: Literal["sellentin_heavens", "hartlap"] = "sellentin_heavens"  # for the number of simulations
    error_dof: Annotated[float, Gt(2)] | None = None  # to which the errors' common size is known; empty: it is exact

    example: ClassVar[dict] = {"relative_error": 0.05, "absolute_error": 0.1}  # what the contract tests build

    def __post_init__(self):
        demand_errors(relative_error=self.relative_error, absolute_error=self.absolute_error)
        read = self.covariance_file or self.error_file
        if not (read or np.any(self.relative_error) or np.any(self.absolute_error)):
            raise InputError("the observation must have an error. Got relative_error = 0, absolute_error = 0, no error_file and "
                             "no covariance_file; give at least one of them.")  # fmt: skip
        if self.simulations and not self.covariance_file:
            raise InputError(f"simulations must come with the covariance_file that was estimated from them. Got "
                             f"{self.simulations} and no file; add it, or take simulations out.")  # fmt: skip
        if self.error_dof and self.simulations and self.correction == "sellentin_heavens":
            raise InputError("error_dof must be empty where the covariance is marginalised over simulations. Got both; take "
                             "one of them out, or choose correction: hartlap.")  # fmt: skip

    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        if self.sure and self.emulator_covariance and not self.covariance_file:
            factors = getattr(prediction, "factors", None)
            if factors is not None:
                sd, basis, diagonal = factors
                variance = self._noise(data).diagonal(dim1=-2, dim2=-1) + diagonal
                return of_factors(data - prediction.mean, sd, basis, variance, self._dof(data.shape[-1]))
        mean, own = gaussian_of(prediction)
        return normal(data - mean, self.widened(self._noise(data), mean, own), self._dof(data.shape[-1]))

    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        mean, own = (data, None) if prediction is None else gaussian_of(prediction)
        return self.widened(self._noise(data), mean, own)

    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(truth.shape, generator=generator, dtype=torch.float64).to(truth)
        step = torch.linalg.cholesky(self.covariance(truth)) @ noise
        if dof := self._dof(len(truth)):
            chi2 = np.random.default_rng(seed).chisquare(dof)
            step = step * math.sqrt((dof - 2) / chi2)
        return truth + step

    def local(self, data: Tensor) -> Callable[[Tensor], Local]:
        factor, m = torch.linalg.cholesky(self._noise(data)), data.shape[-1]
        inverse, spread, dof = torch.cholesky_inverse(factor), _spread(factor), self._dof(m)

        def at(w: Tensor) -> Local:
            r = data - w
            slope = (inverse @ r[..., None])[..., 0]
            weight = inverse.expand(*slope.shape, m)
            chi2 = (r * slope).sum(-1)
            value = _density(chi2, spread, m, dof)
            if not dof:
                return Local(value, slope, weight, weight)
            share = (dof + m) / (dof - 2 + chi2)[..., None]  # t: shape noise (dof - 2) / dof
            steady, tilt = share[..., None] * weight, share * slope
            return Local(value, tilt, steady - 2 / (dof + m) * tilt[..., :, None] * tilt[..., None, :], steady)

        return at

    @property
    def normal(self) -> bool:
        """Whether the noise is normal, and no t."""
        return not self.error_dof and not (self.simulations and self.correction == "sellentin_heavens")

    def _dof(self, m: int) -> float | None:
        """Degrees of freedom of the t; None where the density is normal."""
        return None if self.normal else self.error_dof or float(self.simulations - m)

    def _noise(self, data: Tensor) -> Tensor:
        """The covariance `[..., m, m]` of the noise alone."""
        m = data.shape[-1]
        relative, absolute = (each(n, getattr(self, n), data) for n in ("relative_error", "absolute_error"))
        variance = (relative * data) ** 2 + absolute**2
        if self.error_file:
            if len(self._errors) != m:
                raise InputError(
                    f"error_file {self.error_file} must hold {m} errors, one per output. Got {len(self._errors)}."
                )
            variance = variance + self._errors.to(data) ** 2
        noise = torch.diag_embed(variance)
        if self.covariance_file:
            if len(self._given) != m:
                raise InputError(f"covariance_file {self.covariance_file} must be {m} x {m}, a row for each output. "
                                 f"Got {len(self._given)} x {len(self._given)}.")  # fmt: skip
            noise = noise + self._estimated(m) * self._given.to(data)
        silent = (noise.diagonal(dim1=-2, dim2=-1) <= 0).reshape(-1, m).any(0).nonzero().flatten().tolist()
        if silent:
            raise InputError(f"the observation must have an error in every output. Got none in output {silent[0]} of "
                             f"{m}, where the data may be 0; give an absolute_error.")  # fmt: skip
        return noise if self.error_dof is None else noise * (self.error_dof / (self.error_dof - 2))

    def _estimated(self, m: int) -> float:
        """What the matrix of n simulations is multiplied with, by either correction."""
        n = self.simulations
        if n and n <= m + 2:
            raise InputError(f"simulations must be more than {m + 2} for {m} outputs, or the covariance says nothing of "
                             f"itself. Got {n}; run more, or observe fewer outputs.")  # fmt: skip
        return (n - 1) / (n - m - 2) if n else 1.0

    @cached_property
    def _errors(self) -> Tensor:
        """The errors in the file."""
        try:
            found = column(self.error_file, "error")
        except InputError as e:
            raise InputError(f"error_file {e}") from None
        if (found < 0).any():
            raise InputError(f"error_file {self.error_file} must hold errors of at least 0. Got {found.min():g}.")
        return torch.as_tensor(found)

    @cached_property
    def _given(self) -> Tensor:
        """The matrix in the file, symmetric and positive definite."""
        where = f"covariance_file {self.covariance_file}"
        try:
            with open(self.covariance_file) as f:
                matrix = np.loadtxt((line.replace(",", " ") for line in f), ndmin=2, dtype=np.float64)
        except (OSError, ValueError) as e:
            raise InputError(f"{where} must be a text of numbers parted by commas or blanks, without a header but for lines that "
                             f"begin with #. It could not be read: {e}") from None  # fmt: skip
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


def normal(r: Tensor, covariance: Tensor, dof: float | None = None) -> Tensor:
    """ln p `[...]` of residuals r `[..., m]`: normal, or the t of the same covariance; -inf where that is none."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    scaled = torch.linalg.solve_triangular(factor, r[..., None], upper=False)[..., 0]
    value = _density((scaled**2).sum(-1), _spread(factor), r.shape[-1], dof)
    return torch.where((failed != 0) | torch.isnan(value), -torch.inf, value)


def of_factors(r: Tensor, sd: Tensor, basis: Tensor, variance: Tensor, dof: float | None = None) -> Tensor:
    """The same for the covariance B^T diag(sd)^2 B + diag(variance), sd `[..., k]`, B `[k, m]`: by k x k (Woodbury 1950)."""
    k = len(basis)
    inner = (variance.reciprocal() @ (basis[:, None] * basis).flatten(0, 1).mT).unflatten(-1, (k, k))
    inner = sd[..., :, None] * inner * sd[..., None, :] + torch.eye(k).to(sd)
    told = sd * ((r / variance) @ basis.mT)
    factor, failed = torch.linalg.cholesky_ex(inner)
    white = torch.linalg.solve_triangular(factor, told[..., None], upper=False)[..., 0]
    chi2 = (r**2 / variance).sum(-1) - (white**2).sum(-1)
    value = _density(chi2, _spread(factor) + 0.5 * variance.log().sum(-1), r.shape[-1], dof)
    return torch.where((failed != 0) | torch.isnan(value), -torch.inf, value)


def _density(chi2: Tensor, spread: Tensor, m: int, dof: float | None) -> Tensor:
    """ln p at chi2 = r^T C^-1 r, with spread = ln |C| / 2."""
    if dof is None:
        return -0.5 * chi2 - spread - 0.5 * m * math.log(2 * math.pi)
    constant = math.lgamma((dof + m) / 2) - math.lgamma(dof / 2) - 0.5 * m * math.log(math.pi * (dof - 2))
    return constant - spread - 0.5 * (dof + m) * torch.log1p(chi2 / (dof - 2))


def _spread(factor: Tensor) -> Tensor:
    """Half the logarithm of the determinant of the matrix with this Cholesky factor."""
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
